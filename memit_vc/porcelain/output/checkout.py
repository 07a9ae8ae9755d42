"""`checkout` writes a state's model to a directory: only the edited tensors are new bytes.

It starts from the base's hot and cold shards, which are split once and are enough when the base itself is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memit_vc.errors import BaseChangedError, IntegrityError, StorageError
from memit_vc.objects import CommitId, EditableWeight, JsonValue, StateId, digest
from memit_vc.porcelain.base import checked_base, find_base, forget_base
from memit_vc.porcelain.output.recorded import record_hashes, recorded_hashes
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.store.files import scratch
from memit_vc.store.parts import part_of
from memit_vc.store.shards import ShardedBase

if TYPE_CHECKING:
    from memit_vc.numerics.output.checkout import CheckoutResult
    from memit_vc.repository import Repository


@dataclass(frozen=True)
class Checked:
    """A directory that holds a state. `tensors` are the SHA-256 of each editable tensor."""

    directory: Path
    commit: CommitId
    state: StateId
    hot_bytes: int
    tensors: Mapping[str, str]
    notes: tuple[str, ...] = ()


def checkout(
    repository: Repository, revision: str, out: Path, *, replace: bool = False, progress: Progress = silent
) -> Checked:
    """Write the model of `revision` to `out`: only the edited tensors are new bytes, the rest is linked.

    UsageError if `out` holds anything but an earlier checkout.
    """
    from memit_vc.numerics.exact.update import StateTerms
    from memit_vc.numerics.output.checkout import CACHE_LIMIT, Promise
    from memit_vc.numerics.output.checkout import checkout as write
    from memit_vc.numerics.output.hotshard import DamagedShardsError

    commit = repository.resolve(revision)
    state = LiveState.at(repository, commit)
    weights = (_hot_of(state, out) if replace else None) or hot_weights(repository)
    notes: list[str] = []
    record: JsonValue = {
        "format": 1,
        "base": {
            "id": repository.base_id,
            "source": repository.config.hub_base,
            "revision": repository.config.revision,
        },
        "commit": commit,
        "state": state.id,
    }
    known = recorded_hashes(repository, state.id)
    if known is not None:
        base_hashes = {tensor.name: tensor.sha256 for tensor in repository.base().tensors}
        known = {weight.name: known.get(weight.name, base_hashes[weight.name]) for weight in weights}

    def written(held: ExitStack) -> CheckoutResult:
        return write(
            _split_base(repository, weights, out, held, progress, notes.append),
            weights,
            lambda name: StateTerms(repository.patch_path, state.selection.items(), name),
            out,
            record=record,
            replace=replace,
            progress=progress,
            cache=repository.root / "cache",
            cache_limit=CACHE_LIMIT if repository.config.cache_bytes is None else repository.config.cache_bytes,
            state=state.id,
            promise=Promise(repository.base(), repository.base_files(), known),
            tell=notes.append,
        )

    with ExitStack() as held:
        try:
            made = written(held)
        except DamagedShardsError as error:
            ShardedBase.open(error.directory).forget(error.files)
            forget_base(repository)  # some of the shards are links to its files
            made = written(held)
    record_hashes(repository, state.id, made.tensors)
    return Checked(made.directory, commit, state.id, made.hot_bytes, made.tensors, tuple(notes))


def hot_weights(repository: Repository) -> list[EditableWeight]:
    """The weights of the hot shard: those of the layers in use, and any other that a patch here touches.

    They are the same for every state, so that a checkout can switch to any of them. Of a layer's experts it holds those
    that a patch touches: a new patch may touch others, and the base is split again. Experts that share a tensor stay
    together.
    """
    layers = set(repository.hparams().layers)
    touched = repository.edited_weights()
    wholes = {part_of(name)[0] for name in touched}
    used = [w for w in repository.weights() if w.layer in layers or part_of(w.name)[0] in wholes]
    return [weight for weight in used if weight.expert is None or part_of(weight.name)[0] in wholes] or used


def _hot_of(state: LiveState, out: Path) -> list[EditableWeight] | None:
    """The weights of a checkout's hot shard; None if they are not known or not enough for a state."""
    from memit_vc.numerics.output.checkout import base_of

    names = base_of(out, state.repository.root / "base")
    if names is None or not state.bounds.keys() <= names:
        return None
    return [weight for weight in state.repository.weights() if weight.name in names]


def _split_base(
    repository: Repository,
    weights: Sequence[EditableWeight],
    out: Path,
    held: ExitStack,
    progress: Progress,
    tell: Callable[[str], None],
) -> Path:
    """The directory with the shards, `weights` being the hot ones; split now unless that is done: in the repository, or
    where nothing can be written there beside `out`, for as long as `held` lasts.

    `tell` hears of damaged shards, and of a base directory that is gone while its shards are whole. BaseChangedError
    if the base is another one, or is gone and its shards are not whole; otherwise errors as for `prepare_base`.
    """
    from memit_vc.numerics.output.checkout import prepare_base

    into = repository.root / "base" / digest("hot", "\n".join(w.name for w in weights).encode())[:16]
    try:
        find_base(repository.config)
    except BaseChangedError as error:
        if not _is_whole(repository, into):
            raise
        tell(f"{error.message}; the checkout comes from the split base, {into}")
        return into
    checkpoint = checked_base(repository, progress=progress)
    manifest = repository.base()
    try:
        prepare_base(checkpoint, weights, into, progress, manifest=manifest, tell=tell)
    except StorageError as error:
        place = held.enter_context(scratch(out)) / "base"
        prepare_base(checkpoint, weights, place, progress, manifest=manifest)
        tell(f"the base was split for this checkout only, because the repository cannot keep it: {error.message}")
        return place
    return into


def _is_whole(repository: Repository, directory: Path) -> bool:
    """Whether every tensor and file of the recorded base is there; files that changed since are read again."""
    try:
        built, manifest = ShardedBase.open(directory), repository.base()
        if not built.hot.items() <= {tensor.name: tensor.sha256 for tensor in manifest.tensors}.items():
            return False
        stale = built.stale()
        return not stale or not built.damaged(stale, repository.base(), repository.base_files())
    except (StorageError, IntegrityError):
        return False
