"""`merge`: the union of two histories, column by column. Set algebra: no model, exact."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from memit_vc.objects import ColumnId, CommitId, FactId, short
from memit_vc.porcelain.record import Outcome, draft, move_head, record
from memit_vc.porcelain.sets.join import Joined, Side, join
from memit_vc.porcelain.state import LiveState
from memit_vc.repository import Repository
from memit_vc.vcs.contradictions import OnConflict, conflict_details
from memit_vc.vcs.graph import is_ancestor
from memit_vc.vcs.state import State, merge_commits


@dataclass(frozen=True, kw_only=True)
class Merged(Outcome):
    """`how` it went."""

    how: Literal["up-to-date", "fast-forward", "merge"]


def merge(
    repository: Repository,
    revision: str,
    *,
    on_conflict: OnConflict = "stop",
    message: str | None = None,
    fast_forward: bool = True,
    guard: Callable[[LiveState, LiveState], Sequence[str]] | None = None,
) -> Merged:
    """Merge `revision` into HEAD.

    A column that either side took out since the merge base is out, one that either side brought in is in; a column of
    both sides counts once. Several merge bases are merged with each other first. But a question that both sides answer
    stays answered (`_with_answers`). ConflictError, with the repository unchanged, if a live fact of one side
    contradicts one of the other and `on_conflict` does not say which stays. `guard` sees HEAD's state and the new one
    before anything moves; it raises, or gives notes.
    """
    theirs = repository.resolve(revision)
    head = repository.head()
    ours = LiveState.at(repository, head.commit)
    if is_ancestor(theirs, head.commit, repository.parents):
        return Merged(id=head.commit, branch=head.branch, state=ours.id, how="up-to-date")
    if fast_forward and is_ancestor(head.commit, theirs, repository.parents):
        after = LiveState.at(repository, theirs)
        change = ours.change_to(after.columns)
        told = tuple(guard(ours, after)) if guard is not None else ()
        move_head(repository, head, theirs, verb="merge", description=f"fast-forward to {short(theirs)}")
        return Merged(
            id=theirs,
            branch=head.branch,
            state=after.id,
            added=len(change.adds),
            removed=len(change.removes),
            notes=told,
            how="fast-forward",
        )
    joined = merged_state(ours, theirs, on_conflict, what=f"merging {revision}")
    made = draft(
        repository,
        [head.commit, theirs],
        joined.change,
        kind="merge",
        message=message or _message(repository, revision, theirs),
        details={"merges": theirs, **conflict_details(joined.contradictions, on_conflict)},
    )
    told = tuple(guard(ours, LiveState(repository, joined.state))) if guard is not None else ()
    done = record(repository, head, [made], contradictions=joined.contradictions, notes=told, warnings=joined.warnings)
    return Merged(**vars(done), how="merge")


def merged_state(ours: LiveState, theirs: CommitId, on_conflict: OnConflict, *, what: str) -> Joined:
    """The state of a commit, ours, merged with that of another. ConflictError as for `merge`."""
    repository, side = ours.repository, Side(LiveState.at(ours.repository, theirs), wins=True)
    if ours.commit is None:
        raise AssertionError("a merge is of two commits")
    wanted = merge_commits(ours.commit, theirs, repository.parents, repository.state)
    return join(ours, _with_answers(wanted, ours, side.live), [side], on_conflict, what=what)


def _with_answers(wanted: State, ours: LiveState, theirs: LiveState) -> State:
    """`wanted`, and the columns of each question that both sides answer and `wanted` does not: each side took out what
    the other one kept. If the answers differ, `join` sees to the contradiction. If they are the same, the columns of
    one side are enough, whichever side it is.
    """
    if wanted in (ours.columns, theirs.columns):
        return wanted
    joint = LiveState(ours.repository, wanted, known=ours.known)
    mine, other, left = _answers(ours), _answers(theirs), _answers(joint)
    back: dict[FactId, State] = {}
    for question in mine.keys() & other.keys() - left.keys():
        for answer in mine[question].keys() | other[question].keys():
            kept = [side[question][answer] for side in (mine, other) if answer in side[question]]
            chosen = min(kept, key=_columns)
            back.update(chosen)
    cancels = {column for column in wanted if _only_cancels(joint.roles[column], back)}
    return (wanted - cancels if back else wanted).union(*back.values())


def _only_cancels(pairs: Sequence[tuple[FactId, str]], facts: Collection[FactId]) -> bool:
    """Whether a column does nothing but cancel some of the facts. One of an adapter is about no fact."""
    return bool(pairs) and all(role == "cancel" and fact in facts for fact, role in pairs)


def _columns(facts: Mapping[FactId, State]) -> list[ColumnId]:
    return sorted(column for columns in facts.values() for column in columns)


def _answers(state: LiveState) -> dict[tuple[str, str], dict[str, dict[FactId, State]]]:
    """Of each question that is answered, the live facts by their answer, with their edit columns."""
    found: dict[tuple[str, str], dict[str, dict[FactId, State]]] = {}
    for fact, columns in state.edits.items():
        question, answer = state.facts[fact].claim
        found.setdefault(question, {}).setdefault(answer, {})[fact] = columns
    return found


def _message(repository: Repository, revision: str, theirs: CommitId) -> str:
    refs = repository.refs()
    for prefix, kind in (("heads/", "branch"), ("tags/", "tag"), ("remotes/", "remote branch")):
        if prefix + revision in refs:
            return f"Merge {kind} {revision!r}"
    return f"Merge commit {short(theirs)}"
