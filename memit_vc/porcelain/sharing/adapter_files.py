"""What a PEFT LoRA of others says of itself: its config, and the name, licence and source on its card.

A setting that changes what the numbers mean, and that is not understood here, is refused: PEFT gets new ones all the
time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memit_vc.errors import IntegrityError, StorageError, UnsupportedModelError
from memit_vc.foreign.data import json_value, yaml_value
from memit_vc.foreign.files import read_file
from memit_vc.foreign.refused import Refused, hint_of
from memit_vc.foreign.text import one_line
from memit_vc.numerics.output.lora import CONFIG_FILE, WEIGHTS_FILE

_MOST = 1 << 20
"""Bytes of a config or a card."""
_LONGEST = 200
"""Characters of a name, a licence or a source."""
_UNDERSTOOD = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
"""Settings that are followed here, or that change nothing once the adapter is trained."""
_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base as it is. The others trained on changed weights."""
_LITERAL = re.compile(r"\^?(\w|-|\\?\.)+\$?")
_CARD = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|\Z)(.*)", re.DOTALL)
_HEADING = re.compile(r"^# +(\S.*)$", re.MULTILINE)
_TEMPLATE = "Model Card for Model ID"
"""The heading of a card that nobody has filled in."""
_MERGE = "Merge it with PEFT (merge_and_unload), and start a repository on the merged model."
_SNAPSHOT = re.compile(r"models--([^/]+)--([^/]+)/snapshots/([0-9a-f]{40})\Z")


@dataclass(frozen=True)
class AdapterConfig:
    """The settings that say what the numbers mean. `base` is the model that the adapter names, as it names it."""

    base: str | None
    rank: int
    alpha: float
    root: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def scale(self, module: str, rank: int) -> float:
        """What PEFT multiplies B A of a module by. IntegrityError if its matrices have another rank than the config."""
        said = _of_module(self.ranks, module, self.rank)
        if rank != said:
            raise IntegrityError(
                f"{WEIGHTS_FILE}: {module} has rank {rank}, {CONFIG_FILE} says {said}",
                hint="Get both files of the adapter from one place again.",
            )
        alpha: float = _of_module(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.root else rank)


@dataclass(frozen=True)
class About:
    """What is known of an adapter besides its numbers; None for what nothing says."""

    name: str | None
    licence: str | None
    source: str | None


def read_config(directory: Path) -> AdapterConfig:
    """StorageError if the files of an adapter are not there, IntegrityError for a config that is none,
    UnsupportedModelError for an adapter that is more than a plain LoRA.
    """
    path = directory / CONFIG_FILE
    record = _config(path)
    if not (directory / WEIGHTS_FILE).is_file():
        pickled = " It has adapter_model.bin, which is not opened: a pickle may run code." * (
            (directory / "adapter_model.bin").exists()
        )
        raise StorageError(
            f"{directory}: has no {WEIGHTS_FILE}.{pickled}",
            hint="Load the adapter with PEFT and save it again: save_pretrained writes safetensors.",
        )
    kind = record.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModelError(f"{path}: is an adapter of type {kind!r}, not LORA", hint=_MERGE)
    if record.get("bias", "none") != "none":
        raise UnsupportedModelError(f"{path}: bias is {record['bias']!r}: it changes biases, too", hint=_MERGE)
    if record.get("init_lora_weights", True) not in _STARTS:
        raise UnsupportedModelError(
            f"{path}: init_lora_weights is {record['init_lora_weights']!r}: it belongs to changed base weights",
            hint="Save it with PEFT as a plain LoRA: path_initial_model_for_weight_conversion.",
        )
    for name in sorted(record.keys() - _UNDERSTOOD):
        if record[name]:
            raise UnsupportedModelError(
                f"{path}: sets {one_line(name)}, and only plain LoRA is understood here", hint=_MERGE
            )
    base, root = record.get("base_model_name_or_path"), record.get("use_rslora")
    if not isinstance(base, str | None) or not isinstance(root, bool | None):
        raise IntegrityError(
            f"{path}: base_model_name_or_path is not a text, or use_rslora is not true or false",
            hint="Save the adapter again with PEFT.",
        )
    try:
        return AdapterConfig(
            base=base or None,
            rank=_number(record["r"], int),
            alpha=_number(record["lora_alpha"], int, float),
            root=bool(root),
            ranks={_literal(key): _number(value, int) for key, value in (record.get("rank_pattern") or {}).items()},
            alphas={
                _literal(key): _number(value, int, float) for key, value in (record.get("alpha_pattern") or {}).items()
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"{path}: cannot be understood: {error}", hint=_AGAIN) from error


def read_about(directory: Path) -> About:
    """Name, licence and source, as far as the card and the Hub's cache say them. A card that cannot be read says
    nothing.
    """
    found = _SNAPSHOT.search(directory.resolve().as_posix())
    source = None if found is None else f"{found[1]}/{found[2]}@{found[3]}"
    try:
        text = read_file(directory / "README.md", most=_MOST).decode()
        block = _CARD.match(text)
        record: Any = yaml_value(block[1].encode()) if block else None
    except Exception:  # a parser may raise anything, and the card is not what is imported
        return About(None, None, source)
    says = record if isinstance(record, dict) else {}
    heading = _HEADING.search(block[3] if block else text)
    name = says.get("model_name") or (heading[1].strip() if heading and heading[1].strip() != _TEMPLATE else None)
    return About(_line(name), _licence(says), source)


def told(name: str | None, licence: str | None, source: str | None) -> About:
    """What the user says, on one line each."""
    return About(_line(name), _line(licence), _line(source))


def _config(path: Path) -> dict[str, Any]:
    try:
        record = json_value(read_file(path, most=_MOST))
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be read: {error.strerror}",
            hint="Give the directory of a PEFT adapter; from the Hub: hf download OWNER/NAME --local-dir DIR.",
        ) from error
    except Refused as error:
        raise IntegrityError(f"{path}: {error}", hint=hint_of(error, _AGAIN)) from error
    except ValueError as error:
        raise IntegrityError(f"{path}: is not JSON: {error}", hint=_AGAIN) from error
    if not isinstance(record, dict):
        raise IntegrityError(f"{path}: is not a JSON object", hint=_AGAIN)
    return record


def _number(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds or not 0 < value < 1 << 20:
        raise ValueError(f"{value!r} is not a rank or alpha")
    return value


def _literal(pattern: str) -> str:
    """A key of a pattern. PEFT takes it for a regular expression, whose cost nobody can foresee."""
    if not _LITERAL.fullmatch(pattern):
        raise ValueError(f"the pattern {pattern!r} is more than a module's name")
    return pattern.replace("\\.", ".").removesuffix("$")


def _of_module(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """The value of the first pattern that a module's path ends with; after "^" the whole path is meant."""
    for pattern, value in patterns.items():
        if module == pattern.removeprefix("^") or f".{module}".endswith(f".{pattern}"):
            return value
    return otherwise


def _licence(says: Mapping[str, Any]) -> str | None:
    """What a card says; several licences in one line. None if one of them is no text: the others would promise more
    than the card does.
    """
    said = says.get("license")
    named = [
        _line(says.get("license_name") or each if each == "other" else each)
        for each in (said if isinstance(said, list) else [said])
    ]
    known = [each for each in named if each is not None]
    return _line(", ".join(known)) if len(known) == len(named) else None


def _line(value: Any) -> str | None:
    text = one_line(" ".join(value.split()))[:_LONGEST] if isinstance(value, str) else ""
    return text or None


_AGAIN = "Get the adapter again, or save it again with PEFT."
