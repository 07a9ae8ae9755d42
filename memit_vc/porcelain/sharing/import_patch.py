"""`import`: the commits of a patch file on HEAD, like cherry-picks. Everything is checked before anything is stored.

The file is a remote's tree in one container (`remote/container.py`), read by the functions with which `fetch` reads a
remote. Its commits are not taken over, since their parents may be elsewhere: their changes are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memit_vc.errors import ConflictError, IntegrityError
from memit_vc.objects import BlobId, ColumnId, Commit, CommitId, FactId, Patch, PatchId, is_sha256, short
from memit_vc.porcelain.history.settings import RESOLVED
from memit_vc.porcelain.record import Outcome, draft, record
from memit_vc.porcelain.sets.join import Side, join
from memit_vc.porcelain.sharing.incoming import Incoming
from memit_vc.porcelain.sharing.received_history import MAX_PROVENANCE, Received, Together, received
from memit_vc.porcelain.sharing.remote_commit import RemoteCommit
from memit_vc.porcelain.sharing.remote_history import Published, new_records
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.remote.container import DISTRUST, PATCH_REF, ContainerTree
from memit_vc.remote.manifest import MANIFEST, commit_path, object_path
from memit_vc.repository import Repository
from memit_vc.vcs.contradictions import Contradiction, OnConflict, conflict_details
from memit_vc.vcs.settling import columns_of_facts
from memit_vc.vcs.state import Change, State, apply


@dataclass(frozen=True, kw_only=True)
class Imported(Outcome):
    """`ids` are the new commits, () if everything was here already; `skipped` are commits whose change was here."""

    ids: tuple[CommitId, ...]
    imported: tuple[CommitId, ...]
    skipped: tuple[CommitId, ...]


def import_patch(
    repository: Repository,
    file: Path,
    *,
    on_conflict: OnConflict = "stop",
    progress: Progress = silent,
) -> Imported:
    """One new commit on HEAD for each commit of `file`, all or nothing, in one operation; no model is loaded.

    What is here already is left out: importing it again does nothing. IntegrityError for a file that is damaged,
    hostile or of another base; ConflictError for a contradiction with a live fact (as `cherry_pick`); MemitVCError for
    an unknown version. After an error the repository is unchanged.
    """
    found = Published.at(ContainerTree(file))
    if found is None:
        raise AssertionError("a container without a manifest was refused")
    if found.manifest.base != repository.base_id:
        raise IntegrityError(
            f"{file}: belongs to base {short(found.manifest.base)}, this repository has {short(repository.base_id)}",
            hint="Import it into a repository on the same base model and revision.",
        )
    # the parents of the first commits are not in the file, and need not be here
    records = new_records(found, lambda ids: [id_ for id_ in ids if commit_path(id_) not in found.listing])
    with Incoming(repository.root, repository.blobs, name="import") as incoming:
        try:
            new = received(repository, found, records, incoming, progress=progress)
            known = Together(repository, new)
            _check_whole(known, found, records)
            return _picked(known, file, records, incoming, on_conflict)
        finally:
            incoming.clear()


def _picked(
    known: Together,
    file: Path,
    records: Sequence[RemoteCommit],
    incoming: Incoming,
    on_conflict: OnConflict,
) -> Imported:
    """The changes of the file's commits made on HEAD."""
    repository, new = known.repository, known.new
    head = repository.head()
    state = LiveState.at(repository, head.commit, known=known)
    made: list[Commit] = []
    skipped: list[CommitId] = []
    conflicts: list[Contradiction] = []
    warnings: list[str] = []
    for commit in (each.commit for each in records):
        wanted = apply(state.columns, Change(frozenset(commit.adds), frozenset(commit.removes) & state.columns))
        there = _there(state, wanted, commit, known, incoming)
        side = Side(there, change=frozenset(commit.adds), commit=commit.id)
        joined = join(state, wanted, [side], on_conflict, what=f"commit {short(commit.id)} of {file.name}")
        if not joined.change:
            skipped.append(commit.id)
            continue
        conflicts += joined.contradictions
        warnings += joined.warnings
        made.append(
            draft(
                repository,
                [made[-1].id if made else head.commit],
                joined.change,
                kind="cherry-pick",
                message=f"{commit.message}\n\nImported from commit {commit.id} by {commit.author or 'unknown'}.",
                patches=_holding(state.with_columns(joined.change.adds), new.patches),
                provenance=commit.provenance,
                details={"imports": commit.id, **conflict_details(joined.contradictions, on_conflict)},
            )
        )
        state = state.with_columns(joined.state, dict.fromkeys(joined.change.adds, made[-1].id))
    done = Outcome(id=head.commit, branch=head.branch, state=state.id)
    if made:
        columns = {column for commit in made for column in commit.adds}
        patches = [patch for patch in new.patches if not columns.isdisjoint(patch.columns)]
        provenance = {commit.provenance for commit in made if commit.provenance is not None}
        provenance |= {patch.header.provenance for patch in patches if patch.header.provenance is not None}
        facts = {column.fact: new.facts[column.fact] for patch in patches for column in patch.header.columns}
        incoming.store(Received(patches, facts, provenance).objects)
        done = record(
            repository,
            head,
            made,
            verb="import",
            description=f"{file.name}: {made[0].subject if len(made) == 1 else f'{len(made)} commits'}",
            patches=patches,
            facts=list(facts.values()),
            contradictions=conflicts,
            warnings=warnings,
        )
    return Imported(
        **vars(done),
        ids=tuple(commit.id for commit in made),
        imported=tuple(each.commit.id for each in records if each.commit.id not in skipped),
        skipped=tuple(skipped),
    )


