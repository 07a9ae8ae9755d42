"""Merging and picking by solving."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from memit_vc.errors import ConflictError, MemitVCError
from memit_vc.objects import RefUpdate, short
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.models import LoadedModel, load_model
from memit_vc.porcelain.editing.solver import solver_for
from memit_vc.porcelain.recomputing.resolve_join import resolve_merge, resolve_pick
from memit_vc.porcelain.state import LiveState
from memit_vc.repository import Repository
from tests.porcelain.recomputing.test_resolve import SNAPPED, direct, ids, relative, state_delta
from tests.support.models import FACTS
from tests.support.opened import Opened


@pytest.fixture
def forked(opened: Opened, with_history: Path) -> tuple[Repository, LoadedModel]:
    """main: batches 1 and 2; side: batches 1 and 3, apart. HEAD is on main."""
    repository = opened(with_history)
    loaded = load_model(repository)
    tip = repository.head().commit
    first, second = repository.resolve("HEAD~2"), repository.resolve("HEAD~1")
    updates = [RefUpdate("heads/main", tip, second), RefUpdate("heads/side", None, first)]
    repository.publish(verb="branch", description="fork", refs=updates, head="heads/side")
    commit_facts(repository, FACTS[4:6], message="apart", scores=False, loaded=loaded)
    repository.publish(verb="switch", description="main", head="heads/main")
    return repository, loaded


def test_merge_solves_both_sides_at_once(forked: tuple[Repository, LoadedModel]) -> None:
    repository, loaded = forked
    side, tip = repository.resolve("side"), repository.head().commit
    union = repository.state(side) | repository.state(tip)
    made = resolve_merge(repository, "side", loaded=loaded)
    assert repository.parents(made.id) == (tip, side)
    assert made.put_in == 6
    assert {e.fact.id for e in repository.live_facts(made.id)} == ids(range(6))
    solver = solver_for(LiveState(repository, union), loaded=loaded)
    for layer in (1, 2):
        wanted = direct(solver, layer, union, ids(range(6)))
        assert relative(state_delta(repository, solver, layer), wanted) < SNAPPED
    with pytest.raises(MemitVCError, match="already up to date"):
        resolve_merge(repository, "side", loaded=loaded)


def test_pick_solves_one_batch_in(forked: tuple[Repository, LoadedModel]) -> None:
    repository, loaded = forked
    before = repository.state(repository.head().commit)
    made = resolve_pick(repository, ["side"], loaded=loaded)
    assert (made.taken_out, made.put_in) == (0, 2)
    after = repository.state(made.id)
    assert before < after
    assert {e.fact.id for e in repository.live_facts(made.id)} == ids(range(6))
    solver = solver_for(LiveState(repository, after), loaded=loaded)
    for layer in (1, 2):
        wanted = direct(solver, layer, after, ids(range(6)))
        assert relative(state_delta(repository, solver, layer), wanted) < SNAPPED
    with pytest.raises(MemitVCError, match="here already"):
        resolve_pick(repository, ["side"], loaded=loaded)


def test_contradictions_stop_or_are_solved_away(forked: tuple[Repository, LoadedModel]) -> None:
    repository, loaded = forked
    repository.publish(verb="switch", description="side", head="heads/side")
    commit_facts(repository, [replace(FACTS[2], target="Madrid")], scores=False, loaded=loaded)
    repository.publish(verb="switch", description="main", head="heads/main")
    tip = repository.head().commit
    for resolve in (lambda: resolve_merge(repository, "side"), lambda: resolve_pick(repository, ["side"])):
        with pytest.raises(ConflictError) as stopped:
            resolve()
        assert "Madrid" in stopped.value.message
        assert short(repository.resolve("side")) in stopped.value.message
        assert repository.head().commit == tip
    made = resolve_pick(repository, ["side"], on_conflict="theirs", loaded=loaded)
    assert (made.taken_out, made.put_in) == (1, 1)
    live = {e.fact.subject: e.fact.target for e in repository.live_facts(made.id)}
    assert live[FACTS[2].subject] == "Madrid"
    assert len(live) == 4
