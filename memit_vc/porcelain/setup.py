"""`init`: look at a base, record what it is, choose hyperparameters, start the history."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memit_vc.config import Config
from memit_vc.errors import EngineError, IntegrityError, MemitVCError, StorageError, UnsupportedModelError
from memit_vc.hparams import MEMITHyperParams, for_model, guess
from memit_vc.hparams.searches import FOR_RESIDUALS, FOR_Z
from memit_vc.objects import BaseManifest, EditableWeight, TensorRecord, short
from memit_vc.porcelain.base import SeenBase, remember_base
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository
from memit_vc.store.checkpoint import Checkpoint, stored_name_of
from memit_vc.store.parts import part_names, part_of

if TYPE_CHECKING:
    from memit_vc.numerics.model.adapter import ModelAdapter
    from memit_vc.numerics.model.pace import Pace


DEFAULT_CORPUS = "self"
TOKENS_PER_INPUT = 10
"""Tokens per input of the edited projection: 10 · d_in estimate the second moment well enough (see
docs/statistics.md).
"""
STORED = ("F32", "BF16", "F16")
"""The dtypes of weights that can be edited, as safetensors spells them."""


@dataclass(frozen=True)
class InitResult:
    """What was set up. `notes` are plain sentences about what was guessed and why.

    `corpus` is the text that statistics will be taken from. `seconds` is about how long those take on `device`, once,
    and then each fact; None where that cannot be told.
    """

    directory: Path
    base: str
    revision: str | None
    base_id: str
    model_type: str
    n_layers: int
    layers: tuple[int, ...]
    mom2_update_weight: float
    hparams_from: str
    notes: tuple[str, ...]
    corpus: str
    device: str
    seconds: Mapping[str, float] | None


def init(
    base: str,
    *,
    directory: Path,
    revision: str | None = None,
    hparams: str | Path | None = None,
    corpus: str | None = None,
    health: str | None = None,
    progress: Progress = silent,
) -> InitResult:
    """Start a repository in `directory` on `base` (a local directory or a Hub id).

    `hparams` is a file or a shipped name; by default the shipped file that fits the model, else values guessed from its
    config. `corpus` becomes the default source of statistics, `health` the text whose perplexity commits watch.
    """
    if (directory / ".memitvc").exists():
        raise MemitVCError(
            f"{directory / '.memitvc'} exists already",
            hint="Work in it, or name another directory: `memitvc init BASE DIR`.",
        )
    sources = sources_of(corpus, health)
    surveyed = survey(SeenBase.find(base, revision, progress=progress), hparams, progress=progress)
    surveyed.start(directory, *sources).close()
    return surveyed.result(directory, sources[0])


@dataclass(frozen=True)
class Surveyed:
    """All that `init` finds out of a base. Nothing is written yet."""

    seen: SeenBase
    manifest: BaseManifest
    weights: Sequence[EditableWeight]
    adapter: ModelAdapter
    """The outline: no weights in memory."""
    hparams: MEMITHyperParams
    hparams_from: str
    model_type: str
    notes: tuple[str, ...]

    def start(self, directory: Path, corpus: str | None, health: str | None) -> Repository:
        """A new repository in `directory` on the base; errors as for `start_repository`."""
        return start_repository(
            directory,
            self.seen,
            self.manifest,
            self.weights,
            hparams=self.hparams.to_yaml(comments=_comments(self.hparams_from, self.notes)),
            # nothing of where the base lies: repositories on one base share their root, and so can merge
            description=f"base {self.model_type} {short(self.manifest.id)}",
            corpus=corpus,
            health=health,
        )

    def result(self, directory: Path, corpus: str | None) -> InitResult:
        values, chosen = self.hparams, corpus or DEFAULT_CORPUS
        device = values.resolved_device()
        pace = _pace(self.adapter, values.layers, device, chosen)
        return InitResult(
            directory=directory.resolve(),
            base=self.seen.name,
            revision=self.seen.revision,
            base_id=self.manifest.id,
            model_type=self.model_type,
            n_layers=self.adapter.n_layers,
            layers=tuple(values.layers),
            mom2_update_weight=values.mom2_update_weight,
            hparams_from=self.hparams_from,
            notes=self.notes,
            corpus=chosen,
            device=device,
            seconds=None if pace is None else {"statistics": pace.statistics, "fact": pace.fact},
        )


def survey(seen: SeenBase, hparams: str | Path | None, *, progress: Progress = silent) -> Surveyed:
    """Look at a base; `hparams` as for `init`. UnsupportedModelError and HparamsError if it cannot be edited."""
    named = None if hparams is None else MEMITHyperParams.from_hparams(hparams)
    adapter = outline(seen.checkpoint.directory, named)
    seen = seen.in_parts(_parts(adapter, seen.checkpoint.tensors))
    manifest = seen.checkpoint.manifest(progress)
    values, origin, guessed = _hyperparameters(adapter, seen.name, hparams)
    values.validate(n_layers=adapter.n_layers, modules=adapter.modules.keys())
    weights, left_out = _editable(adapter, seen.checkpoint, manifest, values.layers, progress)
    notes = (*guessed, *left_out)
    return Surveyed(seen, manifest, weights, adapter, values, origin, adapter.model.config.model_type, notes)


def sources_of(corpus: str | None, health: str | None) -> tuple[str | None, str | None]:
    """Corpus and health text as config.toml has them. StorageError and UsageError for what is not there: a slip of the
    pen should be heard of before the first commit.
    """
    return _source(corpus), _file(health)


def start_repository(
    directory: Path,
    seen: SeenBase,
    manifest: BaseManifest,
    weights: Sequence[EditableWeight],
    *,
    hparams: str,
    description: str,
    corpus: str | None = None,
    health: str | None = None,
) -> Repository:
    """A new repository in `directory` on a base whose tensors `manifest` lists. `hparams` is the text of its YAML file,
    `description` the root commit's message. BaseChangedError if the base changed while it was read.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = seen.checkpoint.file_hashes()
    seen.check_untouched()
    repository = Repository.init(
        directory,
        config=Config(base=seen.name, revision=seen.revision, corpus=corpus, health=health),
        manifest=manifest,
        weights=weights,
        files=files,
        hparams=hparams.encode(),
        description=description,
    )
    remember_base(repository, seen.stamps)
    return repository


