"""The two searches, as `init` writes them into a repository's hyperparameters. docs/quality.md says why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FOR_RESIDUALS: Mapping[str, Any] = {
    "search_for": "residuals",
    "v_num_grad_steps": 60,
    "weight_decay": 0.25,
    "rehearse": 0.2,
    "early_stop": "nll",
    "early_stop_loss": 0.05,
    "keep_factor": 0.85,
    "name_factor": 0.3,
    "phrase_book": 8,
    "rotate": 10,
    "retries": 2,
    "avoid_sinks": True,
    "chat": False,
}
"""The default."""
FOR_Z: Mapping[str, Any] = {
    "search_for": "z",
    "v_num_grad_steps": 50,
    "weight_decay": 0.0,
    "rehearse": 0.0,
    "keep_factor": 0.5,
    "name_factor": 0.0,
}
"""What differs where z is searched for: weights of loss terms that were chosen for residuals do not suit z."""
