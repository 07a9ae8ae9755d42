"""One record of an edit file into its checked facts, whichever format it is written in.

EasyEdit: prompt, subject, target_new, ground_truth, rephrase_prompt, locality_prompt, locality_ground_truth, or nested
`locality`. MEMIT and CounterFact: `requested_rewrite` with "{}" in the prompt and `target_new: {"str": …}`. Our own:
`Fact.to_json`. The formats share their keys, so a record may mix them. Other data sets' names: see `formats.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from memit_vc.edits.certain import find_subject
from memit_vc.edits.formats import PROMPTS, TARGETS, flat_records, listed
from memit_vc.edits.odd import odd_characters
from memit_vc.edits.problem import RecordProblem, kind_of
from memit_vc.edits.subjects import near_miss, subject_candidates
from memit_vc.foreign.text import quoted
from memit_vc.objects import Fact, Probe, as_seen
from memit_vc.objects.seen import occurrences, stands_alone

_SCORED = ("rephrase_prompt", "paraphrase_prompts", "clean_paraphrase_prompts")
_MOST_DIGITS = 10
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def facts_of(record: object, notes: list[str]) -> list[Fact]:
    """The facts of one record, mostly one; `notes` takes what was assumed or ignored. RecordProblem if it is wrong."""
    if not isinstance(record, Mapping):
        kind = kind_of(record)
        raise RecordProblem(
            f"is {kind}, not an object", 'Write each record as {"prompt": …, "subject": …, "target_new": …}.'
        )
    return [_fact(fields, notes) for fields in flat_records(record, notes)]


def _fact(fields: Mapping[str, Any], notes: list[str]) -> Fact:
    _require(fields)
    given = _target(fields["target_new"], "target_new").lstrip(" ")
    target = given.strip()
    if not as_seen(target):
        raise RecordProblem('"target_new" is empty', "Give the text that the model should produce after the prompt.")
    if target != given:
        notes.append("white space around the target was removed")
    memit = isinstance(fields["target_new"], Mapping) or "requested_rewrite" in fields
    prompt, subject, occurrence = _placed(fields, memit, notes)
    truth = fields.get("ground_truth") or fields.get("target_true")
    old = (_target(_first(truth), "ground_truth").strip() or None) if truth else None
    if old is not None and as_seen(old) == as_seen(target):
        notes.append("the old answer is the new one, so ES and S are not measured")
    fact = Fact(
        prompt=prompt,
        subject=subject,
        target=target,
        ground_truth=old,
        paraphrases=(*_texts(fields, "rephrase_prompt"), *_texts(fields, "paraphrase_prompts")),
        clean_paraphrases=tuple(_texts(fields, "clean_paraphrase_prompts")),
        generation_prompts=tuple(_texts(fields, "generation_prompts")),
        neighbourhood=tuple(each for each in (*_neighbours(fields), *_locality(fields)) if each.prompt.strip()),
        phrasings=_phrasings(fields, prompt, subject, notes),
        occurrence=occurrence,
    )
    notes += odd_characters(fact)
    return fact


def _require(fields: Mapping[str, Any]) -> None:
    missing = [key for key in ("prompt", "target_new") if fields.get(key) is None]
    if missing:
        names = " and ".join(f'"{key}"' for key in missing)
        keys = ", ".join([str(key) for key, value in fields.items() if value not in ([], None)][:8]) or "none"
        others = "; ".join(
            f'"{ours}" may also be called {", ".join(known[1:])}'
            for ours, known in (("prompt", PROMPTS), ("target_new", TARGETS))
            if ours in missing
        )
        raise RecordProblem(
            f"{names} {'is' if len(missing) == 1 else 'are'} missing", f"Its keys are: {keys}. {others}."
        )


def _placed(fields: Mapping[str, Any], memit: bool, notes: list[str]) -> tuple[str, str, int | None]:
    """Prompt, subject, and which occurrence of the subject is meant (None: the last)."""
    given = _text(fields["prompt"], "prompt")
    prompt = given.rstrip(" ")
    if not as_seen(prompt):
        raise RecordProblem(
            '"prompt" is empty', "Give the text that the model should complete, with the subject in it."
        )
    if prompt != given:
        notes.append("spaces at the end of the prompt were removed; one space goes before the target")
    raw = fields.get("subject")
    subject = _text(raw, "subject").strip() if raw is not None else ""
    gaps = prompt.count("{}")
    if not as_seen(subject):
        if gaps and memit:
            raise RecordProblem('"subject" is missing', 'Give the text that stands for "{}" in the prompt.')
        return prompt, _found(prompt, notes), _occurrence(fields, prompt, None)
    if subject != raw:
        notes.append(f'spaces around the subject "{subject}" were removed')
    if gaps and (memit or (gaps == 1 and subject not in prompt)):
        if gaps > 1:
            raise RecordProblem(f'"prompt" has {gaps} "{{}}"', "Write exactly one, for the subject.")
        return _filled(fields, prompt, subject)
    if subject not in prompt:
        raise RecordProblem(f'"subject" {subject!r} is not in the prompt {prompt!r}', _not_there(prompt, subject))
    told = _occurrence(fields, prompt, subject)
    word = as_a_word(prompt, subject, notes if told is None else [])
    if told is not None:  # the last of all is said where another one would be taken
        return prompt, subject, None if word is not None and told == len(occurrences(subject, prompt)) - 1 else told
    return prompt, subject, word


def as_a_word(prompt: str, subject: str, notes: list[str]) -> int | None:
    """The last occurrence of the subject that is no part of a longer word; None if that is the last one of all."""
    starts = occurrences(subject, prompt)
    words = [number for number, start in enumerate(starts) if stands_alone(subject, prompt, start)]
    if not words:
        notes.append(f'the subject "{subject}" stands in the prompt only as a part of a longer word')
    if not words or words[-1] == len(starts) - 1:
        return None
    notes.append(f'the subject "{subject}" also stands within a longer word; its last place as a word was taken')
    return words[-1]


def _filled(fields: Mapping[str, Any], prompt: str, subject: str) -> tuple[str, str, int | None]:
    """Put the subject where "{}" is, and keep which of its occurrences that was, unless it is the last."""
    at = prompt.index("{}")
    full = prompt.replace("{}", subject)
    if full.rfind(subject) == at:
        return full, subject, _occurrence(fields, full, subject)
    starts = [i for i in range(at + 1) if full.startswith(subject, i)]
    return full, subject, len(starts) - 1


def _found(prompt: str, notes: list[str]) -> str:
    found = find_subject(prompt)
    if found is not None:
        notes.append(f'subject "{found.text}" found in the prompt')
        return found.text
    names = [f'"{each.text}"' for each in subject_candidates(prompt)]
    what = f"several parts of the prompt can be it: {', '.join(names)}"
    if len(names) == 1:
        what = f"where it ends is not certain: {names[0]}, or more words with it"
    elif not names:
        what = "the prompt has no capitalised name"
    raise RecordProblem(
        f'"subject" is missing, and {what} ({prompt!r})',
        'Give "subject": the words of the prompt that the fact is about, spelled the same.',
    )


def _not_there(prompt: str, subject: str) -> str:
    near = near_miss(prompt, subject)
    if near is not None:
        return f"Write the subject as the prompt does: {near!r}."
    return 'Copy the subject from the prompt letter by letter, or write one "{}" in the prompt for it.'


def _phrasings(fields: Mapping[str, Any], prompt: str, subject: str, notes: list[str]) -> tuple[str, ...]:
    """Further prompts that ask the same; each has the subject in it, or "{}" in its place."""
    found: list[str] = []
    scored = {text.strip() for key in _SCORED for text in _texts(fields, key)}
    for given in _texts(fields, "phrasings"):
        text = given.replace("{}", subject).rstrip(" ") if "{}" in given else given.rstrip(" ")
        if subject not in text:
            raise RecordProblem(
                f'"phrasings" holds {text!r}, which does not have the subject {subject!r}',
                'Write the subject as the prompt does, or "{}" in its place.',
            )
        if text.strip() in scored:
            notes.append(f"phrasing {text!r} is also a paraphrase to score with: its score says little")
        if text not in found and text != prompt:
            found.append(text)
    return tuple(found)


def _occurrence(fields: Mapping[str, Any], prompt: str, subject: str | None) -> int | None:
    value = fields.get("subject_occurrence")
    if value is None:
        return None
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < _MOST_DIGITS:  # a CSV cell
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RecordProblem(
            f'"subject_occurrence" is {quoted(value)}, not a whole number', "Count from 0, the first occurrence."
        )
    if subject is None:
        raise RecordProblem('"subject_occurrence" needs "subject"', "Give the subject whose occurrences are counted.")
    count = len(occurrences(subject, prompt))
    if value >= count:
        what = f'"subject_occurrence" is {value}, but the prompt has {subject!r} {count} time(s)'
        raise RecordProblem(what, "Count from 0, or leave the key out for the last occurrence.")
    return value


def _neighbours(fields: Mapping[str, Any]) -> list[Probe]:
    """MEMIT's `neighborhood_prompts`: texts, or objects with a prompt and its answer."""
    entries = listed(fields.get("neighborhood_prompts"))
    return [probe for entry in entries for probe in _probes(entry, "neighborhood_prompts")]


