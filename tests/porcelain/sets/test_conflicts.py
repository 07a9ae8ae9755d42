"""Contradictions and facts that come back, on synthetic rows: what a commit leaves out, replaces, or clears away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memit_vc.errors import ConflictError, MemitVCError
from memit_vc.objects import Fact, Patch
from memit_vc.porcelain.sets.contradictions import settle
from memit_vc.porcelain.state import LiveState
from memit_vc.repository import Repository
from tests.support.synthetic import fact, put_patch, record

ONE, TWO, THREE = fact(1), fact(2), fact(3)


def edited(repository: Repository, *facts: Fact, dense: bool = False) -> Patch:
    patch = put_patch(repository, facts, dense=dense)
    record(repository, facts, patch=patch)
    return patch


def cancelled(repository: Repository, *facts: Fact, dense: bool = False) -> Patch:
    patch = put_patch(repository, facts, role="cancel", dense=dense)
    record(repository, facts, patch=patch, kind="revert")
    return patch


def live(repository: Repository) -> list[Fact]:
    return [entry.fact for entry in repository.live_facts(repository.head().commit)]


def test_what_is_live_is_left_out(plain_repository: Repository) -> None:
    edited(plain_repository, ONE, TWO)
    settled = settle(LiveState.of_head(plain_repository), [ONE, THREE], "stop")
    assert (settled.facts, settled.replaced) == ((THREE,), frozenset())
    assert settled.notes == ("1 of 2 facts are live already and were left out",)
    with pytest.raises(MemitVCError, match="every fact is live already"):
        settle(LiveState.of_head(plain_repository), [ONE, TWO], "stop")


def test_a_question_that_only_looks_the_same_is_the_same(plain_repository: Repository) -> None:
    edited(plain_repository, ONE)
    subject = ONE.subject[:2] + "\u200b" + ONE.subject[2:]
    unseen = replace(ONE, subject=subject, prompt=ONE.prompt.replace(ONE.subject, subject))
    with pytest.raises(ConflictError, match="other characters that look the same") as caught:
        settle(LiveState.of_head(plain_repository), [replace(unseen, target="elsewhere")], "stop")
    assert len(caught.value.conflicts) == 1
    settled = settle(LiveState.of_head(plain_repository), [unseen, THREE], "stop")
    assert settled.facts == (THREE,)
    assert settled.notes[1].startswith(f"live in other characters that look the same: {subject}; ")
    with pytest.raises(MemitVCError, match="every fact is live already; live in other characters"):
        settle(LiveState.of_head(plain_repository), [unseen], "stop")


def test_each_side_of_a_contradiction_can_be_kept(plain_repository: Repository) -> None:
    patch = edited(plain_repository, ONE, TWO)
    other = fact(1, "elsewhere")
    with pytest.raises(ConflictError, match="one of the facts contradicts a live one") as caught:
        settle(LiveState.of_head(plain_repository), [other, THREE], "stop")
    assert "live 'country 1'" in str(caught.value)
    ours = settle(LiveState.of_head(plain_repository), [other, THREE], "ours")
    assert (ours.facts, ours.replaced) == ((THREE,), frozenset())
    theirs = settle(LiveState.of_head(plain_repository), [other, THREE], "theirs")
    assert (theirs.facts, theirs.replaced) == ((other, THREE), frozenset({patch.columns[0]}))
    both = settle(LiveState.of_head(plain_repository), [other, THREE], "keep-both")
    assert (both.facts, both.replaced) == ((other, THREE), frozenset())


def test_a_fact_of_a_dense_patch_cannot_be_replaced_alone(plain_repository: Repository) -> None:
    edited(plain_repository, ONE, TWO, dense=True)
    with pytest.raises(ConflictError, match="a patch of 2 facts, which cannot be split"):
        settle(LiveState.of_head(plain_repository), [fact(1, "elsewhere")], "theirs")


def test_a_fact_that_was_cancelled_comes_back(plain_repository: Repository) -> None:
    edit = edited(plain_repository, ONE, TWO, THREE)
    cancel = cancelled(plain_repository, ONE, TWO)
    assert live(plain_repository) == [THREE]
    settled = settle(LiveState.of_head(plain_repository), [ONE], "stop")
    assert settled.facts == (ONE,)
    assert settled.replaced == frozenset({edit.columns[0], cancel.columns[0]})
    # as commit_facts records it: the new column in, the old one out with the one that cancels it
    again = put_patch(plain_repository, [ONE], seed=1)
    record(plain_repository, [ONE], patch=again, removes=sorted(settled.replaced))
    assert set(live(plain_repository)) == {ONE, THREE}
    assert settle(LiveState.of_head(plain_repository), [TWO], "stop").replaced == frozenset(
        {edit.columns[1], cancel.columns[1]}
    )


def test_another_answer_leaves_the_cancelled_one_out(plain_repository: Repository) -> None:
    edited(plain_repository, ONE)
    cancelled(plain_repository, ONE)
    other = fact(1, "elsewhere")
    settled = settle(LiveState.of_head(plain_repository), [other], "stop")
    assert (settled.facts, settled.replaced) == ((other,), frozenset())


def test_a_dense_cancel_of_several_facts_is_refused(plain_repository: Repository) -> None:
    edited(plain_repository, ONE, TWO)
    cancelled(plain_repository, ONE, TWO, dense=True)
    with pytest.raises(ConflictError, match="taken out by a patch of 2 facts, which cannot be split") as caught:
        settle(LiveState.of_head(plain_repository), [ONE], "stop")
    assert caught.value.hint is not None
    assert "squash --resolve" in caught.value.hint
