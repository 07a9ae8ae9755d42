"""Tables: aligned as a terminal shows them, folded to it, nothing lost."""

from __future__ import annotations

from memit_vc.cli.table import table


def test_columns_are_aligned_and_lines_end_without_blanks() -> None:
    rows = [["a", "longer", "1"], ["bb", "", "22"]]
    assert list(table(["x", "name", "n"], rows, right=["n"])) == [
        "x   name     n",
        "─" * 14,
        "a   longer   1",
        "bb          22",
    ]
    assert list(table(["x", "name"], [])) == ["x  name", "─" * 7]


def test_wide_characters_and_lines_of_a_cell_keep_their_columns() -> None:
    assert list(table(["x", "y"], [["日本", "1"], ["a\nb", "2"]])) == ["x     y", "─" * 7, "日本  1", "a     2", "b"]


def test_the_widest_columns_are_folded_to_the_terminal_and_nothing_is_cut() -> None:
    text, wide = "one two three four five six seven", "日本語日本語日本語日本語"
    lines = list(table(["id", "text", "wide"], [["0123456789", text, wide]], width=40))
    assert all(len(line) + sum(c > "ÿ" and c != "─" for c in line) <= 40 for line in lines)
    columns = [[line[:10].strip(), line] for line in lines[2:]]
    assert columns[0][0] == "0123456789"
    assert all(word in "".join(lines) for word in text.split())
    assert "".join(c for line in lines[2:] for c in line if c in "日本語") == wide
    # narrower than any table can be: it is wider than the terminal then, but whole
    assert "".join("".join(table(["x"], [["abcdefghijkl"]], width=3))[3:].split("─")).replace(" ", "") == "abcdefghijkl"
