"""The tables of the repository, in SQLAlchemy Core.

JSON is kept as canonical text, so that what was hashed is what is stored. Ids are hexadecimal SHA-256.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

from memit_vc.store.parsed import bad_row

# named constraints: a later migration can drop them
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class _Text(TypeDecorator[str]):
    """SQLite keeps bytes in a column of texts if it must: each value is looked at, here and nowhere else."""

    impl: TypeEngine[str] | type[TypeEngine[str]] = Text
    cache_ok = True

    def process_result_value(self, value: object, dialect: Dialect) -> str | None:  # noqa: ARG002
        if value is None or isinstance(value, str):
            return value
        raise bad_row("value", repr(value), "it is not text")


class _String(_Text):
    impl = String
    cache_ok = True


def _id() -> _String:
    return _String(64)


def _table(name: str, *parts: SchemaItem, **options: Any) -> Table:
    return Table(name, metadata, *parts, **options)


meta = _table(
    "meta",
    Column("key", _String(64), primary_key=True),  # head, base_id, manifest, weights, files, journal
    Column("value", _Text, nullable=False),
)

commits = _table(
    "commits",
    # parents are inserted before children, so descending seq is a topological order
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", _id(), nullable=False, unique=True),
    Column("json", _Text, nullable=False),
    Column("kind", _String(32), nullable=False),
    Column("message", _Text, nullable=False),
    Column("author", _Text, nullable=False),
    Column("time", _String(32), nullable=False),
    Column("state", _id(), nullable=False, index=True),
    Column("record", _id(), nullable=False),  # the object that holds all that this row was made from
)

parents = _table(
    "parents",
    Column("commit", _id(), ForeignKey(commits.c.id), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("parent", _id(), ForeignKey(commits.c.id), nullable=False, index=True),
)

changes = _table(
    "changes",
    Column("commit", _id(), ForeignKey(commits.c.id), primary_key=True),
    Column("column", _id(), primary_key=True, index=True),
    Column("change", _String(6), nullable=False),  # add or remove
)

facts = _table(
    "facts",
    Column("id", _id(), primary_key=True),
    Column("json", _Text, nullable=False),
    Column("prompt", _Text, nullable=False),
    Column("subject", _Text, nullable=False),
    Column("target", _Text, nullable=False),
)

patches = _table(
    "patches",
    Column("id", _id(), primary_key=True),
    Column("header", _Text, nullable=False),
    Column("dense", Boolean, nullable=False),
    Column("constraints", _id(), nullable=True),
    Column("size", Integer, nullable=False),  # number of columns: the length of patch_columns
)

patch_columns = _table(
    "patch_columns",
    Column("patch", _id(), ForeignKey(patches.c.id), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("column", _id(), nullable=False, index=True),
    Column("fact", _id(), ForeignKey(facts.c.id), nullable=True, index=True),  # null: of an adapter, about no fact
    Column("role", _String(8), nullable=False),
)

column_bounds = _table(
    "column_bounds",
    Column("column", _id(), primary_key=True),
    Column("weight", _Text, primary_key=True),
    Column("bound", Double, nullable=False),
)

commit_patches = _table(
    "commit_patches",
    Column("commit", _id(), ForeignKey(commits.c.id), primary_key=True),
    Column("patch", _id(), ForeignKey(patches.c.id), primary_key=True, index=True),
)

refs = _table(
    "refs",
    Column("name", _String(255), primary_key=True),  # heads/main, tags/v1, remotes/origin/main
    Column("commit", _id(), ForeignKey(commits.c.id), nullable=False),
)

operations = _table(
    "operations",
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("time", _String(32), nullable=False),
    Column("verb", _String(32), nullable=False),
    Column("description", _Text, nullable=False),
    Column("refs_before", _Text, nullable=False),
    Column("refs_after", _Text, nullable=False),
    Column("head_before", _Text, nullable=False),
    Column("head_after", _Text, nullable=False),
    Column("undone_by", Integer, nullable=True),
    Column("digest", _id(), nullable=False),  # of all other fields
    sqlite_autoincrement=True,  # the number of a pruned operation is never given out again
)

evaluations = _table(
    "evaluations",
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("state", _id(), nullable=False),
    Column("commit", _id(), ForeignKey(commits.c.id), nullable=True),
    Column("kind", _Text, nullable=False),
    Column("key", _Text, nullable=False),
    Column("json", _Text, nullable=False),
    Column("time", _String(32), nullable=False),
    UniqueConstraint("state", "kind", "key"),
)

statistics = _table(
    "statistics",
    Column("id", _id(), primary_key=True),
    Column("json", _Text, nullable=False),
    Column("time", _String(32), nullable=False),
)

kept = _table(
    "kept",
    Column("patch", _id(), ForeignKey(patches.c.id), primary_key=True),
    Column("parent", _id(), ForeignKey(commits.c.id), nullable=False),
    Column("message", _Text, nullable=False),
    Column("json", _Text, nullable=False),
    Column("time", _String(32), nullable=False),
    Column("record", _id(), nullable=False),  # the object that holds this row and the patch's facts
)
