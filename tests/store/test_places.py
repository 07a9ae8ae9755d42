"""Where refs, HEAD and kept patches are: moved by compare-and-swap, marked, given back."""

from __future__ import annotations

import pytest

from memit_vc.errors import RefMovedError
from memit_vc.objects import Commit, Patch
from memit_vc.porcelain.record import move_head
from memit_vc.porcelain.sets.switch import switch, switch_detached
from memit_vc.repository import Repository
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


def test_undos_of_undos_mark_what_is_undone(plain_repository: Repository) -> None:
    record(plain_repository, [fact(1)])
    expected = [{}, {2: 3}, {3: 4}, {2: 3, 4: 5}, {3: 4, 5: 6}]
    for marks in expected:
        assert {o.id: o.undone_by for o in plain_repository.operations() if o.undone_by} == marks
        plain_repository.undo()