def weights_of_model(
    seen: SeenBase, manifest: BaseManifest, hparams: MEMITHyperParams, *, progress: Progress = silent
) -> tuple[list[EditableWeight], list[str]]:
    """The weights that `init` would record for the hyperparameters, and which were left out. It builds the model.

    UnsupportedModelError and HparamsError if the model, or the model with these hyperparameters, cannot be edited.
    IntegrityError if the manifest has other parts of tensors than `init` would record.
    """
    adapter = outline(seen.checkpoint.directory, hparams)
    hparams.validate(n_layers=adapter.n_layers, modules=adapter.modules.keys())
    parts = {name for name in manifest.names if part_of(name)[1] is not None}
    if parts != set(_parts(adapter, manifest.names)):
        raise IntegrityError(
            f"{seen.name}: the list of its tensors has other parts than the experts of its layers",
            hint="Clone from a remote that you trust.",
        )
    return _editable(adapter, seen.checkpoint, manifest, hparams.layers, progress)


def _file(path: str | None) -> str | None:
    if path is None:
        return None
    if not Path(path).expanduser().is_file():
        raise StorageError(
            f"health text {path}: there is no such file", hint="Give a text, JSON Lines or parquet file."
        )
    return _absolute(path)


def _source(corpus: str | None) -> str | None:
    """A file as its absolute path; StorageError and UsageError for what `open_corpus` would not know later."""
    from memit_vc.numerics.statistics.corpus import named_kind

    return _absolute(corpus) if corpus is not None and named_kind(corpus) == "file" else corpus


def _absolute(file: str) -> str:
    """A file is found again from anywhere."""
    return str(Path(file).expanduser().resolve())


