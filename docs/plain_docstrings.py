"""For the API pages: docstrings are plain text with code in backticks, not Markdown, and their shapes are no links."""

from __future__ import annotations

import re
from typing import Any

import griffe

_CODE = re.compile(r"(``.*?``|`[^`]*`)", re.DOTALL)


class PlainDocstrings(griffe.Extension):  # type: ignore[misc]  # only where the site is built
    """Brackets and signs of Markdown outside of code stand for themselves: C [d_in, d_in] is a shape."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = "\n\n".join(map(_escaped, obj.docstring.value.split("\n\n")))


def _escaped(paragraph: str) -> str:
    if paragraph.startswith("    "):  # a figure or a listing
        return paragraph
    parts = _CODE.split(paragraph)
    return "".join(part if n % 2 else re.sub(r"[\[\]<*_]", r"\\\g<0>", part) for n, part in enumerate(parts))
