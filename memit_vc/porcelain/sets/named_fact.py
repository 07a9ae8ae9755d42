"""`--fact ID|SUBJECT`: which of some facts is meant. One, or an error that lists the candidates."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from memit_vc.errors import RevisionError, UsageError
from memit_vc.objects import FactId, short

if TYPE_CHECKING:
    from memit_vc.repository import Repository


_PREFIX = 4
"""Digits of a fact's id that name it: fewer are more likely a short subject."""
_SHOWN = 10


def named_facts(
    repository: Repository, leaving: Collection[FactId], returning: Collection[FactId], wanted: str
) -> frozenset[FactId]:
    """The one fact that `wanted` (an id, a prefix of one, or a subject) names, and what it replaced if that returns.

    Empty where none is named. RevisionError where the name fits several, UsageError for an empty one.
    """
    name = wanted.strip()
    if not name:
        raise UsageError("which fact? --fact is empty", hint="Give its subject, or digits of its id from `facts`.")
    known = repository.facts({*leaving, *returning})
    fits = {
        fact
        for fact, described in known.items()
        if (len(name) >= _PREFIX and fact.startswith(name.lower())) or described.subject.strip() == name
    }
    # a fact that leaves and the one that it had replaced are one change: they answer one question
    out = fits & set(leaving)
    meant = out or fits
    if len(meant) > 1 or len({known[fact].question for fact in fits}) > 1:
        listed = "".join(
            f"\n  {short(fact)} {known[fact].prompt!r} → {known[fact].target!r}" for fact in sorted(fits)[:_SHOWN]
        )
        more = f"\n  and {len(fits) - _SHOWN} more" if len(fits) > _SHOWN else ""
        raise RevisionError(f"{wanted!r} names {len(fits)} facts:{listed}{more}", hint="Give digits of one's id.")
    asked = {known[fact].question for fact in meant}
    return frozenset(meant) | {fact for fact in returning if known[fact].question in asked}
