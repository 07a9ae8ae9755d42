"""`import`: the commits of a patch file on HEAD, like cherry-picks. Everything is checked before anything is stored."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memit_vc.errors import IntegrityError
from memit_vc.objects import BlobId, ColumnId, Commit, CommitId, Fact, FactId, canonical_json, short
from memit_vc.porcelain.record import Outcome, draft, record
from memit_vc.porcelain.sets.join import Side, join
from memit_vc.porcelain.sharing.bundle import Bundle
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.vcs.contradictions import Contradiction, OnConflict, conflict_details
from memit_vc.vcs.state import Change, State, apply

if TYPE_CHECKING:
    from memit_vc.objects import Patch
    from memit_vc.repository import Repository

__all__ = ["Imported", "import_patch"]

_HINT = "The file is damaged or was made to mislead; nothing was stored."


@dataclass(frozen=True, kw_only=True)
class Imported(Outcome):
    """`ids` are the new commits, () where all of the file was here; `skipped` its commits whose change was."""

    ids: tuple[CommitId, ...]
    imported: tuple[CommitId, ...]
    skipped: tuple[CommitId, ...]


@dataclass(frozen=True)
class _Incoming:
    """What a file brings, checked; a repository together with it (see `state.Described`)."""

    repository: Repository
    patches: Sequence[Patch]
    new_facts: dict[FactId, Fact]
    described: dict[ColumnId, list[tuple[FactId, str]]]

    def column_facts(self, columns: Collection[ColumnId]) -> dict[ColumnId, list[tuple[FactId, str]]]:
        known = self.repository.column_facts([c for c in columns if c not in self.described])
        return {column: self.described.get(column) or known[column] for column in columns}

    def facts(self, ids: Collection[FactId]) -> dict[FactId, Fact]:
        return self.repository.facts([id_ for id_ in ids if id_ not in self.new_facts]) | {
            id_: self.new_facts[id_] for id_ in ids if id_ in self.new_facts
        }

    def bounds(self, columns: Collection[ColumnId]) -> dict[str, float]:
        """As `Repository.bounds`, for a state of columns from both."""
        total = dict(self.repository.bounds([c for c in columns if c not in self.described]))
        counted: set[ColumnId] = set()
        for patch in self.patches:
            for position, column in enumerate(patch.columns):
                if column in columns and column not in counted:
                    counted.add(column)
                    for name, units in patch.bounds.items():
                        total[name] = total.get(name, 0.0) + units[position]
        return total

    def holding(self, columns: Collection[ColumnId]) -> list[Patch]:
        return [patch for patch in self.patches if not set(patch.columns).isdisjoint(columns)]


def import_patch(
    repository: Repository,
    file: Path,
    *,
    on_conflict: OnConflict = "stop",
    progress: Progress = silent,
) -> Imported:
    """One new commit on HEAD for each commit of `file`, all or nothing, in one operation; no model is loaded.

    What is here already is left out: doing it again does nothing. IntegrityError for a file that is damaged, hostile or
    of another base, ConflictError for a contradiction with a live fact (as `cherry_pick`), MemitVCError where its
    version is unknown. The repository is unchanged then.
    """
    bundle = Bundle(file)
    incoming, blobs = _checked(repository, bundle, progress)
    head = repository.head()
    before = LiveState.at(repository, head.commit)
    state = LiveState(repository, before.columns, origins=before.origins, known=incoming)
    made: list[Commit] = []
    skipped: list[CommitId] = []
    conflicts: list[Contradiction] = []
    warnings: list[str] = []
    for commit in bundle.manifest.commits:
        wanted = apply(state.columns, Change(frozenset(commit.adds), frozenset(commit.removes) & state.columns))
        side = Side(_there(state, wanted, commit), change=frozenset(commit.adds), commit=commit.id)
        joined = join(state, wanted, [side], on_conflict, what=f"commit {short(commit.id)} of {file.name}")
        if not joined.change:
            skipped.append(commit.id)
            continue
        conflicts += joined.contradictions
        warnings += joined.warnings
        new = draft(
            repository,
            [made[-1].id if made else head.commit],
            joined.change,
            kind="cherry-pick",
            message=f"{commit.message}\n\nImported from commit {commit.id} by {commit.author or 'unknown'}.",
            patches=[patch.id for patch in incoming.holding(joined.change.adds)],
            provenance=commit.provenance,
            details={"imports": commit.id, **conflict_details(joined.contradictions, on_conflict)},
        )
        made.append(new)
        state = state.with_columns(joined.state, dict.fromkeys(joined.change.adds, new.id))
    total = before.change_to(state.columns)
    if made:
        patches = incoming.holding({column for commit in made for column in commit.adds})
        _store(repository, bundle, patches, made, blobs)
        facts = {column.fact for patch in patches for column in patch.header.columns}
        record(
            repository,
            head,
            made,
            verb="import",
            description=f"{file.name}: {made[0].subject if len(made) == 1 else f'{len(made)} commits'}",
            patches=patches,
            facts=[incoming.new_facts[fact] for fact in incoming.new_facts if fact in facts],
        )
    return Imported(
        id=made[-1].id if made else head.commit,
        branch=head.branch,
        state=state.id,
        added=len(total.adds),
        removed=len(total.removes),
        contradictions=tuple(conflicts),
        warnings=tuple(warnings),
        ids=tuple(commit.id for commit in made),
        imported=tuple(c.id for c in bundle.manifest.commits if c.id not in skipped),
        skipped=tuple(skipped),
    )


def _there(state: LiveState, wanted: State, commit: Commit) -> LiveState:
    """What is known of the state that a commit of the file made: its columns, and what its cancel columns take out.

    The file does not say against which edit columns those were solved; the ones that are here are taken for them.
    """
    roles = state.known.column_facts(wanted | frozenset(commit.adds))
    cancelled = {fact for column in commit.adds for fact, role in roles[column] if role == "cancel"}
    paired = {column for column in wanted if any(fact in cancelled for fact, _ in roles[column])}
    return LiveState(state.repository, frozenset(commit.adds) | paired, known=state.known)


def _checked(repository: Repository, bundle: Bundle, progress: Progress) -> tuple[_Incoming, set[str]]:
    """Every rule that the file must keep, blob by blob; also the names of the blobs that it may hold."""
    from memit_vc.numerics.exact.received import received_patch

    manifest, where = bundle.manifest, bundle.path
    if manifest.base != repository.base_id:
        raise IntegrityError(
            f"{where}: belongs to base {short(manifest.base)}, this repository has {short(repository.base_id)}",
            hint="Import it into a repository on the same base model and revision.",
        )
    weights = repository.weights()
    facts = {fact.id: fact for fact in manifest.facts}
    patches: list[Patch] = []
    described: dict[ColumnId, list[tuple[FactId, str]]] = {}
    records = {commit.provenance for commit in manifest.commits}
    for number, (name, constraints) in enumerate(sorted(manifest.patches.items()), 1):
        data = bundle.read(name)
        extra = None if constraints is None else bundle.read(constraints)
        patch = received_patch(data, extra, base=repository.base_id, weights=weights)
        missing = {column.fact for column in patch.header.columns} - facts.keys()
        if missing:
            raise IntegrityError(f"{where}: lacks fact {short(min(missing))} of patch {short(name)}", hint=_HINT)
        patches.append(patch)
        records.add(patch.header.provenance)
        for column, entry in zip(patch.columns, patch.header.columns, strict=False):
            described[column] = [(entry.fact, entry.role)]
        if not patch.header.divisible:
            described[patch.columns[0]] = [(entry.fact, entry.role) for entry in patch.header.columns]
        progress("check patches", number, len(manifest.patches))
    for blob in sorted(each for each in records if each is not None):
        _check_provenance(bundle, blob)
    allowed = manifest.blobs | {str(each) for each in records if each is not None}
    if bundle.blobs != allowed:
        stray = sorted(bundle.blobs ^ allowed)[0]
        raise IntegrityError(f"{where}: object {short(stray)} is missing or belongs to nothing in it", hint=_HINT)
    for commit in manifest.commits:
        _check_commit(repository, commit, described, str(where))
    return _Incoming(repository, patches, facts, described), allowed


def _check_commit(repository: Repository, commit: Commit, described: Collection[ColumnId], where: str) -> None:
    name = f"{where}: commit {short(commit.id)}"
    if commit.base != repository.base_id:
        raise IntegrityError(f"{name} belongs to another base, {short(commit.base)}", hint=_HINT)
    absent = set(commit.adds) - set(described)
    if absent:
        raise IntegrityError(f"{name}: no patch in the file holds its column {short(min(absent))}", hint=_HINT)
    if not commit.parents or set(commit.adds) & set(commit.removes):
        raise IntegrityError(f"{name} has no parent, or adds what it removes", hint=_HINT)


def _check_provenance(bundle: Bundle, blob: BlobId) -> None:
    data = bundle.read(blob)
    try:
        record = json.loads(data)
        canonical = isinstance(record, dict) and canonical_json(record) == data
    except (ValueError, RecursionError):
        canonical = False
    if not canonical:
        raise IntegrityError(f"{bundle.path}: provenance {short(blob)} is not canonical JSON", hint=_HINT)


def _store(
    repository: Repository, bundle: Bundle, patches: Sequence[Patch], commits: Sequence[Commit], allowed: set[str]
) -> None:
    """The blobs that the new commits need; orphans for `gc` at worst."""
    needed = {commit.provenance for commit in commits}
    for patch in patches:
        needed |= {BlobId(patch.id), patch.constraints, patch.header.provenance}
    for blob in sorted(blob for blob in needed if blob is not None and blob in allowed):
        repository.blobs.put(bundle.read(blob))
