"""`squash`: a range of commits becomes one, whose patch holds the columns that are still live at its end.

The state, as a set, does not change, so neither does a bit of the weights. The history after the range is rewritten
onto the new commit; the old commits stay reachable through the operation log until `gc --prune-operations`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from memit_vc.errors import IntegrityError, MemitVCError, UsageError
from memit_vc.objects import ColumnId, Commit, CommitId, JsonValue, short
from memit_vc.porcelain.history.scores_at_commit import handed_on, scores_of
from memit_vc.porcelain.record import Outcome, draft, record
from memit_vc.porcelain.sets.repack import repack
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import count
from memit_vc.repository import Repository
from memit_vc.vcs.graph import ancestors, is_ancestor
from memit_vc.vcs.revisions import split_range
from memit_vc.vcs.state import State

_LISTED = 50


@dataclass(frozen=True, kw_only=True)
class Squashed(Outcome):
    """`id` is the squash commit, `tip` the branch's newest commit, `patches` the number of files of the range."""

    tip: CommitId
    squashed: int
    columns: int
    cancelled: int
    """Columns that the range brought in and took out again."""
    patches: int
    rewritten: int
    """Commits after the range, which have new ids now."""
    left_behind: tuple[str, ...]
    """Other branches and tags that still point into the old history."""
    brings_back: tuple[str, ...]
    """Those of `left_behind` that would bring back, if merged, columns that the range took out again."""


def squash(repository: Repository, span: str | None = None, *, message: str | None = None) -> Squashed:
    """Squash the commits of `span` ("A..B": what B has and A has not; None: all of HEAD's history) into one.

    MemitVCError if the range is not part of HEAD's history, or if a merge ties a commit inside it to one outside.
    IntegrityError, with the repository unchanged, if the new patch does not hold exactly the old columns.
    """
    head = repository.head()
    start, end = _ends(repository, span, head.commit)
    inside = repository.resolve_range(f"{start}..{end}")
    if len(inside) < 2:
        raise MemitVCError(
            f"nothing to squash: {len(inside) or 'no'} commit in {short(start)}..{short(end)}",
            hint="Name a range A..B with commits in B that A lacks; `memitvc log` shows the commits.",
        )
    later = repository.resolve_range(f"{end}..{head.commit}")
    known = repository.commits([*inside, *later])
    _refuse_ties(known, set(inside), start, end)
    before, after = LiveState.at(repository, start), LiveState.at(repository, end)
    change = before.change_to(after.columns)
    columns = _in_order(repository, [known[commit] for commit in inside], change.adds)
    packed = repack(repository, columns)
    brought = {column for commit in inside for column in known[commit].adds}
    listed: list[JsonValue] = [*inside[:_LISTED]]
    made = draft(
        repository,
        [start],
        change,
        kind="squash",
        message=message or _message([known[commit] for commit in inside]),
        patches=packed.ids,
        provenance=packed.patches[0].header.provenance if len(packed.patches) == 1 else None,
        details={"squashes": listed, "commits": len(inside), "from": start, "to": end},
    )
    held = packed.columns(repository)
    if (before.columns - change.removes) | (held & change.adds) != after.columns:
        raise IntegrityError("the squashed range does not give the state it had", hint="Run `memitvc fsck`.")
    replaced = {end: made.id}
    rewritten = _rewrite([known[commit] for commit in later], replaced)
    tip = replaced[head.commit]
    record(
        repository,
        head,
        [made, *rewritten],
        verb="squash",
        description=f"{count(len(inside), 'commit')} into {short(made.id)}: {made.subject}",
        patches=packed.patches,
        blobs=packed.blobs,
        evaluations=[
            *handed_on(repository, inside, after.id, made.id),
            *(row for old, new in replaced.items() if old != end for row in scores_of(repository, old, new)),
        ],
    )
    old = {*inside, *(commit for commit in later if commit in replaced)}
    left_behind = {
        ref: LiveState.at(repository, commit)
        for ref, commit in repository.refs().items()
        if not old.isdisjoint(ancestors([commit], repository.parents))
    }
    now_live = LiveState.at(repository, tip).columns
    cancelled = brought - change.adds
    return Squashed(
        id=made.id,
        branch=head.branch,
        state=after.id,
        tip=tip,
        squashed=len(inside),
        columns=len(columns),
        cancelled=len(cancelled),
        patches=len(packed.ids),
        rewritten=len(rewritten),
        left_behind=tuple(ref.partition("/")[2] for ref in left_behind),
        brings_back=tuple(
            ref.partition("/")[2] for ref, there in left_behind.items() if (there.columns & cancelled) - now_live
        ),
    )


def _ends(repository: Repository, span: str | None, head: CommitId) -> tuple[CommitId, CommitId]:
    if span is None:
        roots = [c for c in ancestors([head], repository.parents) if not repository.parents(c)]
        if len(roots) > 1:  # another program wrote another root on the same base
            raise MemitVCError(
                f"HEAD's history has {len(roots)} roots, so it has no first commit",
                hint="Name a range: memitvc squash A..B.",
            )
        return roots[0], head
    ends = split_range(span)
    if ends is None:
        raise UsageError(f"{span!r} is not a range", hint=f"Write A..B, for example {span}..HEAD; or --all.")
    start, end = (repository.resolve(name) for name in ends)
    for older, newer in ((start, end), (end, head)):
        if not is_ancestor(older, newer, repository.parents):
            what = "HEAD's history" if newer == head else f"the history of {short(newer)}"
            raise MemitVCError(f"{short(older)} is not in {what}", hint="Switch to the branch that has these commits.")
    return start, end


def _refuse_ties(known: dict[CommitId, Commit], inside: set[CommitId], start: CommitId, end: CommitId) -> None:
    """A commit that replaces the range has one parent, and only the range's end can have children outside."""
    for commit in known.values():
        for parent in commit.parents:
            if commit.id in inside and parent not in inside and parent != start:
                raise MemitVCError(
                    f"the range holds commit {short(commit.id)}, which joins {short(parent)} from outside it",
                    hint="Start the range before that branch began, or squash the commits before and after the merge.",
                )
            if commit.id not in inside and parent in inside and parent != end:
                raise MemitVCError(
                    f"{short(commit.id)} comes after the range, but its parent {short(parent)} is in the middle of it",
                    hint="End the range after that merge, or before the branch began.",
                )


def _in_order(repository: Repository, commits: Sequence[Commit], wanted: State) -> list[ColumnId]:
    """The wanted columns, in the order of the commits and of their patches."""
    held = LiveState(repository, wanted).patches
    places = {column: (patch, n) for patch, found in held.items() for n, column in enumerate(found.columns)}
    ordered = (c for commit in commits for c in sorted(wanted & set(commit.adds), key=places.__getitem__))
    return list(dict.fromkeys(ordered))


def _rewrite(later: Sequence[Commit], replaced: dict[CommitId, CommitId]) -> list[Commit]:
    """The commits after the range on their new parents; fills `replaced`. They start from the same state as before, so
    their change of state is the same.
    """
    made = []
    for commit in later:
        parents = tuple(replaced.get(parent, parent) for parent in commit.parents)
        if parents != commit.parents:
            new = dataclasses.replace(commit, parents=parents)
            replaced[commit.id] = new.id
            made.append(new)
    return made


def _message(commits: Sequence[Commit]) -> str:
    lines = [f"* {commit.subject}" for commit in commits[:_LISTED]]
    if len(commits) > _LISTED:
        lines.append(f"* … and {len(commits) - _LISTED} more")
    return "\n".join([f"Squash {count(len(commits), 'commit')}", "", *lines])
