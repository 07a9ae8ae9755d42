"""The capitalised spans of a prompt: candidates for the subject of a prompt that came without one.

A span counts as a candidate unless it clearly cannot be the subject, and two candidates are one too many. Whether the
only one is the subject: see `certain.py`.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from memit_vc.edits.words import words


@dataclass(frozen=True, slots=True)
class Candidate:
    """A span of the prompt that may be the subject: its text and its characters [start, end)."""

    text: str
    start: int
    end: int
    quoted: bool = False


# A word: initials (J. R. R.), letters with inner hyphens, apostrophes, dots and ampersands (O'Brien, AT&T, 747-400).
_WORD = re.compile(r"(?:[^\W\d_]\.)+(?=[^\W\d_]{2}|\s|$)|[^\W_]+(?:['’\-–&.][^\W_]+)*")
_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|«([^»]+)»|„([^“”„]+)[“”]|(?<!\w)'([^']+)'(?!\w)|(?<!\w)‘([^’]+)’(?!\w)")
_POSSESSIVE = re.compile(r"['’]s$")
_ABBREVIATED = re.compile(r"\.(?=[,;:?!'’]|\s+[^\W\d_A-Z])")
"""A dot that ends no sentence: "Louis Cottrell, Jr. is", "National City Corp.'s"."""

_OPENERS = words(
    """what which who whom whose where when why how the a an is are was were be been do does did has have had can could
    will would shall should may might must in on at of for from to by with as about into over under between among near
    it he she they we you i this that these those there here his her its their my our your if and but or not no nor so
    name tell give list state complete fill answer find please question after before during since until while although
    because though according regarding currently originally formerly today now then also both each every some any all
    one"""
)
"""First words of a sentence that begin no name, or whose capital says nothing: questions, articles, auxiliaries, …"""
_JOINING = frozenset(
    "of the de la le les du des van von der den da do dos das di del della al el bin ibn ben y e".split()  # noqa: SIM905
)
_LONG, _LONG_SUBJECT = 4000, 200
"""Characters."""
_VERBS = words("is are was were has had have does did will would can could")
_ABBREVIATIONS = words("st dr mr mrs ms jr sr prof gen sgt mt ft lt col capt rev no vs")


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    start: int
    end: int
    opens: bool
    """Nothing but the start of the prompt or of a sentence, or an opener of it, stands before."""
    glued: bool
    """Only spaces (or an abbreviation's dot) between the previous word and this one."""


def subject_candidates(prompt: str) -> list[Candidate]:
    """Spans that can be the subject, each text once, in order."""
    quoted = [_inside(match) for match in _QUOTED.finditer(prompt)]
    quoted = [span for span in quoted if _capitalised(span.text)]
    blank = prompt
    for span in quoted:  # a title in quotes is one span, and its words are no others
        blank = blank[: span.start] + "\n" * (span.end - span.start) + blank[span.end :]
    spans = sorted([*quoted, *_spans(prompt, list(_words(blank)))], key=lambda c: c.start)
    return list({span.text: span for span in spans}.values())


def near_miss(prompt: str, subject: str) -> str | None:
    """What the prompt has in place of a subject that differs in case, spaces, Unicode form or a letter; or None. A very
    long prompt or subject is not searched: time and memory grow as the square.
    """
    words = [re.escape(word) for word in subject.split()]
    if not words or len(prompt) > _LONG or len(subject) > _LONG_SUBJECT:
        return None
    for form in ("NFC", "NFKC"):
        text = unicodedata.normalize(form, prompt)
        pattern = unicodedata.normalize(form, r"\s*".join(words))
        match = re.search(pattern, text, re.IGNORECASE)
        if match:
            return match.group()
    pieces = list(re.finditer(r"\S+", prompt))
    windows = [
        prompt[pieces[i].start() : pieces[i + len(words) - 1].end()].strip(".,;:?!\"'")
        for i in range(len(pieces) - len(words) + 1)
    ]
    near = difflib.get_close_matches(subject, windows, n=1, cutoff=0.8)
    return near[0] if near else None


def _inside(match: re.Match[str]) -> Candidate:
    group = next(i for i, text in enumerate(match.groups(), start=1) if text is not None)
    text = match.group(group)
    start = match.start(group) + len(text) - len(text.lstrip())
    return Candidate(text.strip(), start, start + len(text.strip()), quoted=True)


def _capitalised(text: str) -> bool:
    return any(character.isupper() or character.istitle() for character in text)


def _words(text: str) -> Iterator[_Word]:
    opens, end, previous = True, 0, ""
    for match in _WORD.finditer(text):
        between = text[end : match.start()]
        dotted = between.strip() == "." and (previous.lower() in _ABBREVIATIONS or len(previous) == 1)
        junior = between.strip() == "," and match.group().lower() in ("jr", "sr", "ii", "iii")
        plain = (not between.strip() and "\n" not in between) or between.strip() == "&"
        sentence = not dotted and re.search(r"[.!?:\n]\W*$", between) is not None
        opens = sentence or (opens and (end == 0 or previous.lower() in _OPENERS))
        yield _Word(match.group(), match.start(), match.end(), opens, plain or dotted or junior)
        end, previous = match.end(), match.group()


def _spans(prompt: str, words: list[_Word]) -> Iterator[Candidate]:
    i = 0
    while i < len(words):
        word = words[i]
        opener = word.opens and word.text.lower() in _OPENERS
        if opener or word.text == "I" or not _capitalised(word.text):
            i += 1
            continue
        last = i
        while (following := _continues(words, last)) is not None:
            last = following
        yield _trimmed(prompt, word.start, words, last)
        i = last + 1


def _continues(words: list[_Word], last: int) -> int | None:
    """The word that continues a span which ends at `last`: a capitalised one or a number, joining words between."""
    owner = _POSSESSIVE.search(words[last].text) is not None
    j = last + 1
    while j < len(words) and words[j].glued and words[j].text.lower() in _JOINING and not _capitalised(words[j].text):
        j += 1
    if j >= len(words) or not words[j].glued:
        return None
    text = words[j].text
    if owner and len(text) > 1 and text.isupper():  # "France's GDP" is a thing of France, "Schindler's List" a name
        return None
    return j if _capitalised(text) or (text[0].isdigit() and j == last + 1) else None


def _trimmed(prompt: str, start: int, words: list[_Word], last: int) -> Candidate:
    """The span without a possessive ending, unless a verb follows: "Lyon's twin", "McDonald's was founded"."""
    end = words[last].end
    possessive = _POSSESSIVE.search(words[last].text)
    following = words[last + 1] if last + 1 < len(words) else None
    if possessive and following is not None and following.glued and following.text.lower() not in _VERBS:
        end -= len(possessive.group())
    elif _ABBREVIATED.match(prompt, end):
        end += 1
    return Candidate(prompt[start:end], start, end)