def outline(path: Path, hparams: MEMITHyperParams | None) -> ModelAdapter:
    """The model without its weights (on the meta device): its module tree is all that `init` needs.

    Its parts are those that `hparams` name, if they are given.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from memit_vc.numerics.model.adapter import ModelAdapter
    from memit_vc.numerics.model.architecture import architecture_for
    from memit_vc.numerics.model.pretrained import loading_errors

    with loading_errors(
        f"{path}: transformers cannot make a causal language model of this",
        hint="Give a directory with config.json and tokenizer, which transformers loads without remote code.",
    ):
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedModelError(
            f"{path}: {type(tokenizer).__name__} gives no character offsets, so subjects cannot be found safely",
            hint="Save a fast tokenizer (tokenizer.json) beside the model.",
        )
    if hparams is not None:
        hparams.validate(n_layers=model.config.num_hidden_layers, modules=dict(model.named_modules()).keys())
    parts = architecture_for(model, model.config.model_type, hparams)
    return ModelAdapter.of(model, tokenizer, architecture=parts)


def _editable(
    adapter: ModelAdapter,
    checkpoint: Checkpoint,
    manifest: BaseManifest,
    needed: Collection[int],
    progress: Progress,
) -> tuple[list[EditableWeight], list[str]]:
    """Every layer's projection, with the checkpoint's own name for it and its grid; and which were left out.

    A weight without a grid (it holds NaN or infinity) is an error only in a layer that is `needed`.
    """
    from memit_vc.numerics.exact.grid import quantum_of

    checkpoint = checkpoint.promising(manifest)
    tensors = {t.name: t for t in manifest.tensors}
    weights: list[EditableWeight] = []
    notes: list[str] = []
    for layer in range(adapter.n_layers):
        progress("measure the editable weights", layer + 1, adapter.n_layers)
        d_out, *_, d_in = adapter.weight(layer).shape
        stored = [d_out, d_in] if adapter.orientation(layer) == "out_in" else [d_in, d_out]
        found: list[EditableWeight] = []
        for expert, name in _tensors_of(adapter, layer, tensors):
            record = tensors.get(name)
            if record is None:
                raise UnsupportedModelError(
                    f"the checkpoint holds no {name}: its tensors do not fit the number of experts in its config",
                    hint="Save the model again with transformers' save_pretrained, then init on that directory.",
                )
            if record.dtype not in STORED or list(record.shape) != stored:
                raise UnsupportedModelError(
                    f"{record.name} is stored as {record.dtype} {list(record.shape)}, not as a float matrix {stored}",
                    hint="Edit the unquantised checkpoint; its edits can be exported as an adapter.",
                )
            try:
                quantum = quantum_of(checkpoint.chunks(record.name), record.dtype, record.name)
            except EngineError as error:
                if layer in needed:
                    raise
                notes.append(f"layer {layer}: {error.message}")
                break
            found.append(
                EditableWeight(
                    name=record.name,
                    parameter=adapter.parameter_name(layer),
                    layer=layer,
                    orientation=adapter.orientation(layer),
                    d_out=d_out,
                    d_in=d_in,
                    dtype=record.dtype,
                    quantum=quantum,
                    expert=expert,
                )
            )
        else:
            weights += found
    if len({w.dtype for w in weights}) > 1:
        raise UnsupportedModelError(
            "the editable weights are stored in several dtypes", hint="Save the model in one dtype first."
        )
    return weights, notes


def _parts(adapter: ModelAdapter, tensors: Collection[str]) -> list[str]:
    """The experts' parts of the checkpoint's tensors that hold all experts of a layer."""
    layers = [_tensors_of(adapter, layer, tensors) for layer in range(adapter.n_layers)]
    return [name for found in layers for _, name in found if part_of(name)[1] is not None]


def _tensors_of(adapter: ModelAdapter, layer: int, tensors: Collection[str]) -> list[tuple[int | None, str]]:
    """The checkpoint's tensors of a layer. Of a layer with experts, the tensor or part of each expert, with its number.
    `tensors` may hold the wholes or the parts.
    """
    experts, template = adapter.experts(layer), adapter.architecture.expert
    parameter = adapter.parameter_name(layer)
    if experts is None:
        return [(None, stored_name(adapter, parameter, tensors))]
    wholes = {part_of(name)[0] for name in tensors}
    own = parameter if template is None else f"{adapter.architecture.block.format(layer)}.{template}"
    first = _find(adapter, own.format(0), wholes)
    if first is not None and own.format(0) != own:
        return [(expert, stored_name(adapter, own.format(expert), wholes)) for expert in range(experts.count)]
    whole = first or stored_name(adapter, parameter, wholes)
    return list(enumerate(part_names(whole, experts.count)))


def stored_as(adapter: ModelAdapter, parameter: str, tensors: Mapping[str, TensorRecord]) -> TensorRecord:
    """The checkpoint's record of a parameter, as `stored_name`."""
    return tensors[stored_name(adapter, parameter, tensors)]


