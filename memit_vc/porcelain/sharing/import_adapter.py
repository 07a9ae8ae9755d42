"""`import --adapter`: a PEFT LoRA as one commit on HEAD. Its whole update is one column, about no fact.

The column is on the grid, so it comes and goes like any other: exactly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memit_vc.errors import MemitVCError
from memit_vc.foreign.text import one_line
from memit_vc.numerics.exact.received_lora import lora_file
from memit_vc.numerics.output.lora import WEIGHTS_FILE
from memit_vc.objects import EditableWeight, JsonValue, canonical_json
from memit_vc.porcelain.base import checked_base
from memit_vc.porcelain.editing.pack import pack
from memit_vc.porcelain.record import Outcome, draft, record
from memit_vc.porcelain.sharing.adapter_files import About, AdapterConfig, read_about, read_config
from memit_vc.porcelain.sharing.adapter_weights import weights_of_modules
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.store.files import file_digest, storage_errors

if TYPE_CHECKING:
    from memit_vc.numerics.exact.factored import Term
    from memit_vc.repository import Repository

_KEPT = 0.9
"""Share of an update that must survive the cast, as for a commit."""


@dataclass(frozen=True, kw_only=True)
class ImportedAdapter(Outcome):
    """`weights` are the tensors that the adapter changes, `new_weights` those that could not be changed before."""

    name: str
    licence: str | None
    source: str | None
    weights: tuple[str, ...]
    new_weights: tuple[str, ...]


def import_adapter(
    repository: Repository,
    directory: Path,
    *,
    about: About | None = None,
    message: str | None = None,
    progress: Progress = silent,
) -> ImportedAdapter:
    """One commit on HEAD with the adapter of `directory`. What `about` says goes before what its card says.

    UnsupportedModelError for an adapter that is more than a plain LoRA on projections of this base, IntegrityError for
    damaged files, EngineError if sums could round, MemitVCError if it is live already. After an error the repository is
    unchanged.
    """
    given, config = about or About(None, None, None), read_config(directory)
    path, card = directory / WEIGHTS_FILE, read_about(directory)
    with storage_errors(path):
        digest = file_digest(path)
    known = About(
        given.name or card.name or f"adapter {digest[:10]}",
        given.licence or card.licence,
        given.source or card.source,
    )
    head = repository.head()
    state = LiveState.at(repository, head.commit)
    described, terms = _terms(repository, directory, config, progress)
    adapter: dict[str, JsonValue] = {
        "name": known.name,
        "licence": known.licence,
        "source": known.source,
        "base": config.base if _is_hub_id(config.base) else None,
        "sha256": digest,
    }
    settings: dict[str, JsonValue] = {
        "r": config.rank,
        "lora_alpha": config.alpha,
        "use_rslora": config.root,
        "rank_pattern": dict(config.ranks),
        "alpha_pattern": dict(config.alphas),
    }
    provenance = canonical_json({"algorithm": "LoRA", "adapter": {**adapter, **settings}})
    patch, blobs = pack(repository, (), terms, constraints=None, provenance=provenance, described=described)
    if patch.columns[0] in state.columns:
        raise MemitVCError(f"{known.name} is live already", hint="`memitvc log` shows the commit that brought it.")
    state.check_exact(patch)
    # it is about no fact, so it contradicts none and is no pair of any: there is nothing to ask `join`
    made = draft(
        repository,
        [head.commit],
        state.change_to(state.columns.union(patch.columns)),
        kind="import",
        message=message or f"Import adapter {known.name}",
        patches=[patch.id],
        provenance=patch.header.provenance,
        details={"adapter": adapter},
    )
    before = {weight.name for weight in repository.weights()}
    done = record(
        repository,
        head,
        [made],
        patches=[patch],
        blobs=blobs,
        notes=_notes(repository, config, known),
        warnings=_drowned(repository, described, terms),
    )
    weights = tuple(sorted(terms))
    return ImportedAdapter(
        **vars(done),
        name=known.name or "",
        licence=known.licence,
        source=known.source,
        weights=weights,
        new_weights=tuple(name for name in weights if name not in before),
    )


def _terms(
    repository: Repository, directory: Path, config: AdapterConfig, progress: Progress
) -> tuple[list[EditableWeight], dict[str, Term]]:
    """The weights that the adapter changes, and what it adds to each."""
    described: list[EditableWeight] = []
    terms: dict[str, Term] = {}
    with lora_file(directory / WEIGHTS_FILE) as file:
        weights = weights_of_modules(repository, file.modules, progress=progress)
        for number, module in enumerate(file.modules, 1):
            weight = weights[module]
            term = file.term(module, config.scale(module, file.rank(module)), weight)
            if term is not None:
                described.append(weight)
                terms[weight.name] = term
            progress("read the adapter", number, len(file.modules))
    if not terms:
        raise MemitVCError(
            f"{directory}: changes nothing: each of its products B A is zero", hint="It may never have been trained."
        )
    return described, terms


def _notes(repository: Repository, config: AdapterConfig, about: About) -> list[str]:
    base = repository.config.hub_base
    notes = []
    if config.base is not None and config.base != (base or repository.config.base):
        here = base or "a local directory"
        notes.append(f"the adapter names {one_line(config.base)} as its base; this repository's is {here}")
    if about.licence is None:
        notes.append("the adapter's card names no licence")
    return notes


def _drowned(repository: Repository, weights: Sequence[EditableWeight], terms: Mapping[str, Term]) -> list[str]:
    """A warning if a base of few bits rounds much of the adapter away."""
    from memit_vc.numerics.exact.materialise import survived
    from memit_vc.numerics.model.checkpoint_tensors import read_tensor

    narrow = [weight for weight in weights if weight.dtype != "F32"]
    if not narrow:
        return []
    checkpoint = checked_base(repository)
    share = min(survived(read_tensor(checkpoint, each.name), [terms[each.name]], each) for each in narrow)
    if share >= _KEPT:
        return []
    return [f"of one weight, only {share:.0%} of what the adapter adds survives the rounding to {narrow[0].dtype}"]


def _is_hub_id(name: str | None) -> bool:
    """Whether it may be told to others: a path of the machine that trained it may not."""
    return name is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).exists()
