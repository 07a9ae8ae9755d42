"""The files of a push: the history, and the files for readers without memit-vc."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from memit_vc.errors import RemoteError, UsageError
from memit_vc.objects import CommitId
from memit_vc.objects.base_record import BASE, BaseRecord
from memit_vc.porcelain.sharing.card import card_files
from memit_vc.porcelain.sharing.outgoing import outgoing
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.remote.card import card_text
from memit_vc.remote.manifest import ADAPTER, CARD, HPARAMS, MANIFEST, commit_path, object_path
from memit_vc.remote.protocol import Remote, RemoteFile
from memit_vc.repository import Repository

GREATEST_RANK = 512
"""The greatest rank that vLLM takes (`max_lora_rank`)."""
_MAX_CARD = 1 << 24


def history_files(
    repository: Repository,
    commits: Sequence[CommitId],
    there: Remote,
    revision: str | None,
    listing: Mapping[str, RemoteFile],
    *,
    constraints: bool,
    progress: Progress = silent,
) -> dict[str, bytes | Path]:
    """Records and objects of `commits` that the other end lacks or has damaged; the first time, the base's description.

    IntegrityError for an object that is missing or damaged here: better found now than at the next pull. RemoteError if
    other files have the names of ours.
    """

    def is_there(path: str, content: bytes | Path) -> bool:
        return path in listing and there.holds(path, revision, content)

    adds = commit_files(repository, commits, constraints=constraints, is_there=is_there, progress=progress)
    for path, content in _about_the_base(repository).items():
        if path not in listing:
            adds[path] = content
        elif MANIFEST not in listing and not is_there(path, content):
            raise RemoteError(
                f"{there.url}: nothing was pushed there yet, but it has another {path}",
                hint="Push to another place, or move that file away first.",
            )
    return adds


def commit_files(
    repository: Repository,
    commits: Sequence[CommitId],
    *,
    constraints: bool,
    is_there: Callable[[str, bytes | Path], bool] = lambda _, __: False,
    progress: Progress = silent,
) -> dict[str, bytes | Path]:
    """Records and objects of `commits` by their paths in the tree, without those that are there. IntegrityError."""
    adds: dict[str, bytes | Path] = {}
    for number, (entry, objects) in enumerate(outgoing(repository, commits, constraints=constraints), 1):
        name, record = commit_path(entry.commit.id), entry.encode()
        if not is_there(name, record):
            adds[name] = record
        for blob in sorted(objects):
            path = object_path(blob)
            if path not in adds and not is_there(path, repository.blobs.path(blob)):
                repository.blobs.read(blob)
                adds[path] = repository.blobs.path(blob)
        progress("collect commits", number, len(commits))
    return adds


def _about_the_base(repository: Repository) -> dict[str, bytes]:
    record = BaseRecord(repository.base(), repository.fact_weights(), repository.base_files())
    values = repository.hparams().portable().replace(model_name=repository.config.hub_base or "")
    return {BASE: record.encode(), HPARAMS: values.to_yaml().encode()}


def reader_files(
    repository: Repository,
    commit: CommitId,
    there: Remote,
    revision: str | None,
    listing: Mapping[str, RemoteFile],
    *,
    adapter: bool,
    progress: Progress = silent,
) -> tuple[dict[str, bytes | Path], frozenset[str], list[str]]:
    """The model card, and the state as a PEFT adapter if its rank allows: (files, files to delete, notes).

    An adapter of an earlier state is deleted: it would pass for the present one.
    """
    adds: dict[str, bytes | Path] = {}
    notes: list[str] = []
    rank = None
    state = LiveState.at(repository, commit)
    if adapter and any(weight.expert is not None for weight in state.touched):
        notes.append("no adapter: it would wrap whole modules, and one module holds all experts of a layer")
    elif adapter and state.columns:
        rank, files = _adapter(repository, commit, progress)
        if files is None:
            notes.append(f"no adapter: its rank would be {rank}, more than the {GREATEST_RANK} that vLLM takes")
            rank = None
        else:
            adds |= files
    existing = card_text(there.read(CARD, revision, limit=_MAX_CARD)) if CARD in listing else None
    card = card_files(repository, commit, url=there.url, present=existing, rank=rank or None)
    adds |= {name: text.encode() for name, text in card.items()}
    return adds, frozenset(name for name in ADAPTER if name in listing and name not in adds), notes


def _adapter(
    repository: Repository, commit: CommitId, progress: Progress
) -> tuple[int, dict[str, bytes | Path] | None]:
    """Its rank, and the files if that is small enough."""
    from memit_vc.porcelain.output.export_adapter import adapter_files

    try:
        made, files = adapter_files(repository, commit, progress=progress)
    except UsageError:  # columns that cancel each other
        return 0, {}
    rank = max(made.ranks.values(), default=0)
    if rank > GREATEST_RANK:
        return rank, None
    return rank, {**files}
