"""The lanes of `log --graph`, in the characters that git uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from memit_vc.objects import CommitId


@dataclass(frozen=True, slots=True)
class GraphRow:
    """One commit's share of the graph: print `node` before its first line, `body` before its other lines, then `edges`.

    `node` and `body` are equally wide and end in a space.
    """

    node: str
    body: str
    edges: tuple[str, ...]


def graph_rows(commits: Iterable[tuple[CommitId, Sequence[CommitId]]]) -> Iterator[GraphRow]:
    """Rows for (commit, parents) in the order of printing, children before parents.

    A parent that is never printed (a log with a limit) keeps its lane to the end.
    """
    lanes: list[CommitId] = []
    for commit, parents in commits:
        if commit not in lanes:
            lanes.append(commit)
        at = lanes.index(commit)
        width = 2 * len(lanes)
        node = _draw(width, [(2 * n, "*" if n == at else "|") for n in range(len(lanes))])
        body = _draw(width, [(2 * n, "|") for n in range(len(lanes)) if n != at or parents])
        edges: list[str] = []
        distinct = list(dict.fromkeys(parents))
        if not distinct:
            del lanes[at]
            if at < len(lanes):
                edges.append(_shift_left(len(lanes) + 1, at + 1))
        else:
            lanes[at] = distinct[0]
            for offset, parent in enumerate(distinct[1:]):
                edges.append(_insert(len(lanes), at + offset))
                lanes.insert(at + offset + 1, parent)
            edges += _join(lanes)
        yield GraphRow(node, body, tuple(line.rstrip() for line in edges))


def _draw(width: int, marks: Iterable[tuple[int, str]]) -> str:
    line = [" "] * width
    for position, mark in marks:
        line[position] = mark
    return "".join(line)


def _insert(count: int, after: int) -> str:
    """A new lane opens to the right of lane `after`; the lanes beyond it move right."""
    left = [(2 * n, "|") for n in range(after + 1)]
    return _draw(2 * count + 2, [*left, *((2 * n + 1, "\\") for n in range(after, count))])


def _shift_left(count: int, first: int) -> str:
    """Lanes from `first` on move one place to the left, into a lane that has ended."""
    left = [(2 * n, "|") for n in range(first - 1)]
    return _draw(2 * count, [*left, *((2 * n - 1, "/") for n in range(first, count))])


def _join(lanes: list[CommitId]) -> list[str]:
    """Lead every lane that waits for the same commit as one to its left into that one; changes `lanes`."""
    lines: list[str] = []
    n = 1
    while n < len(lanes):
        target = lanes.index(lanes[n])
        if target == n:
            n += 1
            continue
        for place in range(n, target, -1):
            # lanes beyond the moving one close up behind it, with its first step
            rest = [(2 * m - 1, "/") if place == n else (2 * m - 2, "|") for m in range(n + 1, len(lanes))]
            stay = [(2 * m, "|") for m in range(n)]
            lines.append(_draw(2 * len(lanes), [*stay, (2 * place - 1, "/"), *rest]))
        del lanes[n]
    return lines