def _locality(fields: Mapping[str, Any]) -> list[Probe]:
    """EasyEdit's locality: flat keys, or an object by name of prompts and their answers."""
    flat = {"prompt": fields.get("locality_prompt"), "ground_truth": fields.get("locality_ground_truth")}
    probes = _probes(flat, "locality_prompt") if flat["prompt"] else []
    nested = fields.get("locality") or {}
    if not isinstance(nested, Mapping):
        raise RecordProblem(f'"locality" is {kind_of(nested)}, not an object', 'Write {"name": {"prompt": …}}.')
    for entries in nested.values():
        for entry in listed(entries):
            probes.extend(_probes(entry, "locality"))
    return probes


def _probes(entry: object, key: str) -> list[Probe]:
    if entry is None or entry == "":
        return []
    if isinstance(entry, str):
        return [Probe(prompt=_text(entry, key))]
    if not isinstance(entry, Mapping) or "prompt" not in entry:
        raise RecordProblem(
            f'"{key}" holds {kind_of(entry)}', 'Write a text, or {"prompt": …, "ground_truth": …}, for each.'
        )
    prompts, answers = entry["prompt"], entry.get("ground_truth", entry.get("target"))
    if not isinstance(prompts, list | tuple):
        return [Probe(prompt=_text(prompts, key), answer=_answer(answers, key))]
    if answers is None:
        answers = [None] * len(prompts)
    if not isinstance(answers, list | tuple) or len(answers) != len(prompts):
        raise RecordProblem(
            f'"{key}" has {len(prompts)} prompts and another number of answers', "Give one for each prompt."
        )
    pairs = zip(prompts, answers, strict=True)
    return [Probe(prompt=_text(p, key), answer=_answer(a, key)) for p, a in pairs if p is not None]


