"""The short path (suffix tokens, upper blocks) against the plain one (whole model, hook), for every family."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from memit_vc.numerics.adapter import ModelAdapter
from memit_vc.numerics.continuation import Suffix, Whole, continuation
from memit_vc.numerics.replay import evaluating
from memit_vc.numerics.rows import search_rows
from memit_vc.numerics.targets import find_targets
from memit_vc.numerics.tokens import Template
from tests.engine.measure import distance, relative
from tests.models import FAMILIES, facts, hparams_for, load, tiny

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


def test_same_outputs_and_gradients(adapter: ModelAdapter) -> None:
    rows = [r.row for r in search_rows(adapter.tokenizer, facts(5), TEMPLATES)]
    last = adapter.n_layers - 1
    found = []
    with evaluating(adapter.model):
        for plain in (False, True):
            run = continuation(adapter, rows, layer=LAYER, plain=plain)
            generator = torch.Generator().manual_seed(3)
            delta = torch.randn(len(rows), adapter.hidden_size, generator=generator, requires_grad=True)
            loss, upper = run.run(delta, loss_block=last - 1)
            at = [(i, run.column(i, p)) for i, row in enumerate(rows) for p in (*row.positions, len(row.ids) - 1)]
            rows_at, columns = torch.tensor(at).T
            picked = torch.cat([loss[rows_at, columns], upper[rows_at, columns]])
            (picked * torch.linspace(-1, 1, picked.numel()).view_as(picked)).sum().backward()
            assert delta.grad is not None
            found.append((run.start, picked.detach(), delta.grad))
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


def test_the_plain_path_is_taken_where_a_window_is_too_short(tmp_path: Path) -> None:
    short = load(tiny("mistral", tmp_path / "short", sliding_window=6))
    long = load(tiny("mistral", tmp_path / "long", sliding_window=128))
    rows = [r.row for r in search_rows(short.tokenizer, facts(3), TEMPLATES)]
    assert isinstance(continuation(short, rows, layer=LAYER), Whole)
    assert isinstance(continuation(long, rows, layer=LAYER), Suffix)


def test_rows_of_different_lengths_do_not_touch_each_other(tmp_path: Path) -> None:
    adapter = load(tiny("llama", tmp_path))
    rows = [r.row for r in search_rows(adapter.tokenizer, facts(5), TEMPLATES)]
    delta = torch.randn(len(rows), adapter.hidden_size, generator=torch.Generator().manual_seed(0))
    last = adapter.n_layers - 1
    with torch.no_grad(), evaluating(adapter.model):
        together = continuation(adapter, rows, layer=LAYER)
        _, all_of_them = together.run(delta, loss_block=last)
        for index, row in enumerate(rows):
            alone = continuation(adapter, [row], layer=LAYER)
            _, single = alone.run(delta[index : index + 1], loss_block=last)
            place = len(row.ids) - 1
            ours = all_of_them[index, together.column(index, place)]
            assert relative(ours[:, None], single[0, alone.column(0, place)][:, None]) < 1e-5


def test_a_pad_token_in_the_text_causes_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter = load(tiny("gpt2", tmp_path))
    rows = [r.row for r in search_rows(adapter.tokenizer, facts(3), TEMPLATES)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        continuation(adapter, rows, layer=LAYER)
    assert not caplog.records
