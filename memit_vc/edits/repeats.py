"""Facts of one batch that say the same, or the opposite."""

from __future__ import annotations

from collections.abc import Sequence

from memit_vc.objects import Fact

__all__ = ["batch_contradictions", "duplicates"]


def batch_contradictions(facts: Sequence[Fact]) -> list[tuple[int, int]]:
    """Positions (earlier, later) of facts with one question and different targets: each later fact with the first."""
    return [(i, j) for i, j in _repeats(facts) if not _agree(facts[i], facts[j])]


def duplicates(facts: Sequence[Fact]) -> list[tuple[int, int]]:
    """Positions (earlier, later) of facts with one question and one target; probes may differ."""
    first: dict[tuple[tuple[str, str], str], int] = {}
    found = []
    for j, fact in enumerate(facts):
        i = first.setdefault((fact.question, fact.target.strip()), j)
        if i != j:
            found.append((i, j))
    return found


def _repeats(facts: Sequence[Fact]) -> list[tuple[int, int]]:
    first: dict[tuple[str, str], int] = {}
    pairs = [(first.setdefault(fact.question, j), j) for j, fact in enumerate(facts)]
    return [(i, j) for i, j in pairs if i != j]


def _agree(one: Fact, other: Fact) -> bool:
    return one.target.strip() == other.target.strip()
