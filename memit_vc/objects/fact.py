"""A fact: one edit request, as parsed and checked at the edge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from memit_vc.foreign.text import is_unicode
from memit_vc.objects.ids import FactId, JsonValue, canonical_json, digest
from memit_vc.objects.seen import as_seen, occurrences, stands_alone


def is_text(value: object) -> bool:
    """Text that every database and terminal can hold: no NUL, no lone surrogate."""
    return isinstance(value, str) and "\0" not in value and is_unicode(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A neighbourhood prompt whose answer should not change; `answer` None means the fact's ground truth."""

    prompt: str
    answer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One edit request.

    `prompt` is the full text with the subject in it, without braces to fill in.
    `paraphrases` are scored as given, `clean_paraphrases` are those without a sentence in front, `generation_prompts`
    are texts about the subject that need not ask for the target.
    `phrasings` are further prompts that ask the same: they take part in the search for the edit, never in its scores.
    `occurrence` selects which occurrence of the subject in `prompt` is meant (0 is the first); None is the last one.
    """

    prompt: str
    subject: str
    target: str
    ground_truth: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbourhood: tuple[Probe, ...] = ()
    clean_paraphrases: tuple[str, ...] = ()
    generation_prompts: tuple[str, ...] = ()
    phrasings: tuple[str, ...] = ()
    occurrence: int | None = None

    @cached_property
    def id(self) -> FactId:
        """Hash of the whole request, probes included."""
        return FactId(digest("fact", canonical_json(self.to_json())))

    @property
    def question(self) -> tuple[str, str]:
        """What is asked, as people see it: two live facts with one question and different targets contradict each
        other.
        """
        return (as_seen(self.subject), as_seen(self.prompt))

    @property
    def neighbours(self) -> tuple[Probe, ...]:
        """The probes that ask something. Edit files give no blank ones, but once they did."""
        return tuple(each for each in self.neighbourhood if each.prompt.strip())

    @property
    def claim(self) -> tuple[tuple[str, str], str]:
        """The question and its answer. Facts that differ in their probes only make the same claim."""
        return (self.question, as_seen(self.target))

    @property
    def subject_span(self) -> tuple[int, int]:
        """Character span [start, end) of the subject in the prompt; ValueError if it does not occur."""
        if self.occurrence is None:
            start = self.prompt.rfind(self.subject)
        else:
            start = -1
            for _ in range(self.occurrence + 1):
                start = self.prompt.find(self.subject, start + 1)
                if start < 0:
                    break
        if start < 0:
            raise ValueError(f"subject {self.subject!r} does not occur in prompt {self.prompt!r}")
        return start, start + len(self.subject)

    def span_in(self, phrasing: str) -> tuple[int, int]:
        """Character span of the subject's last occurrence in another text. One that is part of a longer word counts
        only if there is no other. ValueError if it does not occur.
        """
        starts = occurrences(self.subject, phrasing)
        if not starts:
            raise ValueError(f"subject {self.subject!r} does not occur in phrasing {phrasing!r}")
        words = [start for start in starts if stands_alone(self.subject, phrasing, start)]
        start = (words or starts)[-1]
        return start, start + len(self.subject)

    @property
    def fault(self) -> str | None:
        """What the format does not allow in this fact, whose record somebody else may have written; None if nothing."""
        probes = [(each.prompt, each.answer) for each in self.neighbourhood]
        texts = {
            "prompt, subject or target_new": (self.prompt, self.subject, self.target),
            "paraphrase_prompts": self.paraphrases,
            "clean_paraphrase_prompts": self.clean_paraphrases,
            "generation_prompts": self.generation_prompts,
            "phrasings": self.phrasings,
        }
        for name, values in texts.items():
            if not all(is_text(value) and value.strip() for value in values):
                return f"{name} holds what is not text, or a blank one"
        if not all(is_text(prompt) for prompt, _ in probes):
            return "neighborhood_prompts holds what is not text"
        if not all(answer is None or is_text(answer) for answer in (self.ground_truth, *(a for _, a in probes))):
            return "ground_truth is not text"
        if not (self.occurrence is None or (type(self.occurrence) is int and 0 <= self.occurrence < 1 << 31)):
            return "subject_occurrence is not a small whole number"
        try:
            _ = self.subject_span, [self.span_in(phrasing) for phrasing in self.phrasings]
        except ValueError as error:
            return str(error)
        return None

    def to_json(self) -> dict[str, JsonValue]:
        """The record as stored; fields at their default are left out, so that adding a field keeps old ids."""
        record: dict[str, JsonValue] = {"prompt": self.prompt, "subject": self.subject, "target_new": self.target}
        if self.ground_truth is not None:
            record["ground_truth"] = self.ground_truth
        if self.paraphrases:
            record["paraphrase_prompts"] = list(self.paraphrases)
        if self.clean_paraphrases:
            record["clean_paraphrase_prompts"] = list(self.clean_paraphrases)
        if self.generation_prompts:
            record["generation_prompts"] = list(self.generation_prompts)
        if self.neighbourhood:
            record["neighborhood_prompts"] = [
                {"prompt": p.prompt} if p.answer is None else {"prompt": p.prompt, "ground_truth": p.answer}
                for p in self.neighbourhood
            ]
        if self.phrasings:
            record["phrasings"] = list(self.phrasings)
        if self.occurrence is not None:
            record["subject_occurrence"] = self.occurrence
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Fact:
        """Inverse of `to_json`; for records that this package wrote, not for user input."""
        return cls(
            prompt=record["prompt"],
            subject=record["subject"],
            target=record["target_new"],
            ground_truth=record.get("ground_truth"),
            paraphrases=tuple(record.get("paraphrase_prompts", ())),
            clean_paraphrases=tuple(record.get("clean_paraphrase_prompts", ())),
            generation_prompts=tuple(record.get("generation_prompts", ())),
            neighbourhood=tuple(
                Probe(prompt=p["prompt"], answer=p.get("ground_truth")) for p in record.get("neighborhood_prompts", ())
            ),
            phrasings=tuple(record.get("phrasings", ())),
            occurrence=record.get("subject_occurrence"),
        )
