"""`revert --resolve` and `cherry-pick --resolve`: which facts a commit changed, whatever columns it did it with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from memit_vc.errors import ConflictError, MemitVCError, RevisionError, UsageError
from memit_vc.objects import RefUpdate
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.evaluate import measured_facts
from memit_vc.porcelain.editing.models import LoadedModel, load_model
from memit_vc.porcelain.recomputing.reproduce import reproduce
from memit_vc.porcelain.recomputing.resolve import resolve_revert, resolve_squash
from memit_vc.porcelain.recomputing.resolve_join import resolve_merge, resolve_pick
from memit_vc.porcelain.sets.cherry_pick import cherry_pick
from memit_vc.porcelain.sets.merge import merge
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.sets.squash import squash
from memit_vc.porcelain.sets.switch import switch, switch_to_new
from memit_vc.repository import Repository
from tests.support.models import FACTS
from tests.support.opened import Opened


@pytest.fixture
def made(opened: Opened, with_history: Path) -> tuple[Repository, LoadedModel]:
    repository = opened(with_history)
    return repository, load_model(repository)


def live(repository: Repository) -> list[tuple[str, str]]:
    return sorted((e.fact.subject, e.fact.target) for e in repository.live_facts(repository.head().commit))


def test_what_was_only_solved_anew_is_no_change(made: tuple[Repository, LoadedModel]) -> None:
    repository, loaded = made
    resolve_squash(repository, loaded=loaded)
    before = live(repository)
    with pytest.raises(RevisionError, match="nothing to take out"):
        resolve_revert(repository, ["HEAD"], loaded=loaded)
    assert live(repository) == before
    resolve_revert(repository, ["HEAD"], fact=FACTS[0].subject, loaded=loaded)
    assert len(live(repository)) == 5


def test_a_merge_gives_up_what_the_other_side_brought(made: tuple[Repository, LoadedModel]) -> None:
    repository, loaded = made
    tip, first, second = (repository.resolve(name) for name in ("HEAD", "HEAD~2", "HEAD~1"))
    updates = [RefUpdate("heads/main", tip, second), RefUpdate("heads/side", None, first)]
    repository.publish(verb="fork", description="fork", refs=updates, head="heads/side")
    commit_facts(repository, FACTS[4:6], scores=False, loaded=loaded)
    switch(repository, "main")
    ours = live(repository)
    resolve_merge(repository, "side", loaded=loaded)
    assert len(live(repository)) == 6
    resolve_revert(repository, ["HEAD"], loaded=loaded)
    assert live(repository) == ours


def test_the_middle_of_a_chain_of_replacements(made: tuple[Repository, LoadedModel]) -> None:
    repository, loaded = made
    middle = commit_facts(
        repository, [replace(FACTS[0], target="Madrid")], on_conflict="theirs", scores=False, loaded=loaded
    )
    commit_facts(repository, [replace(FACTS[0], target="Oslo")], on_conflict="theirs", scores=False, loaded=loaded)
    before = live(repository)
    with pytest.raises(RevisionError, match="nothing to take out"):
        resolve_revert(repository, [middle.id], loaded=loaded)
    assert live(repository) == before


def test_what_comes_back_may_contradict_what_is_live(made: tuple[Repository, LoadedModel]) -> None:
    repository, loaded = made
    out = revert(repository, ["HEAD~2"])
    commit_facts(repository, [replace(FACTS[0], target="Madrid")], scores=False, loaded=loaded)
    with pytest.raises(ConflictError, match="Madrid"):
        resolve_revert(repository, [out.id], loaded=loaded)
    resolve_revert(repository, [out.id], on_conflict="ours", loaded=loaded)
    assert (FACTS[0].subject, "Madrid") in live(repository)
    assert len(live(repository)) == 6
    repository.undo()
    resolve_revert(repository, [out.id], on_conflict="theirs", loaded=loaded)
    assert (FACTS[0].subject, FACTS[0].target) in live(repository)
    assert len(live(repository)) == 6


def test_a_plain_revert_takes_the_cancel_columns_out_too(made: tuple[Repository, LoadedModel]) -> None:
    repository, loaded = made
    middle = repository.resolve("HEAD~1")
    rest = repository.state(repository.head().commit) - set(repository.commit(middle).adds)
    resolve_revert(repository, [middle], loaded=loaded)
    revert(repository, [middle])
    assert repository.state(repository.head().commit) == rest


def test_commits_that_contradict_each_other_are_not_picked_together(made: tuple[Repository, LoadedModel]) -> None:
    repository, loaded = made
    root = repository.resolve("HEAD~3")
    for branch, target in (("x", "Madrid"), ("y", "Oslo")):
        switch_to_new(repository, branch, root)
        commit_facts(repository, [replace(FACTS[6], target=target)], scores=False, loaded=loaded)
    switch(repository, "main")
    with pytest.raises(ConflictError, match="Oslo"):
        resolve_pick(repository, ["x", "y"], loaded=loaded)
    resolve_pick(repository, ["x", "y"], on_conflict="theirs", loaded=loaded)
    assert [entry for entry in live(repository) if entry[0] == FACTS[6].subject] == [(FACTS[6].subject, "Oslo")]


def test_a_name_must_name_one_fact(made: tuple[Repository, LoadedModel]) -> None:
    repository, loaded = made
    with pytest.raises(UsageError, match="--fact is empty"):
        resolve_revert(repository, ["HEAD"], fact="", loaded=loaded)
    with pytest.raises(MemitVCError, match="nothing to take out"):
        resolve_revert(repository, ["HEAD"], fact=FACTS[4].id[:1], loaded=loaded)
    resolve_revert(repository, ["HEAD"], fact=FACTS[4].id[:8], loaded=loaded)
    assert len(live(repository)) == 5


def test_a_state_that_is_no_joint_solution_is_told(opened: Opened, with_history: Path, plain: Path) -> None:
    repository = opened(plain)
    loaded = load_model(repository)
    told = resolve_revert(repository, ["HEAD~1"], loaded=loaded)
    assert any("not the joint solution" in note and "squash --resolve" in note for note in told.notes)
    repository.undo()
    resolve_squash(repository, loaded=loaded)
    assert resolve_revert(repository, ["HEAD~2"], loaded=loaded).notes == ()
    aware = opened(with_history)
    assert resolve_revert(aware, ["HEAD~1"]).notes == ()


def test_a_picked_squash_is_computed_again_as_a_squash(made: tuple[Repository, LoadedModel]) -> None:
    repository, loaded = made
    squashed = resolve_squash(repository, loaded=loaded)
    switch_to_new(repository, "side", "HEAD~1")
    commit_facts(repository, [FACTS[6]], scores=False, loaded=loaded)
    cherry_pick(repository, [squashed.id])
    assert reproduce(repository, loaded=loaded).equal


def test_an_amended_batch_keeps_its_message(made: tuple[Repository, LoadedModel]) -> None:
    repository, loaded = made
    commit_facts(repository, [FACTS[6]], message="with care", scores=False, loaded=loaded)
    again = commit_facts(repository, [FACTS[7]], scores=False, loaded=loaded, amend=True)
    assert repository.commit(again.id).message == "with care"


def test_both_sides_of_a_contradiction_can_be_committed_at_once(made: tuple[Repository, LoadedModel]) -> None:
    repository, loaded = made
    both = [FACTS[6], replace(FACTS[6], target="Madrid")]
    with pytest.raises(ConflictError, match="contradict each other"):
        commit_facts(repository, both, scores=False, loaded=loaded)
    commit_facts(repository, both, on_conflict="keep-both", scores=False, loaded=loaded)
    assert len(live(repository)) == 8


def test_scores_at_the_commit_outlive_merges_reverts_and_squashes(made: tuple[Repository, LoadedModel]) -> None:
    repository, loaded = made
    tip = repository.head().commit
    commit_facts(repository, [FACTS[6]], loaded=loaded)

    def then() -> object:
        entries = [e for e in repository.live_facts(repository.head().commit) if e.fact.id == FACTS[6].id]
        (measured,) = measured_facts(repository, entries, loaded=loaded)
        return measured.then

    scores = then()
    assert scores is not None
    squash(repository, f"{tip}~1..HEAD")
    assert then() == scores
    revert(repository, ["HEAD"])
    revert(repository, ["HEAD"])
    assert then() == scores
    switch_to_new(repository, "other", tip)
    commit_facts(repository, [FACTS[7]], scores=False, loaded=loaded)
    merge(repository, "main")
    assert then() == scores
