"""JSON and YAML of others."""

from __future__ import annotations

import pytest

from memit_vc.foreign.data import MOST_DEPTH, json_value, yaml_value
from memit_vc.foreign.refused import Refused, hint_of


def test_what_others_write_is_read() -> None:
    assert json_value(b'{"a": [1, null, "x"]}') == {"a": [1, None, "x"]}
    assert json_value(b"[" * MOST_DEPTH + b"]" * MOST_DEPTH)
    assert yaml_value("\ufefflayers: [1, 2]\nname: 'ä'\n".encode()) == {"layers": [1, 2], "name": "ä"}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[" * (MOST_DEPTH + 1) + b"]" * (MOST_DEPTH + 1), "deeply"),
        (b'{"a":' * 5000 + b"0" + b"}" * 5000, "deeply"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"\xef\xbb\xbf\r\n<!doctype HTML><p>log in", "web page"),
        (b"404: Not Found", "web page"),
    ],
)
def test_what_is_not_taken(data: bytes, why: str) -> None:
    for read in (json_value, yaml_value):
        with pytest.raises(Refused, match=why) as caught:
            read(data)
        assert hint_of(caught.value, "the door's own")


def test_utf_16_is_no_json() -> None:
    with pytest.raises(ValueError, match="utf-8"):
        json_value("[1]".encode("utf-16"))


def test_a_small_yaml_that_stands_for_much() -> None:
    with pytest.raises(Refused, match="anchors"):
        yaml_value(b"a: &a [x, x]\nb: [*a, *a]\n")
    with pytest.raises(Refused, match="values"):
        yaml_value(b"- a\n" * 70_000)
