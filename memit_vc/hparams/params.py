"""Hyperparameters in EasyEdit's format: read, checked, written. The meaning of each key.

Field names, order and YAML are those of EasyEdit's `MEMITHyperParams`; the last block of fields is our own. The meaning
of each is in Meng et al. 2023 (arXiv:2210.07229), section 4: λ is `mom2_update_weight`, the last of `layers` is L.
"""

from __future__ import annotations

import copy
import difflib
import math
import os
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from memit_vc.errors import DOCS, HparamsError
from memit_vc.foreign.data import MOST_YAML, yaml_value
from memit_vc.foreign.files import read_file
from memit_vc.foreign.refused import Refused, hint_of
from memit_vc.foreign.text import quoted
from memit_vc.hparams.shipped import no_such_file, shipped_path
from memit_vc.hparams.values import READERS

EarlyStop: TypeAlias = Literal["loss", "argmax", "nll"]
"""Stop the search for z below a loss, as the reference does; when the target is the argmax in every row; or when the
mean NLL of the target is below `early_stop_loss`.
"""

SearchFor: TypeAlias = Literal["z", "residuals"]
"""Search for z behind the last edited layer, as published, or for the residuals of all edited layers at once."""

_GONE: Mapping[str, tuple[object, str]] = {"refine": (0, "Remove it; `search_for: residuals` has taken its place.")}
"""Keys of earlier versions: the value that changes nothing, which files may still have, and what to do about others."""
_UNNAMED = "hyperparameters"
_OF_THIS_MACHINE = ("device", "model_name", "mom2_dataset", "stats_dir")
"""Fields that may hold a path, or that say where it is computed: they change no edit, and nobody else may see them."""
_KEYS = f"Remove it. {DOCS}hyperparameters.md lists the keys, and .memitvc/hparams.yaml has most of them."
_NO_FILE = "Name a file of hyperparameters; `memitvc init` writes one."
_TEMPLATES = ("rewrite_module_tmp", "layer_module_tmp", "mlp_module_tmp", "attn_module_tmp")
_FILL_IN = re.compile(r"[^{}]*\{\}[^{}]*")
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "alg_name": ("MEMIT",),
    "layer_selection": ("all",),
    "fact_token": ("subject_last",),
    "early_stop": ("loss", "argmax", "nll"),
    "search_for": ("z", "residuals"),
}
_RANGES: Mapping[str, tuple[float, bool]] = {
    "v_num_grad_steps": (1, False),
    "v_lr": (0, True),
    "v_loss_layer": (0, False),
    "v_weight_decay": (0, False),
    "clamp_norm_factor": (0, True),
    "kl_factor": (0, False),
    "keep_factor": (0, False),
    "name_factor": (0, False),
    "phrase_book": (0, False),
    "passes": (1, False),
    "rotate": (1, False),
    "weight_decay": (0, False),
    "rehearse": (0, False),
    "retries": (0, False),
    "mom2_update_weight": (0, True),
    "mom2_n_samples": (1, False),
    "max_length": (1, False),
    "batch_size": (1, False),
    "early_stop_loss": (0, False),
    "template_length": (0, False),
    "n_templates": (0, False),
}


