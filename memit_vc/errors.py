"""One tree of errors. Each says what is wrong, where, and what to do; only the CLI boundary prints it.

Exit codes: 1 error · 2 usage · 10 no repository · 11 ref moved or locked · 12 integrity · 13 semantic conflict ·
14 remote · 15 verification failed · 16 policy · 130 interrupted (129 SIGHUP, 143 SIGTERM) ·
141 standard output was closed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

DOCS = "https://github.com/memit-vc/memit-vc/blob/main/docs/"
"""Where messages send a reader: an installed package has no pages."""


class MemitVCError(Exception):
    """Base of every error that a user can meet.

    `message` says what is wrong and where (file, record, field), `hint` what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint is not None:  # PEP 678: callers of the library see it in the traceback
            self.__notes__ = [f"hint: {hint}"]


class UsageError(MemitVCError):
    """The command was called in a way that cannot work."""

    exit_code = 2


class EditFileError(MemitVCError, ValueError):
    """An edit file, or one record of it, cannot be read as facts."""


class HparamsError(MemitVCError, ValueError):
    """A hyperparameter file or value is wrong; the message names file and key."""


class RevisionError(MemitVCError):
    """A revision does not name a commit; the hint suggests near names."""


class UnsupportedModelError(MemitVCError):
    """The model cannot be edited here: unknown family, mixture of experts, quantised weights."""


class EngineError(MemitVCError):
    """The edit itself failed: unusable statistics, a delta that cannot be snapped, a health limit."""


class StorageError(MemitVCError):
    """The operating system refused a read or a write: no space, no permission, unreadable file."""


class NoRepositoryError(MemitVCError):
    """No `.memitvc` directory here or in any parent."""

    exit_code = 10


class RefMovedError(MemitVCError):
    """The branch moved while the command was computing; nothing was lost."""

    exit_code = 11


class LockedError(MemitVCError):
    """Another process holds the database for longer than the timeout."""

    exit_code = 11


class IntegrityError(MemitVCError):
    """Stored bytes are not those that their name or the history promises."""

    exit_code = 12


class BaseChangedError(IntegrityError):
    """The base checkpoint is not the one that `init` recorded."""


class ConflictError(MemitVCError):
    """Two live facts contradict each other (same subject and prompt, different targets), and `conflicts` lists them; or
    a patch would have to be split.
    """

    exit_code = 13

    def __init__(
        self, message: str, *, hint: str | None = None, conflicts: Sequence[Mapping[str, object]] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.conflicts = tuple(conflicts)


class PolicyError(MemitVCError):
    """A score breaks a bound that the user set; nothing was stored."""

    exit_code = 16


class RemoteError(MemitVCError):
    """A remote refused or failed, or holds something that breaks the format."""

    exit_code = 14


class VerificationError(MemitVCError):
    """A directory or a computation does not hold the state that it should."""

    exit_code = 15
