"""`commit --amend` and `commit --patch`: a commit's place taken by another, and a patch that waited for its branch."""

from __future__ import annotations

from pathlib import Path

import pytest

from memit_vc.errors import ConflictError, MemitVCError, RevisionError
from memit_vc.numerics.exact.patchfile import check_patch
from memit_vc.objects import Patch
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.sets.amend import amend_message, amended_parent
from memit_vc.porcelain.sets.cherry_pick import cherry_pick
from memit_vc.porcelain.sets.commit_kept import commit_kept, drop_kept
from memit_vc.porcelain.sets.merge import merge
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.sets.switch import switch, switch_to_new
from memit_vc.porcelain.setup import init
from memit_vc.repository import Repository
from tests.support.algebra.world import World, fact
from tests.support.models import SENTENCES, facts, hparams_for, load, tiny


def _keep(world: World, repository: Repository, *numbers: int, dense: bool = False) -> Patch:
    batch = [fact(n) for n in numbers]
    patch = world.patch(repository, batch, seed=9, dense=dense)
    repository.keep_patch(patch, batch, parent=repository.head().commit, message="late", details={"survived": 1.0})
    return patch


def test_another_message_keeps_everything_else(world: World, repository: Repository) -> None:
    commit = world.commit(repository, [fact(1)])
    state = repository.state_id(repository.state(commit.id))
    repository.put_evaluation(state, commit.id, "commit", commit.id, {"before": {}, "after": {}})
    made = amend_message(repository, "better")
    new = repository.commit(made.id)
    assert (new.message, new.parents, new.adds, new.time) == ("better", commit.parents, commit.adds, commit.time)
    assert repository.head().commit == made.id
    assert repository.evaluations(state, "commit")[("commit", made.id)] == {"before": {}, "after": {}}
    with pytest.raises(MemitVCError, match="the same"):
        amend_message(repository, "better")
    repository.undo()
    assert repository.head().commit == commit.id


def test_the_base_cannot_be_amended(repository: Repository) -> None:
    with pytest.raises(MemitVCError, match="base itself"):
        amend_message(repository, "mine")
    with pytest.raises(MemitVCError, match="nothing to amend: HEAD is the base itself"):
        amended_parent(repository, repository.head().commit)


def test_a_picked_revert_is_not_replaced_by_a_batch(world: World, repository: Repository) -> None:
    """Its facts would be live again."""
    first = world.commit(repository, [fact(1)])
    taken_back = revert(repository, ["HEAD"])
    switch_to_new(repository, "side", first.id)
    cherry_pick(repository, [taken_back.id])
    picked = repository.head().commit
    with pytest.raises(MemitVCError, match="is a cherry-pick, not a batch of facts"):
        amended_parent(repository, picked)
    assert amended_parent(repository, first.id) == first.parents[0]


def test_a_new_batch_in_the_place_of_the_last(tmp_path: Path) -> None:
    base = tiny("llama", tmp_path / "base")
    text = tmp_path / "corpus.txt"
    text.write_text("\n".join(SENTENCES), encoding="utf-8")
    hparams = tmp_path / "hparams.yaml"
    hparams.write_text(hparams_for(load(base), v_num_grad_steps=2).replace(device="cpu").to_yaml(), encoding="utf-8")
    init(str(base), directory=tmp_path / "work", hparams=hparams, corpus=str(text))
    with Repository.open(tmp_path / "work") as repository:
        loaded = load_model(repository)
        one, two, three = facts(3)
        first = commit_facts(repository, [one], scores=False, loaded=loaded)
        assert (first.before, first.after) == (None, None)  # not measured
        second = commit_facts(repository, [two], scores=False, loaded=loaded)
        with pytest.raises(MemitVCError, match="live already before HEAD") as refused:
            commit_facts(repository, [one], scores=False, loaded=loaded, amend=True)
        assert "memitvc undo" in str(refused.value.hint)
        # the fact that is being replaced is no reason to leave it out
        third = commit_facts(repository, [two, three], scores=False, loaded=loaded, amend=True)
        commit = repository.commit(third.id)
        assert commit.parents == (first.id,)
        assert repository.operations(1)[0].verb == "amend"
        assert [e.fact for e in repository.live_facts(third.id)] == [one, two, three]
        assert repository.state(third.id) == {*repository.commit(first.id).adds, *commit.adds}
        assert commit.patches != repository.commit(second.id).patches
        revert(repository, ["HEAD"])
        with pytest.raises(MemitVCError, match="is a revert"):
            commit_facts(repository, [three], scores=False, loaded=loaded, amend=True)
        assert repository.fsck(check_patch=check_patch) == []


