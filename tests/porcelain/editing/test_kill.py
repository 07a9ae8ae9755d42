"""Kill a commit at any moment: it is there wholly or not at all, the next one works, and z is not searched twice."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit import engine
from memit_vc.objects import Fact, Probe
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.editing.remembered import context_templates, known_targets
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.killing_commits import commit_in_child, fork_server, search_then_die
from tests.support.models import FACTS
from tests.support.places import FIRST, SECOND, Cli, Place

MOMENTS = 30


def seconds(work: Path, edits: str) -> float:
    """How long a commit takes when nobody kills it."""
    start = time.monotonic()
    child = fork_server().Process(target=commit_in_child, args=(work, edits))
    child.start()
    child.join()
    assert child.exitcode == 0
    return time.monotonic() - start


def live(repository: Repository) -> list[str]:
    return [entry.fact.subject for entry in repository.live_facts(repository.head().commit)]


def test_a_commit_killed_at_random_moments(place: Place) -> None:
    edits = place.edits(SECOND)
    before, after = ([fact.subject for fact in facts] for facts in (FIRST, (*FIRST, *SECOND)))
    seconds(place.work, edits)  # the first child waits for the fork server
    with Repository.open(place.work) as repository:
        assert live(repository) == after
        repository.undo()
    whole = seconds(place.work, edits)
    with Repository.open(place.work) as repository:
        repository.undo()
    moments = random.Random(0)
    seen: list[bool] = []
    for _ in range(MOMENTS):
        forget_targets(place)
        child = fork_server().Process(target=commit_in_child, args=(place.work, edits))
        child.start()
        child.join(moments.uniform(0, whole))
        child.kill()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        with Repository.open(place.work) as repository:
            assert fsck(repository)[0] == []
            assert live(repository) in (before, after)
            seen.append(live(repository) == after)
            assert seen[-1] or child.exitcode != 0
            if seen[-1]:
                repository.undo()
    assert not all(seen)
    seconds(place.work, edits)
    with Repository.open(place.work) as repository:
        assert live(repository) == after


def forget_targets(place: Place) -> None:
    """So that each commit has all of its work before it."""
    for path in (place.work / ".memitvc" / "cache" / "z").rglob("*.safetensors"):
        path.unlink()


def test_what_was_found_before_the_kill_is_used(place: Place, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = FACTS[2:5]
    edits = place.edits(batch)
    child = fork_server().Process(target=search_then_die, args=(place.work, edits, 2))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    with Repository.open(place.work) as repository:
        assert fsck(repository) == ([], 0)
        assert live(repository) == [fact.subject for fact in FIRST]
    searched: list[Fact] = []
    search = engine.find

    def counted(adapter: object, facts: Sequence[Fact], **named: object) -> object:
        searched.extend(facts)
        return search(adapter, facts, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "find", counted)
    monkeypatch.setattr(engine, "CHUNK", 1)
    cli.ok("commit", edits, "--no-scores")
    assert searched == [batch[2]]


def test_a_z_that_asked_what_is_scored_is_not_used(place: Place) -> None:
    """A fact with paraphrases is searched in fewer wordings of the phrase book than the same fact without."""
    plain = Fact(prompt="The capital of Norland is", subject="Norland", target="Tessaly")
    scored = replace(plain, clean_paraphrases=("Norland has its capital in",))
    probed = replace(plain, neighbourhood=(Probe(prompt="The capital of Sudland is"),))
    with Repository.open(place.work) as repository:
        loaded, hparams = load_model(repository), repository.hparams()
        templates, state = context_templates(loaded, hparams), repository.state_id(())

        def known(fact: Fact) -> dict[int, engine.FoundTarget]:
            return known_targets(loaded, [fact], state, hparams, templates, "", 384).known

        cache = known_targets(loaded, [plain], state, hparams, templates, "", 384)
        cache.keep({0: engine.FoundTarget(torch.ones(loaded.adapter.hidden_size), 3, 0.5)})
        assert [len(known(fact)) for fact in (plain, probed, scored)] == [1, 1, 0]


def test_residuals_are_used_again_only_behind_the_same_solve(place: Place) -> None:
    """They were searched for through A⁻¹K: λ, the statistics and the other facts of the batch are part of it."""
    one, other = (Fact(prompt=f"The capital of {name} is", subject=name, target="Tessaly") for name in ("Nor", "Sud"))
    with Repository.open(place.work) as repository:
        loaded, z = load_model(repository), repository.hparams()
        residuals = z.replace(search_for="residuals")
        templates, state = context_templates(loaded, z), repository.state_id(())

        def known(facts: list[Fact], hparams: MEMITHyperParams, statistics: str) -> int:
            return len(known_targets(loaded, facts, state, hparams, templates, statistics, 384).known)

        found = engine.FoundTarget(torch.ones(2 * loaded.adapter.hidden_size), 3, 0.5)
        known_targets(loaded, [one], state, residuals, templates, "first", 384).keep({0: found})
        assert known([one], residuals, "first") == 1
        assert known([one], residuals, "second") == 0
        assert known([one], residuals.replace(mom2_update_weight=1.0), "first") == 0
        assert known([one, other], residuals, "first") == 0
        assert known([one], z, "first") == 0
