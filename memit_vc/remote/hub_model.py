"""A model of the Hub in the client's own cache: downloaded again after a passing fault, and every file checked.

The client compares only sizes. In its cache a file has the name that the Hub gave it, which is the SHA-256 of a large
file and git's SHA-1 of a small one. So damaged files are found here, and fetched once more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from memit_vc.errors import IntegrityError, MemitVCError, RemoteError
from memit_vc.objects import is_sha256
from memit_vc.progress import Progress, silent
from memit_vc.remote.hub_errors import cause, hub_errors, translated
from memit_vc.remote.hub_landed import git_name
from memit_vc.remote.hub_retry import repeated
from memit_vc.remote.hub_settings import unusable_setting
from memit_vc.store.checkpoint import Checkpoint
from memit_vc.store.files import file_digest

PATTERNS = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja", "*.py")
IGNORED = ("consolidated*.safetensors", "*/*.safetensors")
"""The same weights once more in their maker's own format, and files in folders: adapters, other exports."""
_SHA1 = re.compile(r"[0-9a-f]{40}")


def download_model(repo_id: str, revision: str | None, *, progress: Progress = silent) -> Path:
    """The directory of a snapshot, checked. If the Hub is out of reach, what the cache has of it, if that holds all
    weights.

    RemoteError if the Hub refuses, or is out of reach and the cache has too little; IntegrityError for a file that
    comes damaged twice; StorageError if the cache cannot be written.
    """
    from huggingface_hub import constants, hf_hub_download

    url = f"hf://{repo_id}"

    with hub_errors(url, "downloading the model", target=Path(constants.HF_HUB_CACHE)):
        try:
            place = repeated(partial(_snapshot, repo_id, revision, local=False))
        except Exception as error:  # whatever the client and the layers below it raise
            place = _from_cache(repo_id, revision, error)
        for name in _damaged(place, progress):
            repeated(partial(hf_hub_download, repo_id, name, revision=place.name, force_download=True))
        still = _damaged(place, progress)
    if still:
        raise IntegrityError(
            f"{url}: the download of {still[0]} is damaged: its bytes are not those that the Hub names",
            hint="Run the command again. If that does not help, the file is damaged on the Hub or on this disk.",
        )
    return place


def cached_model(repo_id: str, revision: str | None) -> Path:
    """The directory of a snapshot that was downloaded before, without any network call.

    LocalEntryNotFoundError if there is none. Other files than weights may be missing: nobody asked for them then.
    RemoteError if weights are.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return _snapshot(repo_id, revision, local=True)
    except LocalEntryNotFoundError as error:
        found = getattr(error, "snapshot_path", None)  # clients before 1.22 do not look for missing files
        if found is None:
            raise
    place = Path(found)
    try:
        Checkpoint.find(place)
    except MemitVCError as wrong:
        raise RemoteError(
            f"hf://{repo_id}: the copy in the cache is not whole: {wrong.message}",
            hint=f"Fetch the rest: hf download {repo_id} --revision {place.name}",
        ) from wrong
    return place


def _from_cache(repo_id: str, revision: str | None, error: Exception) -> Path:
    """What the cache has of the revision, if `error` says that nothing could be asked; else the error."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    nothing_asked = isinstance(error, LocalEntryNotFoundError) or unusable_setting(cause(error)) is not None
    known = _snapshots(repo_id) if nothing_asked else []
    if not known:
        raise error
    with suppress(LocalEntryNotFoundError):
        return cached_model(repo_id, revision)
    if revision is not None and _SHA1.fullmatch(revision):
        raise error
    found = translated(error, f"hf://{repo_id}", "downloading the model")
    raise RemoteError(
        f"{found.message}; the cache does not know what {revision or 'main'} is, but has {', '.join(known)}",
        hint=f"Name what the cache has: --revision {known[0]}. Or: {found.hint}",
    ) from error


def _snapshots(repo_id: str) -> list[str]:
    """The commits that the cache has something of, the newest copy first."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    place = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo_id, repo_type="model"), "snapshots")
    found = [path for path in place.glob("*") if _SHA1.fullmatch(path.name)]
    return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def _snapshot(repo_id: str, revision: str | None, *, local: bool) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            repo_id,
            revision=revision,
            allow_patterns=list(PATTERNS),
            ignore_patterns=list(IGNORED),
            local_files_only=local,
        )
    )


def _damaged(place: Path, progress: Progress) -> Sequence[str]:
    """Files whose bytes are not what their name in the cache says."""
    files = sorted(path for path in place.rglob("*") if path.is_file())
    found = []
    for number, path in enumerate(files, 1):
        name = path.resolve().name  # a link to blobs/<name>; a plain copy, on some disks, has no such name
        if (is_sha256(name) and file_digest(path) != name) or (
            _SHA1.fullmatch(name) and git_name(path.read_bytes()) != name
        ):
            found.append(path.relative_to(place).as_posix())
        progress("check the download", number, len(files))
    return found
