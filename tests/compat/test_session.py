"""What an editor in memory takes for the base: for statistics and templates, and after a rollback by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from memit_vc import BaseEditor
from memit_vc.compat.factors import FactorSource
from memit_vc.compat.memit import templates_for
from memit_vc.compat.models import adapter_for
from memit_vc.compat.session import MemorySession
from tests.compat.conftest import Case

TEXTS = ["The capital of Norland is Vienna and Mira Holt plays the piano there every day."] * 40
LATER = [[2], [1, 2]]
"""Layers of a second edit, after one of layer 1."""


def test_a_base_that_was_put_back_by_hand_is_adopted_without_history(
    make: Callable[..., Case], caplog: pytest.LogCaptureFixture
) -> None:
    case, fresh = (make("linear", v_num_grad_steps=2, history=True) for _ in range(2))
    editor, other = (BaseEditor.from_hparams(each.hparams, statistics=each.statistics) for each in (case, fresh))
    _, second, weights = editor.edit(requests=case.requests[:1], keep_original_weight=True)
    with torch.no_grad():
        for name, value in weights.items():
            second.get_parameter(name)[...] = value  # EasyEdit's own way back
    assert fresh.unchanged(second.state_dict())
    editor.model = second
    with caplog.at_level(logging.WARNING, logger="memit_vc.compat"):
        _, edited, _ = editor.edit(requests=case.requests[1:2], keep_original_weight=False)
    assert "earlier edits no longer count as history" in caplog.text
    other.edit(requests=case.requests[1:2], keep_original_weight=False)
    assert fresh.unchanged(edited.state_dict())


def test_a_second_model_is_a_stranger_after_another_model(make: Callable[..., Case]) -> None:
    case, other = (make("linear", v_num_grad_steps=2, history=True) for _ in range(2))
    editor = BaseEditor.from_hparams(case.hparams, statistics=case.statistics)
    _, second, _ = editor.edit(requests=case.requests[:1], keep_original_weight=True)
    session = editor._session
    assert isinstance(session, MemorySession)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(3)
    editor.model = other.model
    editor.model = second
    assert (session.keys, session._base, session._templates) == ({}, {}, {})
    editor.model = case.model
    _, third, weights = editor.edit(requests=case.requests[:1], keep_original_weight=True)
    editor.model = third
    assert session.keys
    assert all(torch.equal(session._base[name], value.cpu()) for name, value in weights.items())


@pytest.mark.parametrize("layers", LATER, ids=["another layer", "one more layer"])
@pytest.mark.parametrize("adopted", [False, True], ids=["in place", "adopted"])
def test_statistics_and_templates_of_later_layers_are_the_bases(
    make: Callable[..., Case], tmp_path: Path, layers: list[int], adopted: bool
) -> None:
    text = tmp_path / "corpus.txt"
    text.write_text("\n\n".join(TEXTS), encoding="utf-8")
    changes = {"mom2_dataset": str(text), "stats_dir": str(tmp_path / "none"), "v_num_grad_steps": 2}
    sampled = {"context_templates": None, "template_length": 3, "n_templates": 2}
    case, fresh = (make("linear", **changes, **sampled) for _ in range(2))
    case.hparams.layers = [1]
    editor = BaseEditor.from_hparams(case.hparams)
    session = editor._session
    assert isinstance(session, MemorySession)
    _, edited, _ = editor.edit(requests=case.requests[:1], keep_original_weight=adopted)
    editor.model = edited
    with torch.no_grad():
        assert not torch.equal(edited.get_parameter("model.layers.1.mlp.down_proj.weight"),
                               fresh.model.get_parameter("model.layers.1.mlp.down_proj.weight"))  # fmt: skip
    held = {name: value.clone() for name, value in edited.state_dict().items()}

    later = case.hparams.replace(layers=layers, seed=7)
    base = adapter_for(fresh.model, fresh.tok, later)
    expected = FactorSource(base, later, cache=tmp_path / "of the base")(2)
    from_edited = FactorSource(adapter_for(edited, case.tok, later), later, cache=tmp_path / "of the edited")(2)
    assert not torch.equal(from_edited.lower, expected.lower)  # the statistics can tell them apart

    found = session.factors(adapter_for(edited, case.tok, later), later)(2)
    assert torch.equal(found.lower, expected.lower)
    assert session.templates(later) == templates_for(base, later)
    assert all(torch.equal(value, held[name]) for name, value in edited.state_dict().items())
    editor.hparams = later
    editor.edit(requests=case.requests[1:2], keep_original_weight=False)
    cache = FactorSource(base, later)._cache
    kept = FactorSource(base, later)._collected()
    assert torch.equal(cache.factor(kept, 2, later.mom2_update_weight).lower, expected.lower)
