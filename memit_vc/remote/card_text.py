"""Text of strangers inside Markdown: a fact may hold pipes, newlines, HTML, links, or our own markers."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["cell", "table"]

_LONGEST = 200
_PLAIN = frozenset(" .,;?'()+=%°")
"""Punctuation that means nothing inside a line of Markdown; all other ASCII punctuation is written as an entity."""
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


def cell(text: str) -> str:
    """One line that every Markdown renderer shows as `text` and nothing else: an entity never starts markup."""
    kept = (" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text if c not in _BIDI)
    line = " ".join("".join(kept).split())
    if len(line) > _LONGEST:
        line = line[: _LONGEST - 1] + "…"
    # "www." alone makes a link in GitHub's dialect
    line = "".join(
        c if c.isalnum() or not c.isascii() or c in _PLAIN or _joins(line, i) else f"&#{ord(c)};"
        for i, c in enumerate(line)
    )
    return re.sub(r"(?i)\b(www)\.", r"\1&#46;", line)


def _joins(line: str, place: int) -> bool:
    """Whether a hyphen stands inside of a word, where it starts no list and no rule."""
    return line[place] == "-" and line[place - 1 : place].isalnum() and line[place + 1 : place + 2].isalnum()


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; the cells are Markdown already."""
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
