"""The lanes of `log --graph`: whole pictures, and laws on random histories."""

from __future__ import annotations

import textwrap

from hypothesis import given

from memit_vc.vcs.graph import newest_first
from memit_vc.vcs.graphlines import graph_rows
from tests.support.graphs import History, histories, history


def _picture(text: str) -> str:
    graph = history(text)
    order = list(reversed(graph.commits))
    lines = []
    for commit, row in zip(order, graph_rows((c, graph.of(c)) for c in order), strict=True):
        lines += [row.node + commit, *row.edges]
    return "\n".join(lines) + "\n"


def _expect(text: str, picture: str) -> None:
    assert _picture(text) == textwrap.dedent(picture).lstrip("\n")


def test_a_line() -> None:
    _expect("a; b: a; c: b", "* c\n* b\n* a\n")


def test_a_merge() -> None:
    _expect(
        "a; b: a; c: a; d: c b; e: d",
        r"""
        * e
        * d
        |\
        * | c
        | * b
        |/
        * a
        """,
    )


CRISS_CROSS = r"""
* f
|\
| * e
| |\
* | | d
|\ \ \
| |/ /
| |/
|/|
| * c
* | b
|/
* a
"""


def test_a_criss_cross() -> None:
    _expect("a; b: a; c: a; d: b c; e: c b; f: d e", CRISS_CROSS)


def test_two_roots_and_tips() -> None:
    _expect(
        "a; b; c: a; d: b",
        """
        * d
        | * c
        * | b
         /
        * a
        """,
    )


@given(histories())
def test_every_commit_has_its_star_in_its_lane(graph: History) -> None:
    order = list(newest_first(graph.commits, graph.of, graph.order))
    for commit, row in zip(order, graph_rows((c, graph.of(c)) for c in order), strict=True):
        assert row.node.count("*") == 1
        assert len(row.node) == len(row.body)
        assert row.node.replace("*", "|" if graph.of(commit) else " ") == row.body
        assert set("".join(row.edges)) <= set("|/\\ ")


@given(histories())
def test_edges_lead_to_the_parents(graph: History) -> None:
    """Follow the characters downwards from every star: they arrive at that commit's parents and nowhere else."""
    order = list(newest_first(graph.commits, graph.of, graph.order))
    lines: list[str] = []
    star: dict[tuple[int, int], str] = {}
    start = {}
    for commit, row in zip(order, graph_rows((c, graph.of(c)) for c in order), strict=True):
        star[len(lines), row.node.index("*")] = commit
        start[commit] = (len(lines), row.node.index("*"))
        lines += [row.node, *row.edges]
    for commit in order:
        assert _reached(lines, star, *start[commit]) == set(graph.of(commit))


def _reached(lines: list[str], star: dict[tuple[int, int], str], row: int, column: int) -> set[str]:
    """Stars reached from a star. A lane is in an even column; a slash lies between two lanes."""
    found: set[str] = set()
    pending = [(row, column)]
    while pending:
        row, column = pending.pop()
        if row + 1 >= len(lines):
            continue
        below = lines[row + 1].ljust(200)
        for position in _steps(lines[row][column], column, below):
            if below[position] == "*":
                found.add(star[row + 1, position])
            else:
                pending.append((row + 1, position))
    return found


def _steps(mark: str, column: int, below: str) -> list[int]:
    """The columns in which a line goes on in the next row; a slash that meets a lane crosses it if it can."""
    straight = [column] if below[column] in "|*" else []
    if mark == "*":
        opened = [column + 1] if below[column + 1] == "\\" else []
        return straight + opened or _bend(column, below)
    if mark == "|":
        return straight or _bend(column, below)
    lane = column - 1 if mark == "/" else column + 1
    if mark == "/" and below[lane - 1] == "/":
        return [lane - 1]
    return [lane] if below[lane] in "|*" else _bend(lane, below)


def _bend(lane: int, below: str) -> list[int]:
    """A lane that moves over by one."""
    if lane and below[lane - 1] == "/":
        return [lane - 1]
    return [lane + 1] if below[lane + 1] == "\\" else []
