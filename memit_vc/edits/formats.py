"""The records of the field's data sets under their own key names, as flat records under ours.

zsRE as MEND has it: src, alt, answers, rephrase, loc, loc_ans. WikiBigEdit: update, ans. QAEdit: target, and `locality`
as a list. UnKE and EditEverything: question, answer, para_question. MQuAKE: `requested_rewrite` is a list.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from memit_vc.edits.problem import RecordProblem, kind_of
from memit_vc.edits.words import words

PROMPTS = ("prompt", "src", "question", "update")
TARGETS = ("target_new", "alt", "target", "answer", "ans")
_READ = words(
    """prompt subject target_new ground_truth target_true requested_rewrite rephrase_prompt paraphrase_prompts
    clean_paraphrase_prompts generation_prompts phrasings locality locality_prompt locality_ground_truth
    neighborhood_prompts subject_occurrence rephrase para_question loc
    loc_ans"""
)
_PASSED_OVER = words(
    """alt ans answer answers case_id commit cond date fact id loc_prompt pararel_idx pred question relation_id
    scores_at_commit scores_now src tag target target_neg time update"""
)
"""Keys of the formats, and of our own lists of facts, that say nothing about the edit, or that say it once more."""
_UNSCORED = words(
    """attribute_prompts personas mhop mhop_ans new_answer new_answer_alias new_single_hops orig
    questions single_hops sub_answer sub_question neighborhood_samples answer_alias answer_extended"""
)
"""Probes and texts of the formats that memit-vc does not measure."""
_OPEN_QUESTION = "nq question: "


def flat_records(record: Mapping[str, Any], notes: list[str]) -> list[dict[str, Any]]:
    """One flat record for each edit of a record. `notes` take what was read under another name, or not at all."""
    notes += _unused(record)
    inner = record.get("requested_rewrite")
    if inner is None:
        return [_renamed(dict(record), notes)]
    rewrites = inner if isinstance(inner, list | tuple) else [inner]
    if not rewrites or not all(isinstance(each, Mapping) for each in rewrites):
        wrong = next((each for each in rewrites if not isinstance(each, Mapping)), inner)
        where = "is" if wrong is inner else "holds"
        what = "an empty list" if wrong is inner and isinstance(inner, list) else kind_of(wrong)
        raise RecordProblem(
            f'"requested_rewrite" {where} {what}, not an object', "Write it as in CounterFact's records."
        )
    notes += [note for each in rewrites for note in _unused(each)]
    found = [_renamed({**record, **each}, notes) for each in rewrites]
    if len(found) > 1:
        notes.append(f"{len(found)} rewrites, each of them is a fact")
    return found


def _renamed(fields: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Our names for the keys of other formats. A key that has our name wins."""
    prompt, target = (next((n for n in names if fields.get(n) is not None), None) for names in (PROMPTS, TARGETS))
    if prompt is not None and target is not None and (prompt, target) != ("prompt", "target_new"):
        notes.append(f'"{prompt}" was read as the prompt, "{target}" as the new answer')
        fields |= {"prompt": fields[prompt], "target_new": fields[target]}
        if fields.get("ground_truth") is None:
            fields["ground_truth"] = fields.get("answers")
    if isinstance(fields.get("loc"), list | tuple):
        notes.append('"loc" is a list, and was ignored: give one text, or neighborhood_prompts')
    others = ["rephrase", "para_question"] + (["question"] if "requested_rewrite" in fields else [])
    paraphrases = [text for name in ("paraphrase_prompts", *others) for text in listed(fields.get(name))]
    located = [each for each in (fields, *listed(fields.get("locality"))) if _is_loc(each)]
    neighbours = [{"prompt": _plain(each["loc"], notes), "ground_truth": each.get("loc_ans")} for each in located]
    if isinstance(fields.get("locality"), list) and all(_is_loc(each) for each in fields["locality"]):
        fields["locality"] = {}
    fields["neighborhood_prompts"] = [*listed(fields.get("neighborhood_prompts")), *neighbours]
    return {**fields, "paraphrase_prompts": paraphrases}


def _is_loc(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("loc"), str)


def _plain(text: str, notes: list[str]) -> str:
    if not text.startswith(_OPEN_QUESTION):
        return text
    notes.append(f'"{_OPEN_QUESTION.strip()}" before "loc" was removed')
    return text.removeprefix(_OPEN_QUESTION)


def listed(value: Any) -> list[Any]:
    """A list as it is, nothing as no entry, anything else as the only one."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _unused(record: Mapping[str, Any]) -> list[str]:
    notes = []
    for key, value in record.items():
        if not isinstance(key, str) or value in (None, "", [], {}) or key in _READ or key in _PASSED_OVER:
            continue
        near = _misspelt(key)
        if key == "portability":
            notes.append("portability prompts are not scored and were ignored")
        elif key in _UNSCORED:
            notes.append(f'"{key}" is not scored and was ignored')
        elif near is not None and near not in record:
            notes.append(f'unknown key "{key}" was ignored; did you mean "{near}"?')
        else:
            notes.append(f'unknown key "{key}" was ignored')
    return notes


@lru_cache(maxsize=1024)
def _misspelt(key: str) -> str | None:
    near = difflib.get_close_matches(key.lower(), sorted(_READ), n=1, cutoff=0.8)
    return near[0] if near else None
