"""What is printed, without commands to the terminal: texts of strangers come out of pulled histories and remotes."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO, cast

from memit_vc.foreign.text import BIDI, LINE_ENDS, escape

_COLOURS = r"\x1b\[(?:(?:[012]|22|39|3[0-7]|9[0-7])(?:;(?=\d)|(?=m)))*m"
_CURSOR = r"\x1b\[[0-9;?]*[A-Za-z]"
_CONTROLS = rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{LINE_ENDS}{BIDI}]"
_UNSEEN_BY_JSON = rf"[\x7f-\x9f{LINE_ENDS}{BIDI}]"


class OutputLostError(Exception):
    """The result could not be written; what the command did stands. `error` is the system's."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _Shown:
    """A text stream that passes on colours, with `bars` (of notes) also what progress bars do, and shows other control
    characters as \\x1b: they could rename the window, fill the clipboard, or hide what was printed before. So with
    characters that end a line or change the direction of writing. `plain` is the stream itself, for what another
    program reads.
    """

    def __init__(self, stream: TextIO, *, bars: bool) -> None:
        self._stream = self.plain = stream
        self._notes = bars
        self._lost: OSError | None = None
        kept = f"{_CURSOR}|\\r" if bars else rf"{_COLOURS}|\r(?=\n)"
        self._pattern = re.compile(f"({kept})|{_CONTROLS}")

    def write(self, text: str) -> int:
        shown = self._pattern.sub(_escaped, text)
        if not shown:  # click asks so whether this is a text stream
            return 0
        try:
            self._pass(self._stream.write, shown)
        except UnicodeEncodeError:
            encoding = self._stream.encoding  # not the error's, which calls all eight-bit ones "charmap"
            self._pass(self._stream.write, shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        self._pass(self._stream.flush)

    def _pass(self, call: Callable[..., object], *given: str) -> None:
        """Notes may get lost without a word, a result may not."""
        if self._lost is None:
            try:
                call(*given)
            except OSError as error:
                self._lost = error
                _drop(self._stream)
        if self._lost is not None and not self._notes:
            raise OutputLostError(self._lost)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _drop(stream: TextIO) -> None:
    """Let what is still in the stream's buffer go nowhere: the interpreter would complain of it at its end."""
    with suppress(OSError, io.UnsupportedOperation):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def shown(stream: TextIO, *, bars: bool = False) -> TextIO:
    """The stream, safe to print texts of strangers to."""
    return cast(TextIO, _Shown(stream, bars=bars))


def escaped_json(text: str) -> str:
    """A JSON document whose strings hold no control characters and no changes of direction: `json` itself leaves DEL
    and what is above it.
    """
    return re.sub(_UNSEEN_BY_JSON, lambda found: f"\\u{ord(found[0]):04x}", text)


def _escaped(found: re.Match[str]) -> str:
    return found[1] or escape(found[0])
