"""`clone`: a repository made of a remote and its base, which is checked tensor by tensor.

1. The remote's commits are read and their graph is checked, before anything large is fetched.
2. The repository is made in a directory `.memitvc-clone` beside its final place, on the base; the history is fetched.
3. One rename puts `.memitvc` in its place.
A crash leaves `.memitvc-clone`. The next clone of the same remote uses the objects in it.

The remote says which weights may be edited. This is checked against the base's config and tensors, so that the model
need not be built; it is built if these do not tell.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from memit_vc.errors import (
    BaseChangedError,
    HparamsError,
    IntegrityError,
    MemitVCError,
    RemoteError,
    StorageError,
    UsageError,
)
from memit_vc.foreign.data import json_value
from memit_vc.foreign.files import read_file
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.exact.grid import quantum_of
from memit_vc.objects import Commit, CommitId, RefUpdate, short
from memit_vc.porcelain.base import MAX_CONFIG, SeenBase
from memit_vc.porcelain.history.settings import corpus_of
from memit_vc.porcelain.setup import STORED, start_repository, weights_of_model
from memit_vc.porcelain.sharing.fetch import Fetched, Moves, Plan, fetch_from
from memit_vc.porcelain.sharing.remote_commit import RemoteCommit
from memit_vc.porcelain.sharing.remote_history import Published, RemoteBase, new_records, remote_base
from memit_vc.porcelain.sharing.remotes import DEFAULT, add_remote, remotes
from memit_vc.progress import Progress, silent
from memit_vc.remote.manifest import BASE, HPARAMS
from memit_vc.remote.opening import checked_url, hub_name, nothing_there, open_remote
from memit_vc.repository import Repository
from memit_vc.store.checkpoint import Checkpoint
from memit_vc.store.parts import part_of
from memit_vc.store.staging import check_free, staging

_STAGING = ".memitvc-clone"
_TAKEN = "Pull there, or name a new directory: memitvc clone URL DIRECTORY"
_HINT = "Nothing was stored. Ask the person who pushed it."
_SHOWN = 3
_SIZES = (("num_hidden_layers", "n_layer", "num_layers"), ("hidden_size", "n_embd", "d_model"))
"""What config.json calls the number of layers, and the size of the hidden state."""


@dataclass(frozen=True)
class Cloned:
    """`directory` holds `.memitvc`; `branch` is the one that HEAD is on."""

    directory: Path
    fetched: Fetched
    base: str
    revision: str | None
    branch: str
    commit: CommitId
    notes: tuple[str, ...]


def clone(
    url: str,
    directory: Path | None = None,
    *,
    base: str | None = None,
    start: Path,
    progress: Progress = silent,
) -> Cloned:
    """Make a repository of the remote at `url`; paths are taken from `start`, `directory` is named after the remote.

    The base is the Hub model at the revision that the remote records, or `base`, a directory or Hub id. UsageError if
    neither is known; BaseChangedError, with the tensors that differ, if it is another model; RemoteError and
    IntegrityError as for `fetch`. A failure leaves nothing behind, except objects that came before the remote failed:
    these are kept for the next try.
    """
    there = open_remote(checked_url(url, directory=start))
    place = start / (directory or _name(there.url))
    check_free(place, _STAGING, hint=_TAKEN)
    found = Published.at(there)
    if found is None:
        raise nothing_there(there.url)
    records = new_records(found, lambda _: (), progress=progress)
    message = _root_message(found, records)
    described = remote_base(there, found.revision, found.manifest)
    hparams = _hparams(described, there.url)
    source, revision = _source(found, base, start)
    with staging(place, _STAGING, doing="cloning to", hint=_TAKEN) as made:
        try:
            repository, notes = _prepared(made.at, source, revision, found, described, hparams, message, progress)
            with repository:
                fetched = fetch_from(
                    repository, DEFAULT, there.url, found=found, plan=_moves(repository), progress=progress
                )
                tip = repository.head().commit
                corpus = corpus_of(repository, (commit.provenance for commit in repository.log([tip])))
                if corpus is not None:  # else new commits would be solved with another text than the present ones
                    repository.configure(lambda config: replace(config, corpus=corpus))
                    notes = [*notes, f"new commits take the statistics' text of the present ones: {corpus}"]
                config = repository.config
            made.finish()
        except (RemoteError, StorageError):
            if not any(made.root.glob("cache/incoming/*")):  # objects that the next try can use
                made.drop()
            raise
        except Exception:
            made.drop()
            raise
    return Cloned(place, fetched, config.base, config.revision, found.manifest.default, tip, tuple(notes))


def _name(url: str) -> str:
    found = hub_name(url)
    return Path(url if found is None else found[0]).name


def _root_message(found: Published, records: Sequence[RemoteCommit]) -> str:
    """The message of the root that the default branch stands on: with it, the clone's own root is that very commit."""
    commits = {record.commit.id: record.commit for record in records}
    commit = commits[found.manifest.refs[f"heads/{found.manifest.default}"]]
    while commit.parents:
        commit = commits[commit.parents[0]]
    return commit.message


