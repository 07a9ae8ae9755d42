"""A new repository's tables are those that the migrations make, and an old one is upgraded after a backup."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.command import upgrade
from alembic.config import Config
from alembic.migration import MigrationContext

from memit_vc.config import data_directory
from memit_vc.errors import IntegrityError, MemitVCError
from memit_vc.repository import Repository
from memit_vc.store import migrate
from memit_vc.store.database import Database
from memit_vc.store.migrate import HEAD_REVISION, create_schema
from memit_vc.store.schema import metadata
from tests.support.synthetic import fact, init, record

SECOND = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"


def upgrade():
    with op.batch_alter_table("facts") as table:
        table.add_column(sa.Column("language", sa.Text(), nullable=True))
    {more}
"""


def _next_version(directory: Path, monkeypatch: pytest.MonkeyPatch, more: str = "") -> None:
    """Pretend that this memit-vc is one revision further."""
    versions = directory / "versions"
    versions.mkdir(parents=True)
    shipped = data_directory("migrations")
    for name in ("env.py", "versions/0001_first.py", "versions/0002_without_facts.py"):
        (directory / name).write_text((shipped / name).read_text())
    (versions / "0003_language.py").write_text(SECOND.format(more=more))
    monkeypatch.setattr(migrate, "HEAD_REVISION", "0003")
    monkeypatch.setattr(migrate, "data_directory", lambda name: directory)


def _columns(root: Path, table: str) -> set[str]:
    with sqlite3.connect(root / "meta.db") as connection:
        return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


def test_create_all_equals_the_migrations(tmp_path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(data_directory("migrations")))
    migrated = Database(tmp_path / "migrated.db", create=True)
    with migrated.write() as connection:
        config.attributes["connection"] = connection
        upgrade(config, "head")
    created = Database(tmp_path / "created.db", create=True)
    with created.write() as connection:
        create_schema(connection)
    for database in (migrated, created):
        with database.read() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    described = []
    for path in ("migrated.db", "created.db"):
        with sqlite3.connect(tmp_path / path) as plain:
            names = [row[0] for row in plain.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            described.append(
                {
                    name: [
                        # the first column of foreign_key_list and index_list is only the order of declaration
                        sorted(
                            row[0 if pragma == "table_info" else 1 :]
                            for row in plain.execute(f"PRAGMA {pragma}({name})")
                        )
                        for pragma in ("table_info", "foreign_key_list", "index_list")
                    ]
                    for name in names
                }
            )
    assert described[0] == described[1]
    migrated.close()
    created.close()


def test_the_head_revision_is_the_newest_file() -> None:
    newest = max(path.name for path in (data_directory("migrations") / "versions").glob("[0-9]*.py"))
    assert newest.startswith(f"{HEAD_REVISION}_")


def test_an_old_repository_is_refused_and_upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with init(tmp_path) as repository:
        made = record(repository, [fact(1)])
        before = repository.operations()
    _next_version(tmp_path / "migrations", monkeypatch)
    with pytest.raises(MemitVCError, match="revision 0002") as caught:
        Repository.open(tmp_path)
    assert "memitvc upgrade" in str(caught.value.hint)
    old, new, backup = Repository.upgrade(tmp_path)
    assert (old, new) == ("0002", "0003")
    assert backup is not None
    assert "language" in _columns(tmp_path / ".memitvc", "facts")
    with sqlite3.connect(backup) as copy:
        assert copy.execute("SELECT version_num FROM alembic_version").fetchone() == ("0002",)
        assert copy.execute("SELECT count(*) FROM commits").fetchone() == (2,)
    with Repository.open(tmp_path) as repository:
        assert repository.operations() == before
        assert repository.head().commit == made.id
        assert repository.fsck() == []
    assert Repository.upgrade(tmp_path) == ("0003", "0003", None)


def test_a_failed_upgrade_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init(tmp_path).close()
    _next_version(tmp_path / "migrations", monkeypatch, more='raise RuntimeError("half-way")')
    with pytest.raises(RuntimeError, match="half-way"):
        Repository.upgrade(tmp_path)
    assert "language" not in _columns(tmp_path / ".memitvc", "facts")
    monkeypatch.undo()
    with Repository.open(tmp_path) as repository:
        assert repository.fsck() == []


def test_a_newer_repository_is_refused(tmp_path: Path) -> None:
    init(tmp_path).close()
    with sqlite3.connect(tmp_path / ".memitvc" / "meta.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for call in (Repository.open, Repository.upgrade):
        with pytest.raises(MemitVCError, match="9999") as caught:
            call(tmp_path)
        assert "Upgrade memit-vc" in str(caught.value.hint)


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    init(tmp_path).close()
    place = tmp_path / ".memitvc" / "meta.db"
    place.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        Repository.open(tmp_path)
    with sqlite3.connect(place) as connection:
        connection.execute("CREATE TABLE other (x)")
    with pytest.raises(IntegrityError, match="no repository"):
        Repository.open(tmp_path)
    place.write_bytes(b"not a database at all" * 100)
    with pytest.raises(IntegrityError, match="not a database"):
        Repository.open(tmp_path)


def test_ordinary_work_never_imports_alembic() -> None:
    import subprocess
    import sys

    code = (
        "import sys, memit_vc.repository; "
        "print(sorted({'alembic', 'numpy', 'torch', 'transformers', 'yaml', 'rich', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
