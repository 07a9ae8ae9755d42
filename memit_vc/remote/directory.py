"""A remote that is a plain directory: a shared disk, a USB stick, a folder that something else synchronises.

The directory is the tree. `memitvc.json` is replaced last, by a rename, under a lock that the system releases when its
holder dies. So a reader of the history sees the old publication or the new one. A killed push leaves files that nothing
names; the next push of the same commits finds them in place. The files for readers without memit-vc cannot be renamed
together: while a push runs, and after a killed one, there is no adapter instead of one of two states. The next push
completes it.

A directory that its group may write to is a group's: what is made in it can be read and replaced by the group, whatever
the umask of the one who pushes.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from stat import S_IMODE, S_IWGRP

from memit_vc.concurrency import ordered_map
from memit_vc.errors import RefMovedError, RemoteError, StorageError
from memit_vc.remote.manifest import ADAPTER, BASE, CARD, HPARAMS, MANIFEST, MAX_MANIFEST, PICTURES
from memit_vc.remote.protocol import Change, RemoteFile, content_digest, content_size
from memit_vc.remote.strict_json import DISTRUST
from memit_vc.store.files import file_digest, fsync_path, make_directories, read_chunks, write_atomic
from memit_vc.store.links import leads_out
from memit_vc.store.locks import locked
from memit_vc.store.temporaries import clear_abandoned, is_temporary, remove_temporary, stale_temporaries

_LOCK = ".memitvc-lock"
_WAIT = 30.0
"""Seconds that a push waits for another one to the same directory."""
_OURS = frozenset(("commits", "objects", MANIFEST, BASE, HPARAMS, CARD, *PICTURES, *ADAPTER))


def _late(path: str) -> tuple[bool, bool, str]:
    """The order of writing: the manifest last, before it the adapter's config."""
    return path == MANIFEST, path == ADAPTER[0], path


def _raised(error: OSError) -> None:
    """For `os.walk`, which else passes over a directory that may not be read: its files would count as lacking."""
    if not isinstance(error, FileNotFoundError):  # not there yet, or no longer
        raise error


