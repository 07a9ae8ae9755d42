"""`tune`: it ends, writes a usable file, chooses the best of what it measured, and measures nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from memit_vc.errors import UsageError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.porcelain.editing import tune as tuning
from memit_vc.porcelain.editing.calibration import calibration_facts
from memit_vc.repository import Repository
from tests.support.models import FACTS
from tests.support.places import FIRST, Cli, make_place


def test_calibration_facts_are_whole_and_different() -> None:
    facts = calibration_facts()
    assert len({fact.question for fact in facts}) == 60
    for fact in facts:
        assert all(fact.subject in text for text in (fact.prompt, *fact.phrasings, *fact.clean_paraphrases))
        assert fact.target not in (fact.ground_truth or "")
        assert not set(fact.phrasings) & {fact.prompt, *fact.clean_paraphrases}


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "mixtral", "deepseek_v3"])
def test_it_ends_and_writes_a_usable_file(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(tmp_path, family, v_num_grad_steps=3)
    monkeypatch.setattr(tuning, "calibration_facts", lambda: list(FACTS[:6]))
    cli = Cli(place.work, capsys, monkeypatch)
    made = cli.ok("tune", "-o", str(tmp_path / "best.yaml"), "--json").json
    grid = [tuning.Tried(**{**each, "layers": tuple(each["layers"])}) for each in made["tried"][-6:]]
    as_good = [each for each in grid if each.worth > max(one.worth for one in grid) - 0.03]
    best = made["best"]
    assert best["perplexity"] == min(each.perplexity for each in as_good)
    written = MEMITHyperParams.from_hparams(tmp_path / "best.yaml")
    assert written.layers == best["layers"]
    assert (written.mom2_update_weight, written.passes) == (best["weight"], best["passes"])
    refused = cli("tune", "-o", str(tmp_path / "best.yaml"))
    assert (refused.code, "exists already" in refused.err) == (2, True)
    with Repository.open(place.work) as repository:
        monkeypatch.setattr(tuning, "search_targets", None)
        monkeypatch.setattr(tuning, "insert", None)
        again = tuning.tune(repository, minutes=0)
        assert again.left_out == 0
        assert [each.line() for each in again.tried] == [
            tuning.Tried(**{**each, "layers": tuple(each["layers"])}).line() for each in made["tried"]
        ]
        with pytest.raises(UsageError, match="too few"):
            tuning.tune(repository, facts=FACTS[:2])
    cli.ok("init", place.base, tmp_path / "new", "--hparams", tmp_path / "best.yaml")
    monkeypatch.undo()
    cli.ok("commit", place.edits(FIRST), "--hparams", tmp_path / "best.yaml")
    cli.ok("fsck")


def test_windows_have_layers_that_a_file_can_name() -> None:
    """The first layers of a mixture may be dense, or every other one."""
    assert tuning._windows(20, set(range(20))) == [(0, 1, 2), (0, 1, 2, 3, 4), (2, 3, 4, 5, 6), (5, 6, 7, 8, 9)]
    assert tuning._windows(20, set(range(3, 20))) == [(3, 4), (3, 4, 5, 6), (5, 6, 7, 8, 9)]
    assert tuning._windows(20, set(range(1, 20, 2))) == [(1,), (1, 3), (3, 5), (5, 7, 9)]
    assert tuning._windows(20, {14, 15, 19}) == [(14, 15, 19)]


def test_a_file_that_appears_meanwhile_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(tmp_path)
    out = tmp_path / "best.yaml"

    def slow(repository: Repository, **_: object) -> tuning.Tuned:
        out.write_text("mine")
        hparams = repository.hparams()
        best = tuning.Tried((1, 2), 5.0, 1, 6, 0.5, 0.5, 0.5, 1.0)
        return tuning.Tuned(hparams, best, (best,), 1.0, 0)

    monkeypatch.setattr(tuning, "tune", slow)
    refused = Cli(place.work, capsys, monkeypatch)("tune", "-o", str(out))
    assert (refused.code, "exists already" in refused.err, out.read_text()) == (2, True, "mine")
    assert not list(tmp_path.glob("best.yaml.tmp-*"))


def test_z_stands_for_residuals_without_what_was_measured_with_them_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(tmp_path)
    own = {"search_for": "residuals", "v_num_grad_steps": 60, "keep_factor": 0.85, "name_factor": 0.3}
    seen: list[MEMITHyperParams] = []

    def bench(_: object, hparams: MEMITHyperParams, *rest: object) -> object:
        seen.append(hparams)
        raise UsageError("enough")

    monkeypatch.setattr(tuning, "_Bench", bench)
    with Repository.open(place.work) as repository:
        changed = repository.hparams().replace(**own)
        monkeypatch.setattr(repository, "hparams", lambda: changed)
        with pytest.raises(UsageError, match="enough"):
            tuning.tune(repository, facts=FACTS[:6])
    [hparams] = seen
    assert (hparams.search_for, hparams.v_num_grad_steps, hparams.keep_factor) == ("z", 50, 0.5)
    assert hparams.name_factor == 0.0


def test_settings_that_break_the_model_are_not_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(tmp_path, v_num_grad_steps=2)
    monkeypatch.setattr(tuning, "calibration_facts", lambda: list(FACTS[:6]))
    base = iter([20.0])
    monkeypatch.setattr(tuning, "perplexity_of", lambda *_: next(base, float("nan")))
    refused = Cli(place.work, capsys, monkeypatch)("tune", "-o", str(tmp_path / "best.yaml"))
    assert "after each edit that was tried, the perplexity of the health text is not a number" in refused.err
    assert not (tmp_path / "best.yaml").exists()
    assert not list((place.work / ".memitvc" / "cache").glob("tune-*.json"))
    good = tuning.Tried((1, 2), 1.0, 1, 6, 0.5, 0.5, 0.5, 1.0)
    assert tuning._gentlest([tuning.Tried((1, 2), 1.0, 1, 6, 1.0, 1.0, 1.0, float("nan")), good]) == good


def test_what_was_measured_first_may_be_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time ends within the grid, whose first λ is worse than the one that the layers were measured with."""
    place = make_place(tmp_path, v_num_grad_steps=2)
    weights: list[float] = []

    class Bench:
        def __init__(self, *_: object) -> None:
            weights.clear()

        def try_out(
            self, facts: object, layers: tuple[int, ...], *, weight: float, passes: int, begin: bool
        ) -> tuning.Tried | None:
            if not begin:
                return None
            weights.append(weight)
            return tuning.Tried(layers, weight, passes, 6, 0.5, 0.5, 0.5, 1.0 if weight == weights[0] else 1.4)

    monkeypatch.setattr(tuning, "_Bench", Bench)
    with Repository.open(place.work) as repository:
        for ticks in (8, 12, 16, 10_000):
            clock = iter(range(0, 60 * 10_000, 60))
            monkeypatch.setattr(tuning.time, "monotonic", lambda clock=clock: float(next(clock)))
            made = tuning.tune(repository, facts=FACTS[:6], minutes=ticks)
            assert made.hparams.mom2_update_weight == weights[0]
