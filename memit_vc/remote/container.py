"""A remote's tree in one file: what `export --patch` writes, and what `import` reads with the code of `fetch`.

The file is a safetensors container. Each file of the tree is a U8 tensor named by its path (`protocol.py` lists them):
memitvc.json, commits/<id>.json, objects/ab/cdef…. No name in it is ever used as a path on this disk, and the header
cannot claim more than the file holds. The one metadata key says what it is and gives the SHA-256 of all data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from memit_vc.errors import IntegrityError, MemitVCError, UsageError
from memit_vc.foreign.data import json_value
from memit_vc.foreign.files import opened
from memit_vc.objects import METADATA_KEY, JsonValue, canonical_json, is_sha256
from memit_vc.remote.manifest import MANIFEST, MAX_MANIFEST, MAX_RECORD, commit_path, object_path
from memit_vc.remote.protocol import RemoteFile, content_size
from memit_vc.store.files import read_chunks, storage_errors, write_atomic
from memit_vc.store.safetensors_file import FileHeader, read_header, write_header

PATCH_FILE_FORMAT = 2
PATCH_REF = "heads/patch"
"""The one ref of the tree: the last commit of the file."""
_KIND = "patch file"
_CHUNK = 1 << 20
DISTRUST = "The file is damaged or was made to mislead; nothing was stored."


def write_container(path: Path, files: Mapping[str, bytes | Path], *, replace: bool = True) -> None:
    """Write the file whole or not at all; the same bytes for the same tree. `replace` as for `write_atomic`."""
    with storage_errors(path):
        sizes = {name: content_size(content) for name, content in files.items()}
    entries = {name: ("U8", (size,)) for name, size in sizes.items()}

    def content() -> Iterator[bytes]:
        for name in sorted(files):  # the format's order for tensors of one type
            source = files[name]
            yield from (source,) if isinstance(source, bytes) else read_chunks(source)

    whole = sha256()
    with storage_errors(path):
        for chunk in content():
            whole.update(chunk)
    about: dict[str, JsonValue] = {"format": PATCH_FILE_FORMAT, "kind": _KIND, "sha256": whole.hexdigest()}

    def file() -> Iterator[bytes]:
        yield write_header(entries, {METADATA_KEY: canonical_json(about).decode()})
        yield from content()

    write_atomic(path, file(), replace=replace)


class ContainerTree:
    """The tree in a file; see `protocol.Tree`. A revision is the SHA-256 of memitvc.json, as in a directory.

    IntegrityError for anything that `write_container` would not have written, MemitVCError for a version that this
    release does not know, UsageError for a file of edits, StorageError if the system refuses the read.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.url = file, str(file)
        self._header = self._opened()
        self._check_sizes()
        self._check_about()
        for name, entry in self._header.tensors.items():
            if not _is_path(name) or entry.dtype != "U8" or len(entry.shape) != 1:
                raise self._bad(f"holds {name!r}, which is not a file of a remote")

    def head(self) -> str | None:
        if MANIFEST not in self._header.tensors:
            raise self._bad(f"has no {MANIFEST}")
        return sha256(self.read(MANIFEST, None, limit=MAX_MANIFEST)).hexdigest()

    def listing(self, revision: str | None) -> Mapping[str, RemoteFile]:  # noqa: ARG002 (one tree, which stays)
        return {name: RemoteFile(entry.size) for name, entry in self._header.tensors.items()}

    def read(self, path: str, revision: str | None, *, limit: int) -> bytes:  # noqa: ARG002
        return b"".join(self._chunks(path, limit))

    def fetch(self, path: str, revision: str, target: Path, *, limit: int) -> None:  # noqa: ARG002
        write_atomic(target, self._chunks(path, limit))

    def _chunks(self, path: str, limit: int) -> Iterator[bytes]:
        entry = self._header.tensors[path]
        if entry.size > limit:
            raise self._bad(f"{path} has {entry.size:,} bytes, at most {limit:,} can be right")
        yield from self._data(entry.begin, entry.end)

    def _data(self, begin: int, end: int | None = None) -> Iterator[bytes]:
        with storage_errors(self.file), opened(self.file) as file:
            file.seek(self._header.data_start + begin)
            left = end if end is None else end - begin
            while chunk := file.read(_CHUNK if left is None else min(_CHUNK, left)):
                left = left if left is None else left - len(chunk)
                yield chunk

    def _opened(self) -> FileHeader:
        try:
            return read_header(self.file)
        except IntegrityError as error:
            with storage_errors(self.file), opened(self.file) as file:
                start = file.read(64)
            # the length that a safetensors file begins with has zeros
            if start.lstrip()[:1] in (b"{", b"[") and 0 not in start:
                raise UsageError(
                    f"{self.file}: is JSON, not a patch file of `memitvc export --patch`",
                    hint="Commit it, if it is a file of edits: memitvc commit FILE",
                ) from error
            raise

    def _check_sizes(self) -> None:
        """Before gigabytes are hashed: the small files are small."""
        for name, entry in self._header.tensors.items():
            most = MAX_MANIFEST if name == MANIFEST else MAX_RECORD if name.startswith("commits/") else None
            if most is not None and entry.size > most:
                raise self._bad(f"{name} has {entry.size:,} bytes, at most {most:,} can be right")

    def _check_about(self) -> None:
        try:
            raw = self._header.metadata[METADATA_KEY]
            about = json_value(raw.encode())
            kind, version = about["kind"], about["format"]
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise self._bad("is not a patch file") from error
        if kind not in (_KIND, "bundle"):  # format 1 said "bundle"
            raise self._bad(f"is not a patch file but {kind!r}")
        if version != PATCH_FILE_FORMAT:
            older = type(version) is int and version < PATCH_FILE_FORMAT
            raise MemitVCError(
                f"{self.file}: has patch file format {version!r}, this memit-vc reads {PATCH_FILE_FORMAT}",
                hint="Export it again with this version." if older else "Upgrade memit-vc.",
            )
        whole = sha256()
        for chunk in self._data(0):
            whole.update(chunk)
        expected: dict[str, JsonValue] = {"format": PATCH_FILE_FORMAT, "kind": _KIND, "sha256": whole.hexdigest()}
        if raw != canonical_json(expected).decode() or len(self._header.metadata) != 1:
            raise self._bad("its bytes are not those that were written")

    def _bad(self, reason: str) -> IntegrityError:
        return IntegrityError(f"{self.file}: {reason}", hint=DISTRUST)


def _is_path(name: str) -> bool:
    commit = name.removeprefix("commits/").removesuffix(".json")
    blob = name.removeprefix("objects/").replace("/", "", 1)
    return (
        name == MANIFEST
        or (is_sha256(commit) and name == commit_path(commit))
        or (is_sha256(blob) and name == object_path(blob))
    )
