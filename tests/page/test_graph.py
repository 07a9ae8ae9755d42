"""The graph is that of `log --graph`: each mark becomes a stroke where the character stands."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from memit_vc.page.charts import Series, lines, score_picture
from memit_vc.page.graph import EDGE, STEP, cell, picture
from memit_vc.porcelain.history.report import history
from tests.support import synthetic, told

GOLDEN = Path(__file__).parent / "history.svg"


def test_a_picture_of_a_merge(tmp_path: Path) -> None:
    with told.story(tmp_path / "work") as repository:
        rows = history(repository)
    text = re.sub(r"[0-9a-f]{10}", "0123456789", picture(rows))  # times are in the ids of the revert and what follows
    ElementTree.fromstring(text)  # noqa: S314
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_a_cell_has_a_stroke_for_each_mark(tmp_path: Path) -> None:
    with told.story(tmp_path / "work") as repository:
        rows = history(repository)
    for row, above in zip(rows, [None, *rows], strict=False):
        drawn = ElementTree.fromstring(cell(row.graph, above and above.graph))  # noqa: S314
        found = list(drawn.iter())
        assert sum(each.tag == "circle" for each in found) == 1
        assert sum(each.tag == "path" for each in found) == sum(
            edge.count("/") + edge.count("\\") for edge in row.graph.edges
        )
        below = EDGE * len(row.graph.edges)
        assert [each.get("y") for each in drawn if each.tag == "svg"] == ([str(-below), "100%"] if below else [])
        (circle,) = (each for each in found if each.tag == "circle")
        assert circle.get("cx") == str(STEP + STEP * row.graph.node.index("*"))


def test_pictures_hold_hostile_text_as_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>\u202e\ufffe&"
    with synthetic.init(tmp_path / "work") as repository:
        synthetic.record(repository, [synthetic.fact(1)], message=bad)
        drawn = picture(history(repository))
        assert repository.fsck() == []
    for text in (
        drawn,
        score_picture([(bad, "0.10", "–")]),
        lines(bad, [Series(bad, [(0, 1.0)])], [bad], low=0, high=1),
    ):
        assert ElementTree.fromstring(text).tag.endswith("svg")  # noqa: S314
        assert "<script" not in text
    assert "\\u202e" in drawn