def stored_name(adapter: ModelAdapter, parameter: str, tensors: Collection[str]) -> str:
    """The checkpoint's name of a parameter: checkpoints are written with or without the base model's prefix."""
    found = _find(adapter, parameter, tensors)
    if found is None:
        raise UnsupportedModelError(
            f"the checkpoint holds no tensor for {parameter}",
            hint="Save the model again with transformers' save_pretrained, then init on that directory.",
        )
    return found


def _find(adapter: ModelAdapter, parameter: str, tensors: Collection[str]) -> str | None:
    return stored_name_of(parameter, adapter.model.base_model_prefix, tensors)


def _hyperparameters(
    adapter: ModelAdapter, base: str, given: str | Path | None
) -> tuple[MEMITHyperParams, str, Sequence[str]]:
    config: Any = adapter.model.config
    notes: list[str] = []
    if given is not None:
        values, origin = MEMITHyperParams.from_hparams(given), str(given)
    else:
        shipped = for_model(base, config.model_type, adapter.n_layers, adapter.hidden_size)
        if shipped is not None:
            values, origin = MEMITHyperParams.from_hparams(shipped), shipped.name
        else:
            parts = adapter.architecture
            everything = range(adapter.n_layers)
            named = [layer for layer in everything if parts.rewrite.format(layer) in adapter.modules] or everything
            values, notes = guess(
                model_type=config.model_type,
                n_layers=adapter.n_layers,
                widths={layer: adapter.dimensions(layer)[1] for layer in named},
                hidden_size=adapter.hidden_size,
                modules={
                    "rewrite": parts.rewrite,
                    "layer": parts.block,
                    "mlp": parts.mlp,
                    "attn": f"{parts.block}.{parts.attention}",
                    "ln_f": parts.norm or "",
                    "lm_head": parts.head,
                },
            )
            origin = "guessed"
    values.model_name = base
    if given is None or MEMITHyperParams.own_file(given) is None:  # not a file of the user's, which keeps its search
        # a clamp for z may be too narrow for residuals, which are measured against the first edited layer
        values = values.replace(**FOR_RESIDUALS, clamp_norm_factor=max(4.0, values.clamp_norm_factor))
        if any(adapter.experts(layer) is not None for layer in values.layers):  # whose residuals cannot be searched for
            values = values.replace(**FOR_Z)
    return values, origin, notes


def _pace(adapter: ModelAdapter, layers: Sequence[int], device: str, corpus: str) -> Pace | None:
    from memit_vc.numerics.model.pace import expected_pace

    tokens = TOKENS_PER_INPUT * max(adapter.dimensions(layer)[1] for layer in layers)
    return expected_pace(adapter, layers, device=device, tokens=tokens, writes=corpus == "self")


def _comments(origin: str, notes: Sequence[str]) -> dict[str, str]:
    told = "guessed from its config" if origin == "guessed" else f"from {origin}"
    lines = [f"hyperparameters of this repository, {told}", *notes]
    return {"": "\n".join(lines)}
