"""Small histories written as text, and random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from memit_vc.objects import ColumnId, CommitId

__all__ = ["History", "columns", "histories", "history"]


@dataclass(frozen=True)
class History:
    """Commits in the order of storing, with their parents."""

    parents: Mapping[CommitId, tuple[CommitId, ...]]

    def of(self, commit: CommitId) -> Sequence[CommitId]:
        return self.parents[commit]

    def order(self, commit: CommitId) -> int:
        return list(self.parents).index(commit)

    @property
    def commits(self) -> list[CommitId]:
        return list(self.parents)


def history(text: str) -> History:
    """ "a; b: a; c: a; d: b c" is a merge of two branches."""
    parents: dict[CommitId, tuple[CommitId, ...]] = {}
    for entry in text.split(";"):
        name, _, above = entry.partition(":")
        parents[CommitId(name.strip())] = tuple(CommitId(p) for p in above.split())
    return History(parents)


def columns(names: str) -> frozenset[ColumnId]:
    return frozenset(ColumnId(name) for name in names)


@st.composite
def histories(draw: st.DrawFn, most: int = 12) -> History:
    """A random graph with one root; every later commit has one or two parents among the earlier ones."""
    size = draw(st.integers(1, most))
    parents: dict[CommitId, tuple[CommitId, ...]] = {CommitId("c00"): ()}
    for number in range(1, size):
        earlier = list(parents)
        chosen = draw(st.lists(st.sampled_from(earlier), min_size=1, max_size=2, unique=True))
        parents[CommitId(f"c{number:02}")] = tuple(chosen)
    return History(parents)
