"""`commit --patch`: a patch that was kept because its branch moved, onto the present tip. No model is loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from memit_vc.errors import MemitVCError, RevisionError
from memit_vc.objects import ColumnId, Commit, CommitId, JsonValue, Patch, PatchId, StateId, short, utc_now
from memit_vc.porcelain.record import author_name, head_update
from memit_vc.porcelain.sets.conflicts import OnConflict
from memit_vc.porcelain.sets.contradictions import conflict_details
from memit_vc.porcelain.sets.join import Side, join
from memit_vc.repository import Repository
from memit_vc.vcs.exact import check_bound
from memit_vc.vcs.state import change_between

__all__ = ["KeptResult", "commit_kept", "drop_kept"]


@dataclass(frozen=True)
class KeptResult:
    """`computed_on` is the commit on whose state the patch was computed; it is not the new commit's parent."""

    id: CommitId
    patch: PatchId
    branch: str | None
    state: StateId
    facts: int
    computed_on: CommitId
    notes: tuple[str, ...]


def commit_kept(
    repository: Repository, patch: str, *, on_conflict: OnConflict = "stop", message: str | None = None
) -> KeptResult:
    """Commit the kept patch whose id starts with `patch` on HEAD.

    Facts that have become live meanwhile are left out where the patch can be split. RevisionError where no such patch
    is kept, ConflictError as for `merge`, MemitVCError where nothing of it is left to commit.
    """
    kept = repository.kept(_find(repository, patch))
    head = repository.head()
    origins = repository.origins(head.commit)
    state = frozenset(origins)
    known = _live_already(repository, kept.patch, head.commit)
    brought = frozenset(kept.patch.columns) - known
    joined = join(
        repository,
        state | brought,
        Side(state, origins),
        [Side(brought, change=brought, patch=kept.patch.id)],
        on_conflict,
        what=f"committing patch {short(kept.patch.id)}",
    )
    change = change_between(state, joined.state)
    if not change.adds:
        raise MemitVCError(
            f"nothing to commit: no fact of patch {short(kept.patch.id)} is new here; it stays kept",
            hint=f"`memitvc facts` lists what is live. To give the patch up: "
            f"memitvc commit --patch {short(kept.patch.id)} --drop",
        )
    check_bound(repository.bounds(joined.state))
    details: Mapping[str, JsonValue] = kept.details if isinstance(kept.details, Mapping) else {}
    made = Commit(
        base=repository.base_id,
        parents=(head.commit,),
        adds=tuple(sorted(change.adds)),
        removes=tuple(sorted(change.removes)),
        patches=(kept.patch.id,),
        kind="commit",
        message=message or kept.message,
        author=author_name(repository),
        time=utc_now(),
        provenance=kept.patch.header.provenance,
        details={
            **details,
            "facts": _count(repository, change.adds),
            "computed_on": kept.parent,
            **conflict_details(joined.contradictions, on_conflict),
        },
    )
    repository.publish(verb="commit", description=made.subject, commits=[made], **head_update(head, made.id))
    notes = joined.notes()
    if known:
        many = len(known) != 1
        notes.append(
            f"{len(known)} column{'s were' if many else ' was'} left out: "
            f"{'their facts are' if many else 'its fact is'} live already"
        )
    if kept.parent != head.commit:
        notes.append(
            f"the patch was computed on {short(kept.parent)}, without what came after it; "
            "`memitvc squash --resolve` solves all facts together"
        )
    return KeptResult(
        made.id,
        kept.patch.id,
        head.branch,
        repository.state_id(joined.state),
        _count(repository, change.adds),
        kept.parent,
        tuple(notes),
    )


def drop_kept(repository: Repository, patch: str) -> PatchId:
    """Give the kept patch whose id starts with `patch` up; `gc` removes it. RevisionError where none is kept."""
    found = _find(repository, patch)
    repository.drop_kept(found)
    return found


def _find(repository: Repository, prefix: str) -> PatchId:
    found = [patch for patch in repository.kept_patches() if patch.startswith(prefix.lower())]
    if not found:  # one that another branch has a commit of
        found = [patch for patch in repository.kept_patches(everything=True) if patch.startswith(prefix.lower())]
    if len(found) == 1 and prefix:
        return found[0]
    what = f"{len(found)} kept patches begin with" if found else "no kept patch begins with"
    raise RevisionError(f"{what} {prefix!r}", hint="`memitvc status` lists the kept patches.")


def _live_already(repository: Repository, patch: Patch, tip: CommitId) -> frozenset[ColumnId]:
    """Columns whose fact, in other columns, is live: applied twice, it would overshoot. None of a dense patch."""
    if not patch.header.divisible:
        return frozenset()
    live = {(entry.fact.question, entry.fact.target.strip()): entry.column for entry in repository.live_facts(tip)}
    facts = repository.facts({column.fact for column in patch.header.columns})
    found = set()
    for column, described in zip(patch.columns, patch.header.columns, strict=True):
        fact = facts[described.fact]
        if live.get((fact.question, fact.target.strip()), column) != column:
            found.add(column)
    return frozenset(found)


def _count(repository: Repository, columns: Collection[ColumnId]) -> int:
    return len({fact for pairs in repository.column_facts(columns).values() for fact, _ in pairs})
