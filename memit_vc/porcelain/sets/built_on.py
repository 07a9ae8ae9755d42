"""Which live facts were computed with some columns in the weights: `revert` names them, since those facts stay."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from memit_vc.objects import BlobId, ColumnId, Commit, CommitId, Patch, StateId
from memit_vc.porcelain.state import LiveState
from memit_vc.repository import Repository
from memit_vc.vcs.state import State


def built_on(state: LiveState, staying: Collection[ColumnId], gone: Collection[ColumnId]) -> tuple[CommitId, ...]:
    """The commits in the history of a state's whose columns among `staying` were computed with one of `gone` in place.

    The provenance of a patch records that state. If it does not, or if the state is no longer here, the state that the
    commit was made on is assumed.
    """
    if not gone or not staying or state.commit is None:
        return ()
    repository = state.repository
    origins, history = state.origins, _History(repository, state.commit, frozenset(gone))
    by_commit: dict[CommitId, set[ColumnId]] = {}
    for column in staying:
        by_commit.setdefault(origins[column], set()).add(column)
    found = [commit for commit, columns in by_commit.items() if history.built_on(commit, columns)]
    return tuple(sorted(found, key=repository.order))


class _History:
    """Which of `gone` was live at each commit of a history, and in the state that each batch was computed on."""

    def __init__(self, repository: Repository, tip: CommitId, gone: State) -> None:
        self._repository, self._gone = repository, gone
        self._commits = {commit.id: commit for commit in reversed(repository.log([tip]))}
        self._held: dict[CommitId, State] = {}
        for commit in self._commits.values():
            before = self._held[commit.parents[0]] if commit.parents else frozenset()
            self._held[commit.id] = (before - set(commit.removes)) | (gone & set(commit.adds))
        self._patches = repository.patches({p for commit in self._commits.values() for p in commit.patches})
        self._of_state: dict[StateId, CommitId] = {}
        for id_, state in repository.recorded_states().items():
            self._of_state.setdefault(state, id_)
        self._records: dict[BlobId, Mapping[str, Any]] = {}
        self._known: dict[tuple[BlobId | None, CommitId], bool] = {}

    def built_on(self, commit: CommitId, columns: Collection[ColumnId]) -> bool:
        """Whether one of these columns, which the commit brought in, was computed with some of `gone` in place."""
        return any(
            self._column(patch, position, self._commits[commit])
            for patch in map(self._patches.__getitem__, self._commits[commit].patches)
            for position, column in enumerate(patch.columns)
            if column in columns
        )

    def _column(self, patch: Patch, position: int, commit: Commit) -> bool:
        path, provenance = self._batch(patch.header.provenance, position)
        if path and "state" not in self._record(provenance):
            # a squash keeps the order of its commits: what comes before a batch in it was there
            for other, column in enumerate(patch.columns):
                if column in self._gone and self._batch(patch.header.provenance, other)[0] < path:
                    return True
        return self._on(provenance, commit)

    def _batch(self, provenance: BlobId | None, position: int) -> tuple[tuple[int, ...], BlobId | None]:
        """Where a column of a packed patch came from, through packs of packs: the numbers of its sources, and the
        provenance of the batch. () for a patch that was computed.
        """
        path: tuple[int, ...] = ()
        while (record := self._record(provenance)).get("algorithm") == "repack":
            for number, source in enumerate(record["sources"]):
                if position < len(source["columns"]):
                    path, provenance, position = (*path, number), source["provenance"], source["columns"][position]
                    break
                position -= len(source["columns"])
        return path, provenance

    def _on(self, provenance: BlobId | None, commit: Commit) -> bool:
        if (provenance, commit.id) not in self._known:
            self._known[provenance, commit.id] = bool(self._context(self._record(provenance).get("state"), commit))
        return self._known[provenance, commit.id]

    def _context(self, recorded: str | None, commit: Commit) -> State:
        """Those of `gone` in the state that a batch was computed on."""
        same = None if recorded is None else self._of_state.get(StateId(recorded))
        if same is not None:
            return self._held[same] if same in self._held else self._gone & self._repository.state(same)
        return (self._held[commit.parents[0]] if commit.parents else frozenset()) - set(commit.removes)

    def _record(self, blob: BlobId | None) -> Mapping[str, Any]:
        """{} for None, and for a blob that is not here or is not an object."""
        if blob is None:
            return {}
        if blob not in self._records:
            record = json.loads(self._repository.blobs.read(blob)) if self._repository.blobs.has(blob) else {}
            self._records[blob] = record if isinstance(record, Mapping) else {}
        return self._records[blob]
