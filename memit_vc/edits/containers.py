"""What edit files are packed in: lists of records, objects around them, tables that pandas wrote in columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memit_vc.edits.formats import PROMPTS, TARGETS
from memit_vc.errors import EditFileError

_KEYS = frozenset((*PROMPTS, *TARGETS, "requested_rewrite", "subject"))
_PACKED = {
    b"\x1f\x8b": "a gzip archive",
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"PAR1": "a Parquet file",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
}


def refuse_packed(data: bytes, name: str) -> None:
    """EditFileError for a file that is not text but holds some."""
    kind = next((kind for start, kind in _PACKED.items() if data.startswith(start)), None)
    if kind is not None:
        raise EditFileError(f"{name}: is {kind}, not text", hint="Unpack it, or export it as JSON or CSV in UTF-8.")


def unpacked(value: Any) -> list[Any]:
    """The records of a JSON file, in its order.

    A list; one record; an object with one list of records in it ({"data": […]}); records by number ({"12": {…}});
    columns ({"prompt": {"0": …}} or {"prompt": […]}); pandas' "split" ({"columns": […], "data": [[…]]}).
    """
    if not isinstance(value, Mapping):
        return value if isinstance(value, list) else [value]
    if not _KEYS.isdisjoint(value):
        return _columns(value) or [value]
    columns, data = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        return [dict(zip(map(str, columns), row, strict=False)) for row in data]
    lists = [each for each in value.values() if isinstance(each, list) and each and isinstance(each[0], Mapping)]
    if len(lists) == 1:
        return lists[0]
    if value and all(isinstance(each, Mapping) and not _KEYS.isdisjoint(each) for each in value.values()):
        return list(value.values())
    return [value]


def _columns(value: Mapping[str, Any]) -> list[Any] | None:
    """Rows of a table that is given in columns; None if it is a record."""
    name = next((name for name in (*PROMPTS, "requested_rewrite") if name in value), None)
    first = value[name] if name is not None else None
    if isinstance(first, Mapping) and _KEYS.isdisjoint(first):
        rows = list(first)
    elif isinstance(first, list) and all(isinstance(each, list) and len(each) == len(first) for each in value.values()):
        rows = list(range(len(first)))
        if name == "requested_rewrite":  # MQuAKE's list of rewrites is one record
            return None
    else:
        return None
    if not all(isinstance(each, type(first)) for each in value.values()):
        return None
    return [{key: _at(column, row) for key, column in value.items()} for row in rows]


def _at(column: Any, row: Any) -> Any:
    return column.get(row) if isinstance(column, Mapping) else column[row]