def test_a_kept_patch_goes_onto_the_present_tip(world: World, repository: Repository) -> None:
    patch = _keep(world, repository, 1, 2)
    start = repository.head().commit
    other = world.commit(repository, [fact(3)])
    made = commit_kept(repository, patch.id[:8])
    commit = repository.commit(made.id)
    assert commit.parents == (other.id,)
    assert (commit.message, commit.patches) == ("late", (patch.id,))
    assert made.computed_on == commit.details["computed_on"] == start
    assert repository.state(made.id) == {*other.adds, *patch.columns}
    assert repository.kept_patches() == []
    assert any("computed on" in note for note in made.notes)


def test_facts_that_became_live_meanwhile_are_left_out(world: World, repository: Repository) -> None:
    patch = _keep(world, repository, 1, 2)
    world.commit(repository, [fact(1)])
    made = commit_kept(repository, patch.id, message="rest")
    assert repository.commit(made.id).adds == (patch.columns[1],)
    assert repository.commit(made.id).message == "rest"
    second = _keep(world, repository, 1)
    with pytest.raises(MemitVCError, match="it stays kept"):
        commit_kept(repository, second.id)
    assert repository.kept_patches() == [second.id]
    assert drop_kept(repository, second.id[:8]) == second.id
    assert repository.kept_patches() == []


def test_a_kept_patch_that_contradicts_what_came_meanwhile(world: World, repository: Repository) -> None:
    patch = _keep(world, repository, 1, 2)
    other = world.commit(repository, [fact(1, "elsewhere")])
    with pytest.raises(ConflictError, match="City 1"):
        commit_kept(repository, patch.id)
    assert repository.kept_patches() == [patch.id]
    made = commit_kept(repository, patch.id, on_conflict="theirs")
    assert repository.state(made.id) == set(patch.columns)
    assert repository.commit(made.id).removes == other.adds


def test_which_kept_patch_is_meant(world: World, repository: Repository) -> None:
    with pytest.raises(RevisionError, match="no kept patch"):
        commit_kept(repository, "abcd")
    one, two = _keep(world, repository, 1), _keep(world, repository, 2)
    with pytest.raises(RevisionError, match="2 kept patches"):
        commit_kept(repository, "")
    commit_kept(repository, one.id)
    assert repository.kept_patches() == [two.id]


def test_a_revert_of_a_revert_and_of_a_merge(world: World, repository: Repository) -> None:
    one = world.commit(repository, [fact(1), fact(2)])
    switch_to_new(repository, "side")
    side = world.commit(repository, [fact(3)])
    switch(repository, "main")
    two = world.commit(repository, [fact(4)])
    joined = merge(repository, "side")
    out = revert(repository, [joined.id])
    # against its first parent: what the other side brought goes
    assert repository.state(out.id) == {*one.adds, *two.adds}
    back = revert(repository, [out.id])
    assert repository.state(back.id) == {*one.adds, *two.adds, *side.adds}
    assert repository.state_id(repository.state(back.id)) == joined.state
    only = revert(repository, [one.id], fact="City 2")
    (gone,) = repository.commit(only.id).removes
    assert repository.column_facts([gone])[gone] == [(fact(2).id, "edit")]
    assert only.later == (side.id, two.id)
    repository.undo()
    # the rest of the batch is not "later" than the first of it
    assert revert(repository, [one.id], fact="City 1").later == (side.id, two.id)
