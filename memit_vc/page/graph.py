"""The history graph as SVG, drawn from the rows of `vcs/graphlines`: the lanes are those of `log --graph`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memit_vc.page.charts import written
from memit_vc.page.data import CommitRow
from memit_vc.vcs.graphlines import GraphRow

STEP = 7
"""Pixels of a character of the graph; a lane is two characters wide."""
EDGE = 12
"""Height of a line of edges."""
NODE = 17
"""Where the node is below the top of its row."""
COLOURS = 6
"""Lanes are coloured by classes g0 to g5."""
LABEL = 70
"""Characters of a message in the picture."""
SHOWN = 40
"""Commits in the picture."""

STYLE = (
    ".g0{stroke:#0072b2}.g1{stroke:#c05600}.g2{stroke:#00805c}.g3{stroke:#b3568f}.g4{stroke:#3a87b8}.g5{stroke:#a87300}"
    ".lane{fill:none;stroke-width:2}.node{fill:#fff;stroke-width:3}.lost{text-decoration:line-through;fill:#5b6470}"
    "text{font:13px ui-monospace,Menlo,Consolas,monospace;fill:#1f2328}.page{fill:#fff}"
    "@media(prefers-color-scheme:dark){.g0{stroke:#4fa8e0}.g1{stroke:#f08a3c}.g2{stroke:#2fbf94}.g3{stroke:#e08fc0}"
    ".g4{stroke:#7fc4ee}.g5{stroke:#e0ac3c}.node,.page{fill:#14181d}text{fill:#e6e9ed}.lost{fill:#a3adb8}}"
)
"""Of a picture that stands alone; the page has its own sheet with the same classes."""


def width(rows: Sequence[GraphRow]) -> int:
    """Pixels that the lanes of all rows need."""
    return 2 * STEP + STEP * max((len(line) for row in rows for line in (row.node, *row.edges)), default=2)


def cell(row: GraphRow, above: GraphRow | None) -> str:
    """The share of one commit in a list: as high as its row, whatever the row holds. `above` is the row before it.

    The lanes run from the top to the edges, which stand at the bottom.
    """
    below = EDGE * len(row.edges)
    strokes = [_vertical(place, f"{below}", "100%") for place, mark in enumerate(row.node) if mark == "|"]
    if "|" in _under(row):
        strokes.append(_vertical(row.node.index("*"), str(below + NODE), "100%"))
    parts = ["<svg>", *strokes]
    if below:  # shifted up by the height of the edges, so that 100 % is where they begin
        parts = [f'<svg><svg y="{-below}" height="100%" overflow="visible">', *strokes, "</svg>"]
        parts.append(f'<svg y="100%" height="1" overflow="visible">{_edges(row, -below)}</svg>')
    if _comes(row, above):
        parts.append(_vertical(row.node.index("*"), "0", str(NODE)))
    parts.append(_node(row, NODE))
    parts.append("</svg>")
    return "".join(parts)


def picture(rows: Sequence[CommitRow]) -> str:
    """The whole graph with ids and messages, as a file of its own. The oldest are left out where there are many."""
    shown = rows[:SHOWN]
    left = width([row.graph for row in shown])
    parts: list[str] = []
    y = 4
    for row, above in zip(shown, [None, *(each.graph for each in shown)], strict=False):
        label = written(_short(row.subject))
        names = f" ({written(', '.join(row.refs))})" if row.refs else ""
        below = EDGE * len(row.graph.edges)
        height = 26 + below
        for place, mark in enumerate(row.graph.node):
            if mark == "|":
                parts.append(_vertical(place, str(y), str(y + 26)))
        if "|" in _under(row.graph):
            parts.append(_vertical(row.graph.node.index("*"), str(y + NODE), str(y + 26)))
        if _comes(row.graph, above):
            parts.append(_vertical(row.graph.node.index("*"), str(y), str(y + NODE)))
        parts += [_edges(row.graph, y + 26), _node(row.graph, y + NODE)]
        change = f" +{row.facts}" if row.facts else ""
        change += f" −{row.gone}" if row.gone else ""
        cls = ' class="lost"' if row.lost else ""
        parts.append(f'<text x="{left}" y="{y + NODE + 4}"{cls}>{row.id[:10]}{names} {label}{change}</text>')
        y += height
    if len(rows) > len(shown):
        parts.append(f'<text x="{left}" y="{y + NODE}">… and {len(rows) - len(shown)} older commits</text>')
        y += 26
    longest = max((len(_short(row.subject)) + len(", ".join(row.refs)) for row in shown), default=0)
    wide = left + 8 * (longest + 24)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{y + 6}" viewBox="0 0 {wide} {y + 6}" '
        f'role="img" aria-label="History of {len(rows)} commits"><style>{STYLE}</style>'
        f'<rect class="page" width="{wide}" height="{y + 6}"/>{"".join(parts)}</svg>\n'
    )


def _short(text: str) -> str:
    return text if len(text) <= LABEL else text[: LABEL - 1] + "…"


def _under(row: GraphRow) -> str:
    """What `body` has under the node: nothing under a root."""
    return row.body[row.node.index("*")]


def _comes(row: GraphRow, above: GraphRow | None) -> bool:
    """Whether a lane leads from the row above to the node: not to the tip of a branch."""
    if above is None:
        return False
    place = row.node.index("*")
    last = f" {above.edges[-1] if above.edges else above.body}  "  # one to the left, for the place 0
    return last[place + 1] == "|" or last[place] == "\\" or last[place + 2 : place + 3] == "/"


def _x(place: float) -> float:
    return STEP + STEP * place


def _vertical(place: int, top: str, bottom: str) -> str:
    x = _x(place)
    return f'<line class="lane g{place // 2 % COLOURS}" x1="{x:g}" x2="{x:g}" y1="{top}" y2="{bottom}"/>'


def _edges(row: GraphRow, top: int) -> str:
    return "".join(_strokes(row, top))


def _strokes(row: GraphRow, top: int) -> Iterator[str]:
    for number, line in enumerate(row.edges):
        y = top + EDGE * number
        for place, mark in enumerate(line):
            if mark == "|":
                yield _vertical(place, str(y), str(y + EDGE))
            elif mark in "/\\":
                above, under = (place + 1, place - 1) if mark == "/" else (place - 1, place + 1)
                colour = max(above, under) // 2 % COLOURS
                yield (
                    f'<path class="lane g{colour}" d="M{_x(above):g} {y}C{_x(above):g} {y + EDGE // 2} '
                    f'{_x(under):g} {y + EDGE // 2} {_x(under):g} {y + EDGE}"/>'
                )


def _node(row: GraphRow, y: int) -> str:
    place = row.node.index("*")
    return f'<circle class="node g{place // 2 % COLOURS}" cx="{_x(place):g}" cy="{y}" r="5"/>'
