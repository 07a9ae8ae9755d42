"""Facts of one batch that say the same."""

from __future__ import annotations

from collections.abc import Sequence

from memit_vc.objects import Fact


def duplicates(facts: Sequence[Fact]) -> list[tuple[int, int]]:
    """Positions (earlier, later) of facts with one question and one target; probes may differ."""
    first: dict[object, int] = {}
    pairs = [(first.setdefault(fact.claim, position), position) for position, fact in enumerate(facts)]
    return [(earlier, later) for earlier, later in pairs if earlier != later]
