"""The inverse of a commit's change, applied to a state that has moved on since."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

from memit_vc.objects import ColumnId, FactId
from memit_vc.vcs.settling import Roles, live_edits
from memit_vc.vcs.state import Change, State, apply

Questions: TypeAlias = Mapping[FactId, tuple[str, str]]
"""What each fact asks (`Fact.question`)."""


def inverse(state: State, change: Change, before: State, roles: Roles, questions: Questions) -> State:
    """`state` with `change`, which was made on `before`, taken back as far as it still stands.

    Columns that it brought in leave. Columns that it took out come back, with two exceptions. If the commit replaced an
    answer, the old answer returns only if the new one is still live (or as the commit left it): a later change to that
    question wins. If an old column had no effect (another one cancelled its fact), it returns only if something leaves.
    """
    live = live_edits(state, roles).keys()
    left = live_edits(apply(before, change), roles).keys()
    answers: dict[tuple[str, str], bool] = {}
    for column in change.adds:
        for fact, role in roles[column]:
            if role == "edit":
                stands = column in state and (fact in live or fact not in left)
                answers[questions[fact]] = answers.get(questions[fact], False) or stands
    held = live_edits(before, roles).keys()
    replaced = bool(change.adds & state) or not change.adds

    def returns(column: ColumnId) -> bool:
        facts = [fact for fact, _ in roles[column]]
        asked = [answers[questions[fact]] for fact in facts if questions[fact] in answers]
        if asked:
            return any(asked)
        return replaced or any(fact in held for fact in facts)

    back = frozenset(column for column in change.removes - state if returns(column))
    return (state - change.adds) | back


def inverse_facts(
    live: Collection[FactId], added: Collection[FactId], removed: Collection[FactId], questions: Questions
) -> frozenset[FactId]:
    """The same for sets of facts: `added` go, `removed` come back if the answer that replaced them is live."""
    answers: dict[tuple[str, str], bool] = {}
    for fact in added:
        answers[questions[fact]] = answers.get(questions[fact], False) or fact in live
    back = {fact for fact in removed if answers.get(questions[fact], True)}
    return (frozenset(live) - frozenset(added)) | back
