"""Certain conflicts: live facts that contradict each other."""

from __future__ import annotations

from collections.abc import Sequence

from memit_vc.objects import Fact

__all__ = ["certain_conflicts"]


def certain_conflicts(facts: Sequence[Fact]) -> list[tuple[Fact, Fact]]:
    """Every pair, in order, with one question and different answers; white space at the ends does not count."""
    asked: dict[tuple[str, str], list[Fact]] = {}
    found: list[tuple[Fact, Fact]] = []
    for fact in facts:
        earlier = asked.setdefault(fact.question, [])
        found += [(other, fact) for other in earlier if other.target.strip() != fact.target.strip()]
        earlier.append(fact)
    return found
