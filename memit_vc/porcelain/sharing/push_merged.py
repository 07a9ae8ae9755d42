"""`push --merged`: a state as a plain edited checkpoint on the Hub, which transformers and vLLM load by its name.

What the Hub has already is not sent: it copies shards without an edited tensor from the base's own repository, and
keeps shards of an earlier push. Only the hot shard is new.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from memit_vc.errors import RemoteError, UsageError
from memit_vc.objects import CommitId, StateId, short
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.sharing.card import gather_card
from memit_vc.porcelain.sharing.remotes import remotes
from memit_vc.progress import Progress, count, silent, size_text
from memit_vc.remote.card import card_text, card_with
from memit_vc.remote.hub import HubChange, HubRemote
from memit_vc.remote.hub_landed import CopySource
from memit_vc.remote.manifest import MANIFEST
from memit_vc.remote.opening import hub_name
from memit_vc.remote.protocol import RemoteFile, content_size
from memit_vc.repository import Repository
from memit_vc.store.checkpoint import ADAPTER_CONFIG, RECORD_FILE
from memit_vc.store.files import file_digest, scratch
from memit_vc.vcs.graph import is_ancestor

_CARD = "README.md"
_LARGEST_CARD = 1 << 24


@dataclass(frozen=True)
class MergedPush:
    """`sent` and `copied` map files to their bytes, also in a dry run, which sends none; its `revision` is None."""

    url: str
    commit: CommitId
    state: StateId
    revision: str | None
    sent: Mapping[str, int]
    copied: Mapping[str, int]
    kept: tuple[str, ...]
    pull_request: str | None
    notes: tuple[str, ...]


def push_merged(
    repository: Repository,
    there: HubRemote,
    revision: str = "HEAD",
    *,
    dry_run: bool = False,
    progress: Progress = silent,
) -> MergedPush:
    """Publish the model of `revision` at `there`, in place of the model that an earlier call put there.

    UsageError if that repository holds a history; RemoteError and RefMovedError as for a push. The checkout that is
    sent is made in the repository's cache and deleted at the end.
    """
    commit = repository.resolve(revision)
    head = there.head() or there.start()
    listing = there.listing(head)
    if MANIFEST in listing:
        raise UsageError(
            f"{there.url} holds a history; it cannot hold a model too",
            hint="Give the model a repository of its own: memitvc push --merged OWNER/NAME",
        )
    with scratch(repository.root / "cache" / "merged") as place:
        out = place / "model"
        made = checkout(repository, commit, out, progress=progress)
        files = _files(out)
        plan, kept, notes = _plan(repository, files, listing, progress)
        present = there.read(_CARD, head, limit=_LARGEST_CARD) if _CARD in listing else None
        plan = replace(plan, message=f"Model of commit {short(commit)}: {repository.commit(commit).subject}")
        plan = replace(plan, adds={**plan.adds, _CARD: _card(repository, commit, there, present)})
        total = size_text(sum(map(content_size, plan.adds.values())))
        progress(f"send {count(len(plan.adds), 'file')}, {total}", 0, 0)
        new, more = (None, ()) if dry_run else _publish(there, plan, files, head)
        notes += () if dry_run else tuple(there.remarks)
        copied = {} if more else {path: source.size for path, source in plan.copies.items()}
        sent = {path: content_size(data) for path, data in plan.adds.items()}
        if more:
            sent |= {path: content_size(files[path]) for path in plan.copies}
        return MergedPush(there.url, commit, made.state, new, sent, copied, kept, there.pull_request, (*notes, *more))


def _files(out: Path) -> dict[str, Path]:
    """The checkout's files without its record and without the base's own model card."""
    found = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if name not in (RECORD_FILE, _CARD)}


def _plan(
    repository: Repository, files: Mapping[str, Path], listing: Mapping[str, RemoteFile], progress: Progress
) -> tuple[HubChange, tuple[str, ...], tuple[str, ...]]:
    """(change, files that are there already, notes)."""
    base, notes = _base_files(repository)
    adds: dict[str, bytes | Path] = {}
    copies: dict[str, CopySource] = {}
    kept = []
    for number, (name, path) in enumerate(files.items(), 1):
        large = name.endswith(".safetensors")
        there = listing.get(name)
        digest = file_digest(path) if large and (there is not None or base) else None
        if there is not None and there.sha256 is not None and digest == there.sha256:
            kept.append(name)
        elif digest is not None and digest in base:
            copies[name] = base[digest]
        else:
            adds[name] = path
        progress("compare files", number, len(files))
    # weights of an earlier push, under names that are no longer in use, would be loaded too
    ends = (".safetensors", ".safetensors.index.json", ADAPTER_CONFIG)
    old = [name for name in listing if "/" not in name and name.endswith(ends)]
    return HubChange("", adds, frozenset(old) - files.keys(), copies), tuple(kept), notes


def _base_files(repository: Repository) -> tuple[dict[str, CopySource], tuple[str, ...]]:
    """SHA-256 → a large file of the base's repository on the Hub; and a note if the Hub cannot be asked."""
    config = repository.config
    if config.revision is None:
        return {}, ()
    try:
        listing = HubRemote(config.base).listing(config.revision)
    except RemoteError as error:
        return {}, (f"nothing is copied from the base: {error.message}",)
    found = {
        file.sha256: CopySource(config.base, config.revision, path, file.size, file.sha256)
        for path, file in listing.items()
        if file.sha256 is not None
    }
    return found, ()


def _publish(
    there: HubRemote, plan: HubChange, files: Mapping[str, Path], head: str | None
) -> tuple[str, tuple[str, ...]]:
    """The new revision. If the Hub will not copy files (another region, no such storage), they are sent instead."""
    try:
        return there.publish(plan, parent=head), ()
    except RemoteError as error:
        if not plan.copies or not _is_about_copying(error):
            raise
        sent = {**plan.adds, **{path: files[path] for path in plan.copies}}
        made = there.publish(replace(plan, adds=sent, copies={}), parent=head)
        return made, (f"the Hub did not copy the base's files, they were sent instead: {error.message}",)


def _is_about_copying(error: RemoteError) -> bool:
    cause = error.__cause__
    response = getattr(cause, "response", None)
    asked = "" if response is None else str(response.request.url)
    return "lfs-files/duplicate" in asked or "uplicate" in f"{type(cause).__name__} {cause}"


def _published(repository: Repository, commit: CommitId) -> Iterator[str]:
    """Repositories of the Hub that had `commit` when they were last fetched, by the tracking refs."""
    for name, url in remotes(repository).items():
        found = hub_name(url)
        tips = repository.refs(f"remotes/{name}/").values()
        if found is not None and any(is_ancestor(commit, tip, repository.parents) for tip in tips):
            yield found[0] if found[1] == "main" else f"{found[0]}@{found[1]}"


def _card(repository: Repository, commit: CommitId, there: HubRemote, present: bytes | None) -> bytes:
    history = next((name for name in _published(repository, commit) if name != there.repo_id), None)
    card = gather_card(
        repository,
        commit,
        repo_id=there.repo_id,
        branch=there.branch,
        relation="finetune",
        history=history,
    )
    return card_with(card, None if present is None else card_text(present)).encode()
