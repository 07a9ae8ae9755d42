"""The same repository in a team's PostgreSQL. Set MEMITVC_TEST_POSTGRESQL to the URL of an empty server to run it."""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from memit_vc.config import Config
from memit_vc.errors import LockedError, MemitVCError, RefMovedError
from memit_vc.objects import CommitId, RefUpdate
from memit_vc.repository import Repository
from memit_vc.store.rows_refs import load_refs
from memit_vc.store.schema import metadata
from tests.support.synthetic import EDITABLE, MANIFEST, fact, put_patch, record

pytest.importorskip("psycopg")
SERVER = os.environ.get("MEMITVC_TEST_POSTGRESQL")
pytestmark = pytest.mark.skipif(SERVER is None, reason="MEMITVC_TEST_POSTGRESQL is not set")


@pytest.fixture
def url() -> Iterator[str]:
    """A database of one's own on the server."""
    assert SERVER is not None
    name = f"memitvc_{secrets.token_hex(6)}"
    engine = sa.create_engine(SERVER, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield sa.engine.make_url(SERVER).set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


def _init(directory: Path, url: str) -> Repository:
    config = Config(base="/base", database=url)
    return Repository.init(
        directory, config=config, manifest=MANIFEST, weights=EDITABLE, files={}, hparams=b"", description="base"
    )


def test_the_whole_life_of_a_repository(tmp_path: Path, url: str) -> None:
    with _init(tmp_path, url) as repository:
        assert not (repository.root / "meta.db").exists()
        root = repository.head().commit
        first = record(repository, [fact(1), fact(2)])
        second = record(repository, [fact(3)])
        assert [e.fact for e in repository.live_facts(second.id)] == [fact(1), fact(2), fact(3)]
        assert repository.patch(first.patches[0]).columns
        assert repository.resolve(second.id[:8] + "~2") == root
        state = repository.state_id(repository.state(second.id))
        repository.put_evaluation(state, second.id, "fact", "k" * 1000, {"es": 1.0})
        repository.put_evaluation(state, second.id, "fact", "k" * 1000, {"es": 0.5})
        assert repository.evaluations(state) == {("fact", "k" * 1000): {"es": 0.5}}
        repository.undo()
        assert repository.head().commit == first.id
        repository.undo()
        assert repository.head().commit == second.id
        with pytest.raises(RefMovedError):
            record_on(repository, root, fact(4))
        repository.publish(verb="reset", description="x", refs=[RefUpdate("heads/main", second.id, first.id)])
        result = repository.gc(keep_operations=0, grace=0)
        assert result.commits == 1
        assert repository.fsck() == []
    with Repository.open(tmp_path) as again:
        assert again.head().commit == first.id
    with pytest.raises(MemitVCError, match="already holds tables"):
        _init(tmp_path / "other", url)


def record_on(repository: Repository, old: CommitId, new_fact: object) -> None:
    """A commit on a tip that has moved."""
    patch = put_patch(repository, [new_fact])  # type: ignore[list-item]
    made = dataclasses.replace(
        repository.commit(repository.head().commit), parents=(old,), adds=patch.columns, patches=(patch.id,)
    )
    repository.publish(
        verb="commit",
        description="x",
        commits=[made],
        patches=[patch],
        facts=[new_fact],  # type: ignore[list-item]
        refs=[RefUpdate("heads/main", old, made.id)],
    )


def test_writers_wait_and_then_give_up(tmp_path: Path, url: str) -> None:
    with _init(tmp_path, url) as holder, Repository.open(tmp_path, busy_seconds=0.2) as waiter:
        with holder._database.write():
            assert waiter.refs() == holder.refs()
            with pytest.raises(LockedError):
                record(waiter, [fact(1)])
        record(waiter, [fact(1)])
        assert holder.fsck() == []


def test_a_reader_sees_one_moment(tmp_path: Path, url: str) -> None:
    with _init(tmp_path, url) as repository, repository._database.read() as snapshot:
        before = load_refs(snapshot)
        with Repository.open(tmp_path) as other:
            record(other, [fact(1)])
        assert load_refs(snapshot) == before
        assert repository.refs() != before
        assert repository.fsck() == []


def test_the_tables_are_those_of_the_schema(tmp_path: Path, url: str) -> None:
    with _init(tmp_path, url) as repository, repository._database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
