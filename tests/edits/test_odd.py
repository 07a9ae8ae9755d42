"""Characters that nobody sees are named, with the keys that hold them."""

from __future__ import annotations

import unicodedata

import pytest

from memit_vc.edits import parse_records

PROMPT, SUBJECT = "The mother tongue of Élodie Müller is", "Élodie Müller"


def notes(**changed: object) -> tuple[str, ...]:
    record = {"prompt": PROMPT, "subject": SUBJECT, "target_new": "Finnish", **changed}
    return parse_records([record], source="x").notes


def test_usual_text_gets_no_note() -> None:
    assert notes() == ()
    for text in ("東京　です", "می\u200cخواهم", "👩\u200d👩\u200d👧", "❤\ufe0f", "Łódź"):
        assert notes(paraphrase_prompts=[text]) == ()


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("\u200b", "U+200B (zero width space)"),
        ("\ufeff", "U+FEFF (zero width no-break space)"),
        ("\u00a0", "U+00A0 (no-break space)"),
        ("\u202f", "U+202F (narrow no-break space)"),
        ("\u00ad", "U+00AD (soft hyphen)"),
        ("\u200d", "U+200D (zero width joiner)"),
    ],
)
def test_characters_that_nobody_sees(character: str, name: str) -> None:
    (note,) = notes(prompt=PROMPT + character + " x", target_new="Fin" + character + "nish")
    assert note == f'record 1: "prompt", "target_new": holds {name}, which the model reads and nobody sees'


def test_letters_in_parts() -> None:
    (note,) = notes(prompt=unicodedata.normalize("NFD", PROMPT), subject=unicodedata.normalize("NFD", SUBJECT))
    assert note.startswith('record 1: "prompt", "subject": not in the usual Unicode form (NFC)')


def test_probes_are_looked_at_too() -> None:
    (note,) = notes(paraphrase_prompts=["a\u200b"], neighborhood_prompts=["b\u200b"], ground_truth="c\u200b")
    assert '"ground_truth", "paraphrase_prompts", "neighborhood_prompts": holds U+200B' in note
