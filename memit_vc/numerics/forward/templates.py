"""Context templates: the plain prompt, and prefixes that the model itself writes.

Meng et al. 2023 (arXiv:2210.07229), section 4.2: keys and targets are averaged over the prompt behind short texts
sampled from the model, so that an edit does not hang on the prompt standing at the start. Sampled from the base with a
seed, and kept in the commit's provenance: a text sampled elsewhere, or by another version, would give another patch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from memit_vc.errors import EngineError
from memit_vc.numerics.forward.replay import evaluating
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter

PREFIXES = ("The", "Therefore", "Because", "I", "You")
"""First words of the sampled prefixes, as in the reference implementation."""

_TOP_K = 5


def sample_templates(
    adapter: ModelAdapter, *, seed: int, length: int = 10, prefixes: Sequence[str] = PREFIXES
) -> list[list[str]]:
    """EasyEdit's nested form: [["{}"], ["The … . {}", …]], `length` sampled tokens behind each prefix (0: plain prompt
    only).

    Top-5 sampling with a generator of its own: no global random state is read or changed.
    """
    plain = ["{}"]
    if length <= 0 or not prefixes:
        return [plain]
    generator = torch.Generator().manual_seed(seed)
    sampled = []
    with evaluating(adapter.model), torch.no_grad():
        for prefix in prefixes:
            encoded = adapter.tokenizer(prefix, return_tensors="pt")["input_ids"]
            ids = encoded.to(adapter.device)
            for _ in range(length):  # a few hundred tokens in all: the plain forward needs no cache to be fast enough
                mask = torch.ones_like(ids)
                hidden = adapter.backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
                logits = adapter.logits(hidden[:, -1]).cpu()
                best = logits.topk(min(_TOP_K, logits.shape[-1]), dim=-1)
                chosen = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
                ids = torch.cat([ids, best.indices.gather(1, chosen).to(ids.device)], dim=1)
            text = str(adapter.tokenizer.decode(ids[0], skip_special_tokens=True))
            sampled.append(" ".join(text.replace("{", " ").replace("}", " ").split()) + ". {}")
    return [plain, sampled]


def parse_templates(groups: Sequence[Sequence[str]]) -> list[list[Template]]:
    """Nested lists of strings with one "{}" each; EngineError for an empty list or a string without "{}"."""
    if not groups or not all(groups):
        raise EngineError("context_templates is empty", hint='Give at least [["{}"]].')
    return [[Template.parse(text) for text in group] for group in groups]
