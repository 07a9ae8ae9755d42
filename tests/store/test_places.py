"""Where refs, HEAD and kept patches are: moved by compare-and-swap, marked, given back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memit_vc.errors import IntegrityError, RefMovedError, UsageError
from memit_vc.objects import Commit, CommitId, Patch
from memit_vc.porcelain.record import move_head
from memit_vc.porcelain.sets.switch import switch, switch_detached
from memit_vc.repository import Repository
from tests.support import synthetic
from tests.support.synthetic import fact, put_patch, record


def test_a_detached_head_moves_only_from_where_it_was_found(plain_repository: Repository) -> None:
    record(plain_repository, [fact(0)])
    switch_detached(plain_repository, "HEAD")
    found = plain_repository.head()

    def finish(number: int) -> Commit:
        """What a command does at its end that read HEAD at its beginning."""
        patch: Patch = put_patch(plain_repository, [fact(number)])
        made = record(plain_repository, [fact(number)], patch=patch, parents=[found.commit], branch=None)
        move_head(plain_repository, found, made.id, verb="commit", description="x")
        return made

    first = finish(1)
    with pytest.raises(RefMovedError, match=f"HEAD is at {first.id[:10]}, not at {found.commit[:10]}"):
        finish(2)
    assert plain_repository.head().commit == first.id
    switch_detached(plain_repository, found.commit)
    switch(plain_repository, "main")
    with pytest.raises(RefMovedError, match="HEAD is on branch main"):
        finish(3)
    assert plain_repository.head().branch == "main"


def test_undos_and_redos_mark_what_is_undone(plain_repository: Repository) -> None:
    repository = plain_repository
    record(repository, [fact(1)])
    record(repository, [fact(2)])
    expected = [
        (repository.undo, {3: 4}),
        (repository.undo, {3: 4, 2: 5}),
        (repository.redo, {3: 4, 5: 6}),
        (repository.redo, {5: 6, 4: 7}),
        (repository.undo, {5: 6, 4: 7, 3: 8}),
    ]
    for step, marks in expected:
        step()
        assert {o.id: o.undone_by for o in repository.operations() if o.undone_by} == marks


def test_undo_goes_back_to_the_beginning_and_redo_to_the_end(plain_repository: Repository) -> None:
    repository = plain_repository
    places = [repository.head().commit]
    for number in range(4):
        record(repository, [fact(number)])
        places.append(repository.head().commit)
    for place in reversed(places[:-1]):
        repository.undo()
        assert repository.head().commit == place
    with pytest.raises(UsageError, match="nothing to undo"):
        repository.undo()
    for place in places[1:]:
        repository.redo()
        assert repository.head().commit == place
    with pytest.raises(UsageError, match="nothing to redo"):
        repository.redo()


def test_another_operation_ends_redo_and_undo_goes_on_before_what_was_undone(plain_repository: Repository) -> None:
    repository = plain_repository
    root = repository.head().commit
    first = record(repository, [fact(1)])
    record(repository, [fact(2)])
    repository.undo()
    record(repository, [fact(3)])
    with pytest.raises(UsageError, match="nothing to redo"):
        repository.redo()
    repository.undo()
    assert repository.head().commit == first.id
    repository.undo()
    assert repository.head().commit == root
    repository.redo()
    assert repository.head().commit == first.id


@settings(max_examples=15)
@given(st.lists(st.sampled_from(["commit", "undo", "redo", "restore"]), max_size=14))
def test_undo_and_redo_are_an_editors(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    with synthetic.init(tmp_path_factory.mktemp("undo") / "work") as repository:
        done, undone = [repository.head().commit], list[CommitId]()
        for number, step in enumerate(steps):
            if step == "commit":
                done.append(record(repository, [fact(number)]).id)
                undone.clear()
            elif step == "restore":
                before = repository.head().commit
                repository.restore(1)
                if repository.head().commit != before:
                    done.append(repository.head().commit)
                    undone.clear()
            else:
                source, target = (done[1:], undone) if step == "undo" else (undone, done)
                if not source:
                    with pytest.raises(UsageError, match=f"nothing to {step}"):
                        getattr(repository, step)()
                    continue
                getattr(repository, step)()
                target.append((done if step == "undo" else undone).pop())
            assert repository.head().commit == done[-1]
        assert repository.fsck(quick=True) == []


def test_a_database_that_was_replaced_is_noticed(plain_repository: Repository, tmp_path: Path) -> None:
    """By a command that has it open: neither the moved repository nor the one in its place is changed."""
    root, away = plain_repository.root, tmp_path / "away"
    made = record(plain_repository, [fact(0)])
    root.rename(away)
    for reason in ("can no longer be found", "is another file now"):
        with pytest.raises(IntegrityError, match=f"meta.db {reason}"):
            plain_repository.head()
        with pytest.raises(IntegrityError, match=f"meta.db {reason}"):
            plain_repository.undo()
        with pytest.raises(IntegrityError, match=f"meta.db {reason}"):
            plain_repository.put_evaluation(plain_repository.state_id(()), None, "perplexity", "p", 20.5)
        if not root.exists():
            synthetic.init(root.parent).close()
    with Repository.open(root.parent) as other:
        assert [each.verb for each in other.operations()] == ["init"]
        assert other.evaluations(other.state_id(())) == {}
    shutil.rmtree(root)
    away.rename(root)
    assert plain_repository.head().commit == made.id
    plain_repository.undo()
