"""First schema: commits, changes of state, facts, patches, refs, operations, results."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "column_bounds",
        sa.Column("column", sa.String(length=64), nullable=False),
        sa.Column("weight", sa.Text(), nullable=False),
        sa.Column("bound", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("column", "weight", name="pk_column_bounds"),
    )
    op.create_table(
        "commits",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("json", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("time", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("record", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_commits"),
        sa.UniqueConstraint("id", name="uq_commits_id"),
    )
    op.create_index("ix_commits_state", "commits", ["state"], unique=False)
    op.create_table(
        "facts",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("json", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_facts"),
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
    op.create_table(
        "operations",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("time", sa.String(length=32), nullable=False),
        sa.Column("verb", sa.String(length=32), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("refs_before", sa.Text(), nullable=False),
        sa.Column("refs_after", sa.Text(), nullable=False),
        sa.Column("head_before", sa.Text(), nullable=False),
        sa.Column("head_after", sa.Text(), nullable=False),
        sa.Column("undone_by", sa.Integer(), nullable=True),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_operations"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "patches",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("header", sa.Text(), nullable=False),
        sa.Column("dense", sa.Boolean(), nullable=False),
        sa.Column("constraints", sa.String(length=64), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_patches"),
    )
    op.create_table(
        "statistics",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("json", sa.Text(), nullable=False),
        sa.Column("time", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_statistics"),
    )
    op.create_table(
        "changes",
        sa.Column("commit", sa.String(length=64), nullable=False),
        sa.Column("column", sa.String(length=64), nullable=False),
        sa.Column("change", sa.String(length=6), nullable=False),
        sa.ForeignKeyConstraint(["commit"], ["commits.id"], name="fk_changes_commit_commits"),
        sa.PrimaryKeyConstraint("commit", "column", name="pk_changes"),
    )
    op.create_index("ix_changes_column", "changes", ["column"], unique=False)
    op.create_table(
        "commit_patches",
        sa.Column("commit", sa.String(length=64), nullable=False),
        sa.Column("patch", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["commit"], ["commits.id"], name="fk_commit_patches_commit_commits"),
        sa.ForeignKeyConstraint(["patch"], ["patches.id"], name="fk_commit_patches_patch_patches"),
        sa.PrimaryKeyConstraint("commit", "patch", name="pk_commit_patches"),
    )
    op.create_index("ix_commit_patches_patch", "commit_patches", ["patch"], unique=False)
    op.create_table(
        "evaluations",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("commit", sa.String(length=64), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("json", sa.Text(), nullable=False),
        sa.Column("time", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["commit"], ["commits.id"], name="fk_evaluations_commit_commits"),
        sa.PrimaryKeyConstraint("id", name="pk_evaluations"),
        sa.UniqueConstraint("state", "kind", "key", name="uq_evaluations_state"),
    )
    op.create_table(
        "kept",
        sa.Column("patch", sa.String(length=64), nullable=False),
        sa.Column("parent", sa.String(length=64), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("json", sa.Text(), nullable=False),
        sa.Column("time", sa.String(length=32), nullable=False),
        sa.Column("record", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["parent"], ["commits.id"], name="fk_kept_parent_commits"),
        sa.ForeignKeyConstraint(["patch"], ["patches.id"], name="fk_kept_patch_patches"),
        sa.PrimaryKeyConstraint("patch", name="pk_kept"),
    )
    op.create_table(
        "parents",
        sa.Column("commit", sa.String(length=64), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("parent", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["commit"], ["commits.id"], name="fk_parents_commit_commits"),
        sa.ForeignKeyConstraint(["parent"], ["commits.id"], name="fk_parents_parent_commits"),
        sa.PrimaryKeyConstraint("commit", "n", name="pk_parents"),
    )
    op.create_index("ix_parents_parent", "parents", ["parent"], unique=False)
    op.create_table(
        "patch_columns",
        sa.Column("patch", sa.String(length=64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("column", sa.String(length=64), nullable=False),
        sa.Column("fact", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=8), nullable=False),
        sa.ForeignKeyConstraint(["fact"], ["facts.id"], name="fk_patch_columns_fact_facts"),
        sa.ForeignKeyConstraint(["patch"], ["patches.id"], name="fk_patch_columns_patch_patches"),
        sa.PrimaryKeyConstraint("patch", "position", name="pk_patch_columns"),
    )
    op.create_index("ix_patch_columns_column", "patch_columns", ["column"], unique=False)
    op.create_index("ix_patch_columns_fact", "patch_columns", ["fact"], unique=False)
    op.create_table(
        "refs",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("commit", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["commit"], ["commits.id"], name="fk_refs_commit_commits"),
        sa.PrimaryKeyConstraint("name", name="pk_refs"),
    )


def downgrade() -> None:
    op.drop_table("refs")
    op.drop_index("ix_patch_columns_fact", table_name="patch_columns")
    op.drop_index("ix_patch_columns_column", table_name="patch_columns")
    op.drop_table("patch_columns")
    op.drop_index("ix_parents_parent", table_name="parents")
    op.drop_table("parents")
    op.drop_table("kept")
    op.drop_table("evaluations")
    op.drop_index("ix_commit_patches_patch", table_name="commit_patches")
    op.drop_table("commit_patches")
    op.drop_index("ix_changes_column", table_name="changes")
    op.drop_table("changes")
    op.drop_table("statistics")
    op.drop_table("patches")
    op.drop_table("operations")
    op.drop_table("meta")
    op.drop_table("facts")
    op.drop_index("ix_commits_state", table_name="commits")
    op.drop_table("commits")
    op.drop_table("column_bounds")