def _holding(state: LiveState, new: Sequence[Patch]) -> list[PatchId]:
    """New patches, and those of the repository for the columns that they do not hold."""
    supplied = {column for patch in new for column in patch.columns}
    fresh = [patch.id for patch in new if not state.columns.isdisjoint(patch.columns)]
    return [*fresh, *LiveState(state.repository, state.columns - supplied).selection]


def _there(state: LiveState, wanted: State, commit: Commit, known: Together, incoming: Incoming) -> LiveState:
    """What is known of a commit's own state: its columns, and the columns here that its cancel columns take out.

    Provenance says which edit columns those were solved against. If it does not, it is assumed that they are the ones
    here. ConflictError if a fact is live here by other edits only.
    """
    adds = frozenset(commit.adds)
    roles = state.known.column_facts(wanted | adds)
    cancels = [column for column in adds if _cancels(roles[column])]
    cancelled = {fact for column in cancels for fact, role in roles[column] if role == "cancel"}
    about = frozenset(column for column in wanted if cancelled.intersection(fact for fact, _ in roles[column]))
    told = _taken_out(known.patches_of(cancels), incoming)
    if told is None:  # those that come with them, else those that are here
        brought = columns_of_facts(adds, roles)
        own = {fact for fact in cancelled if brought[fact].edits}
        meant = frozenset(c for c in about if c in adds or own.isdisjoint(fact for fact, _ in roles[c]))
    else:
        meant = about & (adds | told | {c for c in about if _cancels(roles[c])})
    here = columns_of_facts(meant, roles)
    missed = [fact for fact in sorted(cancelled & state.edits.keys()) if fact not in here or not here[fact].edits]
    if missed:
        facts = known.facts(missed)
        raise ConflictError(
            f"commit {short(commit.id)} takes out {', '.join(repr(facts[fact].subject) for fact in missed)}, "
            "but by columns that do not fit the edits here",
            hint="Take the facts out here: memitvc revert --resolve, with the commits that added them.",
        )
    return LiveState(state.repository, adds | meant, known=state.known)


def _cancels(pairs: Sequence[tuple[FactId, str]]) -> bool:
    return any(role == "cancel" for _, role in pairs)


def _taken_out(patches: Iterable[Patch], incoming: Incoming) -> set[ColumnId] | None:
    """The edit columns that the cancel columns of patches take out, as their provenance says; a squash names the
    provenance of what it holds. None if a part of that is not here, or says nothing: readers accept any record there.
    """
    found = set[ColumnId]()
    ahead: list[object] = [patch.header.provenance for patch in patches]
    seen = set[str]()
    while ahead:
        blob = ahead.pop()
        if blob in seen:
            continue
        record = _record(blob, incoming)
        if record is None:
            return None
        seen.add(str(blob))
        cancels, sources = (_listed(record, key) for key in ("cancels", "sources"))
        if cancels is None and record.get("algorithm") == RESOLVED:
            return None
        found |= {ColumnId(each) for each in cancels or () if isinstance(each, str)}
        ahead += [each.get("provenance") for each in sources or () if isinstance(each, dict)]
    return found


def _record(blob: object, incoming: Incoming) -> Mapping[str, object] | None:
    """A provenance record that is here; None for what is not one, which somebody may have named."""
    if not is_sha256(blob) or not incoming.has(BlobId(blob)):
        return None
    path = incoming.path(BlobId(blob))
    if path.stat().st_size > MAX_PROVENANCE:
        return None
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _listed(record: Mapping[str, object], key: str) -> list[object] | None:
    found = record.get(key)
    return found if isinstance(found, list) else None


def _check_whole(known: Together, found: Published, records: Sequence[RemoteCommit]) -> None:
    """IntegrityError if a commit cannot be picked, or if the file holds anything that no commit needs."""
    where, repository = found.remote.url, known.repository
    held = known.columns(each.commit for each in records)
    for commit in (each.commit for each in records):
        name = f"{where}: commit {short(commit.id)}"
        if absent := set(commit.adds) - held:
            raise IntegrityError(f"{name}: no patch in the file holds its column {short(min(absent))}", hint=DISTRUST)
        if not commit.parents or set(commit.adds) & set(commit.removes):
            raise IntegrityError(f"{name} has no parent, or adds what it removes", hint=DISTRUST)
    patches = {patch for each in records for patch in each.patches}
    here = repository.patches(repository.known_patches(patches)).values()
    blobs = {blob for each in records for pair in each.patches.items() for blob in pair}
    blobs |= {*known.new.provenance, *(patch.header.provenance for patch in here)}
    needed = {object_path(blob) for blob in blobs if blob is not None}
    stray = found.listing.keys() - needed - {MANIFEST, *(commit_path(each.commit.id) for each in records)}
    if stray:
        raise IntegrityError(f"{where}: {min(stray)} belongs to nothing in it", hint=DISTRUST)
    if found.manifest.refs.keys() != {PATCH_REF} or commit_path(found.manifest.refs[PATCH_REF]) not in found.listing:
        raise IntegrityError(f"{where}: {PATCH_REF} must be its only ref, and a commit that it holds", hint=DISTRUST)
