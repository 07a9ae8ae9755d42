"""The health probe, and what a model writes: many texts in few forwards give what each gives alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from memit_vc.errors import EngineError
from memit_vc.numerics.scores.likelihood import continuations, greedy, perplexity
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


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_a_model_wrote_is_its_most_likely_continuation(tmp_path: Path, family: str) -> None:
    """Measured by the ids that were written: tokenised again, its text has other ones."""
    adapter = load(tiny(family, tmp_path))
    prompts = ["The capital of Norland is", "The capital of Norland is ", "诺兰的首都是"]
    written = greedy(adapter, prompts, new_tokens=5)
    assert all(each.ids for each in written)
    asked = [(prompt, each.ids) for prompt, each in zip(prompts, written, strict=True)]
    for each, found in zip(written, continuations(adapter, asked), strict=True):
        assert found.argmax
        assert found.predicted == each.ids
        assert adapter.tokenizer.decode(list(each.ids), skip_special_tokens=True).strip() == each.text
