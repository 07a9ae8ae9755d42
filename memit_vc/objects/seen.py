"""Text as people see it: two spellings that look the same are the same question."""

from __future__ import annotations

import unicodedata


def as_seen(text: str) -> str:
    """NFKC without characters that show nothing; every run of white space is one space, and none stands at the ends."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", "".join(c for c in text if not shows_nothing(c)))
    return " ".join(text.split())


def shows_nothing(character: str) -> bool:
    """Format characters (zero-width spaces and joiners, byte-order marks, soft hyphens) and variation selectors."""
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f" or character == "\u034f"
