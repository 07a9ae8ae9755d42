"""`bisect --prompt P --expect T`: the commit since which the model says T, or no longer says it.

The model is loaded once; the states are swapped in memory. With `pairs`, delta debugging over the live edits finds a
set of commits that change the answer together, of which none can be left out; halving cannot find it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memit_vc.errors import MemitVCError
from memit_vc.numerics.scores.likelihood import continuations
from memit_vc.objects import ColumnId, CommitId, JsonValue, StateId, canonical_json, digest, short
from memit_vc.porcelain.asking.bisect import forks, suspects
from memit_vc.porcelain.editing.models import LoadedModel, model_of
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.repository import Repository
from memit_vc.vcs.ddmin import minimal
from memit_vc.vcs.halving import next_to_try
from memit_vc.vcs.state import State

_KIND = "asked"


@dataclass(frozen=True)
class Bisected:
    """`found` is the first commit at which the model answers differently from `good`.

    With `pairs`, `guilty` are instead the commits of a set of changes that turns the answer of `good`; none of them can
    be left out.
    """

    good: CommitId
    bad: CommitId
    found: CommitId | None
    guilty: tuple[CommitId, ...]
    says: bool
    """The expected text is the model's answer at `bad`."""
    tested: int
    """States on which the model was asked now."""
    answers: tuple[tuple[CommitId, bool], ...] = ()
    """Whether the model gives the expected text, commit by commit in the order of asking; [] with `pairs`."""


def bisect_prompt(
    repository: Repository,
    prompt: str,
    expect: str,
    *,
    good: str | None = None,
    bad: str = "HEAD",
    pairs: bool = False,
    loaded: LoadedModel | None = None,
    progress: Progress = silent,
) -> Bisected:
    """Find the commit between `good` (default: the base) and `bad` that turned the answer.

    The model says `expect` if each of its tokens is the most likely one. MemitVCError if it does so at both ends or at
    neither.
    """
    newer = repository.resolve(bad)
    older = repository.resolve(good) if good is not None else _root(repository, newer)
    left = suspects(repository, newer, [older])
    if not left:
        raise MemitVCError(
            f"{short(newer)} is in the history of {short(older)}",
            hint="Name the older end with --good, the newer one with --bad.",
        )
    loaded = model_of(repository, loaded, progress=progress)
    probe = _Asked(loaded, prompt, expect, progress)
    answers = dict[CommitId, bool]()

    def says_at(commit: CommitId) -> bool:
        answers[commit] = probe.says(LiveState.at(repository, commit))
        return answers[commit]

    says = says_at(newer)
    if says_at(older) == says:
        where = "at both ends" if says else "at neither end"
        raise MemitVCError(
            f"the model says {expect!r} {where}, at {short(older)} and at {short(newer)}",
            hint="Choose other ends with --good and --bad, or rank the live commits with `memitvc blame PROMPT`.",
        )
    if pairs:
        guilty = _guilty(repository, probe, older, newer, says)
        return Bisected(older, newer, None, guilty, says, len(probe.known))
    bad_one, goods = newer, [older]
    for fork in forks(repository, newer, goods):
        if says_at(fork) == says:
            raise MemitVCError(
                f"the model's answer is the same at {short(fork)}, where the two histories part, as at {short(newer)}",
                hint=f"It changed on the way to {short(older)}: name that end with --bad, {short(fork)} with --good.",
            )
        goods.append(fork)
    while (candidate := next_to_try(left, bad_one, repository.parents)) is not None:
        if says_at(candidate) == says:
            bad_one = candidate
        else:
            goods.append(candidate)
        left = suspects(repository, bad_one, goods)
    return Bisected(older, newer, bad_one, (), says, len(probe.known), tuple(answers.items()))


class _Asked:
    """The answer on each state. The repository keeps it: a second bisection on the same prompt, or one that was killed
    and starts again, asks the model only on new states.
    """

    def __init__(self, loaded: LoadedModel, prompt: str, expect: str, progress: Progress) -> None:
        self._loaded, self._asked, self._progress = loaded, (prompt, expect), progress
        where: list[JsonValue] = [prompt, expect, str(loaded.adapter.device.type), str(loaded.adapter.dtype)]
        self._key = digest("asked", canonical_json(where))
        self.known: dict[StateId, bool] = {}

    def says(self, state: LiveState) -> bool:
        repository = self._loaded.repository
        if state.id in self.known:
            return self.known[state.id]
        kept = repository.evaluations(state.id, _KIND).get((_KIND, self._key))
        if isinstance(kept, bool):
            return kept
        with self._loaded.holding(state) as adapter:
            self.known[state.id] = continuations(adapter, [self._asked])[0].argmax
        repository.put_evaluation(state.id, None, _KIND, self._key, self.known[state.id])
        self._progress("ask the model", len(self.known), 0)
        return self.known[state.id]


_Change = tuple[CommitId, State, State]


def _guilty(
    repository: Repository, probe: _Asked, older: CommitId, newer: CommitId, says: bool
) -> tuple[CommitId, ...]:
    """The commits of a set of changes between two states that turns the answer; none can be left out."""
    before, after = (LiveState.at(repository, commit).columns for commit in (older, newer))
    changes = _changes(repository, suspects(repository, newer, [older]), before, after)

    def together(chosen: Sequence[_Change]) -> State:
        adds = frozenset[ColumnId]().union(*(change[1] for change in chosen))
        removes = frozenset[ColumnId]().union(*(change[2] for change in chosen))
        return (before - removes) | adds

    if together(changes) != after:
        raise AssertionError("the changes between two commits make the one state of the other")

    def turned(chosen: Sequence[_Change]) -> bool:
        return probe.says(LiveState(repository, together(chosen))) == says

    return tuple(commit for commit, _, _ in minimal(changes, turned))


def _changes(repository: Repository, between: Sequence[CommitId], before: State, after: State) -> list[_Change]:
    """The columns that are in one state only, grouped by the commit of `between` that changed them, the oldest first.

    That is the first commit that adds or removes the column. If none does, because a merge took it from a side outside
    of `between`, it is the first one in whose state the column is changed.
    """
    commits = repository.commits(between)
    by: dict[ColumnId, CommitId] = {}
    for commit in commits.values():
        for column in {*commit.adds} & (after - before) | {*commit.removes} & (before - after):
            by.setdefault(column, commit.id)
    unsaid = (before ^ after) - by.keys()
    for commit_id in between if unsaid else ():
        for column in sorted((before ^ LiveState.at(repository, commit_id).columns) & unsaid - by.keys()):
            by[column] = commit_id
    found = []
    for commit_id in between:
        mine = frozenset(column for column, commit in by.items() if commit == commit_id)
        if mine:
            found.append((commit_id, mine & after, mine & before))
    return found


def _root(repository: Repository, commit: CommitId) -> CommitId:
    while parents := repository.parents(commit):
        commit = parents[0]
    return commit