class DirectoryRemote:
    """See `protocol.Remote`. A revision is the SHA-256 of memitvc.json; what it names never changes in place."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.url = str(self.directory)

    @property
    def remarks(self) -> Sequence[str]:
        return ()

    def head(self) -> str | None:
        if (self.directory / ".memitvc").is_dir():
            raise RemoteError(
                f"{self.url} is a working repository, not a remote",
                hint="Push it to a directory of its own first; others clone and pull from there.",
            )
        if not (self.directory / MANIFEST).exists():
            if self.directory.exists() and not self.directory.is_dir():
                raise RemoteError(f"{self.url} is a file", hint="Name a directory; a push makes it if it is absent.")
            return None
        return sha256(b"".join(self._chunks(MANIFEST, MAX_MANIFEST))).hexdigest()

    def start(self) -> str | None:
        return None

    def listing(self, revision: str | None) -> Mapping[str, RemoteFile]:  # noqa: ARG002 (one tree at a time)
        found = {}
        try:
            for directory, below, names in os.walk(self.directory, onerror=_raised):
                for path in (Path(directory, name) for name in (*below, *names)):
                    if is_temporary(path) or path.name == _LOCK or self._is_foreign_link(path):
                        continue
                    if path.is_file():
                        found[path.relative_to(self.directory).as_posix()] = RemoteFile(path.stat().st_size)
        except OSError as error:
            raise self._refused(error) from error
        return found

    def read(self, path: str, revision: str | None, *, limit: int) -> bytes:
        data = b"".join(self._chunks(path, limit))
        if path == MANIFEST and sha256(data).hexdigest() != revision:
            raise RefMovedError(f"{self.url} changed while it was read", hint="Run the command again.")
        return data

    def fetch(self, path: str, revision: str, target: Path, *, limit: int) -> None:  # noqa: ARG002
        write_atomic(target, self._chunks(path, limit))

    def holds(self, path: str, revision: str | None, content: bytes | Path) -> bool:  # noqa: ARG002
        try:
            return self._same(self._inside(path), content)
        except OSError as error:
            raise self._refused(error) from error

    def publish(self, change: Change, *, parent: str | None) -> str:
        try:
            with self._locked():
                if self.head() != parent:
                    raise RefMovedError(f"{self.url} changed meanwhile", hint="Run `memitvc pull`, then push again.")
                self._tidy()
                named = sorted(path for path in change.adds if "/" in path)
                self._write_named({path: change.adds[path] for path in named})
                # without its config, which is written last of both, no reader takes weights for an adapter
                replaced = ADAPTER[:1] if not change.adds.keys().isdisjoint(ADAPTER) else ()
                for path in (*replaced, *sorted(change.deletes)):
                    self._inside(path).unlink(missing_ok=True)
                for path in sorted(change.adds.keys() - set(named), key=_late):
                    self._write(path, change.adds[path])
        except OSError as error:
            raise self._refused(error) from error
        except StorageError as error:
            raise RemoteError(error.message, hint=error.hint) from error
        head = self.head()
        if head is None:
            raise RemoteError(f"{self.url} lost its {MANIFEST}", hint="Look at what else writes there; push again.")
        return head

    def tag(self, name: str, revision: str, *, keep: bool = False) -> None:
        """Nothing: a directory has no tags but those of memitvc.json."""
        del name, revision, keep

    def _write_named(self, files: Mapping[str, bytes | Path]) -> None:
        """Files that nobody reads before memitvc.json names them: each is durable before it has its name, and at the
        end all names are durable. Each directory is synced once, also for names that a killed push left there. It is
        made before the files are written side by side: else two of them would make it, and sync its parent, twice.
        """
        for path in files:
            make_directories(self._inside(path).parent, besides=self._besides(0o070))
        for _ in ordered_map(lambda path: self._write(path, files[path], sync_name=False), files):
            pass
        for name in ("commits", "objects"):
            for directory, _, _ in os.walk(self.directory / name, onerror=_raised):
                fsync_path(Path(directory))

    def _write(self, path: str, content: bytes | Path, *, sync_name: bool = True) -> None:
        target = self._inside(path)
        if path.startswith("objects/") and self._same(target, content):
            return
        make_directories(target.parent, besides=self._besides(0o070))
        data = content if isinstance(content, bytes) else read_chunks(content)
        write_atomic(target, data, besides=self._besides(0o060), sync_name=sync_name)

    def _besides(self, bits: int) -> int:
        """`bits` of the mode of what is made here if the directory is a group's."""
        return bits if self.directory.stat().st_mode & S_IWGRP else 0

    @staticmethod
    def _same(target: Path, content: bytes | Path) -> bool:
        """Compare bytes: a copy of this directory may have been stopped half-way. A link is replaced by a file."""
        if target.is_symlink() or not target.is_file() or target.stat().st_size != content_size(content):
            return False
        return file_digest(target) == content_digest(content)

    def _tidy(self) -> None:
        """Remove what a killed push left under the names that a push writes: any live writer holds the lock."""
        for name in ("commits", "objects"):
            for path, _ in stale_temporaries(self.directory / name, 0):
                remove_temporary(path)
        for name in (MANIFEST, BASE, HPARAMS, CARD, *PICTURES, *ADAPTER):
            clear_abandoned(self.directory / name)

    def _inside(self, path: str) -> Path:
        parts = path.split("/")
        if path.startswith("/") or "\\" in path or any(part in ("", ".", "..") for part in parts):
            raise RemoteError(f"{path!r} is not a path of a remote", hint="Report it, please: this is a bug.")
        for depth in range(1, len(parts)):
            above = self.directory.joinpath(*parts[:depth])
            if above.is_symlink():
                raise self._link(above)
        return self.directory.joinpath(*parts)

    def _is_foreign_link(self, path: Path) -> bool:
        """Whether it is a link that is not followed. RemoteError if it has the name of a file of ours, so that nobody
        writes where nobody reads.
        """
        if not path.is_symlink() or not (path.is_dir() or leads_out(path, self.directory)):
            return False
        if path.relative_to(self.directory).parts[0] in _OURS:
            raise self._link(path)
        return True

    @staticmethod
    def _link(path: Path) -> RemoteError:
        return RemoteError(
            f"{path}: is a link to {path.readlink()}, and links out of a remote are not followed",
            hint="Put the files themselves there. To use another disk, move the whole directory and push to its new "
            "address.",
        )

    def _chunks(self, path: str, limit: int) -> Iterator[bytes]:
        source = self._inside(path)
        self._is_foreign_link(source)
        try:
            size = source.stat().st_size
            if size > limit:
                raise RemoteError(
                    f"{source} holds {size} bytes, at most {limit} were expected",
                    hint=DISTRUST,
                )
            for chunk in read_chunks(source):
                size = size - len(chunk)
                if size < 0:
                    raise RemoteError(f"{source} grew while it was read", hint="Run the command again.")
                yield chunk
        except OSError as error:
            raise self._refused(error) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        make_directories(self.directory)
        lock = self.directory / _LOCK
        hint = f"Wait until it is done, then push again. If there is none, a stopped process holds {lock}."
        with locked(lock, wait=_WAIT, busy=f"another push to {self.url} is under way", hint=hint):
            mode = lock.stat().st_mode
            if mode | self._besides(0o060) != mode:
                with suppress(PermissionError):  # its owner is another, who has yet to push with this version
                    lock.chmod(S_IMODE(mode) | 0o060)
            yield

    def _refused(self, error: OSError) -> RemoteError:
        free = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and self.directory.is_dir():
            free = f" ({shutil.disk_usage(self.directory).free >> 20} MiB free)"
        return RemoteError(
            f"{error.filename or self.url}: {error.strerror or error}{free}",
            hint="Check the path, its permissions and the space, then run the command again.",
        )
