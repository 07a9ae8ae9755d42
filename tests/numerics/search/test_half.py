"""The search in bfloat16 and float16: what is fast does not cost accuracy beyond the dtype's own rounding.

A search in half precision is compared with the plain way of working in float32 on the same weights, beside what the
plain way itself is off by in half precision: the short path and the batch may be no worse.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.search.targets import find_targets
from tests.support.measure import relative
from tests.support.models import FACTS, hparams_for, load, tiny

TEMPLATES = [Template(""), Template("The first report. ")]
EPSILON = {"bfloat16": 2.0**-8, "float16": 2.0**-11}


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_short_path_and_batch_are_as_near_to_float32_as_the_plain_way(family: str, dtype: str, tmp_path: Path) -> None:
    adapter = load(tiny(family, tmp_path, dtype=dtype))
    fast, plain = (z_of(adapter, plain=plain) for plain in (False, True))
    adapter.model.float()
    exact = z_of(adapter, plain=True)
    allowed = 2 * relative(plain.T, exact.T) + EPSILON[dtype]
    assert relative(fast.T, exact.T) < allowed
    assert relative(fast.T, exact.T) < 32 * EPSILON[dtype]


def z_of(adapter: ModelAdapter, *, plain: bool) -> torch.Tensor:
    """z of each fact: all at once, or (the plain way) one by one through the whole model."""
    hparams = hparams_for(adapter, [2], v_num_grad_steps=5, v_lr=0.05, early_stop_loss=0.0)
    batches = [[fact] for fact in FACTS[:4]] if plain else [FACTS[:4]]
    found = [
        find_targets(adapter, batch, layer=2, hparams=hparams, templates=TEMPLATES, plain=plain) for batch in batches
    ]
    return torch.cat([each.z for each in found])
