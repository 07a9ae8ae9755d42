"""A stranger's history: every patch, fact and change of state is checked against this repository's base."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from memit_vc.errors import EngineError, IntegrityError, MemitVCError, UnsupportedModelError
from memit_vc.foreign.ram import free_ram
from memit_vc.objects import (
    BlobId,
    ColumnId,
    Commit,
    CommitId,
    EditableWeight,
    Fact,
    FactId,
    Patch,
    PatchId,
    StateId,
    short,
)
from memit_vc.objects.commit_record import HANDED_ON
from memit_vc.porcelain.sharing.incoming import Incoming
from memit_vc.porcelain.sharing.remote_commit import RemoteCommit
from memit_vc.porcelain.sharing.remote_history import Published
from memit_vc.porcelain.state import LiveState
from memit_vc.progress import Progress, silent, size_text
from memit_vc.remote.manifest import object_path
from memit_vc.remote.strict_json import DISTRUST, canonical
from memit_vc.repository import Repository
from memit_vc.store.publish import Evaluation
from memit_vc.store.replay import replayed
from memit_vc.store.safetensors_file import read_header

MAX_PROVENANCE = 1 << 24
"""Bytes: hyperparameters, templates and versions, and ten digits for each fact."""
_COLUMNS_OF_A_FACT = 64
"""Columns of a fact that was edited often: after a squash, one patch may hold all of them."""
_HEADER, _HEADER_OF_A_COLUMN = 1 << 20, 1 << 10
_COPIES = 3
"""How often a patch is in memory while it is checked: its bytes, its factors, and what is computed with them."""


@dataclass(frozen=True)
class Received:
    """What was checked and may be stored. `provenance` are blobs of new commits and patches."""

    patches: Sequence[Patch]
    facts: Mapping[FactId, Fact]
    provenance: Collection[BlobId]

    @property
    def objects(self) -> set[BlobId]:
        """Every blob that this needs."""
        constraints = {patch.constraints for patch in self.patches if patch.constraints is not None}
        return {*self.provenance, *constraints, *(BlobId(patch.id) for patch in self.patches)}


class Together:
    """A repository together with what comes in (see `state.Described`)."""

    def __init__(self, repository: Repository, new: Received) -> None:
        self.repository, self.new = repository, new
        self._places = {column: (patch, n) for patch in new.patches for n, column in enumerate(patch.columns)}

    def column_facts(self, columns: Collection[ColumnId]) -> dict[ColumnId, list[tuple[FactId, str]]]:
        known = self.repository.column_facts([c for c in columns if c not in self._places])
        for column in columns:
            if column in self._places:
                patch, n = self._places[column]
                described = patch.header.columns[n : n + 1] if patch.header.divisible else patch.header.columns
                known[column] = [(each.fact, str(each.role)) for each in described]
        return known

    def facts(self, ids: Collection[FactId]) -> dict[FactId, Fact]:
        known = self.repository.facts([id_ for id_ in ids if id_ not in self.new.facts])
        return {id_: self.new.facts.get(id_) or known[id_] for id_ in ids}

    def bounds(self, columns: Collection[ColumnId]) -> dict[str, float]:
        """As `Repository.bounds`, for a state of columns from both."""
        total = dict(self.repository.bounds([c for c in columns if c not in self._places]))
        for patch, n in (self._places[c] for c in columns if c in self._places):
            for name, units in patch.bounds.items():
                total[name] = total.get(name, 0.0) + units[n]
        return total

    def patches_of(self, columns: Collection[ColumnId]) -> list[Patch]:
        """Patches that hold the columns."""
        new = {self._places[column][0].id: self._places[column][0] for column in columns if column in self._places}
        here = LiveState(self.repository, (column for column in columns if column not in self._places))
        return [*new.values(), *here.patches.values()]

    def columns(self, commits: Iterable[Commit]) -> set[ColumnId]:
        """The columns that the commits bring in or take out and that some patch holds."""
        named = {column for commit in commits for column in (*commit.adds, *commit.removes)}
        return named & self._places.keys() | self.repository.known_columns(named - self._places.keys())


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

    `late` are commits that are known here; they give constraints to patches that have none.

    IntegrityError names the object and what is wrong: see `numerics.exact.received` for patches; also for facts that
    are missing and for provenance that is not canonical JSON.
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
    own = {record.commit.provenance for record in records if record.commit.provenance is not None}
    most = _most_bytes(repository, (*records, *late))
    sizes = {BlobId(blob): most[patch] for patch in wanted for blob in (patch, extra.get(patch)) if blob is not None}
    incoming.fetch(found, {**dict.fromkeys(own, MAX_PROVENANCE), **sizes}, progress=progress)
    patches = _patches(repository, sorted(wanted), extra, incoming, progress)
    provenance = own | {p.header.provenance for p in patches if p.header.provenance is not None}
    incoming.fetch(found, dict.fromkeys(provenance, MAX_PROVENANCE))
    for blob in sorted(provenance):
        canonical(incoming.read(blob), f"{where}: provenance {short(blob)}")
    return Received(patches, _facts((*records, *late), patches, where), provenance)


def evaluations_of(
    repository: Repository, found: Published, records: Sequence[RemoteCommit], new: Received
) -> list[Evaluation]:
    """The scores that came with `records` (parents first), by the states of their commits.

    IntegrityError for columns that no patch holds and for states whose sums could round.
    """
    states = _states(Together(repository, new), records, found.remote.url)
    return [
        (states[record.commit.id], record.commit.id, kind, record.commit.id, dict(scores))
        for record in records
        for kind, scores in (("commit", record.scores), (HANDED_ON, record.handed_on))
        if scores is not None
    ]


def _most_bytes(repository: Repository, records: Sequence[RemoteCommit]) -> dict[PatchId, int]:
    """The largest size of each patch, and of its constraints: entries by the base's shapes, and a header.

    The number of columns is known only when the file is read; until then it is estimated from the record's facts.
    """
    weights = repository.fact_weights()
    # an adapter may touch any matrix
    dense = sum(4 * math.prod(tensor.shape) for tensor in repository.base().tensors if len(tensor.shape) == 2)
    column = sum(8 * (weight.d_out + weight.d_in) for weight in weights)
    most: dict[PatchId, int] = {}
    for record in records:
        columns = _COLUMNS_OF_A_FACT * len({fact.id for fact in record.facts}) + _COLUMNS_OF_A_FACT
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

    known, manifest = {weight.name: weight for weight in repository.weights()}, repository.base()
    brought: dict[str, EditableWeight] = {}
    found = []
    for number, patch in enumerate(wanted, 1):
        blob = constraints.get(patch)
        _check_fits(incoming, patch, [BlobId(patch), *([] if blob is None else [blob])])
        read = received_patch(
            incoming.read(BlobId(patch)),
            None if blob is None else incoming.read(blob),
            base=repository.base_id,
            manifest=manifest,
            weights=repository.fact_weights(),
            others=[*known.values(), *brought.values()],
        )
        brought |= {w.name: w for w in read.header.described(manifest) if w.name not in known}
        found.append(read)
        progress("check patches", number, len(wanted))
    if brought:
        _check_described(repository, list(brought.values()))
    return found


def _check_fits(incoming: Incoming, patch: PatchId, blobs: Sequence[BlobId]) -> None:
    """Before anything is read as a whole: the headers describe the files, and memory is there for them.

    A stranger's record only has to name many facts to be allowed a huge patch, and a file of zeros costs him nothing.
    """
    size = 0
    for path in map(incoming.path, blobs):
        read_header(path, source=f"patch {short(patch)}")
        size += path.stat().st_size
    free = free_ram()
    if free is not None and _COPIES * size > free:
        raise MemitVCError(
            f"patch {short(patch)} has {size_text(size)}; to check it takes {size_text(_COPIES * size)} of memory, "
            f"{size_text(free)} are free",
            hint="Close other programs, or use a machine with more memory. Nothing was stored.",
        )


def _check_described(repository: Repository, weights: Sequence[EditableWeight]) -> None:
    """IntegrityError for a weight that an adapter describes as another matrix than the model has; the base must be
    here.
    """
    from memit_vc.porcelain.sharing.adapter_weights import weights_of_modules

    modules = {weight.parameter.removesuffix(".weight"): weight for weight in weights}
    try:
        found = weights_of_modules(repository, modules)
    except UnsupportedModelError as error:
        raise IntegrityError(error.message, hint=DISTRUST) from error
    for module, weight in modules.items():
        if found[module] != weight:
            raise IntegrityError(
                f"an adapter describes {weight.name} as another matrix, or gives it the grid of other values",
                hint=DISTRUST,
            )


def _facts(records: Sequence[RemoteCommit], patches: Sequence[Patch], where: str) -> dict[FactId, Fact]:
    """The facts of the new patches. Others, which no column is about, are left out."""
    named = {fact.id: fact for record in records for fact in record.facts}
    needed = {column.fact for patch in patches for column in patch.header.columns}
    if missing := needed - named.keys():
        raise IntegrityError(f"{where}: lacks fact {short(min(missing))} of a patch", hint=DISTRUST)
    return {fact: named[fact] for fact in sorted(needed)}


def _states(known: Together, records: Sequence[RemoteCommit], where: str) -> dict[CommitId, StateId]:
    """The state at each new commit. IntegrityError for what `publish` would refuse, and for sums that could round."""
    repository = known.repository
    commits = [record.commit for record in records]
    exact = _all_exact(known, records)
    replay = replayed(
        commits,
        repository.base_id,
        known=repository.known_commits({parent for commit in commits for parent in commit.parents}),
        columns=known.columns(commits),
        state=repository.state,
    )
    ids: dict[CommitId, StateId] = {}
    try:
        for commit, state in replay:
            ids[commit.id] = repository.state_id(state)
            if not exact:
                LiveState(repository, state, known=known).check_exact()
    except EngineError as error:
        raise IntegrityError(f"{where}: commit {short(commit.id)}: {error.message}", hint=DISTRUST) from error
    except IntegrityError as error:
        raise IntegrityError(f"{where}: {error.message}", hint=DISTRUST) from error
    return ids


def _all_exact(known: Together, records: Sequence[RemoteCommit]) -> bool:
    """Whether all columns together can be summed exactly: then every state can."""
    new = {record.commit.id for record in records}
    everything = {column for record in records for column in record.commit.adds}
    for first in {record.commit.parents[0] for record in records if record.commit.parents} - new:
        everything |= LiveState.at(known.repository, first).columns
    try:
        LiveState(known.repository, everything, known=known).check_exact()
    except EngineError:
        return False
    return True
