"""Edits under `torch.inference_mode()`, which evaluation scripts like to switch on for everything."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

from memit_vc.errors import EngineError

_P = ParamSpec("_P")
_R = TypeVar("_R")


def outside_inference_mode(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function with inference mode off while it runs: a search needs gradients, and so do models that it makes."""

    @wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with torch.inference_mode(False):
            return function(*args, **kwargs)

    return wrapped


def refuse_inference_tensors(model: Any) -> None:
    """EngineError for a model whose weights were made under inference mode: no gradient can pass through them."""
    made = [name for name, parameter in model.named_parameters() if parameter.is_inference()]
    if made:
        raise EngineError(
            f"the model was made under torch.inference_mode(): {len(made)} of its weights, {made[0]} among them, "
            "block gradients",
            hint="Load or copy the model outside that block; the edit itself may run inside.",
        )
