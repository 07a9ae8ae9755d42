"""Results of earlier searches for the same input: z of a killed commit or of the same batch, and sampled templates.

Facts that are searched for together share forwards, which moves the last bits of z. So z is kept by the chunk, under
the facts of the whole chunk: what a commit computes never depends on what earlier ones have left here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from memit_vc.errors import MemitVCError, StorageError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.edit.engine import FoundTarget, chunks
from memit_vc.numerics.forward.questions import SEARCHED
from memit_vc.numerics.forward.templates import PREFIXES, sample_templates
from memit_vc.numerics.statistics.tensorfile import count_as_absent, read_tensors, write_tensors
from memit_vc.objects import Fact, JsonValue, StateId, canonical_json, digest
from memit_vc.porcelain.editing.models import LoadedModel
from memit_vc.porcelain.editing.provenance import chat_turns, computed_by, shipped_texts
from memit_vc.store.jsoncache import recall, remember

SEARCH_FIELDS = (
    "layers",
    "search_for",
    "v_num_grad_steps",
    "v_lr",
    "v_loss_layer",
    "v_weight_decay",
    "weight_decay",
    "clamp_norm_factor",
    "kl_factor",
    "keep_factor",
    "keep_questions",
    "name_factor",
    "phrase_book",
    "rotate",
    "avoid_sinks",
    "early_stop",
    "early_stop_loss",
    "rewrite_module_tmp",
    "layer_module_tmp",
    "ln_f_module",
    "lm_head_module",
)
"""Hyperparameters that z depends on; λ and the statistics come after it."""
_RESIDUAL_FIELDS = ("mom2_update_weight", "history", "rehearse")
"""What residuals depend on besides: they are searched for through A⁻¹K."""
_NO_MATTER = ("ground_truth", "neighborhood_prompts")
"""Fields of a fact that z does not depend on."""


@dataclass(frozen=True)
class Known:
    """z by position in the batch, and how to keep a newly found chunk."""

    known: dict[int, FoundTarget]
    keep: Callable[[Mapping[int, FoundTarget]], None]


def known_targets(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    state: StateId,
    hparams: MEMITHyperParams,
    templates: Sequence[Sequence[str]],
    statistics: str,
    max_tokens: int,
) -> Known:
    """What cache/z holds for this batch: found on the same state with the same hyperparameters, templates, threads,
    tokens in a forward and kind of machine. Neighbours do not count. Paraphrases do: the search must not ask what is
    scored.

    Residuals also depend on the `statistics`, by their id, and on the other facts of the batch. Which earlier facts are
    rehearsed depends on the ids of these facts, with all that their records say.
    """
    values = hparams.to_json()
    setting: list[JsonValue] = [
        state,
        {name: values[name] for name in SEARCH_FIELDS},
        [list(group) for group in templates],
        computed_by(loaded),
        shipped_texts(),
        list(SEARCHED),
        max_tokens,
        chat_turns(loaded, hparams),
    ]
    asked: list[JsonValue] = [
        {name: value for name, value in fact.to_json().items() if name not in _NO_MATTER} for fact in facts
    ]
    if hparams.search_for == "residuals":
        setting += [statistics, {name: values[name] for name in _RESIDUAL_FIELDS}, asked]
        setting += [fact.id for fact in facts] if hparams.rehearse else []
    root = loaded.repository.root / "cache" / "z"

    def path_of(chunk: Sequence[int]) -> Path:
        name = digest("z", canonical_json([*setting, [asked[i] for i in chunk]]))
        return root / name[:2] / f"{name[2:]}.safetensors"

    known: dict[int, FoundTarget] = {}
    for chunk in chunks(len(facts)):
        known.update(_read(path_of(chunk), chunk))

    def keep(found: Mapping[int, FoundTarget]) -> None:
        _write(path_of(sorted(found)), [found[index] for index in sorted(found)])

    return Known(known, keep)


def _read(path: Path, chunk: Sequence[int]) -> dict[int, FoundTarget]:
    try:
        tensors, about = read_tensors(path)
        rows = zip(chunk, tensors["z"], about["steps"], about["loss"], strict=True)
        found = {index: FoundTarget(z, int(steps), float(loss)) for index, z, steps, loss in rows}
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return {}  # a cache: what cannot be read is searched again
    except MemitVCError as error:
        count_as_absent(error)
        return {}
    return found if bool(tensors["z"].isfinite().all()) else {}


def _write(path: Path, found: Sequence[FoundTarget]) -> None:
    import torch

    z = torch.stack([each.z for each in found])
    if not bool(z.isfinite().all()):
        return  # the commit is about to be refused; the next try should search, not find this
    about: dict[str, JsonValue] = {"steps": [each.steps for each in found], "loss": [each.loss for each in found]}
    with suppress(StorageError):
        write_tensors(path, {"z": z}, about)


def context_templates(loaded: LoadedModel, hparams: MEMITHyperParams) -> list[list[str]]:
    """EasyEdit's nested list: those of the hyperparameters, or sampled from the base with their seed."""
    if hparams.context_templates is not None:
        return hparams.context_templates
    prefixes = PREFIXES[: hparams.n_templates]
    record: list[JsonValue] = [loaded.repository.base_id, hparams.seed, hparams.template_length, list(prefixes)]
    record.append(loaded.adapter.architecture.head)
    key = digest("templates", canonical_json(record))
    path = loaded.repository.root / "cache" / f"templates-{key[:16]}.json"
    found: list[list[str]] | None = recall(path).get("templates")
    if found is None:
        found = sample_templates(loaded.adapter, seed=hparams.seed, length=hparams.template_length, prefixes=prefixes)
        remember(path, {"templates": found})
    return found
