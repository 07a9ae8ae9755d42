"""`squash`: other files, the same set of columns, the same bits."""

from __future__ import annotations

import numpy as np
import pytest

from memit_vc.errors import MemitVCError, UsageError
from memit_vc.numerics.exact.constraints import read_constraints
from memit_vc.numerics.exact.patchfile import read_patch
from memit_vc.porcelain.sets.branch import create_branch
from memit_vc.porcelain.sets.merge import merge
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.sets.squash import squash
from memit_vc.porcelain.sets.switch import switch, switch_to_new
from memit_vc.porcelain.state import LiveState
from memit_vc.porcelain.upkeep.gc import collect_garbage
from memit_vc.repository import Repository
from tests.support.algebra.world import World, fact, same_bytes


def test_all_of_a_history_becomes_one_commit_with_the_same_bits(world: World, repository: Repository) -> None:
    root = repository.head().commit
    commits = [world.commit(repository, [fact(2 * n), fact(2 * n + 1)], message=f"batch {n}") for n in range(5)]
    revert(repository, [commits[2].id])
    state = repository.state(repository.head().commit)
    before = world.weights(repository, state)
    facts = [entry.fact for entry in repository.live_facts(repository.head().commit)]
    made = squash(repository)
    commit = repository.commit(made.id)
    assert (made.tip, made.squashed, made.columns, made.cancelled, made.patches) == (made.id, 6, 8, 2, 1)
    assert commit.parents == (root,)
    assert commit.kind == "squash"
    assert "* batch 0" in commit.message
    assert repository.state(made.id) == state
    assert made.state == repository.state_id(state)
    assert repository.selection(state) == {commit.patches[0]: tuple(range(8))}
    assert same_bytes(world.weights(repository, state), before)
    assert [entry.fact for entry in repository.live_facts(made.id)] == facts


def test_the_new_patch_is_what_the_patch_reader_expects(world: World, repository: Repository) -> None:
    one, two = (world.commit(repository, [fact(n), fact(n + 10)]) for n in (1, 2))
    made = squash(repository)
    (patch,) = repository.commit(made.id).patches
    header, tensors = read_patch(repository.patch_path(patch))
    from memit_vc.numerics.exact.patchfile import bounds, column_ids, encode_patch

    assert encode_patch(header, tensors) == repository.patch_path(patch).read_bytes()
    assert column_ids(patch, header, tensors) == repository.patch(patch).columns
    assert bounds(header, tensors) == dict(repository.patch(patch).bounds)
    assert set(repository.patch(patch).columns) == {*one.adds, *two.adds}


def test_constraints_come_along_in_the_order_of_the_columns(world: World, repository: Repository) -> None:
    commits = [world.commit(repository, [fact(n), fact(n + 10)]) for n in (1, 2, 3)]
    revert(repository, [commits[1].id], fact="City 2")
    made = squash(repository)
    patch = repository.patch(repository.commit(made.id).patches[0])
    assert patch.constraints is not None
    joined = read_constraints(repository.blobs.path(patch.constraints))
    position = 0
    for commit in commits:
        source = repository.patch(commit.patches[0])
        assert source.constraints is not None
        old = read_constraints(repository.blobs.path(source.constraints))
        for n, column in enumerate(source.columns):
            if column in patch.columns:
                assert patch.columns[position] == column
                for name in old.keys:
                    assert np.array_equal(old.keys[name][:, n], joined.keys[name][:, position])
                    assert np.array_equal(old.targets[name][:, n], joined.targets[name][:, position])
                assert np.array_equal(old.z[n], joined.z[position])
                position += 1
    assert position == len(patch.columns) == 5
    assert len(LiveState.at(repository, made.id).sources) == 5


def test_later_commits_keep_their_patches_and_states(world: World, repository: Repository) -> None:
    commits = [world.commit(repository, [fact(n)], message=f"m{n}") for n in range(5)]
    undone = revert(repository, [commits[1].id])
    states = [repository.state(c) for c in (commits[3].id, commits[4].id, undone.id)]
    old = repository.head().commit
    made = squash(repository, f"{commits[0].id}..{commits[2].id}")
    assert (made.squashed, made.rewritten) == (2, 3)
    log = [c.id for c in repository.log([made.tip])]
    assert log[3:5] == [made.id, commits[0].id]
    assert [repository.state(c) for c in log[:3][::-1]] == states
    assert repository.commit(log[2]).patches == commits[3].patches
    assert repository.commit(made.tip).removes == commits[1].adds
    assert repository.head().commit == made.tip != old
    repository.undo()
    assert repository.head().commit == old


def test_a_pair_that_cancels_leaves_an_empty_commit(world: World, repository: Repository) -> None:
    world.commit(repository, [fact(1)])
    revert(repository, ["HEAD"])
    made = squash(repository)
    assert (made.columns, made.cancelled, made.patches) == (0, 1, 0)
    assert repository.state(made.id) == frozenset()


