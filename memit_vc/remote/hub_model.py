"""A model of the Hub in the client's own cache: downloaded again after a passing fault, and every file checked.

The client compares only sizes. In its cache a file has the name that the Hub gave it, which is the SHA-256 of a large
file and git's SHA-1 of a small one. So damaged files are found here, and fetched once more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from memit_vc.errors import IntegrityError
from memit_vc.objects import is_sha256
from memit_vc.progress import Progress, silent
from memit_vc.remote.hub_errors import hub_errors
from memit_vc.remote.hub_landed import git_name
from memit_vc.remote.hub_retry import repeated
from memit_vc.store.files import file_digest

PATTERNS = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja", "*.py")
IGNORED = ("consolidated*.safetensors", "*/*.safetensors")
"""The same weights once more in their maker's own format, and files in folders: adapters, other exports."""
_SHA1 = re.compile(r"[0-9a-f]{40}")


def download_model(repo_id: str, revision: str | None, *, progress: Progress = silent) -> Path:
    """The directory of a snapshot, whole and checked. RemoteError if the Hub refuses; IntegrityError for a file that
    comes damaged twice; StorageError if the cache cannot be written.
    """
    from huggingface_hub import constants, hf_hub_download

    url = f"hf://{repo_id}"

    with hub_errors(url, "downloading the model", target=Path(constants.HF_HUB_CACHE)):
        place = repeated(partial(_snapshot, repo_id, revision, local=False))
        for name in _damaged(place, progress):
            repeated(partial(hf_hub_download, repo_id, name, revision=place.name, force_download=True))
        still = _damaged(place, progress)
    if still:
        raise IntegrityError(
            f"{url}: the download of {still[0]} is damaged: its bytes are not those that the Hub names",
            hint="Run the command again. If that does not help, the file is damaged on the Hub or on this disk.",
        )
    return place


def cached_model(repo_id: str, revision: str) -> Path:
    """The directory of a snapshot that was downloaded before, without any network call. LocalEntryNotFoundError."""
    return _snapshot(repo_id, revision, local=True)


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
