"""Texts of others in a line of ours."""

from __future__ import annotations

from memit_vc.foreign.text import indented, is_one_line, one_line


def test_what_moves_or_reverses_is_written_out() -> None:
    assert one_line("a\nb\tc\x1b\x85\u2028\u202ed\u2066\u200f") == "a\\nb\\tc\\x1b\\x85\\u2028\\u202ed\\u2066\\u200f"
    for text in ("Eiffel → Rome", "日本の通貨", "خبر", "a\u200cb"):
        assert is_one_line(text)
        assert one_line(text) == text


def test_later_lines_do_not_begin_at_the_margin() -> None:
    assert indented("a\nhint: b\r\nerror: c\u2028d") == "a\n    hint: b\n    error: c\n    d"


def test_no_line_moves_to_another() -> None:
    """Notes and errors go to a stream that lets the cursor movements of progress bars pass."""
    assert indented("no \x1b[1A\x1b[2Kok\n  \x1b[2Ja\tb") == "no \\x1b[1A\\x1b[2Kok\n  \\x1b[2Ja\\tb"
