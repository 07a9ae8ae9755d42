"""Re-solving: what is left equals what a direct solve of the remaining facts gives."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from memit_vc.errors import EngineError, MemitVCError, RevisionError
from memit_vc.numerics.edit.resolve import change, snapped, whole
from memit_vc.numerics.edit.solve import adjusted_keys
from memit_vc.numerics.exact.factored import Dense, LowRank
from memit_vc.numerics.exact.materialise import delta
from memit_vc.objects import ColumnId
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.evaluate import evaluate
from memit_vc.porcelain.editing.models import LoadedModel, load_model
from memit_vc.porcelain.editing.solver import Solver, solver_for
from memit_vc.porcelain.recomputing.resolve import resolve_revert, resolve_squash
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.state import LiveState
from memit_vc.repository import Repository
from tests.support.models import FACTS
from tests.support.opened import Opened

SNAPPED = 2e-5
"""Relative error of a state's D: every live column was snapped once, to about 1e-6 of itself."""


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def dense(update: LowRank) -> Tensor:
    return torch.from_numpy(update.matrix())


def direct(solver: Solver, layer: int, columns: Collection[ColumnId], facts: Collection[str]) -> Tensor:
    """B Kᵀ (λC + K Kᵀ)⁻¹ of some facts, with a dense inverse."""
    found = solver.constraints(LiveState(solver.loaded.repository, columns))
    rows = [i for i, source in enumerate(found.sources) if source.fact in facts]
    K, B = found.keys[layer][:, rows], found.targets[layer][:, rows]
    return B @ K.T @ torch.linalg.inv(solver.statistics.factor(layer).matrix() + K @ K.T)


def state_delta(repository: Repository, solver: Solver, layer: int) -> Tensor:
    columns = repository.state(repository.head().commit)
    weight = solver.loaded.weights[layer]
    return delta(LiveState(solver.loaded.repository, columns).terms(weight), weight)


def losses(repository: Repository, revision: str, loaded: LoadedModel) -> list[float]:
    """Mean −log P of each fact's target at a revision."""
    found = evaluate(repository, revision, facts=FACTS[:6], perplexity=False, loaded=loaded).measured.facts
    return [float(found[fact.id]["nll"] or 0.0) for fact in FACTS[:6]]


def ids(numbers: Sequence[int]) -> set[str]:
    return {FACTS[number].id for number in numbers}


@pytest.fixture
def history(opened: Opened, with_history: Path) -> Repository:
    return opened(with_history)


def test_history_and_downdate_are_exact_before_snapping(history: Repository) -> None:
    """The identities of `numerics/edit/resolve.py` on the stored constraints, at float64's accuracy."""
    state = history.state(history.head().commit)
    solver = solver_for(LiveState(history, state))
    found = solver.constraints(LiveState(history, state))
    by_fact = {source.fact: index for index, source in enumerate(found.sources)}
    order = [by_fact[fact.id] for fact in FACTS[:6]]
    for layer in (1, 2):
        factor, K, B = solver.statistics.factor(layer), found.keys[layer][:, order], found.targets[layer][:, order]
        # batch by batch, each with the earlier keys in view: residual R = B − D K
        running = torch.zeros(B.shape[0], K.shape[0], dtype=torch.float64)
        for first in (0, 2, 4):
            new = slice(first, first + 2)
            residual = B[:, new] - running @ K[:, new]
            running = running + residual @ adjusted_keys(factor, K[:, new], history=K[:, :first]).T
        at_once = dense(whole(factor, K, B))
        assert relative(running, at_once) < 1e-9
        assert relative(at_once, B @ K.T @ torch.linalg.inv(factor.matrix() + K @ K.T)) < 1e-9
        # the second batch out again
        rest = [0, 1, 4, 5]
        second, nothing, others = ((K[:, rows], B[:, rows]) for rows in ([2, 3], [], rest))
        downdate = change(factor, [[Dense(at_once.numpy())]], out=second, into=nothing, staying=others)
        without = B[:, rest] @ K[:, rest].T @ torch.linalg.inv(factor.matrix() + K[:, rest] @ K[:, rest].T)
        assert relative(at_once + dense(downdate), without) < 1e-9
        update = change(factor, [[Dense(without.numpy())]], out=nothing, into=second, staying=others)
        assert relative(without + dense(update), at_once) < 1e-9


