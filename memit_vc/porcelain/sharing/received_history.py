"""A history that somebody else made: every patch, fact and change of state checked against this repository's base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memit_vc.errors import EngineError, IntegrityError
from memit_vc.objects import (
    BlobId,
    ColumnId,
    CommitId,
    Fact,
    FactId,
    PatchId,
    StateId,
    canonical_json,
    short,
)
from memit_vc.porcelain.history.scores_at_commit import HANDED_ON
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent
from memit_vc.remote.manifest import object_path
from memit_vc.remote.strict_json import parsed
from memit_vc.vcs.exact import check_bound

if TYPE_CHECKING:
    from memit_vc.objects import Patch
    from memit_vc.porcelain.sharing.incoming import Incoming
    from memit_vc.porcelain.sharing.remote_commit import RemoteCommit
    from memit_vc.porcelain.sharing.remote_history import Published
    from memit_vc.repository import Repository
    from memit_vc.store.publish import Evaluation


_HINT = "Nothing was stored. The remote is damaged or was made to mislead; ask whoever pushed it."
_MAX_PROVENANCE = 1 << 24
"""Bytes: hyperparameters, templates and versions; what grows with the batch are ten digits a fact."""
_COLUMNS_OF_A_FACT = 64
"""A fact that was edited again and again has a column for each time, after a squash in one patch."""
_HEADER, _HEADER_OF_A_COLUMN = 1 << 20, 1 << 10


@dataclass(frozen=True)
class Received:
    """What is fit to be stored. `provenance` are blobs of new commits and patches."""

    patches: Sequence[Patch]
    facts: Mapping[FactId, Fact]
    provenance: Collection[BlobId]

    @property
    def objects(self) -> set[BlobId]:
        """Every blob that this needs."""
        constraints = {patch.constraints for patch in self.patches if patch.constraints is not None}
        return {*self.provenance, *constraints, *(BlobId(patch.id) for patch in self.patches)}


def received(
    repository: Repository,
    found: Published,
    records: Sequence[RemoteCommit],
    incoming: Incoming,
    *,
    late: Sequence[RemoteCommit] = (),
    progress: Progress = silent,
) -> Received:
    """Download the objects of `records` and check all of them. Nothing is stored here.

    `late` are commits that are known here; of them constraints are taken for patches that have none.

    IntegrityError, with the object and what is wrong: see `numerics.exact.received` for patches; facts that are
    missing, provenance that is not canonical JSON.
    """
    where = found.remote.url
    listed: dict[PatchId, BlobId | None] = {}
    for record in (*records, *late):
        for patch, blob in record.patches.items():
            listed[patch] = blob if listed.get(patch) is None else listed[patch]
    known = repository.known_patches(listed)
    here = repository.patch_constraints() if known else {}
    wanted = {
        patch: blob
        for patch, blob in listed.items()
        if patch not in known or (here.get(patch) is None and blob is not None and object_path(blob) in found.listing)
    }
    # constraints may have been left out (push --no-constraints): the default modes work without them
    extra = {
        patch: blob
        for patch, blob in wanted.items()
        if blob is not None and (object_path(blob) in found.listing or incoming.blobs.has(blob))
    }
    told = {record.commit.provenance for record in records if record.commit.provenance is not None}
    most = _most_bytes(repository, (*records, *late))
    sizes = {BlobId(blob): most[patch] for patch in wanted for blob in (patch, extra.get(patch)) if blob is not None}
    incoming.fetch(found, {**dict.fromkeys(told, _MAX_PROVENANCE), **sizes}, progress=progress)
    patches = _patches(repository, sorted(wanted), extra, incoming, progress)
    provenance = told | {p.header.provenance for p in patches if p.header.provenance is not None}
    incoming.fetch(found, dict.fromkeys(provenance, _MAX_PROVENANCE))
    for blob in sorted(provenance):
        _check_provenance(incoming.read(blob), f"{where}: provenance {short(blob)}")
    return Received(patches, _facts((*records, *late), patches, where), provenance)


def evaluations_of(
    repository: Repository, found: Published, records: Sequence[RemoteCommit], new: Received
) -> list[Evaluation]:
    """The scores that came with `records` (parents first), by the states that their commits have.

    IntegrityError for columns that no patch holds and for states that could not be summed exactly.
    """
    states = _states(repository, records, new.patches, found.remote.url)
    return [
        (states[record.commit.id], record.commit.id, kind, record.commit.id, dict(scores))
        for record in records
        for kind, scores in (("commit", record.scores), (HANDED_ON, record.handed_on))
        if scores is not None
    ]


def _most_bytes(repository: Repository, records: Sequence[RemoteCommit]) -> dict[PatchId, int]:
    """What a patch, and what its constraints may have at most: entries by the base's shapes, and a header.

    How many columns there are is known when the file is read; a record names the facts that they are about.
    """
    weights = repository.weights()
    dense = sum(4 * weight.d_out * weight.d_in for weight in weights)
    column = sum(8 * (weight.d_out + weight.d_in) for weight in weights)
    most: dict[PatchId, int] = {}
    for record in records:
        columns = _COLUMNS_OF_A_FACT * len(record.facts) + _COLUMNS_OF_A_FACT
        for patch in record.patches:
            most[patch] = max(most.get(patch, 0), dense + columns * (column + _HEADER_OF_A_COLUMN) + _HEADER)
    return most


def _patches(
    repository: Repository,
    wanted: Sequence[PatchId],
    constraints: Mapping[PatchId, BlobId],
    incoming: Incoming,
    progress: Progress,
) -> list[Patch]:
    if not wanted:
        return []
    from memit_vc.numerics.exact.received import received_patch

    weights = repository.weights()
    found = []
    for number, patch in enumerate(wanted, 1):
        blob = constraints.get(patch)
        found.append(
            received_patch(
                incoming.read(BlobId(patch)),
                None if blob is None else incoming.read(blob),
                base=repository.base_id,
                weights=weights,
            )
        )
        progress("check patches", number, len(wanted))
    return found


def _check_provenance(data: bytes, where: str) -> None:
    try:
        record = parsed(data)
        canonical = isinstance(record, dict) and canonical_json(record) == data
    except (ValueError, TypeError, RecursionError):
        canonical = False
    if not canonical:
        raise IntegrityError(f"{where} is not canonical JSON", hint=_HINT)


def _facts(records: Sequence[RemoteCommit], patches: Sequence[Patch], where: str) -> dict[FactId, Fact]:
    """The facts of the new patches. One that a record brings and no column is about is left behind."""
    told: dict[FactId, Fact] = {}
    for record in records:
        told.update({fact.id: fact for fact in record.facts})
    needed = {column.fact for patch in patches for column in patch.header.columns}
    missing = needed - told.keys()
    if missing:
        raise IntegrityError(f"{where}: lacks fact {short(min(missing))} of a patch", hint=_HINT)
    return {fact: told[fact] for fact in sorted(needed)}


def _states(
    repository: Repository, records: Sequence[RemoteCommit], patches: Sequence[Patch], where: str
) -> dict[CommitId, StateId]:
    """The state at each new commit. IntegrityError for columns that nobody holds and for sums that could round."""
    supplied = {column for patch in patches for column in patch.columns}
    named = {column for record in records for column in (*record.commit.adds, *record.commit.removes)}
    supplied |= repository.known_columns(named - supplied)
    exact = _sums(repository, records, patches)
    uses = Counter(record.commit.parents[0] for record in records if record.commit.parents)
    states: dict[CommitId, frozenset[ColumnId]] = {}
    ids: dict[CommitId, StateId] = {}
    for record in records:
        commit = record.commit
        what = f"{where}: commit {short(commit.id)}"
        absent = {*commit.adds, *commit.removes} - supplied
        if absent:
            raise IntegrityError(f"{what}: no patch holds its column {short(min(absent))}", hint=_HINT)
        if set(commit.adds) & set(commit.removes):
            raise IntegrityError(f"{what} adds what it removes", hint=_HINT)
        first = commit.parents[0] if commit.parents else None
        state: frozenset[ColumnId] = frozenset()
        if first is not None:
            state = states[first] if first in states else LiveState.at(repository, first).columns
            uses[first] -= 1
            if not uses[first]:
                states.pop(first, None)  # a long line of commits holds one state at a time
        state = (state - set(commit.removes)) | set(commit.adds)
        if uses[commit.id]:
            states[commit.id] = state
        ids[commit.id] = LiveState(repository, state).id
        try:
            exact(state)
        except EngineError as error:
            raise IntegrityError(f"{what}: {error.message}", hint=_HINT) from error
    return ids


def _sums(
    repository: Repository, records: Sequence[RemoteCommit], patches: Sequence[Patch]
) -> Callable[[Collection[ColumnId]], None]:
    """A check that a state can be summed exactly. Where all columns together can, every state can."""
    fresh = {column: (patch, n) for patch in patches for n, column in enumerate(patch.columns)}

    def check(columns: Collection[ColumnId]) -> None:
        total = dict(repository.bounds([column for column in columns if column not in fresh]))
        for column in columns:
            if column in fresh:
                patch, n = fresh[column]
                for name, units in patch.bounds.items():
                    total[name] = total.get(name, 0.0) + units[n]
        check_bound(total)

    new = {record.commit.id for record in records}
    everything = {column for record in records for column in record.commit.adds}
    for first in {record.commit.parents[0] for record in records if record.commit.parents} - new:
        everything |= LiveState.at(repository, first).columns
    try:
        check(everything)
    except EngineError:
        return check
    return lambda _: None
