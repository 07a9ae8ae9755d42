"""Characters that nobody sees: the model reads them, so an edit is of that very spelling."""

from __future__ import annotations

import unicodedata

from memit_vc.objects import Fact
from memit_vc.objects.seen import shows_nothing

_JOINERS = "\u200c\u200d"


def odd_characters(fact: Fact) -> list[str]:
    """Notes on format characters, no-break spaces and texts that are not NFC, with the keys that hold them."""
    texts = [
        ("prompt", fact.prompt),
        ("subject", fact.subject),
        ("target_new", fact.target),
        ("ground_truth", fact.ground_truth or ""),
        *(("paraphrase_prompts", text) for text in (*fact.paraphrases, *fact.clean_paraphrases)),
        *(("generation_prompts", text) for text in fact.generation_prompts),
        *(("phrasings", text) for text in fact.phrasings),
        *(
            ("neighborhood_prompts", text)
            for probe in fact.neighbourhood
            for text in (probe.prompt, probe.answer or "")
        ),
    ]
    found: dict[str, dict[str, None]] = {}
    for key, text in texts:
        for what in () if text.isascii() else _odd(text):
            found.setdefault(what, {})[f'"{key}"'] = None
    return [f"{', '.join(keys)}: {what}" for what, keys in found.items()]


def _odd(text: str) -> list[str]:
    unseen = dict.fromkeys(character for at, character in enumerate(text) if _is_odd(text, at))
    notes = [
        f"holds U+{ord(c):04X} ({unicodedata.name(c, 'without a name').lower()}), which the model reads and nobody sees"
        for c in unseen
    ]
    if not unicodedata.is_normalized("NFC", text):
        notes.append("not in the usual Unicode form (NFC): it looks the same in that form, but has other tokens")
    return notes


def _is_odd(text: str, at: int) -> bool:
    character = text[at]
    if character in _JOINERS:  # between letters of Indic and Arabic scripts, and in emoji, they change what is seen
        return text[:at][-1:].isascii() or text[at + 1 :][:1].isascii()
    if "\ufe00" <= character <= "\ufe0f":
        return False
    return shows_nothing(character) or (character not in " \u3000" and unicodedata.category(character) == "Zs")
