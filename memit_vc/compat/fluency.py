"""Fluency as the knowledge-editing benchmarks measure it: the entropy of bigrams and trigrams of a sampled text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from memit_vc.numerics.forward.replay import evaluating
from memit_vc.numerics.model.adapter import ModelAdapter

_TOP_K = 5
_WEIGHTS = {2: 2 / 3, 3: 4 / 3}
_WORD = re.compile(r"\w+(?:['’]\w+)?|[^\w\s]")


def ngram_entropy(adapter: ModelAdapter, prompts: Sequence[str], *, seed: int, tokens: int = 100) -> float:
    """Mean over the prompts of `entropy` of the prompt with its continuation, top-5 sampled to `tokens` tokens in all.

    Sampled with a generator of its own: no global random state is read or changed.
    """
    generator = torch.Generator().manual_seed(seed)

    def choose(_: Tensor, scores: Tensor) -> Tensor:
        best = scores.float().cpu().topk(min(_TOP_K, scores.shape[-1]), dim=-1)
        drawn = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
        chosen = best.indices.gather(1, drawn).to(scores.device)
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen, 0.0)

    tokenizer: Any = adapter.tokenizer
    values = []
    with evaluating(adapter.model), torch.no_grad():
        for prompt in prompts:
            ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(adapter.device)
            made = adapter.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=max(1, tokens - ids.shape[1]),
                logits_processor=LogitsProcessorList([choose]),
                pad_token_id=tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0,
            )
            values.append(entropy(str(tokenizer.decode(made[0], skip_special_tokens=True))))
    return sum(values) / len(values)


def entropy(text: str) -> float:
    """Weighted entropy in bits of a text's bigrams and trigrams (weights 2/3 and 4/3, halved), as the benchmarks do."""
    words = _WORD.findall(text)
    total = 0.0
    for n, weight in _WEIGHTS.items():
        counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        whole = sum(counts.values())
        total += weight * -sum(c / whole * math.log2(c / whole) for c in counts.values())
    return total / len(_WEIGHTS)