def test_revert_resolve_leaves_what_would_be_there(history: Repository) -> None:
    loaded = load_model(history)
    before = history.state(history.head().commit)
    solver = solver_for(LiveState(history, before), loaded=loaded)
    made = resolve_revert(history, ["HEAD~1"], loaded=loaded)
    assert (made.taken_out, made.put_in, made.columns_removed) == (2, 0, 0)
    assert made.snapping < 1e-5
    assert {entry.fact.id for entry in history.live_facts(made.id)} == ids([0, 1, 4, 5])
    for layer in (1, 2):
        wanted = direct(solver, layer, before, ids([0, 1, 4, 5]))
        assert relative(state_delta(history, solver, layer), wanted) < SNAPPED
    # far more than a plain revert gives
    assert (
        relative(delta(LiveState(history, before).terms(loaded.weights[2]), loaded.weights[2]), wanted) > 100 * SNAPPED
    )
    at_base, with_all, without = (losses(history, revision, loaded) for revision in ("HEAD~4", "HEAD~1", "HEAD"))
    for number in (0, 1, 4, 5):
        assert without[number] < with_all[number] + 0.1 * (at_base[number] - with_all[number])
    for number in (2, 3):
        assert without[number] > at_base[number] - 0.5 * (at_base[number] - with_all[number])
    assert made.state == history.state_id(history.state(made.id))
    revert(history, ["HEAD"])
    assert history.state(history.head().commit) == before


def test_one_fact_leaves_and_the_order_does_not_matter(opened: Opened, with_history: Path) -> None:
    found = []
    for order in ((1, 4), (4, 1)):
        repository = opened(with_history)
        loaded = load_model(repository)
        for number in order:
            made = resolve_revert(repository, [f"HEAD~{2 - number // 2 + order.index(number)}"],
                                  fact=FACTS[number].subject, loaded=loaded)  # fmt: skip
            assert made.taken_out == 1
        assert {e.fact.id for e in repository.live_facts(made.id)} == ids([0, 2, 3, 5])
        solver = solver_for(LiveState(repository, repository.state(made.id)), loaded=loaded)
        found.append([state_delta(repository, solver, layer) for layer in (1, 2)])
        for layer, got in zip((1, 2), found[-1], strict=True):
            assert relative(got, direct(solver, layer, repository.state(made.id), ids([0, 2, 3, 5]))) < SNAPPED
    for one, other in zip(*found, strict=True):
        assert relative(one, other) < SNAPPED


def test_squash_resolve_of_a_plain_history_is_the_one_shot_solution(opened: Opened, plain: Path) -> None:
    repository = opened(plain)
    loaded = load_model(repository)
    before = repository.state(repository.head().commit)
    solver = solver_for(LiveState(repository, before), loaded=loaded)
    wanted = {layer: direct(solver, layer, before, ids(range(6))) for layer in (1, 2)}
    assert relative(state_delta(repository, solver, 2), wanted[2]) > 100 * SNAPPED
    made = resolve_squash(repository, loaded=loaded)
    assert (made.put_in, made.columns_removed) == (6, 6)
    for layer in (1, 2):
        assert relative(state_delta(repository, solver, layer), wanted[layer]) < SNAPPED
    assert {e.fact.id for e in repository.live_facts(made.id)} == ids(range(6))
    # what came first had suffered most from what came later
    assert sum(losses(repository, "HEAD", loaded)[:2]) < sum(losses(repository, "HEAD~1", loaded)[:2])
    # the state is a set: solving it again gives the very same columns, so there is nothing to commit
    with pytest.raises(MemitVCError, match="solved together already"):
        resolve_squash(repository, loaded=loaded)
    assert repository.head().commit == made.id


