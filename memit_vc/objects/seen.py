"""Text as people see it: two spellings that look the same are the same question."""

from __future__ import annotations

import unicodedata

_EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "FULLWIDTH", "HALFWIDTH KATAKANA")
_SPACELESS = (*_EAST_ASIAN, "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
_OF_ITS_OWN = ("<super>", "<sub>", "<fraction>")
"""Decompositions that change what is read: 10² is not 102."""


def as_seen(text: str) -> str:
    """NFKC without characters that show nothing; every run of white space is one space, and none stands at the ends.
    Raised and lowered characters and fractions stay.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", "".join(_folded(c) for c in text if not shows_nothing(c)))
    return " ".join(text.split())


def _folded(character: str) -> str:
    kept = unicodedata.decomposition(character).startswith(_OF_ITS_OWN)
    return character if kept else unicodedata.normalize("NFKC", character)


def is_east_asian(character: str) -> bool:
    """Whether a character belongs to the scripts of Chinese, Japanese and Korean, or to their punctuation."""
    name = unicodedata.name(character, "") if character else ""
    return name.startswith((*_EAST_ASIAN, "HANGUL")) or "\u3000" <= character <= "\u303f"


def is_spaceless(character: str) -> bool:
    """Whether a character belongs to a script, or is of its punctuation, that is written without spaces."""
    name = unicodedata.name(character, "") if character else ""
    return name.startswith(_SPACELESS) or "\u3000" <= character <= "\u303f"


def shows_nothing(character: str) -> bool:
    """Format characters (zero-width spaces and joiners, byte-order marks, soft hyphens) and variation selectors."""
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f" or character == "\u034f"


def occurrences(subject: str, text: str) -> list[int]:
    """Where the subject begins in a text, first to last, also within words."""
    found, start = [], text.find(subject) if subject else -1
    while start >= 0:
        found.append(start)
        start = text.find(subject, start + 1)
    return found


def stands_alone(subject: str, text: str, start: int) -> bool:
    """Whether the subject at `start` is no part of a longer word: "Java" is one of "JavaScript"."""
    end = start + len(subject)
    return not (_joined(text[start - 1 : start] + subject[:1]) or _joined(subject[-1:] + text[end : end + 1]))


def _joined(pair: str) -> bool:
    """Whether two characters belong to one word, in a script that separates words; Korean joins particles to them."""
    return len(pair) == 2 and all(c.isalnum() and not is_spaceless(c) and not is_east_asian(c) for c in pair)
