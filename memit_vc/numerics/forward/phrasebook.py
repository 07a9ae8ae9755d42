"""The phrase book: common relations ("the capital of"), each in several wordings, as text/phrases.txt has them.

An edit that was searched in one wording often fails in another. So the search for z also asks a fact in the book's
other wordings of its relation (`phrase_book` of the hyperparameters). No model takes part: the book knows a prompt or
it does not. A wording of several relations ("{} plays") gets what these relations have in common, if no relation has
the target among its common answers. A wording behind "+ " is asked, but a prompt in these words may mean something
else: the book knows it only with one of the relation's common answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

from memit_vc.config import data_directory
from memit_vc.numerics.forward.questions import SCORED
from memit_vc.objects import Fact

_SUBJECT, _ASKED = "{}", "+ "
_VOWELS, _ARTICLES = "aeiou", ("a", "the")
_ARTICLE = re.compile(r"(?:an?|the)\b")
_PLACED = re.compile(r"\b(?:in|at)\s*$")
_DATE = re.compile(
    r"\d|(?:th|first|second|third) century\b"
    r"|^(?:january|february|march|april|may|june|july|august|september|october|november|december)$"
)
_ONE = re.compile(r"an?\b")
_NO_MATTER = re.compile(r"[,:?]|\b(?:who|which|that|whose|is|was|are|were|a|an|the)\b")
"""What two wordings may differ in and still be one: "{}, who was a citizen of" and "{} is a citizen of"."""


def _plain(text: str) -> str:
    return " ".join(_NO_MATTER.sub(" ", text.lower().replace("’", "'")).split())


@dataclass(frozen=True)
class PhraseBook:
    """Relations, each as its wordings with "{}" for the subject; the answer follows a wording's last word. `answers`:
    of each relation, the common ones, or none.
    """

    relations: tuple[tuple[str, ...], ...]
    answers: tuple[frozenset[str], ...] = ()

    @classmethod
    def shipped(cls) -> PhraseBook:
        """The one of the package: blocks of lines, of which the first names the relation and may list answers."""
        text = (data_directory("text") / "phrases.txt").read_text(encoding="utf-8")
        blocks = [block.splitlines() for block in text.strip().split("\n\n")]
        return cls(
            tuple(tuple(lines[1:]) for lines in blocks),
            tuple(frozenset(filter(None, lines[0].partition(": ")[2].split(", "))) for lines in blocks),
        )

    @cached_property
    def _known(self) -> Sequence[dict[str, str]]:
        """Of each relation, its wordings by their plain form: the first of those that have one form."""
        found: list[dict[str, str]] = [{} for _ in self.relations]
        for wordings, relation in zip(found, self.relations, strict=True):
            for wording in relation:
                wordings.setdefault(_plain(wording.removeprefix(_ASKED)), wording)
        return found

    def _relations(self, fact: Fact) -> list[dict[str, str]]:
        start, end = fact.subject_span
        asked = _plain(fact.prompt[:start] + _SUBJECT + fact.prompt[end:])
        target = fact.target.strip().lower()
        listed = [number for number, answers in enumerate(self.answers) if target in answers]
        wordings = [number for number, relation in enumerate(self._known) if asked in relation]
        found = [number for number in wordings if number in listed]
        if not found:
            found = [number for number in wordings if not self._known[number][asked].startswith(_ASKED)]
            if listed and len(found) > 1 and all(self.answers[number] for number in found):
                return []  # the target is a common answer, but of other relations
        return [self._known[number] for number in found]

    def phrasings(self, fact: Fact) -> Iterator[str]:
        """Other wordings of the fact's prompt, with its subject in them; none if the book does not know the prompt.

        What the fact is scored with is left out, also where the two differ in what does not matter: no score asks what
        a search has asked. So is a wording that has the subject's own words elsewhere. A target with a digit may be a
        date, which the wordings for places do not ask for: it gets none. Nor does a month, nor "a plane crash" behind
        "in".
        """
        known, target = self._relations(fact), fact.target.strip().lower()
        if not known or _DATE.search(target) or (_PLACED.search(fact.prompt) and _ONE.match(target)):
            return
        scored = [_plain(text) for text in (*_scored(fact), *(t.replace(_SUBJECT, fact.subject) for t in SCORED))]
        scored = [each for each in scored if each != _plain(fact.subject)]  # "Norland, the" is in every wording
        taken = {_plain(text) for text in (fact.prompt, *fact.phrasings)}
        for form, marked in known[0].items():
            wording = marked.removeprefix(_ASKED)
            ends = wording.rpartition(" ")[2]
            if (ends == "a" and target[:1] in _VOWELS) or (ends in _ARTICLES and _ARTICLE.match(target)):
                continue
            text = wording.replace(_SUBJECT, fact.subject)
            plain = _plain(text)
            if plain in taken or any(plain in each or each in plain for each in scored):
                continue
            if all(form in each for each in known) and fact.span_in(text)[0] == wording.index(_SUBJECT):
                yield text

    def added(self, facts: Sequence[Fact], most: int) -> list[Fact]:
        """The facts with up to `most` phrasings of the book behind their own."""
        return [replace(fact, phrasings=(*fact.phrasings, *islice(self.phrasings(fact), most))) for fact in facts]

    def asks(self, fact: Fact, text: str) -> bool:
        """Whether a text about the subject is no other question to search with: it asks what the fact says, or what the
        fact is scored with.
        """
        return self.says(fact, text) or any(_plain(text) in _plain(each) for each in _scored(fact))

    def says(self, fact: Fact, text: str) -> bool:
        """Whether a text about the subject asks what the fact says."""
        plain, own = _plain(text), (fact.prompt, *fact.phrasings)
        wordings = (wording for relation in self._relations(fact) for wording in relation.values())
        return any(plain in _plain(each) for each in own) or any(
            plain == _plain(wording.removeprefix(_ASKED).replace(_SUBJECT, fact.subject)) for wording in wordings
        )


def _scored(fact: Fact) -> tuple[str, ...]:
    return (*fact.paraphrases, *fact.clean_paraphrases, *fact.generation_prompts)
