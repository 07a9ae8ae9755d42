"""Reading what a remote publishes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memit_vc.errors import IntegrityError, RemoteError
from memit_vc.objects import BaseManifest, EditableWeight, canonical_json, is_sha256, short
from memit_vc.remote.manifest import BASE, HPARAMS, MANIFEST, RemoteManifest
from memit_vc.remote.protocol import Remote, RemoteFile
from memit_vc.remote.strict_json import parsed

if TYPE_CHECKING:
    from memit_vc.repository import Repository

__all__ = ["MANIFEST_LIMIT", "RemoteBase", "published", "remote_base", "same_base"]

MANIFEST_LIMIT = 16 << 20
_BASE_LIMIT = 64 << 20
_HINT = "Nothing was stored. The remote is damaged or was made to mislead."
_NAMES = ("name", "parameter", "dtype")
_NUMBERS = ("layer", "d_out", "d_in", "quantum")


def published(there: Remote, revision: str | None) -> tuple[RemoteManifest | None, Mapping[str, RemoteFile]]:
    """(what is published, every file); None where nobody pushed yet. IntegrityError for a damaged manifest."""
    if revision is None:
        return None, {}
    listing = there.listing(revision)
    if MANIFEST not in listing:
        return None, listing
    data = there.read(MANIFEST, revision, limit=MANIFEST_LIMIT)
    return RemoteManifest.decode(data, there.url), listing


def same_base(repository: Repository, manifest: RemoteManifest, url: str) -> None:
    """RemoteError where the remote is about another base: its patches could not be added to this one."""
    if manifest.base != repository.base_id:
        raise RemoteError(
            f"{url} is about base {short(manifest.base)} ({manifest.source or 'a local directory'}), "
            f"this repository has {short(repository.base_id)} ({repository.config.base})",
            hint="`memitvc clone` it into a directory of its own.",
        )


@dataclass(frozen=True)
class RemoteBase:
    """What `init` recorded of the base at the other end; `manifest.id` was checked against memitvc.json."""

    manifest: BaseManifest
    weights: Sequence[EditableWeight]
    files: Mapping[str, str]
    hparams: bytes


def remote_base(there: Remote, revision: str, manifest: RemoteManifest) -> RemoteBase:
    """IntegrityError where it is not of the form that `push` writes, or of another base than the manifest says."""
    data = there.read(BASE, revision, limit=_BASE_LIMIT)
    bad = IntegrityError(f"{there.url}: {BASE} is damaged", hint=_HINT)
    try:
        record = parsed(data)
        found = BaseManifest.from_json(record["manifest"])
        weights = [EditableWeight.from_json(each) for each in record["weights"]]
        files = record["files"]
        whole = {"manifest": found.to_json(), "weights": [w.to_json() for w in weights], "files": files}
        if canonical_json(whole) != data or found.id != manifest.base:
            raise bad
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise bad from error
    shapes = {record.name: (record.dtype, record.shape) for record in found.tensors}
    for weight in weights:
        stored = (weight.d_out, weight.d_in) if weight.orientation == "out_in" else (weight.d_in, weight.d_out)
        if (
            not all(isinstance(getattr(weight, name), str) for name in _NAMES)
            or not all(type(getattr(weight, name)) is int for name in _NUMBERS)
            or shapes.get(weight.name) != (weight.dtype, stored)
        ):
            raise bad
    if not isinstance(files, dict) or not all(isinstance(n, str) and is_sha256(h) for n, h in files.items()):
        raise bad
    return RemoteBase(found, weights, files, there.read(HPARAMS, revision, limit=1 << 20))