def _answer(value: object, key: str) -> str | None:
    value = _first(value)
    return None if value is None else _target(value, key).strip() or None


def _texts(fields: Mapping[str, Any], key: str) -> list[str]:
    entries = (_text(entry, key) for entry in listed(fields.get(key)) if entry is not None)
    return [text for text in entries if text.strip()]


def _first(value: object) -> object:
    """KnowEdit's files give lists of equally good answers, nested at times: the first is the answer."""
    while isinstance(value, list | tuple):
        value = value[0] if value else None
    return value


def _target(value: object, key: str) -> str:
    if isinstance(value, Mapping):
        if "str" not in value:
            raise RecordProblem(f'"{key}" is an object without "str"', 'Write a text, or {"str": …} as MEMIT does.')
        value = value["str"]
    return "" if value is None else _text(value, key)


def _text(value: object, key: str) -> str:
    if not isinstance(value, str):
        number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))  # 1e400 is read as inf
        hint = f'Write it in quotes: "{value}".' if number else "Give a text, in quotes."
        raise RecordProblem(f'"{key}" is {kind_of(value)}, not text', hint)
    bad = _FORBIDDEN.search(value)
    if bad:
        what = f'"{key}" holds the control character U+{ord(bad.group()):04X} at character {bad.start() + 1}'
        raise RecordProblem(what, "Remove it; tabs and line feeds may stay.")
    return value