def _hparams(described: RemoteBase, url: str) -> MEMITHyperParams:
    try:
        return MEMITHyperParams.from_yaml(described.hparams, source=f"{url}: {HPARAMS}")
    except (HparamsError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{url}: {HPARAMS} is damaged: {error}", hint=_HINT) from error


def _source(found: Published, given: str | None, start: Path) -> tuple[str, str | None]:
    """Where to take the base from: what the user says, or else the Hub model that the remote records."""
    if given is not None:
        local = start / Path(given).expanduser()
        return (str(local), None) if local.is_dir() else (given, None)
    manifest = found.manifest
    if manifest.source is None:
        raise UsageError(
            f"{found.remote.url}: its base was a local directory, fingerprint {short(manifest.base)}",
            hint="Say where that model is here: --base DIR (or --base HUB-ID).",
        )
    return manifest.source, manifest.revision


def _prepared(
    place: Path,
    source: str,
    revision: str | None,
    found: Published,
    described: RemoteBase,
    hparams: MEMITHyperParams,
    message: str,
    progress: Progress,
) -> tuple[Repository, Sequence[str]]:
    """The repository in the staging directory: that of a clone that was cut off, or a new one on the checked base."""
    url = found.remote.url
    if (place / ".memitvc").exists():
        with suppress(MemitVCError):
            kept = Repository.open(place)
            if kept.base_id == found.manifest.base and remotes(kept) == {DEFAULT: url}:
                return kept, ()
            kept.close()
        shutil.rmtree(place / ".memitvc", ignore_errors=True)
    seen = SeenBase.find(source, revision, progress=progress).in_parts(described.manifest.names)
    manifest = seen.checkpoint.manifest(progress)
    if manifest.id != found.manifest.base:
        facts = seen.checkpoint.differences(described.manifest, {}, progress=progress)
        more = f" (and {len(facts) - _SHOWN} more)" if len(facts) > _SHOWN else ""
        raise BaseChangedError(
            f"{seen.name} is not the base of {url}: {'; '.join(facts[:_SHOWN])}{more}",
            hint="Give the model that it was made on: --base DIR, or the same revision of the Hub model.",
        )
    notes = _checked_weights(seen, described, hparams, url, progress)
    text = (
        hparams.portable()
        .replace(model_name=seen.name)
        .to_yaml(comments={"": f"hyperparameters of this repository, from {url}"})
    )
    repository = start_repository(place, seen, manifest, described.weights, hparams=text, description=message)
    try:
        add_remote(repository, DEFAULT, url, directory=place)
    except BaseException:
        repository.close()
        raise
    return repository, notes


def _checked_weights(
    seen: SeenBase, described: RemoteBase, hparams: MEMITHyperParams, url: str, progress: Progress
) -> Sequence[str]:
    """What the remote says of the editable weights, checked; notes on layers that cannot be edited. IntegrityError
    unless it is what `init` would record. The model is only built if its config and its tensors do not tell.
    """
    weights = described.weights
    if not _told_by_config(described, hparams, seen.checkpoint):
        expected, notes = weights_of_model(seen, described.manifest, hparams, progress=progress)
        if expected != list(weights):
            raise IntegrityError(f"{url}: {BASE} does not list the weights of the model", hint=_HINT)
        return notes
    checkpoint = seen.checkpoint.promising(described.manifest)
    for number, weight in enumerate(weights, 1):
        progress("measure the editable weights", number, len(weights))
        if quantum_of(checkpoint.chunks(weight.name), weight.dtype, weight.name) != weight.quantum:
            raise IntegrityError(f"{url}: {BASE} gives {weight.name} the grid of other values", hint=_HINT)
    return ()


def _told_by_config(described: RemoteBase, hparams: MEMITHyperParams, checkpoint: Checkpoint) -> bool:
    """Whether the base's config.json and the names of its tensors already prove all of the weights but their grids.

    There is one weight for each layer. Its tensor is not square and its outputs are the hidden state, which gives its
    orientation. Its name is that of the module in the hyperparameters, or that without the model's own prefix. The
    hyperparameters' other modules have tensors, too; the head may share those of another module.
    """
    try:
        config = json_value(read_file(checkpoint.directory / "config.json", most=MAX_CONFIG))
        config = config.get("text_config", config)
        layers, hidden = (next(config[key] for key in keys if key in config) for keys in _SIZES)
    except (OSError, ValueError, AttributeError, TypeError, StopIteration, RecursionError):
        return False
    dtypes = {weight.dtype for weight in described.weights}
    template = f"{hparams.rewrite_module_tmp}.weight"
    prefix = f"{template.partition('.')[0]}."
    names = {*checkpoint.tensors, *(prefix + name for name in checkpoint.tensors)}
    modules = {name[:end] for name in names for end in range(len(name)) if name[end] == "."}
    try:
        hparams.validate(n_layers=layers, modules={*modules, hparams.lm_head_module})
    except (HparamsError, TypeError):
        return False
    expected = [template.format(layer) for layer in range(layers)]  # loading has checked that the template has one {}
    return (
        [weight.layer for weight in described.weights] == list(range(layers))
        and [weight.parameter for weight in described.weights] == expected
        and all(
            weight.name == (weight.parameter if weight.parameter in checkpoint.tensors else name)
            for weight, name in zip(described.weights, (name.removeprefix(prefix) for name in expected), strict=True)
        )
        and all(weight.d_out == hidden != weight.d_in and weight.expert is None for weight in described.weights)
        and not any(part_of(name)[1] is not None for name in described.manifest.names)
        and len(dtypes) == 1
        and dtypes <= set(STORED)
    )


def _moves(repository: Repository) -> Plan:
    """HEAD goes to the remote's default branch, which replaces the branch of the new repository."""

    def plan(found: Published, commit_of: Callable[[CommitId], Commit]) -> Moves:
        del commit_of
        local, name = repository.refs("heads/"), f"heads/{found.manifest.default}"
        updates = [RefUpdate(ref, commit, None) for ref, commit in local.items() if ref != name]
        updates.append(RefUpdate(name, local.get(name), found.manifest.refs[name]))
        return Moves("clone", updates, name)

    return plan
