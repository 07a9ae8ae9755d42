"""Likely conflicts: keys that overlap in the metric of C, with other targets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memit_vc.cli import main
from memit_vc.edits import write_records
from memit_vc.errors import IntegrityError
from memit_vc.objects import Fact, RefUpdate
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.editing.overlap import LIKELY, commit_overlaps, overlaps
from memit_vc.porcelain.editing.solver import solver_for
from memit_vc.porcelain.recomputing.resolve_join import resolve_merge
from memit_vc.porcelain.sets.merge import merge
from memit_vc.porcelain.state import LiveState
from memit_vc.repository import Repository
from tests.porcelain.recomputing.test_rebase import fork
from tests.support.models import FACTS
from tests.support.opened import Opened

TOWER = FACTS[2]
SAME_PLACE = replace(TOWER, prompt="The Glass Tower is the work of", target="Jon Avery")
"""Another question with the same words up to the subject's end, and so with the very same key."""


def test_the_number_is_the_cosine_in_the_metric_of_c(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    state = repository.state(repository.head().commit)
    solver = solver_for(LiveState(repository, state), loaded=loaded)
    found = solver.constraints(LiveState(repository, state))
    wanted: dict[frozenset[str], float] = {}
    for layer in (1, 2):
        inverse = torch.linalg.inv(solver.statistics.factor(layer).matrix())
        products = found.keys[layer].T @ inverse @ found.keys[layer]
        cosines = products / products.diagonal().outer(products.diagonal()).sqrt()
        for i, one in enumerate(found.sources):
            for j, other in enumerate(found.sources[:i]):
                pair = frozenset((one.fact, other.fact))
                wanted[pair] = max(wanted.get(pair, -1.0), float(cosines[i, j]))
    for column in state:
        for each in overlaps(LiveState(repository, [column]), LiveState(repository, state - {column}), threshold=-1.0):
            assert each.value == pytest.approx(wanted[frozenset((each.ours.id, each.theirs.id))], abs=1e-9)
    whole = LiveState(repository, state)
    assert len(overlaps(whole, whole, threshold=-1.0)) == 6 * 5  # all pairs but a fact with itself


def test_two_answers_in_one_place(opened: Opened, with_history: Path) -> None:
    repository = opened(with_history)
    loaded = load_model(repository)
    made = commit_facts(repository, [SAME_PLACE, FACTS[6]], scores=False, loaded=loaded)
    (found,) = commit_overlaps(repository, made.id)
    assert (found.ours.id, found.theirs.id) == (TOWER.id, SAME_PLACE.id)
    assert found.value == pytest.approx(1.0, abs=1e-6)
    assert "overlap by 1.00 at layer" in found.line()
    # what the commit replaces is no conflict any more
    again = replace(SAME_PLACE, target="Mira Holt")
    made = commit_facts(repository, [again], on_conflict="theirs", scores=False, loaded=loaded)
    assert [(each.ours.id, each.theirs.id) for each in commit_overlaps(repository, made.id)] == [(TOWER.id, again.id)]


@pytest.fixture
def forked(opened: Opened, with_history: Path) -> Repository:
    """side has SAME_PLACE beside batch 1; main, where HEAD is, has TOWER in batch 2."""
    repository = opened(with_history)
    fork(repository, load_model(repository), [[SAME_PLACE]])
    repository.publish(verb="switch", description="main", head="heads/main")
    return repository


def test_the_sides_of_a_merge(forked: Repository) -> None:
    tip = forked.head().commit
    plain = merge(forked, "side").id
    back = RefUpdate("heads/main", plain, tip)
    forked.publish(verb="test", description="back", refs=[back])
    solved = resolve_merge(forked, "side").id
    for made in (plain, solved):
        (found,) = commit_overlaps(forked, made)
        assert {found.ours.id, found.theirs.id} == {TOWER.id, SAME_PLACE.id}
        assert found.value > LIKELY


def test_the_warning_on_the_command_line(
    forked: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    where, line = str(forked.directory), "likely conflict: 'The Glass Tower is the work of' → 'Jon Avery' and"

    def said(*words: str) -> tuple[bool, bool]:
        """Whether the verb warns, and whether its JSON has the overlap."""
        assert main([words[0], "-C", where, *words[1:], "--json"]) == 0
        out = capsys.readouterr()
        assert main(["undo", "-C", where]) == 0
        capsys.readouterr()
        return line in out.err, bool(json.loads(out.out).get("overlaps"))

    edits = tmp_path / "edits.json"
    edits.write_text(write_records([SAME_PLACE], format="json"), encoding="utf-8")
    for error in (IntegrityError("object 12345 is missing"), MemoryError(), RuntimeError("can't allocate memory")):
        with monkeypatch.context() as patched:

            def fail(*_: object, error: Exception = error) -> None:
                raise error

            patched.setattr("memit_vc.porcelain.editing.overlap.commit_overlaps", fail)
            assert main(["merge", "side", "-C", where, "--check-overlap", "--json"]) == 0  # the merge was made
            out = capsys.readouterr()
            assert json.loads(out.out)["how"] == "merge"
            assert "warning: likely conflicts could not be looked for: " in out.err
            assert main(["undo", "-C", where]) == 0
            capsys.readouterr()
    assert said("commit", str(edits), "--no-scores") == (True, True)
    assert said("commit", str(edits), "--no-scores", "--no-check-overlap") == (False, False)
    assert said("merge", "side") == (False, False)
    assert said("merge", "side", "--check-overlap") == (True, True)
    assert said("merge", "side", "--resolve") == (True, True)
    assert said("cherry-pick", "side") == (False, False)
    assert said("cherry-pick", "side", "--check-overlap") == (True, True)
    assert said("cherry-pick", "side", "--resolve") == (True, True)


def test_without_statistics_only_who_asked_is_told(forked: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(forked.directory)
    for directory in (forked.root / "statistics").iterdir():
        for file in directory.glob("*"):
            file.unlink()
    assert main(["merge", "-C", where, "side", "--check-overlap", "--json"]) == 0
    out = capsys.readouterr()
    assert "warning" in out.err
    assert "overlaps" not in json.loads(out.out)


def test_facts_go_from_one_repository_into_another(
    opened: Opened, with_history: Path, plain: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`memitvc facts --json | memitvc -C other commit -`, by way of a file."""
    source, other = opened(with_history), opened(plain)
    other.publish(
        verb="test",
        description="the base",
        refs=[RefUpdate("heads/main", other.head().commit, other.resolve("HEAD~3"))],
    )
    for form in ("--json", "--csv"):
        assert main(["facts", "-C", str(source.directory), form]) == 0
        listed = tmp_path / f"facts{form.replace('--', '.')}"
        listed.write_text(capsys.readouterr().out, encoding="utf-8")
        assert main(["commit", "-C", str(other.directory), str(listed), "--no-scores"]) == 0
        capsys.readouterr()
        live: list[Fact] = [entry.fact for entry in other.live_facts(other.head().commit)]
        assert live == [entry.fact for entry in source.live_facts(source.head().commit)]
        other.undo()
