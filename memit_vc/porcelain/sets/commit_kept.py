"""`commit --patch`: a patch that was kept because its branch moved, onto the present tip. The guard needs a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from memit_vc.errors import MemitVCError, RevisionError
from memit_vc.objects import CommitId, JsonValue, Patch, PatchId, short
from memit_vc.porcelain.record import Outcome, draft, record
from memit_vc.porcelain.sets.join import Side, join
from memit_vc.porcelain.state import LiveState
from memit_vc.repository import Repository
from memit_vc.vcs.contradictions import OnConflict, conflict_details
from memit_vc.vcs.state import State


@dataclass(frozen=True, kw_only=True)
class KeptCommitted(Outcome):
    """`computed_on` is the commit on whose state the patch was computed; it is not the new commit's parent."""

    patch: PatchId
    facts: int
    computed_on: CommitId


def commit_kept(
    repository: Repository,
    patch: str,
    *,
    on_conflict: OnConflict = "stop",
    message: str | None = None,
    guard: Callable[[LiveState, LiveState], Sequence[str]] | None = None,
) -> KeptCommitted:
    """Commit the kept patch whose id starts with `patch` on HEAD.

    Facts that have become live meanwhile are left out if the patch can be split. RevisionError if no such patch is
    kept, ConflictError as for `merge`, MemitVCError if nothing of it is left to commit. `guard` sees HEAD's state and
    the new one before anything moves; it raises, or gives notes.
    """
    kept = repository.kept(_find(repository, patch))
    head = repository.head()
    live = LiveState.at(repository, head.commit)
    known = _live_already(live, kept.patch)
    brought = frozenset(kept.patch.columns) - known
    side = Side(LiveState(repository, brought), change=brought, patch=kept.patch.id)
    what = f"committing patch {short(kept.patch.id)}"
    joined = join(live, live.columns | brought, [side], on_conflict, what=what)
    if not joined.change.adds:
        raise MemitVCError(
            f"nothing to commit: no fact of patch {short(kept.patch.id)} is new here; it stays kept",
            hint=f"Look at `memitvc facts`, which lists what is live. To give the patch up: "
            f"memitvc commit --patch {short(kept.patch.id)} --drop",
        )
    details: Mapping[str, JsonValue] = kept.details if isinstance(kept.details, Mapping) else {}
    facts = len(LiveState(repository, joined.change.adds).facts)
    made = draft(
        repository,
        [head.commit],
        joined.change,
        kind="commit",
        message=message or kept.message,
        patches=[kept.patch.id],
        provenance=kept.patch.header.provenance,
        details={
            **details,
            "facts": facts,
            "computed_on": kept.parent,
            **conflict_details(joined.contradictions, on_conflict),
        },
    )
    notes = [*guard(live, LiveState(repository, joined.state))] if guard is not None else []
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
    done = record(repository, head, [made], contradictions=joined.contradictions, notes=notes, warnings=joined.warnings)
    return KeptCommitted(**vars(done), patch=kept.patch.id, facts=facts, computed_on=kept.parent)


def drop_kept(repository: Repository, patch: str) -> PatchId:
    """Give up the kept patch whose id starts with `patch`; `gc` removes it. RevisionError if none is kept."""
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
    raise RevisionError(f"{what} {prefix!r}", hint="Look at `memitvc status`, which lists the kept patches.")


def _live_already(live: LiveState, patch: Patch) -> State:
    """Columns whose fact is live in other columns: applied twice, it would overshoot. None for a dense patch."""
    if not patch.header.divisible:
        return frozenset()
    claims = {entry.fact.claim: entry.column for entry in live.live}
    facts = live.repository.facts({column.fact for column in patch.header.columns})
    return frozenset(
        column
        for column, described in zip(patch.columns, patch.header.columns, strict=True)
        if claims.get(facts[described.fact].claim, column) != column
    )
