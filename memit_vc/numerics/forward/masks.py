"""Whether rows may share a line of a model's forward, and the mask that keeps them apart."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.architecture import ARCHITECTURES


def packs(adapter: ModelAdapter) -> bool:
    """Whether rows may share a line: tokens have their positions by number, and nothing is counted off a mask.

    Known of the families of the table; what inspection found may use positions in a way of its own.
    """
    config = adapter.model.config
    return takes_positions(adapter) and config.model_type in ARCHITECTURES and not getattr(config, "alibi", False)


def takes_positions(adapter: ModelAdapter) -> bool:
    return "position_ids" in inspect.signature(type(adapter.backbone).forward).parameters


def window(adapter: ModelAdapter) -> int | None:
    """The shortest sliding window or table of positions."""
    names = ("sliding_window", "window_size", "attention_window", "max_position_embeddings", "n_positions")
    limits = [getattr(adapter.model.config, name, None) for name in names]
    return min((n for n in limits if isinstance(n, int) and n > 0), default=None)


def additive(visible: Tensor, adapter: ModelAdapter) -> Tensor:
    """A mask that every attention of transformers adds to its scores, of bool [lines, queries, keys]: 4-D, used as it
    is.
    """
    mask = torch.zeros(visible.shape, dtype=adapter.dtype)
    return mask.masked_fill_(~visible, torch.finfo(adapter.dtype).min)[:, None].to(adapter.device)