def test_squash_resolve_keeps_a_history_aware_state(history: Repository) -> None:
    loaded = load_model(history)
    before = history.state(history.head().commit)
    solver = solver_for(LiveState(history, before), loaded=loaded)
    old = {layer: state_delta(history, solver, layer) for layer in (1, 2)}
    resolve_squash(history, loaded=loaded)
    for layer in (1, 2):
        assert relative(state_delta(history, solver, layer), old[layer]) < SNAPPED


def test_a_fact_can_leave_after_a_squash_and_come_back_in_a_later_commit(history: Repository) -> None:
    loaded = load_model(history)
    resolve_squash(history, loaded=loaded)
    resolve_revert(history, ["HEAD~2"], loaded=loaded)
    assert {e.fact.id for e in history.live_facts(history.head().commit)} == ids([0, 1, 4, 5])
    resolve_squash(history, loaded=loaded)
    assert {e.fact.id for e in history.live_facts(history.head().commit)} == ids([0, 1, 4, 5])
    commit_facts(history, FACTS[2:4], scores=False, loaded=loaded)
    assert {e.fact.id for e in history.live_facts(history.head().commit)} == ids(range(6))


def test_everything_out_leaves_the_base(history: Repository) -> None:
    loaded = load_model(history)
    resolve_revert(history, ["HEAD", "HEAD~1", "HEAD~2"], loaded=loaded)
    assert history.live_facts(history.head().commit) == []
    made = resolve_squash(history, loaded=loaded)
    assert made.patch is None
    assert history.state(made.id) == frozenset()


def test_what_was_replaced_comes_back(opened: Opened, with_history: Path) -> None:
    from dataclasses import replace

    repository = opened(with_history)
    loaded = load_model(repository)
    other = replace(FACTS[0], target="Madrid")
    commit_facts(repository, [other], on_conflict="theirs", scores=False, loaded=loaded)
    made = resolve_revert(repository, ["HEAD"], loaded=loaded)
    assert (made.taken_out, made.put_in) == (1, 1)
    assert {e.fact.id for e in repository.live_facts(made.id)} == ids(range(6))
    assert losses(repository, "HEAD", loaded)[0] < losses(repository, "HEAD~1", loaded)[0]


def test_what_cannot_be_taken_out(history: Repository) -> None:
    tip = history.head().commit
    with pytest.raises(MemitVCError, match="the base itself"):
        resolve_revert(history, ["HEAD~3"])
    with pytest.raises(RevisionError, match="no fact of"):
        resolve_revert(history, ["HEAD"], fact="nobody")
    assert history.head().commit == tip


def test_columns_that_the_grid_cannot_hold_are_stored_as_their_sum(
    history: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = history.weights()[1]
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(weight.d_out, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    row = torch.randn(1, weight.d_in, generator=generator, dtype=torch.float64)
    size = float(one.abs().max() * row.abs().max()) / 2.0**weight.quantum
    for large in (2.0**49.5 / size, 2.0**51.5 / size, 1e4):  # columns that a sum can hold, and those that none can
        pulling = LowRank(torch.cat([large * one, other - large * one], dim=1).numpy(), torch.cat([row, row]).numpy())
        term, moved = snapped(pulling, weight)
        assert isinstance(term, Dense)
        assert moved < 1e-6
        assert relative(torch.from_numpy(term.matrix()), other @ row) < 1e-6

    def refuse(*_: object, **__: object) -> None:
        raise EngineError("too large")

    monkeypatch.setattr("memit_vc.numerics.edit.resolve.snap", refuse)
    loaded = load_model(history)
    before = history.state(history.head().commit)
    solver = solver_for(LiveState(history, before), loaded=loaded)
    made = resolve_squash(history, loaded=loaded)
    assert made.dense
    for layer in (1, 2):
        wanted = direct(solver, layer, before, ids(range(6)))
        assert relative(state_delta(history, solver, layer), wanted) < SNAPPED
    out = resolve_revert(history, ["HEAD"], fact=FACTS[0].subject, loaded=loaded)
    assert {e.fact.id for e in history.live_facts(out.id)} == ids(range(1, 6))
