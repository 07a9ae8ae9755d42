"""A state that knows itself: the facts, patches and bounds of its columns, each read once from the repository."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from memit_vc.objects import ColumnId, CommitId, EditableWeight, Fact, FactId, Patch, PatchId, StateId
from memit_vc.vcs.exact import check_bound
from memit_vc.vcs.settling import Roles, live_edits
from memit_vc.vcs.state import Change, State, change_between

if TYPE_CHECKING:
    from memit_vc.numerics.exact.factored import Term
    from memit_vc.repository import Repository
    from memit_vc.vcs.facts import LiveFact


class Described(Protocol):
    """Describes columns: a repository, or one together with patches that are about to come in."""

    def column_facts(self, columns: Collection[ColumnId]) -> dict[ColumnId, list[tuple[FactId, str]]]: ...
    def facts(self, ids: Collection[FactId]) -> dict[FactId, Fact]: ...
    def bounds(self, columns: Collection[ColumnId]) -> dict[str, float]: ...


@dataclass(frozen=True, slots=True)
class Source:
    """Where one live fact's constraint is: position `position` of the patch's constraints blob."""

    fact: FactId
    column: ColumnId
    patch: PatchId
    position: int


class LiveState:
    """A set of columns of a repository, with everything that they mean.

    `commit` is the commit whose state it is; None for a set that a verb has put together.
    """

    def __init__(
        self,
        repository: Repository,
        columns: Iterable[ColumnId],
        *,
        commit: CommitId | None = None,
        origins: Mapping[ColumnId, CommitId] | None = None,
        known: Described | None = None,
    ) -> None:
        """`origins` are the commits that added the columns, as far as they are known without `commit`; `known` also
        describes columns that the repository does not have yet.
        """
        self.repository = repository
        self.columns: State = frozenset(columns)
        self.commit = commit
        self.known: Described = known or repository
        self._origins = origins

    @classmethod
    def at(cls, repository: Repository, commit: CommitId, *, known: Described | None = None) -> LiveState:
        """The state at a commit."""
        return cls(repository, repository.state(commit), commit=commit, known=known)

    @classmethod
    def of_head(cls, repository: Repository) -> LiveState:
        return cls.at(repository, repository.head().commit)

    def with_columns(
        self, columns: Collection[ColumnId], origins: Mapping[ColumnId, CommitId] | None = None
    ) -> LiveState:
        """Another set of columns, described by the same source; `origins` of those that are new."""
        return LiveState(self.repository, columns, origins={**self.origins, **(origins or {})}, known=self.known)

    def change_to(self, columns: Collection[ColumnId]) -> Change:
        """The smallest change that makes this state the given one."""
        return change_between(self.columns, frozenset(columns))

    @cached_property
    def id(self) -> StateId:
        return self.repository.state_id(self.columns)

    @cached_property
    def origins(self) -> Mapping[ColumnId, CommitId]:
        """Column → the commit of the history that first added it."""
        if self._origins is not None or self.commit is None:
            return self._origins or {}
        return self.repository.origins(self.commit)

    @cached_property
    def roles(self) -> Roles:
        """(fact, role) of each column."""
        return self.known.column_facts(self.columns)

    @cached_property
    def facts(self) -> Mapping[FactId, Fact]:
        """Every fact that a column is about, live or cancelled."""
        return self.known.facts({fact for pairs in self.roles.values() for fact, _ in pairs})

    @cached_property
    def live(self) -> list[LiveFact]:
        """The facts that are in the model, in the order in which they came in; [] unless `commit` is known."""
        return [] if self.commit is None else self.repository.live_facts(self.commit)

    @cached_property
    def edits(self) -> Mapping[FactId, State]:
        """Live fact → its edit columns."""
        return live_edits(self.columns, self.roles)

    @cached_property
    def cancelled(self) -> frozenset[FactId]:
        """The facts that a live column takes out."""
        return frozenset(fact for pairs in self.roles.values() for fact, role in pairs if role == "cancel")

    @cached_property
    def of_facts(self) -> LiveState:
        """The columns that are about facts."""
        return LiveState(self.repository, (c for c in self.columns if self.roles[c]), known=self.known)

    @cached_property
    def adapters(self) -> LiveState:
        """The columns that are about no fact: the adapters that were imported."""
        return LiveState(self.repository, self.columns - self.of_facts.columns, known=self.known)

    @cached_property
    def selection(self) -> Mapping[PatchId, tuple[int, ...]]:
        """The patches and positions that supply each column exactly once; () for a whole patch."""
        return self.repository.selection(self.columns) if self.columns else {}

    @cached_property
    def patches(self) -> Mapping[PatchId, Patch]:
        return self.repository.patches(self.selection)

    @cached_property
    def sources(self) -> list[Source]:
        """Where the constraints of the live facts are, sorted by patch."""
        found = []
        chosen = self.repository.constraints_of(self.columns) if self.columns else {}
        known = self.repository.patches(chosen)
        for patch, (_, positions) in sorted(chosen.items()):
            columns, header = known[patch].columns, known[patch].header
            for position in positions or range(len(header.columns)):  # a dense patch is used as a whole
                column = header.columns[position]
                if column.role == "edit" and column.fact not in self.cancelled:
                    name = columns[position] if header.divisible else columns[0]
                    found.append(Source(column.fact, name, patch, position))
        return found

    @cached_property
    def bounds(self) -> Mapping[str, float]:
        """Per weight that the state touches, the sum of the columns' bounds in grid units."""
        return self.known.bounds(self.columns)

    @cached_property
    def touched(self) -> list[EditableWeight]:
        """The weights that differ from the base's."""
        return [weight for weight in self.repository.weights() if weight.name in self.bounds]

    def terms(self, weight: EditableWeight) -> list[Term]:
        """The summands of a weight's update, read from the patches."""
        from memit_vc.numerics.exact.patchfile import state_terms

        return state_terms(self.repository.patch_path, self.selection, weight.name)

    def check_exact(self, more: Patch | None = None) -> None:
        """EngineError if sums of the columns, with those of a new patch, could round."""
        total = dict(self.bounds)
        for name, units in more.bounds.items() if more else ():
            total[name] = total.get(name, 0.0) + sum(units)
        check_bound(total)
