"""z already found: a killed commit, or the same fact on the same state, does not search again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memit_vc.errors import MemitVCError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.objects import Fact, JsonValue, StateId, canonical_json, digest

if TYPE_CHECKING:
    from memit_vc.numerics.engine import FoundTarget
    from memit_vc.repository import Repository

__all__ = ["Known", "known_targets"]

SEARCH_FIELDS = (
    "layers",
    "v_num_grad_steps",
    "v_lr",
    "v_loss_layer",
    "v_weight_decay",
    "clamp_norm_factor",
    "kl_factor",
    "early_stop",
    "early_stop_loss",
    "rewrite_module_tmp",
    "layer_module_tmp",
    "ln_f_module",
    "lm_head_module",
)
"""Hyperparameters that z depends on; λ and the statistics come after it."""


@dataclass(frozen=True)
class Known:
    """z by position in the batch, and how to keep a newly found one."""

    known: dict[int, FoundTarget]
    keep: Callable[[int, FoundTarget], None]


def known_targets(
    repository: Repository,
    facts: Sequence[Fact],
    state: StateId,
    hparams: MEMITHyperParams,
    templates: Sequence[Sequence[str]],
) -> Known:
    """What cache/z holds for these facts on this state with these hyperparameters and templates.

    Probes do not count: z depends on prompt, subject and target alone.
    """
    from memit_vc.numerics.engine import FoundTarget
    from memit_vc.numerics.tensorfile import read_tensors, write_tensors

    values = hparams.to_json()
    setting: list[JsonValue] = [
        state,
        {name: values[name] for name in SEARCH_FIELDS},
        [list(group) for group in templates],
    ]

    def path_of(fact: Fact) -> Path:
        asked: list[JsonValue] = [fact.prompt, fact.subject, fact.target, list(fact.subject_span)]
        name = digest("z", canonical_json([*setting, asked]))
        return repository.root / "cache" / "z" / name[:2] / f"{name[2:]}.safetensors"

    known = {}
    for index, fact in enumerate(facts):
        try:
            tensors, about = read_tensors(path_of(fact))
            known[index] = FoundTarget(tensors["z"], int(about["steps"]), float(about["loss"]))
        except (FileNotFoundError, MemitVCError, KeyError, TypeError, ValueError):  # noqa: PERF203
            continue  # a cache: what cannot be read is searched again

    def keep(index: int, found: FoundTarget) -> None:
        write_tensors(path_of(facts[index]), {"z": found.z}, {"steps": found.steps, "loss": found.loss})

    return Known(known, keep)
