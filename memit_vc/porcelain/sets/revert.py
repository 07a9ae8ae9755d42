"""`revert`: take the change of commits back. Set algebra: no model, no statistics, exact by construction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from memit_vc.errors import ConflictError, MemitVCError, RevisionError
from memit_vc.objects import Commit, CommitId, FactId, short
from memit_vc.porcelain.record import Outcome, draft, record
from memit_vc.porcelain.sets.built_on import built_on
from memit_vc.porcelain.sets.cherry_pick import named_commits
from memit_vc.porcelain.sets.join import Side, join
from memit_vc.porcelain.sets.named_fact import named_facts
from memit_vc.porcelain.state import LiveState
from memit_vc.repository import Repository
from memit_vc.vcs.contradictions import OnConflict, conflict_details
from memit_vc.vcs.inverse import inverse
from memit_vc.vcs.state import Change, State


@dataclass(frozen=True, kw_only=True)
class Reverted(Outcome):
    """`later` are commits whose live facts were computed on top of columns that left; those facts stay."""

    reverted: tuple[CommitId, ...]
    later: tuple[CommitId, ...]


def revert(
    repository: Repository,
    revisions: Sequence[str],
    *,
    fact: str | None = None,
    on_conflict: OnConflict = "stop",
    message: str | None = None,
) -> Reverted:
    """Take back the change of state of each revision (A..B stands for its commits), in one commit on HEAD.

    The inverse of each change is applied to HEAD's state, the newest commit first: columns that it brought in leave,
    columns that it took out come back if that still stands (`vcs.inverse`). Columns that cancel a fact leave with it.
    With `fact` (an id, a prefix of one, or a subject) only that fact's columns. ConflictError, with the repository
    unchanged, if a returning fact contradicts a live one and `on_conflict` does not say which stays.
    """
    commits = reverted_commits(repository, revisions)
    head = repository.head()
    live = LiveState.at(repository, head.commit)
    sides, wanted = _undone(live, commits)
    chosen: frozenset[FactId] = frozenset()
    if fact is not None:
        wanted, chosen = _of_fact(live, wanted, fact)
    what = ", ".join(short(commit.id) for commit in commits)
    joined = join(live, wanted, sides, on_conflict, what=f"reverting {what}")
    if not joined.change:
        raise _nothing(live, commits, fact, what)
    made = draft(
        repository,
        [head.commit],
        joined.change,
        kind="revert",
        message=message or revert_message(repository, commits, chosen, "This takes back commit {}."),
        details={
            "reverts": [commit.id for commit in commits],
            **({"fact": fact} if fact is not None else {}),
            **conflict_details(joined.contradictions, on_conflict),
        },
    )
    later = built_on(live, joined.state & live.columns, joined.change.removes)
    done = record(repository, head, [made], contradictions=joined.contradictions, warnings=joined.warnings)
    return Reverted(**vars(done), reverted=tuple(commit.id for commit in commits), later=later)


def reverted_commits(repository: Repository, revisions: Sequence[str]) -> list[Commit]:
    """The commits that revisions and ranges name, children before parents. MemitVCError for the base itself."""
    named = named_commits(repository, revisions)
    commits = list(repository.commits(sorted(named, key=repository.order, reverse=True)).values())
    for commit in commits:
        if commit.kind == "root":
            raise MemitVCError(
                f"{short(commit.id)} is the base itself", hint="Name a later commit; `memitvc log` lists them."
            )
    return commits


def revert_message(repository: Repository, commits: Sequence[Commit], facts: Collection[FactId], what: str) -> str:
    """The message for reverting `commits`, or only `facts` of them; `what` is a line for each, {} stands for its id.

    Short logs show the first line only, so that it names single facts.
    """
    named = [repository.facts(facts)[fact] for fact in sorted(facts)]
    batch = f'"{commits[0].subject}"' if len(commits) == 1 else f"{len(commits)} commits"
    subjects = ", ".join(dict.fromkeys(fact.subject or fact.prompt for fact in named))
    return "\n\n".join(
        [f'Revert "{subjects}" of {batch}' if named else f"Revert {batch}"]
        + [f"Fact: {fact.prompt} → {fact.target} ({short(fact.id)})" for fact in named]
        + [what.format(commit.id) for commit in commits]
    )


def _undone(live: LiveState, commits: Sequence[Commit]) -> tuple[list[Side], State]:
    """Our state without the commits' changes, and for each commit the state that it was made on."""
    sides, state = [], live.columns
    for commit in commits:
        before = LiveState.at(live.repository, commit.parents[0])
        change = Change.of(commit)
        sides.append(Side(before, commit=commit.id))
        every = LiveState(live.repository, state | before.columns | change.adds)
        questions = {fact: described.question for fact, described in every.facts.items()}
        state = inverse(state, change, before.columns, every.roles, questions)
    return sides, state


def _of_fact(live: LiveState, wanted: State, name: str) -> tuple[State, frozenset[FactId]]:
    """Our state with only one fact's part of the change to `wanted`; that fact, with the facts that it had replaced."""
    change = live.change_to(wanted)
    pairs = LiveState(live.repository, change.adds | change.removes).roles
    leaving = {fact for column in change.removes for fact, _ in pairs[column]}
    returning = {fact for column in change.adds for fact, _ in pairs[column]}
    chosen = named_facts(live.repository, leaving, returning, name)
    columns = {column for column, entries in pairs.items() if any(fact in chosen for fact, _ in entries)}
    for column in columns:
        if len(pairs[column]) > 1:
            raise ConflictError(
                f"fact {name!r} belongs to a patch of {len(pairs[column])} facts, which cannot be split",
                hint="Revert the whole commit, or use --resolve, which takes one fact out in closed form.",
            )
    return (live.columns - (change.removes & columns)) | (change.adds & columns), chosen


def _nothing(live: LiveState, commits: Sequence[Commit], fact: str | None, what: str) -> MemitVCError:
    if fact is not None:
        return RevisionError(f"{what} changes nothing of a live fact {fact!r}", hint=_elsewhere(live, fact))
    hint = "`memitvc facts` lists what is live."
    if any(commit.removes for commit in commits):
        hint = f"The facts that it put in have been replaced or reverted since. {hint}"
    return MemitVCError(f"nothing to revert: nothing of {what} is live", hint=hint)


def _elsewhere(live: LiveState, name: str) -> str:
    """Which commit brought in the fact that `--fact` names, if it is live at all."""
    known = {entry.fact.id: entry for entry in live.live}
    with suppress(RevisionError):  # the name may fit several
        for fact in named_facts(live.repository, known, (), name):
            commit = short(known[fact].commit)
            return f"It came in with commit {commit}: memitvc revert {commit} --fact {short(fact)}"
    return "`memitvc facts` lists what is live, and the commits."