def test_revert_of_a_squash_and_back_again(world: World, repository: Repository) -> None:
    commits = [world.commit(repository, [fact(n)]) for n in range(4)]
    made = squash(repository, f"{commits[0].id}..{commits[2].id}")
    before = world.weights(repository, repository.state(made.tip))
    out = revert(repository, [made.id])
    assert repository.state(out.id) == {*commits[0].adds, *commits[3].adds}
    back = revert(repository, [out.id])
    assert same_bytes(world.weights(repository, repository.state(back.id)), before)


def test_a_single_fact_is_reverted_out_of_a_squash(world: World, repository: Repository) -> None:
    commits = [world.commit(repository, [fact(n), fact(n + 10)]) for n in range(3)]
    made = squash(repository)
    out = revert(repository, [made.id], fact=fact(11).id)
    expected = {column for commit in commits for column in commit.adds} - {commits[1].adds[0], commits[1].adds[1]}
    patch = repository.patch(commits[1].patches[0])
    assert repository.state(out.id) == expected | {patch.columns[0]}


def test_dense_patches_and_other_layers_stay_apart(world: World, repository: Repository) -> None:
    dense = world.patch(repository, [fact(1), fact(2)], dense=True)
    world.commit(repository, [fact(1), fact(2)], patch=dense)
    for n in (3, 4):
        world.commit(repository, [fact(n)])
    for n in (5, 6):
        world.commit(repository, [fact(n)], patch=world.patch(repository, [fact(n)], layers=[2]))
    for n in (7, 8):
        world.commit(repository, [fact(n)], patch=world.patch(repository, [fact(n)], constraints=False))
    state = repository.state(repository.head().commit)
    before = world.weights(repository, state)
    made = squash(repository)
    assert made.patches == 4
    assert dense.id in repository.commit(made.id).patches
    assert repository.state(made.id) == state
    assert same_bytes(world.weights(repository, state), before)
    # keys and targets are never lost to a patch that has none
    sources = LiveState(repository, state).sources
    assert sum(repository.patch(s.patch).constraints is not None for s in sources) == 6


def test_a_range_that_a_merge_ties_to_the_outside_is_refused(world: World, repository: Repository) -> None:
    start = world.commit(repository, [fact(0)])
    switch_to_new(repository, "side")
    side = world.commit(repository, [fact(1)])
    switch(repository, "main")
    first = world.commit(repository, [fact(2)])
    joined = merge(repository, "side")
    world.commit(repository, [fact(3)])
    with pytest.raises(MemitVCError, match="joins"):
        squash(repository, f"{first.id}..HEAD")
    with pytest.raises(MemitVCError, match="in the middle"):
        squash(repository, f"{start.parents[0]}..{first.id}")
    state = repository.state(repository.head().commit)
    made = squash(repository, f"{start.id}..{joined.id}")
    assert made.squashed == 3
    assert made.rewritten == 1
    assert made.left_behind == ("side",)
    assert repository.state(made.tip) == state
    assert side.adds[0] in repository.state(made.id)


def test_what_cannot_be_squashed(world: World, repository: Repository) -> None:
    world.commit(repository, [fact(0)])
    with pytest.raises(MemitVCError, match="nothing to squash"):
        squash(repository)
    with pytest.raises(UsageError, match="not a range"):
        squash(repository, "HEAD~1")
    switch_to_new(repository, "side", "HEAD~1")
    for n in (1, 2):
        world.commit(repository, [fact(n)])
    switch(repository, "main")
    with pytest.raises(MemitVCError, match="not in HEAD's history"):
        squash(repository, "HEAD~1..side")


def test_gc_drops_the_old_patches_when_operations_are_pruned(world: World, repository: Repository) -> None:
    for n in range(3):
        world.commit(repository, [fact(n)])
    made = squash(repository)
    before = world.weights(repository, repository.state(made.id))
    kept = collect_garbage(repository, grace=0.0)
    assert kept.commits == kept.blobs == 0
    gone = collect_garbage(repository, grace=0.0, keep_operations=0)
    assert gone.commits == 3
    assert repository.selection(repository.state(made.id)) == {repository.commit(made.id).patches[0]: (0, 1, 2)}
    assert same_bytes(world.weights(repository, repository.state(made.id)), before)


def test_branches_that_stand_on_squashed_commits_are_named(world: World, repository: Repository) -> None:
    world.commit(repository, [fact(0)])
    switch_to_new(repository, "ahead")
    world.commit(repository, [fact(1)])
    switch(repository, "main")
    world.commit(repository, [fact(2)])
    made = squash(repository)
    assert (made.left_behind, made.brings_back) == (("ahead",), ())


def test_branches_that_would_bring_back_what_cancelled_are_told_apart(world: World, repository: Repository) -> None:
    world.commit(repository, [fact(0)])
    create_branch(repository, "has-it")
    revert(repository, ["HEAD"])
    create_branch(repository, "has-not")
    world.commit(repository, [fact(1)])
    made = squash(repository)
    assert (made.left_behind, made.brings_back) == (("has-it", "has-not"), ("has-it",))
    for branch, expected in (("has-it", 2), ("has-not", 1)):
        merge(repository, branch)
        assert len(repository.live_facts(repository.head().commit)) == expected
        repository.undo()
