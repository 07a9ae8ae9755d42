"""What a reader of foreign bytes raises; the room that reads says which file it was."""

from __future__ import annotations


class Refused(ValueError):  # noqa: N818 (a verdict on the bytes, which every door turns into its own error)
    """The bytes are not taken. The text completes "FILE: …"; `hint` says what to do if the reader knows better than the
    door.
    """

    def __init__(self, reason: str, *, hint: str | None = None) -> None:
        super().__init__(reason)
        self.hint = hint


def hint_of(error: BaseException, otherwise: str) -> str:
    """The hint of a refusal, else the door's own."""
    return getattr(error, "hint", None) or otherwise
