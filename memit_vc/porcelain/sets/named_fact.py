"""`--fact ID|SUBJECT`: finds the one fact that it names, or lists the candidates in an error."""

from __future__ import annotations

from collections.abc import Collection

from memit_vc.errors import RevisionError, UsageError
from memit_vc.objects import FactId, as_seen, short
from memit_vc.repository import Repository

_PREFIX = 4
"""The fewest digits of a fact's id that name it: fewer may well be a short subject."""
_SHOWN = 10


def named_facts(
    repository: Repository, leaving: Collection[FactId], returning: Collection[FactId], wanted: str
) -> frozenset[FactId]:
    """The one fact that `wanted` (an id, a prefix of one, or a subject) names, and what it replaced if that returns.

    Empty if it names none. RevisionError if the name fits several facts, UsageError for an empty name.
    """
    name = wanted.strip()
    if not name:
        raise UsageError("--fact is empty", hint="Give a subject or an id; `memitvc facts` lists them.")
    known, seen = repository.facts({*leaving, *returning}), as_seen(name)
    fits = {
        fact
        for fact, described in known.items()
        if (len(name) >= _PREFIX and fact.startswith(name.lower())) or as_seen(described.subject) == seen
    }
    # a fact that leaves and the one that it had replaced are one change: they answer one question
    out = fits & set(leaving)
    meant = out or fits
    if len(meant) > 1 or len({known[fact].question for fact in fits}) > 1:
        listed = "".join(
            f"\n  {short(fact)} {known[fact].prompt!r} → {known[fact].target!r}" for fact in sorted(fits)[:_SHOWN]
        )
        more = f"\n  and {len(fits) - _SHOWN} more" if len(fits) > _SHOWN else ""
        raise RevisionError(f"{wanted!r} names {len(fits)} facts:{listed}{more}", hint="Give an id instead.")
    asked = {known[fact].question for fact in meant}
    return frozenset(meant) | {fact for fact in returning if known[fact].question in asked}