@dataclass(kw_only=True)
class MEMITHyperParams:
    """One setting of MEMIT. Mutable, and takes further attributes, because EasyEdit's scripts set them after loading.

    `layers` are edited first to last, strictly increasing; `v_loss_layer` is the block whose output the loss reads.
    `mom2_update_weight` is λ, in pre-training keys. Templates of module names have one "{}" for the layer.
    `device` is "auto", a GPU's number or a torch device; `model_name` a Hub id, a directory or (model, tokenizer).
    """

    layers: list[int]
    layer_selection: str = "all"
    fact_token: str = "subject_last"  # noqa: S105 (not a password)
    v_num_grad_steps: int = 25
    v_lr: float = 0.5
    v_loss_layer: int
    v_weight_decay: float = 1e-3
    clamp_norm_factor: float = 4.0
    kl_factor: float = 0.0625
    mom2_adjustment: bool = True
    mom2_update_weight: float
    rewrite_module_tmp: str
    layer_module_tmp: str
    mlp_module_tmp: str
    attn_module_tmp: str
    ln_f_module: str
    lm_head_module: str
    mom2_dataset: str = "wikipedia"
    mom2_n_samples: int = 100000
    mom2_dtype: str = "float32"
    alg_name: str = "MEMIT"
    device: int | str = "auto"
    model_name: Any = ""
    stats_dir: str = "./data/stats"
    max_length: int = 40
    batch_size: int = 1
    model_parallel: bool = False

    history: bool = True
    """Live earlier facts take part in the solve; False is MEMIT as published."""
    early_stop: EarlyStop = "loss"
    early_stop_loss: float = 0.05
    passes: int = 1
    """Times that the residual z − h is measured and spread over the layers; 1 is MEMIT as published."""
    retries: int = 0
    """Times that a commit tries again what its facts do not yet answer: by another search from the second time on, and
    with residuals always.
    """
    search_for: SearchFor = "z"
    weight_decay: float = 0.0
    """In a search for residuals, that of AdamW."""
    rehearse: float = 0.0
    """In a search for residuals, the weight of each live earlier fact that the state answers."""
    rotate: int = 1
    """A step of the search asks the plain prompt and one in so many of the other rows; 1: all, as published."""
    avoid_sinks: bool = False
    """A fact whose subject is an attention sink at its plain prompt is edited behind other text only; False: no fact is
    looked at, as published."""
    chat: bool = False
    """The search also asks the prompt as a user's turn, in four wordings, where the tokenizer has a chat template."""
    keep_factor: float = 0.0
    """Weight of the mean KL(P_δ ‖ P_0) over other questions about the subject; 0 is MEMIT as published."""
    keep_questions: list[str] | None = None
    """These questions, with "{}" for the subject, in place of the package's English ones."""
    name_factor: float = 0.0
    """Weight of the mean KL(P_δ ‖ P_0) where a text names the subject again; 0 is MEMIT as published."""
    phrase_book: int = 0
    """Other wordings that the search takes from the phrase book for a fact, at most; 0: none, as published."""
    context_templates: list[list[str]] | None = None
    """EasyEdit's nested form; None: sampled from the base with `seed`."""
    template_length: int = 10
    """Sampled tokens behind each first word; 0 leaves only the plain prompt."""
    n_templates: int = 5
    seed: int = 42

    source = _UNNAMED
    """Where the values come from, for messages. No field: `MEMITHyperParams(**asdict(other))` is a way to copy."""

    @classmethod
    def from_hparams(cls, path_or_name: str | Path) -> MEMITHyperParams:
        """A file (".yaml" may be left out), or a shipped one by the model's name, loosely: no case, no "-Instruct".

        HparamsError for a file that cannot be read, a name that no shipped file has, and all that `from_yaml` refuses.
        """
        path = cls.own_file(path_or_name) or shipped_path(str(path_or_name))
        if path is None:
            raise no_such_file(str(path_or_name))
        try:
            data = read_file(path, most=MOST_YAML)
        except OSError as error:
            raise HparamsError(f"{path}: {error.strerror}", hint="Check the file and its permissions.") from error
        except Refused as error:
            raise HparamsError(f"{path}: {error}", hint=hint_of(error, _NO_FILE)) from error
        return cls.from_yaml(data, source=str(path))

    @staticmethod
    def own_file(path_or_name: str | Path) -> Path | None:
        """The file that `from_hparams` reads for a path; None for a name, which means a shipped one."""
        given = Path(path_or_name)
        candidates = (given, given.with_name(given.name + ".yaml")) if given.name else ()
        return next((path for path in candidates if path.is_file()), None)

    @classmethod
    def from_yaml(cls, text: str | bytes, *, source: str) -> MEMITHyperParams:
        """Parse and check; HparamsError names `source` and the line or the key."""
        import yaml

        try:
            record = yaml_value(text.encode() if isinstance(text, str) else text)
        except Refused as error:
            raise HparamsError(f"{source}: {error}", hint=hint_of(error, _NO_FILE)) from error
        except UnicodeDecodeError as error:
            raise HparamsError(f"{source}: not UTF-8 at byte {error.start}", hint="Save the file as UTF-8.") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
            where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
            problem = getattr(error, "problem", None) or str(error)
            raise HparamsError(f"{source}: {where}not YAML: {problem}", hint="Correct the file there.") from error
        if not isinstance(record, Mapping):
            found = "is empty" if record is None else f"holds a {type(record).__name__}"
            raise HparamsError(
                f"{source}: {found}, not keys and values", hint="Write `layers: [4, 5]` and so on; see hparams/."
            )
        return cls.from_json(record, source=source)

    @classmethod
    def from_json(cls, record: Mapping[str, Any] | str | Path, *, source: str = _UNNAMED) -> MEMITHyperParams:
        """Build from plain values, checked as a file's are. EasyEdit's call names a JSON file, which YAML can read."""
        if not isinstance(record, Mapping):
            return cls.from_hparams(record)
        known = {f.name: f for f in fields(cls)}
        record = {key: value for key, value in record.items() if key not in _GONE or value != _GONE[key][0]}
        algorithm = record.get("alg_name", "MEMIT")
        if algorithm != "MEMIT":  # first: another algorithm's file has other keys too, and that is the reason
            raise HparamsError(
                f"{source}: alg_name is {quoted(algorithm)}, not MEMIT", hint="Pass a file made for MEMIT."
            )
        for key in record:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1) if isinstance(key, str) else []
                hint = _GONE[key][1] if key in _GONE else f"Did you mean {near[0]}?" if near else _KEYS
                raise HparamsError(f"{source}: unknown key {quoted(key)}", hint=hint)
        missing = [k for k, f in known.items() if f.default is MISSING and k not in record]
        if missing:
            raise HparamsError(
                f"{source}: missing: {', '.join(missing)}", hint="Copy the keys from a file in hparams/."
            )
        values = {key: READERS[str(known[key].type)](value, f"{source}: {key}") for key, value in record.items()}
        built = cls(**values)
        built.source = source
        built._check()
        return built

    def to_json(self) -> dict[str, Any]:
        """Every field as a plain value, for provenance; attributes set from outside are left out."""
        record = {f.name: copy.deepcopy(getattr(self, f.name)) for f in fields(self) if f.name != "model_name"}
        return {**record, "model_name": self._model_text()}

    def portable_json(self) -> dict[str, Any]:
        """The fields that an edit depends on: what may be published."""
        return {name: value for name, value in self.to_json().items() if name not in _OF_THIS_MACHINE}

    def portable(self) -> MEMITHyperParams:
        """The same setting with the defaults for all that is of this machine."""
        return MEMITHyperParams.from_json(self.portable_json(), source=self.source)

    def to_dict(self) -> dict[str, Any]:
        """EasyEdit's name for `to_json`."""
        return self.to_json()

    def to_yaml(self, *, comments: Mapping[str, str] | None = None) -> str:
        """The file's text; `comments` go behind their key, the one named "" on top. Reads back as an equal value."""
        import yaml

        remarks = dict(comments or {})
        lines = [f"# {line}".rstrip() for line in remarks.get("", "").splitlines()]
        record = self.to_json()
        for key in (f.name for f in fields(self)):
            if record[key] is None:
                continue
            value = yaml.safe_dump(record[key], default_flow_style=True, width=10**6, allow_unicode=True)
            remark = " ".join(remarks.get(key, "").split())
            plain = value.removesuffix("...\n").strip()  # PyYAML ends a bare scalar with a document end
            lines.append(f"{key}: {plain}" + (f"  # {remark}" if remark else ""))
        return "\n".join(lines) + "\n"

    def replace(self, **changes: Any) -> MEMITHyperParams:
        """A copy with other values, checked; attributes set from outside are kept."""
        names = [f.name for f in fields(self)]
        changed = copy.copy(self)
        for key, value in changes.items():
            if key not in names:
                near = difflib.get_close_matches(key, names, n=1)
                raise HparamsError(f"unknown hyperparameter {key!r}", hint=f"Did you mean {near[0]}?" if near else None)
            setattr(changed, key, value)
        changed._check()
        return changed

    def validate(self, *, n_layers: int, modules: Collection[str]) -> None:
        """HparamsError, naming file and key, unless a model with `n_layers` and these `named_modules` can be edited.

        A tied head may be named by its own module or by the embedding.
        """
        self._check()
        for layer in self.layers:
            if layer >= n_layers:
                raise self._wrong("layers", f"names layer {layer}", f"Choose from layers 0 to {n_layers - 1}.")
        if not self.layers[-1] <= self.v_loss_layer < n_layers:
            span = f"from the last edited layer, {self.layers[-1]}, to the model's last, {n_layers - 1}"
            raise self._wrong("v_loss_layer", f"is {self.v_loss_layer}", f"Choose a layer {span}.")
        for key in _TEMPLATES:
            for layer in self.layers:
                self._require(key, getattr(self, key).format(layer), modules)
        for key in ("ln_f_module", "lm_head_module"):
            if getattr(self, key):
                self._require(key, getattr(self, key), modules)

    def names(self, layer: int, modules: Collection[str]) -> bool:
        """Whether `validate` takes this layer: the first layers of some mixtures lack the named parts."""
        named = (getattr(self, key).format(layer) for key in _TEMPLATES)
        return layer <= self.v_loss_layer and all(name in modules for name in named)

    def resolved_device(self) -> str:
        """`device` as torch spells it; a GPU that this machine does not have becomes "cpu", with a warning."""
        import torch

        text = str(self.device).strip().lower()
        if text == "auto":
            return "cuda:0" if torch.cuda.is_available() else "cpu"
        name = f"cuda:{text}" if text.isdigit() else "cuda:0" if text == "cuda" else text
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise self._wrong("device", f"is {self.device!r}", "Give a GPU's number, auto, cpu or cuda:0.") from error
        present = {
            "cpu": True,
            "cuda": device.type == "cuda"
            and torch.cuda.is_available()
            and (device.index or 0) < torch.cuda.device_count(),
            "mps": torch.backends.mps.is_available(),
        }
        if device.type == "meta":  # it holds no numbers
            raise self._wrong("device", f"is {self.device!r}", "Give a GPU's number, auto, cpu, cuda:0 or mps.")
        if present.get(device.type, True):
            return name
        warnings.warn(f"{self.source}: device {self.device!r} is not on this machine; using the CPU", stacklevel=2)
        return "cpu"

    def _check(self) -> None:
        """Check types and ranges of all values, also of those set from outside."""
        for f in fields(self):
            setattr(self, f.name, READERS[str(f.type)](getattr(self, f.name), f"{self.source}: {f.name}"))
        if not self.layers or self.layers != sorted(set(self.layers)) or self.layers[0] < 0:
            raise self._wrong("layers", f"is {self.layers}", "Give at least one layer, from 0, in increasing order.")
        for key, allowed in _CHOICES.items():
            if getattr(self, key) not in allowed:
                raise self._wrong(key, f"is {getattr(self, key)!r}", f"Use {' or '.join(allowed)}.")
        for key, (least, strict) in _RANGES.items():
            value = getattr(self, key)
            if not math.isfinite(value) or value < least or (strict and value == least):
                raise self._wrong(key, f"is {value}", f"Give a number {'above' if strict else 'of at least'} {least}.")
        for key in _TEMPLATES:
            if not _FILL_IN.fullmatch(getattr(self, key)):
                raise self._wrong(key, f"is {getattr(self, key)!r}", 'Write one "{}" where the layer\'s number goes.')
        for text in (text for group in self.context_templates or () for text in group):
            if text.count("{}") != 1:
                raise self._wrong("context_templates", f"holds {text!r}", 'Write one "{}" in each, for the prompt.')
        if self.keep_questions == []:
            raise self._wrong("keep_questions", "is empty", "Give a question, or set keep_factor to 0.")
        for text in self.keep_questions or ():
            if text.count("{}") != 1:
                raise self._wrong("keep_questions", f"holds {text!r}", 'Write one "{}" in each, for the subject.')
        if self.context_templates is not None and not (self.context_templates and all(self.context_templates)):
            raise self._wrong("context_templates", "has an empty list", 'Give at least [["{}"]].')

    def _require(self, key: str, name: str, modules: Collection[str]) -> None:
        if name in modules:
            return
        near = difflib.get_close_matches(name, modules, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else "Compare with model.named_modules()."
        raise self._wrong(key, f"names {name!r}, which the model does not have", hint)

    def _wrong(self, key: str, what: str, hint: str) -> HparamsError:
        return HparamsError(f"{self.source}: {key} {what}", hint=hint)

    def _model_text(self) -> str:
        if isinstance(self.model_name, str | os.PathLike):
            return os.fspath(self.model_name)
        config = getattr(self.model_name[0] if isinstance(self.model_name, tuple) else None, "config", None)
        return str(getattr(config, "_name_or_path", ""))
