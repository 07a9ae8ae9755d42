"""A remote in an object store: S3, Google Cloud Storage, Azure. `memitvc.json` is replaced only if it is still the one
that was read (If-Match; If-None-Match for the first); that is the compare-and-swap.

There is no lock, so two pushers write at the same time. What is named by its content, they may both write. The base's
description is made only where there is none. The files for readers without memit-vc come after the publication, and
each is replaced only if it is still as it was while the publication was ours: of two pushers, the later one's files
stay. Until they are all there, a marker names the publication that lacks them. A push that finds it completes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import md5, sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from memit_vc.concurrency import ordered_map
from memit_vc.errors import RefMovedError, RemoteError
from memit_vc.foreign.files import opened
from memit_vc.remote.bucket_store import PART, bucket_errors, open_store, require_package
from memit_vc.remote.manifest import ADAPTER, BASE, HPARAMS, MANIFEST, MAX_MANIFEST, unfinished_path
from memit_vc.remote.protocol import Change, RemoteFile, content_digest, content_size
from memit_vc.remote.strict_json import DISTRUST
from memit_vc.store.files import write_atomic

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutMode
    from obstore.store import ObjectStore

_T = TypeVar("_T")
_WORKERS = 8
_TRIES = 5


def _late(path: str) -> tuple[bool, str]:
    """The order of the files for readers: the adapter's config last."""
    return path == ADAPTER[0], path


