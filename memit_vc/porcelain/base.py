"""The base checkpoint: where it lies, its grids, and whether it is still the one that `init` recorded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from memit_vc.config import Config
from memit_vc.errors import BaseChangedError, IntegrityError, RemoteError, StorageError
from memit_vc.foreign.data import json_value
from memit_vc.foreign.files import read_file, too_large
from memit_vc.foreign.placeholders import check_real_file
from memit_vc.foreign.refused import Refused, hint_of
from memit_vc.progress import Progress, silent
from memit_vc.store.checkpoint import Checkpoint
from memit_vc.store.files import storage_errors
from memit_vc.store.jsoncache import recall, remember
from memit_vc.store.links import leads_out

if TYPE_CHECKING:
    from memit_vc.repository import Repository


_STAMPS = "cache/base-files.json"
MAX_CONFIG = 1 << 24
"""Bytes of a config: transformers parses it in memory, and what is made of it is many times larger."""
_CONFIGS = ("config.json", "generation_config.json", "special_tokens_map.json", "tokenizer_config.json")
_MAX_PARSED = 1 << 28
"""Bytes of another file that transformers parses: the largest tokenizers have some 40 MB."""
_PARSED = (".json", ".model", ".jinja")


@dataclass(frozen=True)
class SeenBase:
    """A checkpoint that may become a base. `name` is its Hub id, with the Hub commit as `revision`, or its directory.

    `stamps` are those that its files had before they were read.
    """

    name: str
    revision: str | None
    checkpoint: Checkpoint
    stamps: Mapping[str, Sequence[int]]

    @classmethod
    def find(cls, source: str, revision: str | None, *, progress: Progress = silent) -> SeenBase:
        """Find `source` as `fetch_base` does, and read the headers of its weight files."""
        path, found = fetch_base(source, revision, progress=progress)
        checkpoint = Checkpoint.find(path)
        check_links(checkpoint)
        _check_others(checkpoint)
        return cls(source if found else str(path), found, checkpoint, checkpoint.fingerprints())

    def in_parts(self, names: Collection[str]) -> SeenBase:
        """The same, as `Checkpoint.in_parts`."""
        return replace(self, checkpoint=self.checkpoint.in_parts(names))

    def check_untouched(self) -> None:
        """BaseChangedError if a file changed since it was seen."""
        if self.checkpoint.fingerprints() != self.stamps:
            raise BaseChangedError(
                f"{self.checkpoint.directory}: its files changed while they were read",
                hint="Wait until nothing writes there, then try again.",
            )


def fetch_base(source: str, revision: str | None, *, progress: Progress = silent) -> tuple[Path, str | None]:
    """(directory, Hub commit or None) of `source`: a local directory, or else a Hub id, downloaded if it is not cached.

    The one place that may use the network for a base. RemoteError if the Hub has no such model or cannot be reached,
    IntegrityError if the download is damaged.
    """
    local = Path(source).expanduser()
    if local.is_dir():
        return local.resolve(), None
    if local.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise StorageError(
            f"{source} is not a directory", hint="Give a model directory, or a Hub id such as owner/name."
        )
    from memit_vc.remote.hub_model import download_model

    try:
        path = download_model(source, revision, progress=progress)
    except RemoteError as error:
        raise RemoteError(
            f"{source} is not a directory here, and could not be fetched from the Hub: {error.message}", hint=error.hint
        ) from error
    return path, path.name


def find_base(config: Config) -> Path:
    """The base's directory without any network call. BaseChangedError if it is gone."""
    if config.revision is None:
        local = Path(config.base)
        if not local.is_dir():
            raise BaseChangedError(
                f"the base directory {config.base} is gone",
                hint="Put it back, or correct [base] source in .memitvc/config.toml. `memitvc checkout` works without "
                "it if an earlier checkout has split the base.",
            )
        return local
    from huggingface_hub.errors import LocalEntryNotFoundError

    from memit_vc.remote.hub_model import cached_model

    try:
        return cached_model(config.base, config.revision)
    except LocalEntryNotFoundError as error:
        raise BaseChangedError(
            f"the base {config.base} at {config.revision[:10]} is no longer in the local cache",
            hint=f"Fetch it again: hf download {config.base} --revision {config.revision}",
        ) from error


def checked_base(repository: Repository, *, whole: bool = False, progress: Progress = silent) -> Checkpoint:
    """The base, proved to be the one that `init` recorded. Only files whose stamps changed are hashed again here; the
    others are taken at their word until a tensor is read, which checks it. `whole`: for who has transformers load the
    model, which checks nothing; every file is hashed.
    """
    manifest = repository.base()
    checkpoint = Checkpoint.find(find_base(repository.config)).in_parts(manifest.names)
    check_links(checkpoint)
    stamps = checkpoint.fingerprints()
    kept = recall(repository.root / _STAMPS)
    recorded = {name: stamp for name, stamp in kept.items() if isinstance(stamp, list)}
    trusted = {} if whole else recorded
    problems = checkpoint.differences(manifest, repository.base_files(), recorded=trusted, progress=progress)
    if problems:
        more = f" (and {len(problems) - 3} more differences)" if len(problems) > 3 else ""
        raise BaseChangedError(
            f"the base at {checkpoint.directory} is not the one that init recorded: {'; '.join(problems[:3])}{more}",
            hint="Put the original files back, or start a repository on the new base with `memitvc init`.",
        )
    if stamps != recorded:
        remember_base(repository, stamps)
    return checkpoint.promising(manifest)


def forget_base(repository: Repository) -> None:
    """Forget the stamps: the next check hashes every file."""
    with suppress(OSError):
        (repository.root / _STAMPS).unlink(missing_ok=True)


def check_links(checkpoint: Checkpoint) -> None:
    """StorageError for a symlink out of the directory: whoever made it could name any file of this machine, and a
    checkout would hold a copy.
    """
    directory = checkpoint.directory
    for path in (directory / name for name in (*checkpoint.files, *checkpoint.other_files)):
        if leads_out(path, directory):
            raise StorageError(
                f"{path}: is a link to {path.resolve()}, out of the model's directory",
                hint="Put the file itself there if it belongs to the model (cp -L), or remove the link.",
            )


def _check_others(checkpoint: Checkpoint) -> None:
    """IntegrityError for a config, a tokenizer or another file that is none, or that is larger than any is."""
    for name in checkpoint.other_files:
        path = checkpoint.directory / name
        try:
            with storage_errors(path):
                if name in _CONFIGS:
                    json_value(read_file(path, most=MAX_CONFIG))
                    continue
                check_real_file(path)
                size = path.stat().st_size
                if path.suffix in _PARSED and size > _MAX_PARSED:
                    raise too_large(size, _MAX_PARSED)
        except Refused as error:
            raise IntegrityError(f"{path}: {error}", hint=hint_of(error, _DOWNLOAD)) from error
        except ValueError as error:
            raise IntegrityError(f"{path}: is not JSON: {error}", hint=_DOWNLOAD) from error


_DOWNLOAD = "Download the model again."


def remember_base(repository: Repository, stamps: Mapping[str, Sequence[int]]) -> None:
    """Keep the stamps (size, mtime, inode) that files had before their bytes were checked. They may be lost."""
    remember(repository.root / _STAMPS, stamps)
