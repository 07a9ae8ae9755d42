"""Edit and cancel columns that come together from several states: which of them may stay.

A cancel column was solved against the edit columns of its fact that were live then: together they take the fact out.
Beside other edit columns it would move the weights for no fact that `facts` lists. So a joint state has either no
cancel column of a fact, or exactly the fact's columns in one of the states that it was made of.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from memit_vc.objects import ColumnId, FactId
from memit_vc.vcs.state import State

Roles: TypeAlias = Mapping[ColumnId, Sequence[tuple[FactId, str]]]
"""(fact, role) of each column; several for a patch that cannot be split."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What a state has of one fact. The fact is live where it has edits and no cancels."""

    edits: frozenset[ColumnId] = frozenset()
    cancels: frozenset[ColumnId] = frozenset()

    @property
    def all(self) -> frozenset[ColumnId]:
        return self.edits | self.cancels


class Split(Exception):  # noqa: N818 (the caller makes it an error for the user)
    """A column belongs to several facts, some of which want it out and some of which do not."""

    def __init__(self, column: ColumnId, facts: int) -> None:
        super().__init__(column, facts)
        self.column, self.facts = column, facts


def columns_of_facts(state: Collection[ColumnId], roles: Roles) -> dict[FactId, Columns]:
    """Fact → its columns in a state, in an order that depends on the state only."""
    edits: dict[FactId, set[ColumnId]] = {}
    cancels: dict[FactId, set[ColumnId]] = {}
    for column in sorted(state):
        for fact, role in roles[column]:
            edits.setdefault(fact, set())
            cancels.setdefault(fact, set())
            (cancels if role == "cancel" else edits)[fact].add(column)
    return {fact: Columns(frozenset(found), frozenset(cancels[fact])) for fact, found in edits.items()}


def live_edits(state: Collection[ColumnId], roles: Roles) -> dict[FactId, frozenset[ColumnId]]:
    """Live fact → its edit columns."""
    found = columns_of_facts(state, roles)
    return {fact: columns.edits for fact, columns in found.items() if columns.edits and not columns.cancels}


def unpaired(state: Collection[ColumnId], sources: Sequence[State], roles: Roles) -> dict[ColumnId, set[FactId]]:
    """The columns of a joint state that must leave, each with the facts that want it out.

    A fact's columns may stay if one of the `sources` has exactly those (and they are not a lone cancel column).
    Otherwise only its edit columns that no cancel column was solved against stay; without any, the fact was taken out.
    """
    sides = [columns_of_facts(source, roles) for source in sources]
    found: dict[ColumnId, set[FactId]] = {}
    for fact, here in columns_of_facts(state, roles).items():
        known = [side[fact] for side in sides if fact in side]
        if not here.cancels or (here.edits and here in known):
            continue
        cancelled = frozenset[ColumnId]().union(*(each.edits for each in known if each.cancels))
        for column in here.all - (here.edits - cancelled):
            found.setdefault(column, set()).add(fact)
    return found


def drop(state: State, leaving: Mapping[ColumnId, Collection[FactId]], roles: Roles) -> State:
    """`state` without some columns. Split if one of them also belongs to a fact that does not want it out."""
    for column, facts in leaving.items():
        owners = {fact for fact, _ in roles[column]}
        if not owners <= set(facts):
            raise Split(column, len(owners))
    return state - leaving.keys()