class BucketRemote:
    """See `protocol.Remote`. A revision is the SHA-256 of memitvc.json; what it names never changes in place.

    The first call is the first request.
    """

    def __init__(self, url: str) -> None:
        require_package(url)
        self.url = url
        self._opened: ObjectStore | None = None

    @property
    def store(self) -> ObjectStore:
        """The client, made on first use."""
        if self._opened is None:
            self._opened = open_store(self.url)
        return self._opened

    @property
    def remarks(self) -> Sequence[str]:
        return ()

    def head(self) -> str | None:
        found = self._manifest()
        return None if found is None else sha256(found[0]).hexdigest()

    def start(self) -> str | None:
        return None

    def listing(self, revision: str | None) -> Mapping[str, RemoteFile]:  # noqa: ARG002 (one tree at a time)
        import obstore

        def ask() -> dict[str, RemoteFile]:
            pages = obstore.list(self.store, chunk_size=1000)
            return {file["path"]: RemoteFile(file["size"]) for page in pages for file in page}

        return self._asked(ask, "listing the files")

    def read(self, path: str, revision: str | None, *, limit: int) -> bytes:
        data = b"".join(self._chunks(path, limit))
        if path == MANIFEST and sha256(data).hexdigest() != revision:
            raise RefMovedError(f"{self.url} changed while it was read", hint="Run the command again.")
        return data

    def fetch(self, path: str, revision: str, target: Path, *, limit: int) -> None:  # noqa: ARG002
        write_atomic(target, self._chunks(path, limit))

    def holds(self, path: str, revision: str | None, content: bytes | Path) -> bool:  # noqa: ARG002
        """Where the store gives no MD5 as its tag, the file is read: that costs no more than to send it again."""
        size = content_size(content)
        meta = self._meta(path)
        if meta is None or meta["size"] != size:
            return False
        if (meta["e_tag"] or "").strip('"') in _tags(content):
            return True
        digest = sha256()
        for chunk in self._chunks(path, size):
            digest.update(chunk)
        return digest.hexdigest() == content_digest(content)

    def publish(self, change: Change, *, parent: str | None) -> str:
        before = self._manifest()
        if (None if before is None else sha256(before[0]).hexdigest()) != parent:
            raise self._moved()
        named = [path for path in change.adds if "/" in path]
        for _ in ordered_map(lambda path: self._put(path, change.adds[path]), named, workers=_WORKERS):
            pass
        for path in (BASE, HPARAMS):
            if path in change.adds:
                self._put_first(path, change.adds[path])
        given = change.adds.get(MANIFEST, b"" if before is None else before[0])
        manifest = given if isinstance(given, bytes) else given.read_bytes()
        made = sha256(manifest).hexdigest()
        late = sorted(change.adds.keys() - set(named) - {MANIFEST, BASE, HPARAMS}, key=_late)
        unfinished = unfinished_path(made)
        if late or change.deletes:
            self._put(unfinished, b"")
        if MANIFEST in change.adds:
            self._swap(manifest, before)
        if late or change.deletes:
            # without its config, which is written last, no reader takes weights for an adapter
            replaced = ADAPTER[:1] if not change.adds.keys().isdisjoint(ADAPTER) else ()
            for path in (*replaced, *sorted(change.deletes)):
                if self.head() == made:
                    self._delete(path)
                    if (now := self.head()) not in (made, None):  # it was another push's: the next one writes it again
                        self._put(unfinished_path(str(now)), b"")
            for path in late:
                self._put_latest(path, change.adds[path], made)
            self._delete(unfinished)
        return made

    def tag(self, name: str, revision: str, *, keep: bool = False) -> None:
        """Nothing: a bucket has no tags but those of memitvc.json."""
        del name, revision, keep

    def _manifest(self) -> tuple[bytes, dict[str, str]] | None:
        """Its bytes, and what names this version of it; None if there is none."""
        import obstore

        def ask() -> tuple[bytes, dict[str, str]] | None:
            try:
                found = obstore.get(self.store, MANIFEST)
            except FileNotFoundError:
                return None
            self._check_size(MANIFEST, found.meta["size"], MAX_MANIFEST)
            return bytes(found.bytes()), _version(found.meta)

        return self._asked(ask, f"reading {MANIFEST}")

    def _swap(self, manifest: bytes, before: tuple[bytes, dict[str, str]] | None) -> None:
        """Replace memitvc.json if it is still `before`. RefMovedError. After a lost answer it is read again."""
        failed = None
        try:
            if self._put_if(MANIFEST, manifest, None if before is None else before[1]):
                return
        except RemoteError as error:
            failed = error
        now = self._manifest()
        if now is not None and now[0] == manifest:
            return
        if failed is not None and (now and now[0]) == (before and before[0]):
            raise failed
        self._delete(unfinished_path(sha256(manifest).hexdigest()))
        raise self._moved()

    def _put_first(self, path: str, content: bytes | Path) -> None:
        if not self._put_if(path, content, None) and not self.holds(path, None, content):
            raise RemoteError(
                f"{self.url}: has another {path} already",
                hint="Push to another place. If nothing was published there, move that file away first.",
            )

    def _put_latest(self, path: str, content: bytes | Path, made: str) -> None:
        """Write a file unless a later publication is there: then its pusher writes the file."""
        for _ in range(_TRIES):
            meta = self._meta(path)
            if self.head() != made or self._put_if(path, content, None if meta is None else _version(meta)):
                return
        raise RemoteError(f"{self.url}: {path} changes again and again", hint="Push again when the others are done.")

    def _put(self, path: str, content: bytes | Path) -> None:
        import obstore

        self._asked(lambda: obstore.put(self.store, path, content, chunk_size=PART), f"sending {path}")

    def _put_if(self, path: str, content: bytes | Path, version: dict[str, str] | None) -> bool:
        """Write a file if it is that version of it, or absent for None; whether it was."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: PutMode | Any = "create" if version is None else version
        data = content if isinstance(content, bytes) else content.read_bytes()
        try:
            self._asked(lambda: obstore.put(self.store, path, data, mode=mode), f"sending {path}")
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def _delete(self, path: str) -> None:
        import obstore

        def ask() -> None:
            try:
                obstore.delete(self.store, path)
            except FileNotFoundError:
                return

        self._asked(ask, f"deleting {path}")

    def _meta(self, path: str) -> ObjectMeta | None:
        import obstore

        def ask() -> ObjectMeta | None:
            try:
                return obstore.head(self.store, path)
            except FileNotFoundError:
                return None

        return self._asked(ask, f"looking at {path}")

    def _chunks(self, path: str, limit: int) -> Iterator[bytes]:
        import obstore

        with bucket_errors(self.url, f"reading {path}"):
            try:
                found = obstore.get(self.store, path)
            except FileNotFoundError:
                raise RemoteError(
                    f"{self.url}: has no file {path}",
                    hint="Push to it again: a file was not pushed, or was changed since.",
                ) from None
            self._check_size(path, found.meta["size"], limit)
            for chunk in found.stream():
                yield bytes(chunk)

    def _check_size(self, path: str, size: int, limit: int) -> None:
        if size > limit:
            raise RemoteError(f"{self.url}: {path} holds {size} bytes, at most {limit} were expected", hint=DISTRUST)

    def _asked(self, call: Callable[[], _T], doing: str) -> _T:
        try:
            with bucket_errors(self.url, doing):
                return call()
        except FileNotFoundError:
            raise RemoteError(
                f"{self.url}: {doing}: there is no such bucket",
                hint="Check the address. A push makes no bucket.",
            ) from None

    def _moved(self) -> RefMovedError:
        return RefMovedError(f"{self.url} changed meanwhile", hint="Run `memitvc pull`, then push again.")


def _version(meta: ObjectMeta) -> dict[str, str]:
    """What a conditional write compares: a tag, or in Google's store a version."""
    found = {"e_tag": meta["e_tag"], "version": meta["version"]}
    return {name: value for name, value in found.items() if value is not None}


def _tags(content: bytes | Path) -> tuple[str, str]:
    """What S3 calls an object of these bytes, sent whole or in parts. A bucket with keys of its own differs."""
    whole, parts = _md5(), []
    source = BytesIO(content) if isinstance(content, bytes) else opened(content)
    with source as file:
        while part := file.read(PART):
            whole.update(part)
            parts.append(_md5(part).digest())
    return whole.hexdigest(), f"{_md5(b''.join(parts)).hexdigest()}-{len(parts)}"


def _md5(data: bytes = b"") -> Any:
    return md5(data, usedforsecurity=False)
