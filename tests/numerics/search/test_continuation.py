"""The short path (suffix tokens, upper blocks) against the plain one (whole model, hook), for every family."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from memit_vc.numerics.forward.replay import evaluating
from memit_vc.numerics.forward.rows import search_rows
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.search.continuation import Continuations, Suffix, Whole
from memit_vc.numerics.search.residuals import find_residuals
from memit_vc.numerics.search.targets import find_targets
from tests.support.measure import distance, relative
from tests.support.models import FAMILIES, facts, hparams_for, load, tiny
from tests.support.running import outputs

TEMPLATES = (Template(""), Template("The first report. "), Template("In 1987, it was said. "))
LAYER = 2
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in FAMILIES},
    "opt, projected embeddings, post-norm": ("opt", {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "falcon, alibi": ("falcon", {"alibi": True, "new_decoder_architecture": False}),
    "falcon, new decoder": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gpt_neox, sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "llama, bos": ("llama", {"tokenizer": "metaspace"}),
    "mistral, window shorter than the rows": ("mistral", {"sliding_window": 6}),
    "gemma2, window shorter than the rows": ("gemma2", {"sliding_window": 6}),
    "gemma3_text, window shorter than the rows": ("gemma3_text", {"sliding_window": 6}),
    "gpt_neo, window shorter than the rows": ("gpt_neo", {"window_size": 6}),
    "gpt2, fewer positions than a bucket is long": ("gpt2", {"n_positions": 48}),
    "gpt_neo, fewer positions than a bucket is long": ("gpt_neo", {"max_position_embeddings": 48}),
    "qwen2, sliding window in the upper blocks": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 3},
    ),
}


@pytest.fixture(params=VARIANTS, scope="module")
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    family, config = VARIANTS[request.param]
    return load(tiny(family, tmp_path_factory.mktemp(family), **config))


@pytest.mark.parametrize("times", [1, 2], ids=["first run", "run again"])
@pytest.mark.parametrize("max_tokens", [4096, 40], ids=["one part", "several parts"])
def test_same_outputs_and_gradients(adapter: ModelAdapter, max_tokens: int, times: int) -> None:
    rows = [r.row for r in search_rows(adapter.tokenizer, facts(5), TEMPLATES)]
    last = adapter.n_layers - 1
    found = []
    with evaluating(adapter.model):
        for plain in (False, True):
            generator = torch.Generator().manual_seed(3)
            delta = torch.randn(len(rows), adapter.hidden_size, generator=generator, requires_grad=True)
            start, loss, upper = outputs(
                adapter,
                rows,
                delta,
                layer=LAYER,
                loss_block=last - 1,
                plain=plain,
                max_tokens=max_tokens,
                times=times,
            )
            picked = torch.cat([*loss, *upper])
            (picked * torch.linspace(-1, 1, picked.numel()).view_as(picked)).sum().backward()
            assert delta.grad is not None
            found.append((start, picked.detach(), delta.grad))
    for short, whole in zip(*found, strict=True):
        assert distance(short, whole) < 1e-5


def test_same_z(adapter: ModelAdapter) -> None:
    hparams = hparams_for(adapter, [LAYER], v_num_grad_steps=8, v_lr=0.1)
    found = [
        find_targets(adapter, facts(3), layer=LAYER, hparams=hparams, templates=TEMPLATES, plain=plain)
        for plain in (False, True)
    ]
    assert found[0].steps == found[1].steps
    assert relative(found[0].z.T, found[1].z.T) < 1e-5


def test_same_residuals(adapter: ModelAdapter) -> None:
    layers = [LAYER, LAYER + 1]
    width = adapter.dimensions(LAYER)[1]
    adjusted = {layer: torch.rand(width, 3, generator=torch.Generator().manual_seed(layer)) / width for layer in layers}
    hparams = hparams_for(adapter, layers, v_num_grad_steps=8, v_lr=0.2, weight_decay=0.1)
    found = [
        find_residuals(adapter, facts(3), adjusted=adjusted, hparams=hparams, templates=TEMPLATES, plain=plain)
        for plain in (False, True)
    ]
    assert found[0].steps == found[1].steps
    assert float(found[0].z.norm(dim=1).min()) > 0.1
    assert relative(found[0].z.T, found[1].z.T) < 1e-4


def test_the_plain_path_is_taken_where_a_window_is_too_short(tmp_path: Path) -> None:
    short = load(tiny("mistral", tmp_path / "short", sliding_window=6))
    long = load(tiny("mistral", tmp_path / "long", sliding_window=128))
    rows = [r.row for r in search_rows(short.tokenizer, facts(3), TEMPLATES) if r.kind == "nll"]
    for adapter, expected in ((short, Whole), (long, Suffix)):
        laid_out = Continuations(adapter, rows, layer=LAYER).lay_out(range(len(rows)), max_tokens=4096)
        assert {type(run) for _, run in laid_out} == {expected}


def test_rows_of_different_lengths_do_not_touch_each_other(tmp_path: Path) -> None:
    adapter = load(tiny("llama", tmp_path))
    rows = [r.row for r in search_rows(adapter.tokenizer, facts(5), TEMPLATES)]
    delta = torch.randn(len(rows), adapter.hidden_size, generator=torch.Generator().manual_seed(0))
    last = adapter.n_layers - 1
    with torch.no_grad(), evaluating(adapter.model):
        _, _, together = outputs(adapter, rows, delta, layer=LAYER, loss_block=last)
        for index, row in enumerate(rows):
            _, _, (alone,) = outputs(adapter, [row], delta[index : index + 1], layer=LAYER, loss_block=last)
            assert relative(together[index][-1:].T, alone[-1:].T) < 1e-5


def test_a_pad_token_in_the_text_causes_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter = load(tiny("gpt2", tmp_path))
    rows = [r.row for r in search_rows(adapter.tokenizer, facts(3), TEMPLATES)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs(adapter, rows, torch.zeros(len(rows), adapter.hidden_size), layer=LAYER, loss_block=3)
    assert not caplog.records
