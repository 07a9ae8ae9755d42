"""What a remote can do: hold a tree of files, and change it by compare-and-swap. It knows nothing of commits.

The tree, the same on every kind of remote (docs/architecture.md, "Remotes"):

    README.md                     the model card
    memitvc.json                  canonical JSON: format, base id, refs; it alone says what is published
    base.json, hparams.yaml       the base's manifest, its editable weights, the hyperparameters
    commits/<commit id>.json      a commit with its facts, the constraints of its patches, its evaluations
    objects/ab/cdef…              patches, constraints and provenance, by SHA-256
    adapter_config.json, …        the default branch's tip as a PEFT adapter, where its rank allows one

Everything under `commits/` and `objects/` is named by what it holds and never changes; only a commit's record may gain
the names of constraints that came later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from memit_vc.store.files import file_digest


def content_size(content: bytes | Path) -> int:
    """Bytes of what is, or will be, a file of the tree."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def content_digest(content: bytes | Path) -> str:
    """Its SHA-256."""
    return sha256(content).hexdigest() if isinstance(content, bytes) else file_digest(content)


@dataclass(frozen=True)
class RemoteFile:
    """A file of the tree: bytes, and its SHA-256 or git's name for its content, if the server gives them."""

    size: int
    sha256: str | None = None
    git: str | None = None


@dataclass(frozen=True)
class Change:
    """One publication. `adds` maps paths (POSIX, relative) to content or to a file that holds it."""

    message: str
    adds: Mapping[str, bytes | Path]
    deletes: frozenset[str] = field(default_factory=frozenset)


class Tree(Protocol):
    """A tree of files that can be read, with a revision that changes whenever the tree does.

    Every method raises RemoteError, with what failed and what to do, if the other side cannot be reached, refuses, or
    answers nonsense. Nothing that is read is trusted: the caller checks the hashes.
    """

    url: str

    def head(self) -> str | None:
        """The present revision, opaque; None if nothing was ever pushed (or the repository does not exist yet)."""
        ...

    def listing(self, revision: str | None) -> Mapping[str, RemoteFile]:
        """Every file at a revision, by path; at None, the files that are there although nothing was ever pushed."""
        ...

    def read(self, path: str, revision: str | None, *, limit: int) -> bytes:
        """A small file. RemoteError if it is absent or holds more than `limit` bytes."""
        ...

    def fetch(self, path: str, revision: str, target: Path, *, limit: int) -> None:
        """Write a file's bytes to `target`, which does not exist. RemoteError as for `read`; a part may be left."""
        ...


class Remote(Tree, Protocol):
    """A tree that can be published to. Errors as for `Tree`."""

    @property
    def remarks(self) -> Sequence[str]:
        """Sentences for the user about the other end, after a publication."""
        ...

    def start(self) -> str | None:
        """The revision that a first push builds on, if there is no head. A new branch of the Hub starts at main."""
        ...

    def holds(self, path: str, revision: str | None, content: bytes | Path) -> bool:
        """Whether there is a file with these very bytes. Nothing is downloaded, unless a bucket gives no digest."""
        ...

    def publish(self, change: Change, *, parent: str | None) -> str:
        """Make the change, whole or not at all, on top of revision `parent`; the new revision.

        RefMovedError if the head is no longer `parent`. A lost answer is resolved by reading the head again.
        """
        ...

    def tag(self, name: str, revision: str, *, keep: bool = False) -> None:
        """Put one of the server's own tags on a revision, if it has such tags (as the Hub does); idempotent.

        RemoteError if another revision has the name, unless with `keep` it stays there. memit-vc itself reads only the
        tags in memitvc.json.
        """
        ...
