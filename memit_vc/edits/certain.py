"""Which candidate is certainly the subject: a wrong subject edits the wrong thing, a refused one costs a word.

A name may go on in small letters ("Quantum mechanics", "Golaghat massacre", "Giochi per il mio computer"). So a
candidate counts only if what follows it cannot belong to it: a verb, punctuation, the end, or what people have.
"""

from __future__ import annotations

import re

from memit_vc.edits.subjects import Candidate, subject_candidates
from memit_vc.edits.words import words

_AUXILIARIES = words(
    "is are was were be been has had have do does did can could will would may might must shall should"
)
_BEHIND = words(
    """plays speaks works performs writes declares holds belongs follows premieres debuts originates specializes comes
    lives dies exists appears stands serves studies owns operates employs uses contains born spoke wrote written took
    taken made built held found lost won went came began begun fought sang sung known given grew grown led met became
    chosen taught originally currently professionally primarily mainly formerly officially usually typically initially
    commonly now also still"""
)
"""Words that follow a name and are no part of it; words in -ed are added to them."""
_ASKED = words(
    """play speak work perform write hold belong follow premiere debut originate specialize come live die exist appear
    stand serve own operate employ use contain take make build find lose win go begin sing attend join participate
    produce discover reside suffer launch create develop found occupy compete graduate end start dissolve fight"""
)
"""What follows a name behind `do`, `does` or `did`."""
_AT_THE_END = words("in on at of for from to by with as about into near")
_BEHIND_A_COMMA = words(
    """the a an by in from on at of to with which who whose where that it he she they one is was written speaker
    playing performing"""
)
_RELATIONS = words(
    """mother father parents parent wife husband spouse son daughter child children brother sister siblings twin capital
    headquarters headquarter owner founder creator author developer manufacturer director birthplace hometown
    nationality citizenship religion language profession occupation expertise position life career death birth gender
    sex domain country continent government family inception voice mayor president population"""
)
"""What people and things have: "Lyon's twin city", but not "Moore's law"."""
_ADJECTIVES = words("northern southern eastern western central north south east west upper lower a an")
"""Before a name they make something else of it: "northern Europe", "an Italian"."""
_LETTERS = re.compile(r"[^\W\d_]+")


def find_subject(prompt: str) -> Candidate | None:
    """The subject, if exactly one span can be it and nothing about its ends is in doubt; or None."""
    candidates = subject_candidates(prompt)
    return candidates[0] if len(candidates) == 1 and _is_certain(prompt, candidates[0]) else None


def _is_certain(prompt: str, found: Candidate) -> bool:
    before, after = prompt[: found.start], prompt[found.end :]
    if found.quoted:
        return True
    if re.search(r"['’]s$", found.text) and not after.strip(" ?."):
        return False
    previous = re.search(r"(\S+)\s*$", before)
    if previous is not None and (previous.group(1).lower() in _ADJECTIVES or previous.group(1)[-1].isdigit()):
        return False
    return _ends_here(after, asked=_asks(before), alone=" " not in found.text and _starts(before))


def _ends_here(after: str, *, asked: bool, alone: bool) -> bool:
    """`asked`: `do`, `does` or `did` stands before. `alone`: a single word at the start, whose capital says nothing."""
    if re.fullmatch(r"[?.:;,]?\s*", after) or re.match(r"[?.]\s+[^\W\d_a-z]", after):
        return True
    owner = re.match(r"(?:['’]s?)\s+", after)
    word = _LETTERS.match(after, owner.end()) if owner else re.match(r"(,?\s+)([^\W\d_]+)(?![\w@*])", after)
    if word is None:
        return False
    if owner:
        return word.group().lower() in _RELATIONS
    gap, text = word.group(1).strip(), word.group(2)
    verb = text in _AUXILIARIES or text in _BEHIND or (text.endswith("ed") and not text.endswith("eed"))
    if gap:
        return verb or text in _BEHIND_A_COMMA
    if alone:
        return text in _AUXILIARIES
    last = not _LETTERS.search(after, word.end())
    return verb or text == "a" or (asked and text in _ASKED) or (last and text in _AT_THE_END)


def _asks(before: str) -> bool:
    return re.search(r"\b(?:do|does|did)\b[^.?!]*$", before, re.IGNORECASE) is not None


def _starts(before: str) -> bool:
    return re.fullmatch(r"|.*[.?!:]", before.rstrip(), re.DOTALL) is not None
