"""Whether memit-vc reads a model's last hidden states as the model itself does."""

from __future__ import annotations

import torch

from memit_vc.errors import UnsupportedModelError
from memit_vc.numerics.forward.replay import evaluating, record
from memit_vc.numerics.model.adapter import ModelAdapter

_TOKENS = 8
_WITHIN = {torch.float32: 1e-3}
"""Of the largest logit. The two ways round at other places."""
_WITHIN_HALF = 2e-2


@torch.no_grad()
def check_head(adapter: ModelAdapter) -> None:
    """UnsupportedModelError if the logits that the search computes from the last block are not the model's own.

    Norm, head and soft cap are known by name, and another family may have more of them, or others, in between: the
    search would then answer for another model. Two forwards of a few tokens.
    """
    vocabulary = adapter.model.get_input_embeddings().num_embeddings
    ids = torch.arange(1, _TOKENS + 1, device=adapter.device).remainder(vocabulary)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with evaluating(adapter.model):
        expected = adapter.model(**inputs, use_cache=False, return_dict=True).logits.float()
        hidden = record(adapter, inputs, keep={adapter.n_layers - 1}).outputs[adapter.n_layers - 1]
        found = adapter.head(hidden).to(expected.device)
    if found.shape == expected.shape:
        if not expected.isfinite().all():
            return  # damaged weights are another matter
        allowed = _WITHIN.get(adapter.dtype, _WITHIN_HALF) * float(expected.abs().max())
        if float((found - expected).abs().max()) <= allowed:
            return
    kind = getattr(adapter.model.config, "model_type", type(adapter.model).__name__)
    raise UnsupportedModelError(
        f"{kind}: what memit-vc takes for the final norm and the head ({adapter.architecture.norm}, "
        f"{adapter.architecture.head}) does not give the model's own answers",
        hint="Name ln_f_module and lm_head_module in a hyperparameter file, if the model has nothing else between its "
        "last block and its logits; if it has, memit-vc cannot edit it.",
    )
