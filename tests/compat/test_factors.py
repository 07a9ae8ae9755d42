"""Where λC comes from when a script gives no statistics."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from memit_vc import execute_memit
from memit_vc.compat.factors import FactorSource, fingerprint
from memit_vc.compat.models import adapter_for
from memit_vc.errors import EngineError
from memit_vc.numerics.statistics.factors import factorise
from tests.compat.conftest import Case
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
TEXTS = ["The capital of Norland is Vienna and Mira Holt plays the piano there every day."] * 40


def source(case: Case, cache: Path) -> FactorSource:
    return FactorSource(adapter_for(case.model, case.tok, case.hparams), case.hparams, cache=cache)


def test_collected_once_from_the_named_file_and_kept(
    make: Callable[..., Case], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = tmp_path / "corpus.txt"
    text.write_text("\n\n".join(TEXTS), encoding="utf-8")
    case = make("linear", mom2_dataset=str(text), stats_dir=str(tmp_path / "none"))
    with caplog.at_level(logging.WARNING):
        first = source(case, tmp_path / "cache")(1)
    assert "collecting them once" in caplog.text
    caplog.clear()
    again = source(case, tmp_path / "cache")(1)
    assert not caplog.text
    assert torch.equal(first.lower, again.lower)


def test_an_edited_model_finds_the_moments_of_what_it_was(make: Callable[..., Case], tmp_path: Path) -> None:
    case = make("linear")
    adapter = adapter_for(case.model, case.tok, case.hparams)
    before = fingerprint(adapter, [1, 2], whole=False)
    with torch.no_grad():
        adapter.weight(1).mul_(1.5)
        adapter.weight(3).mul_(1.5)
    assert fingerprint(adapter, [1, 2], whole=False) == before
    with torch.no_grad():
        adapter.weight(0).mul_(1.5)
    assert fingerprint(adapter, [1, 2], whole=False) != before


def test_who_writes_the_text_counts_as_a_whole(make: Callable[..., Case]) -> None:
    """The blocks above the edited layers, and the marks that end a text, decide what the model writes."""
    case = make("linear")
    adapter = adapter_for(case.model, case.tok, case.hparams)
    part, whole = (fingerprint(adapter, [1, 2], whole=each) for each in (False, True))
    with torch.no_grad():
        adapter.weight(3).mul_(1.5)
    assert fingerprint(adapter, [1, 2], whole=False) == part
    other = fingerprint(adapter, [1, 2], whole=True)
    assert other != whole
    adapter.model.generation_config.eos_token_id = 5
    assert fingerprint(adapter, [1, 2], whole=True) not in (whole, other)


def test_other_sources_are_not_answered_with_the_first(make: Callable[..., Case], tmp_path: Path) -> None:
    texts = [tmp_path / "one.txt", tmp_path / "two.txt"]
    for number, text in enumerate(texts):
        text.write_text("\n\n".join([*TEXTS[: 20 * (number + 1)], f"Nothing of it {number}"]), encoding="utf-8")
    case = make("linear", mom2_dataset=str(texts[0]), stats_dir=str(tmp_path / "none"))
    found = source(case, tmp_path / "cache")
    first = found(1)
    other = case.hparams.replace(mom2_dataset=str(texts[1]))
    assert not torch.equal(found.for_hparams(adapter_for(case.model, case.tok, other), other)(1).lower, first.lower)


@pytest.mark.parametrize("folder", ["owner_tiny-model", "tiny-model", "._hugging_cache_tiny-model"])
def test_easyedits_files_are_used(make: Callable[..., Case], tmp_path: Path, folder: str) -> None:
    case = make("linear", stats_dir=str(tmp_path))
    case.hparams.model_name = "owner/tiny-model"
    place = tmp_path / folder / "wikipedia_stats"
    place.mkdir(parents=True)
    for layer, moment in case.statistics.items():
        np.savez(
            place / f"model.layers.{layer}.mlp.down_proj_float32_mom2_100000.npz",
            **{"mom2.constructor": "x", "mom2.count": 200, "mom2.mom2": (moment * 200).numpy(), "sample_size": 100000},
        )
    found = source(case, tmp_path / "cache")
    wanted = factorise(case.statistics[1], case.hparams.mom2_update_weight)
    assert torch.allclose(found(1).lower, wanted.lower, rtol=1e-5)
    assert not (tmp_path / "cache").exists()


def test_of_two_files_the_one_that_easyedit_would_open(make: Callable[..., Case], tmp_path: Path) -> None:
    case = make("linear", stats_dir=str(tmp_path), mom2_dataset="wikitext", mom2_n_samples=1000)
    case.hparams.model_name = "owner/tiny-model"
    for number, (dataset, samples) in enumerate((("wikipedia", 1000), ("wikitext", 100000), ("wikitext", 1000)), 1):
        place = tmp_path / "tiny-model" / f"{dataset}_stats"
        place.mkdir(parents=True, exist_ok=True)
        for layer, moment in case.statistics.items():
            np.savez(
                place / f"model.layers.{layer}.mlp.down_proj_float32_mom2_{samples}.npz",
                **{"mom2.count": 200, "mom2.mom2": (moment * 200 * number).numpy()},
            )
    wanted = factorise(case.statistics[1] * 3, case.hparams.mom2_update_weight)
    assert torch.allclose(source(case, tmp_path / "cache")(1).lower, wanted.lower, rtol=1e-5)


def test_a_bare_name_means_text_of_the_model_itself(make: Callable[..., Case], tmp_path: Path) -> None:
    """As the documentation says."""
    case = make("linear", mom2_dataset="wikipedia", stats_dir=str(tmp_path / "none"))
    assert source(case, tmp_path / "cache")._corpus() == "self"
    page = " ".join((DOCS / "easyedit.md").read_text(encoding="utf-8").split())
    assert "A bare name such as `wikipedia` counts as `self`" in page


def test_files_of_another_model_are_refused(make: Callable[..., Case], tmp_path: Path) -> None:
    case = make("linear", stats_dir=str(tmp_path))
    case.hparams.model_name = "owner/tiny-model"
    place = tmp_path / "tiny-model" / "wikipedia_stats"
    place.mkdir(parents=True)
    for layer in (1, 2):
        np.savez(
            place / f"model.layers.{layer}.mlp.down_proj_float32_mom2_100000.npz",
            **{"mom2.count": 2, "mom2.mom2": np.eye(3, dtype=np.float32)},
        )
    with pytest.raises(EngineError, match="layer 1"):
        source(case, tmp_path / "cache")(1)


def test_given_statistics_are_the_moments_themselves(make: Callable[..., Case]) -> None:
    case = make("linear")
    deltas = execute_memit(case.model, case.tok, case.requests, case.hparams, statistics=case.statistics)
    name = "model.layers.1.mlp.down_proj.weight"
    stiff = execute_memit(
        case.model,
        case.tok,
        case.requests,
        case.hparams.replace(mom2_update_weight=1e9),
        statistics={layer: torch.eye(len(moment)) for layer, moment in case.statistics.items()},
    )
    keys = stiff[name][0] * 1e9  # so stiff that A⁻¹K is K / λ
    moment = case.statistics[1].double()
    solved = torch.linalg.solve(case.hparams.mom2_update_weight * moment + keys @ keys.T, keys)
    assert torch.allclose(deltas[name][0], solved, rtol=1e-5, atol=1e-6 * float(solved.abs().max()))
