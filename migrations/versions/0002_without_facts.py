"""A column may be about no fact: an adapter that was imported."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("patch_columns") as table:
        table.alter_column("fact", existing_type=sa.String(length=64), nullable=True)


def downgrade() -> None:
    with op.batch_alter_table("patch_columns") as table:
        table.alter_column("fact", existing_type=sa.String(length=64), nullable=False)
