"""`diff`: facts from the rows, weights from the factors."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from memit_vc.objects import CommitId
from memit_vc.porcelain.history.diff import diff, ends
from memit_vc.porcelain.history.diff_weights import diff_weights
from memit_vc.porcelain.sets.revert import revert
from memit_vc.repository import Repository
from tests.support.algebra.world import World, fact


def _dense(world: World, repository: Repository, older: CommitId, newer: CommitId, name: str) -> torch.Tensor:
    total = torch.zeros(1, dtype=torch.float64)
    for sign, commit in ((1, newer), (-1, older)):
        state = repository.state(commit)
        for patch in repository.selection(state):
            for column, deltas in world.plain(repository, repository.patch(patch)).items():
                if column in state and name in deltas:
                    total = total + sign * deltas[name]
    return total


def test_added_removed_and_changed(world: World, repository: Repository) -> None:
    first = world.commit(repository, [fact(1), fact(2), fact(3)])
    start = first.id
    patch = repository.patch(first.patches[0])
    world.commit(repository, [fact(2, "another land"), fact(9)], removes=[patch.columns[1], patch.columns[2]])
    found = diff(repository, *ends(repository))
    assert [e.fact for e in found.added] == [fact(9)]
    assert [e.fact for e in found.removed] == [fact(3)]
    assert [(c.before.fact, c.after.fact) for c in found.changed] == [(fact(2), fact(2, "another land"))]
    assert found.sentence == "+1 fact, −1, 1 changed"
    back = diff(repository, repository.head().commit, start)
    assert back.sentence == "+1 fact, −1, 1 changed"
    assert found.to_json()["summary"] == found.sentence


def test_sentences_of_small_differences(world: World, repository: Repository) -> None:
    root = repository.head().commit
    assert diff(repository, *ends(repository)).sentence == "the same facts, the same weights"
    one = world.commit(repository, [fact(1)])
    out = revert(repository, ["HEAD"])
    assert diff(repository, one.id, out.id).sentence == "−1 fact"
    assert diff(repository, root, out.id).same_state
    world.commit(repository, [fact(1)], seed=5)
    assert diff(repository, one.id, repository.head().commit).sentence == "1 edited again"


def test_which_commits_are_compared(world: World, repository: Repository) -> None:
    commits = [world.commit(repository, [fact(n)]).id for n in range(3)]
    assert ends(repository) == (commits[1], commits[2])
    assert ends(repository, commits[0]) == (commits[0], commits[2])
    assert ends(repository, f"{commits[0]}..{commits[1]}") == (commits[0], commits[1])
    assert ends(repository, "HEAD~2", "HEAD~1") == (commits[0], commits[1])


@pytest.mark.parametrize("dense", [False, True])
def test_singular_values_are_those_of_the_dense_delta(world: World, repository: Repository, dense: bool) -> None:
    first = world.commit(repository, [fact(n) for n in range(4)])
    batch = [fact(n) for n in range(10, 14)]
    world.commit(repository, batch, patch=world.patch(repository, batch, dense=dense))
    revert(repository, [first.id], fact=fact(2).id)
    world.commit(repository, [fact(20)], patch=world.patch(repository, [fact(20)], layers=[2]))
    head = repository.head().commit
    found = diff_weights(repository, first.id, head)
    assert [t.layer for t in found.tensors] == [1, 2]
    # a dense update is rounded entry by entry, which leaves nothing of its rank
    assert [t.rank for t in found.tensors] == ([32, 32] if dense else [5, 6])
    for tensor in found.tensors:
        expected = torch.linalg.svdvals(_dense(world, repository, first.id, head, tensor.name))
        assert torch.tensor(tensor.singular_values, dtype=torch.float64).allclose(
            expected[: tensor.rank], rtol=1e-9, atol=1e-12 * float(expected[0])
        )
        assert tensor.norm == pytest.approx(float(expected.norm()), rel=1e-9)
        assert tensor.base_norm == pytest.approx(float(world.tensors[tensor.name].double().norm()), rel=1e-12)
    assert found.sentence.startswith(f"2 tensors, rank {32 if dense else 6}, ")
    assert found.sentence.endswith(" % of their norm")


def test_no_difference_in_weights(world: World, repository: Repository) -> None:
    commit = world.commit(repository, [fact(1)])
    assert diff_weights(repository, commit.id, commit.id).sentence == "no tensor differs"


def test_more_columns_than_rows(world: World, repository: Repository) -> None:
    root = repository.head().commit
    for n in range(5):
        world.commit(repository, [fact(10 * n + k) for k in range(10)])
    head = repository.head().commit
    found = diff_weights(repository, root, head)
    for tensor in found.tensors:
        expected = torch.linalg.svdvals(_dense(world, repository, root, head, tensor.name))
        assert tensor.rank == len(expected) == 32
        assert torch.tensor(tensor.singular_values, dtype=torch.float64).allclose(expected, rtol=1e-9, atol=0)


def test_facts_that_differ_in_their_probes_only_are_two(world: World, repository: Repository) -> None:
    probed = dataclasses.replace(fact(1), ground_truth="x")
    one = world.commit(repository, [fact(1)])
    both = world.commit(repository, [probed], seed=3)
    assert diff(repository, *ends(repository, "HEAD~2")).sentence == "+2 facts"
    assert diff(repository, one.id, both.id).sentence == "+1 fact"
    assert [e.fact for e in diff(repository, one.id, both.id).added] == [probed]
    out = revert(repository, [one.id])
    assert diff(repository, both.id, out.id).sentence == "−1 fact"
    # the other of the two is the same answer, edited again
    assert diff(repository, one.id, out.id).sentence == "1 edited again"
