"""The health probe: texts of all lengths in few forwards give what each text gives alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from memit_vc.errors import EngineError
from memit_vc.numerics.scores.likelihood import perplexity
from tests.support.models import load, tiny

TEXTS = ["A short one.", "The first report said that nothing was known of it. " * 4, "In 1987, it was said."]


@pytest.mark.parametrize("tokens", [7, 4096], ids=["a few tokens", "all of them"])
def test_perplexity_is_that_of_the_windows_one_by_one(tmp_path: Path, tokens: int) -> None:
    adapter = load(tiny("llama", tmp_path))
    total, count = 0.0, 0
    for text in TEXTS:
        ids = adapter.tokenizer(text)["input_ids"]
        for start in range(0, len(ids), 16):
            window = ids[start : start + 16][: tokens - count + 1]
            if len(window) < 2:
                continue
            with torch.no_grad():
                logits = adapter.model(input_ids=torch.tensor([window])).logits[0, :-1].double()
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(window[1:]), reduction="sum"))
            count += len(window) - 1
    assert perplexity(adapter, TEXTS, tokens=tokens, window=16) == pytest.approx(math.exp(total / count), rel=1e-5)


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="empty"):
        perplexity(load(tiny("llama", tmp_path)), [""])
