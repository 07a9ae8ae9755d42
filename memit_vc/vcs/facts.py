"""Which facts are in the model, given the live columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from memit_vc.objects import ColumnId, CommitId, Fact, FactId


@dataclass(frozen=True, slots=True)
class LiveFact:
    """A fact that is in the model, its column, and the commit of the history that first brought the column in."""

    fact: Fact
    column: ColumnId
    commit: CommitId


def live_fact_columns(
    columns: Iterable[ColumnId], facts: Mapping[ColumnId, Sequence[tuple[FactId, str]]]
) -> list[tuple[FactId, ColumnId]]:
    """(fact, its column) of each live fact, once, in the order of `columns`.

    A fact is live when one of its edit columns is live and none of its cancel columns is. Where several edit columns
    of one fact are live, the last one stands for it.
    """
    listed = list(columns)
    cancelled = {fact for column in listed for fact, role in facts[column] if role == "cancel"}
    last: dict[FactId, ColumnId] = {}
    for column in listed:
        for fact, role in facts[column]:
            if role == "edit" and fact not in cancelled:
                # re-inserted at the end, so that the order is that of the columns that are kept
                last.pop(fact, None)
                last[fact] = column
    return list(last.items())
