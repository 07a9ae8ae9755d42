"""How operations are written for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memit_vc.repository import OperationRow

__all__ = ["moved_lines"]


def moved_lines(operation: OperationRow) -> Iterator[str]:
    """ "main: 0123456789 → abcdef0123" for each ref that the operation moved."""
    for moved in operation.moved:
        name = moved.name.partition("/")[2] or moved.name
        yield f"{name}: {_place(moved.before)} → {_place(moved.after)}"


def _place(value: str | None) -> str:
    if value is None:
        return "absent"
    return value.removeprefix("heads/") if value.startswith("heads/") else value[:10]
