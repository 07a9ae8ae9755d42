"""`import`: the commits of a patch file on HEAD, like cherry-picks. Everything is checked before anything is stored.

The file is a remote's tree in one container (`remote/container.py`): what `fetch` reads of a remote is read of it here,
by the same functions. Its commits are not taken over, for their parents may be elsewhere: their changes are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memit_vc.errors import IntegrityError
from memit_vc.objects import ColumnId, Commit, CommitId, Fact, FactId, Patch, short
from memit_vc.porcelain.record import Outcome, draft, record
from memit_vc.porcelain.sets.join import Side, join
from memit_vc.porcelain.sharing.incoming import Incoming
from memit_vc.porcelain.sharing.received_history import Received, received
from memit_vc.porcelain.sharing.remote_commit import RemoteCommit
from memit_vc.porcelain.sharing.remote_history import Published, new_records
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.remote.container import ContainerTree
from memit_vc.remote.manifest import MANIFEST, commit_path, object_path
from memit_vc.vcs.contradictions import Contradiction, OnConflict, conflict_details
from memit_vc.vcs.state import Change, State, apply

if TYPE_CHECKING:
    from memit_vc.repository import Repository


_HINT = "The file is damaged or was made to mislead; nothing was stored."


@dataclass(frozen=True, kw_only=True)
class Imported(Outcome):
    """`ids` are the new commits, () where all of the file was here; `skipped` its commits whose change was."""

    ids: tuple[CommitId, ...]
    imported: tuple[CommitId, ...]
    skipped: tuple[CommitId, ...]


@dataclass(frozen=True)
class _Together:
    """A repository together with what a file brings (see `state.Described`)."""

    repository: Repository
    new: Received
    described: Mapping[ColumnId, list[tuple[FactId, str]]]

    @classmethod
    def of(cls, repository: Repository, new: Received) -> _Together:
        described: dict[ColumnId, list[tuple[FactId, str]]] = {}
        for patch in new.patches:
            pairs = [(column.fact, str(column.role)) for column in patch.header.columns]
            one = [pairs] if not patch.header.divisible else [[pair] for pair in pairs]
            described |= zip(patch.columns, one, strict=True)
        return cls(repository, new, described)

    def column_facts(self, columns: Collection[ColumnId]) -> dict[ColumnId, list[tuple[FactId, str]]]:
        known = self.repository.column_facts([c for c in columns if c not in self.described])
        return {column: self.described.get(column) or known[column] for column in columns}

    def facts(self, ids: Collection[FactId]) -> dict[FactId, Fact]:
        known = self.repository.facts([id_ for id_ in ids if id_ not in self.new.facts])
        return {id_: self.new.facts.get(id_) or known[id_] for id_ in ids}

    def bounds(self, columns: Collection[ColumnId]) -> dict[str, float]:
        """As `Repository.bounds`, for a state of columns from both."""
        total = dict(self.repository.bounds([c for c in columns if c not in self.described]))
        counted: set[ColumnId] = set()
        for patch in self.new.patches:
            for position, column in enumerate(patch.columns):
                if column in columns and column not in counted:
                    counted.add(column)
                    for name, units in patch.bounds.items():
                        total[name] = total.get(name, 0.0) + units[position]
        return total

    def holding(self, columns: Collection[ColumnId]) -> list[Patch]:
        """New patches, and those of the repository for what they do not supply."""
        new = [patch for patch in self.new.patches if not set(patch.columns).isdisjoint(columns)]
        rest = LiveState(self.repository, [column for column in columns if column not in self.described])
        return [*new, *rest.patches.values()]


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
    with Incoming(repository.root, repository.blobs) as incoming:
        try:
            new = received(repository, found, records, incoming, progress=progress)
            _check_whole(repository, found, records, new)
            return _picked(repository, file, records, new, incoming, on_conflict)
        finally:
            incoming.clear()


def _picked(
    repository: Repository,
    file: Path,
    records: Sequence[RemoteCommit],
    new: Received,
    incoming: Incoming,
    on_conflict: OnConflict,
) -> Imported:
    """The changes of the file's commits made on HEAD."""
    known = _Together.of(repository, new)
    head = repository.head()
    state = LiveState.at(repository, head.commit, known=known)
    made: list[Commit] = []
    skipped: list[CommitId] = []
    conflicts: list[Contradiction] = []
    warnings: list[str] = []
    for commit in (each.commit for each in records):
        wanted = apply(state.columns, Change(frozenset(commit.adds), frozenset(commit.removes) & state.columns))
        side = Side(_there(state, wanted, commit), change=frozenset(commit.adds), commit=commit.id)
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
                patches=[patch.id for patch in known.holding(joined.change.adds)],
                provenance=commit.provenance,
                details={"imports": commit.id, **conflict_details(joined.contradictions, on_conflict)},
            )
        )
        state = state.with_columns(joined.state, dict.fromkeys(joined.change.adds, made[-1].id))
    done = Outcome(id=head.commit, branch=head.branch, state=state.id)
    if made:
        columns = {column for commit in made for column in commit.adds}
        patches = [patch for patch in new.patches if not columns.isdisjoint(patch.columns)]
        told = {commit.provenance for commit in made if commit.provenance is not None}
        told |= {patch.header.provenance for patch in patches if patch.header.provenance is not None}
        facts = {column.fact: new.facts[column.fact] for patch in patches for column in patch.header.columns}
        incoming.store(Received(patches, facts, told).objects)
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


def _there(state: LiveState, wanted: State, commit: Commit) -> LiveState:
    """What is known of the state that a commit of the file made: its columns, and what its cancel columns take out.

    The file does not say against which edit columns those were solved; the ones that are here are taken for them.
    """
    roles = state.known.column_facts(wanted | frozenset(commit.adds))
    cancelled = {fact for column in commit.adds for fact, role in roles[column] if role == "cancel"}
    paired = {column for column in wanted if any(fact in cancelled for fact, _ in roles[column])}
    return LiveState(state.repository, frozenset(commit.adds) | paired, known=state.known)


def _check_whole(repository: Repository, found: Published, records: Sequence[RemoteCommit], new: Received) -> None:
    """That the commits can be picked, and that the file holds nothing beside what they need. IntegrityError."""
    where = found.remote.url
    supplied = {column for patch in new.patches for column in patch.columns}
    named = {column for each in records for column in each.commit.adds}
    supplied |= repository.known_columns(named - supplied)
    for commit in (each.commit for each in records):
        name = f"{where}: commit {short(commit.id)}"
        if absent := set(commit.adds) - supplied:
            raise IntegrityError(f"{name}: no patch in the file holds its column {short(min(absent))}", hint=_HINT)
        if not commit.parents or set(commit.adds) & set(commit.removes):
            raise IntegrityError(f"{name} has no parent, or adds what it removes", hint=_HINT)
    patches = {patch for each in records for patch in each.patches}
    here = repository.patches(repository.known_patches(patches)).values()
    blobs = {blob for each in records for pair in each.patches.items() for blob in pair}
    blobs |= {*new.provenance, *(patch.header.provenance for patch in here)}
    needed = {object_path(blob) for blob in blobs if blob is not None}
    stray = found.listing.keys() - needed - {MANIFEST, *(commit_path(each.commit.id) for each in records)}
    if stray:
        raise IntegrityError(f"{where}: {min(stray)} belongs to nothing in it", hint=_HINT)
