"""The phrase book: common relations ("the capital of"), each in several wordings, as text/phrases.txt has them.

An edit that was searched in one wording often fails in another. So the search for z also asks a fact in the book's
other wordings of its relation (`phrase_book` of the hyperparameters). No model takes part: the book knows a prompt or
it does not. A wording of several relations ("{} plays") gets what these relations have in common.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from memit_vc.config import data_directory
from memit_vc.numerics.forward.questions import SCORED
from memit_vc.objects import Fact

_SUBJECT = "{}"
_NO_MATTER = re.compile(r"[,:?]|\b(?:who|which|that|whose|is|was|are|were|a|an|the)\b")
"""What two wordings may differ in and still be one: "{}, who was a citizen of" and "{} is a citizen of"."""


def _plain(wording: str) -> str:
    return " ".join(_NO_MATTER.sub(" ", wording.lower().replace("’", "'")).split())


@dataclass(frozen=True)
class PhraseBook:
    """Relations, each as its wordings with "{}" for the subject; the answer follows a wording's last word."""

    relations: tuple[tuple[str, ...], ...]

    @classmethod
    def shipped(cls) -> PhraseBook:
        """The one of the package: blocks of lines, of which the first names the relation."""
        text = (data_directory("text") / "phrases.txt").read_text(encoding="utf-8")
        return cls(tuple(tuple(block.splitlines()[1:]) for block in text.strip().split("\n\n")))

    def phrasings(self, fact: Fact) -> Iterator[str]:
        """Other wordings of the fact's prompt, with its subject in them; none if the book does not know the prompt.

        What the fact is scored with, or brings itself, is left out, so that a score never asks what a search has asked.
        """
        start, end = fact.subject_span
        asked = _plain(fact.prompt[:start] + _SUBJECT + fact.prompt[end:])
        known = [relation for relation in self.relations if asked in map(_plain, relation)]
        if not known:
            return
        common = set.intersection(*(set(map(_plain, relation)) for relation in known)) - {asked}
        scored = (
            *fact.paraphrases,
            *fact.clean_paraphrases,
            *(text.replace(_SUBJECT, fact.subject) for text in SCORED),
        )
        for wording in known[0]:
            text = wording.replace(_SUBJECT, fact.subject)
            if text in fact.phrasings or any(text in each or each in text for each in scored):
                continue
            if _plain(wording) in common:
                common.discard(_plain(wording))  # "is" and "was" are one wording
                yield text

    def added(self, facts: Sequence[Fact], most: int) -> list[Fact]:
        """The facts with up to `most` phrasings of the book behind their own."""
        return [replace(fact, phrasings=(*fact.phrasings, *islice(self.phrasings(fact), most))) for fact in facts]
