"""Texts of others in a line of ours: characters that move, hide or reverse what stands around them are written out."""

from __future__ import annotations

import re

BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""For a class of a regular expression: what changes the direction of writing."""
LINE_ENDS = "\u2028\u2029"
_MOVING = re.compile(f"[\x00-\x1f\x7f-\x9f{LINE_ENDS}{BIDI}]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def one_line(text: str) -> str:
    """A text that stays on its line: line ends, control characters and changes of direction as escapes."""
    return _MOVING.sub(lambda found: escape(found[0]), text)


def is_one_line(text: str) -> bool:
    """Whether `one_line` leaves it as it is."""
    return _MOVING.search(text) is None


def escape(character: str) -> str:
    """As Python writes it in a string: \\n, \\x1b, \\u202e."""
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def quoted(value: object, most: int = 80) -> str:
    """A value as Python writes it, for a message: cut short, and a number that Python does not write is only named."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits, alone or within a list
        return "a number of thousands of digits"
    return text if len(text) <= most else f"{text[:most]}…"


def is_unicode(text: str) -> bool:
    """Whether a text has no half of a character: neither a lone surrogate of JSON nor bytes of another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def indented(text: str) -> str:
    """A text of several lines whose later lines cannot pass for one of ours: none begins at the margin, and none moves
    to another line.
    """
    first, *later = map(one_line, text.splitlines() or [""])
    return "\n".join([first, *(line if line.startswith(" ") else f"    {line}" for line in later)])
