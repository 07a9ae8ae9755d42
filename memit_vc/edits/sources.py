"""Bytes of an edit file into records: JSON, JSON Lines or CSV, by the file's name or by looking at its beginning."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from memit_vc.edits.cells import value_of
from memit_vc.edits.containers import refuse_packed, unpacked
from memit_vc.edits.formats import PROMPTS, TARGETS
from memit_vc.edits.writing import COLUMNS
from memit_vc.errors import EditFileError
from memit_vc.foreign.data import MOST_VALUES, check_count
from memit_vc.foreign.files import read_file, read_stream
from memit_vc.foreign.placeholders import check_real
from memit_vc.foreign.refused import Refused, hint_of

STDIN = "standard input"

_SEPARATOR = re.compile(r"\s*\"?sep=([^\w\s\"']|\t)\"?[^\S\r\n]*(?:\r\n?|\n)", re.IGNORECASE)
MOST_BYTES = 1 << 26
"""A batch of ten thousand facts with all its probes has some 40 MB."""
_MARKS = ((b",", b"[", b"{"), (b";", b"\t"), (b"\n",))
"""What ends a value in JSON and CSV, a cell in other CSV, a record: there cannot be more than the greatest count."""
_SPLIT = "Split it into files of at most some ten thousand facts, and commit them one after the other."
_FORMS = "Use JSON (a list of records), JSON Lines or CSV."


def read_bytes(source: str | Path, stdin: IO[bytes] | None) -> tuple[bytes, str]:
    """The bytes and the name to use in messages; "-" is standard input."""
    path, name = Path(source), STDIN if str(source) == "-" else str(source)
    if name != STDIN and path.is_dir():
        raise EditFileError(f"{path}: is a directory", hint="Name one edit file in it.")
    try:
        data = _read(path) if name != STDIN else read_stream(stdin or sys.stdin.buffer, most=MOST_BYTES)
        check_real(data)
        for marks in _MARKS:
            check_count(data, marks, MOST_VALUES)
    except Refused as error:
        raise EditFileError(f"{name}: {error}", hint=hint_of(error, _SPLIT)) from error
    except FileNotFoundError as error:
        raise EditFileError(f"{path}: no such file", hint='Check the name; "-" reads standard input.') from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        hint = "Name a file instead of -." if name == STDIN else "Check the file and its permissions."
        raise EditFileError(f"{name}: cannot be read: {reason}", hint=hint) from error
    return data, name


def _read(path: Path) -> bytes:
    """A pipe is read too: shells put one in place of `<(command)`."""
    if path.is_fifo():
        with path.open("rb") as pipe:
            return read_stream(pipe, most=MOST_BYTES)
    return read_file(path, most=MOST_BYTES)


def decode(data: bytes, name: str, notes: dict[str, list[int]]) -> list[Any]:
    """The records, not yet looked at; EditFileError with line and column where the file itself is wrong.

    `notes` take what was assumed, each with the numbers of its records.
    """
    refuse_packed(data, name)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise EditFileError(f"{name}: is UTF-16, not UTF-8", hint="Save the file as UTF-8.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise EditFileError(f"{name}: line {line}: not UTF-8", hint="Save the file as UTF-8.") from error
    if not text.strip():
        raise EditFileError(f"{name}: is empty", hint=_FORMS)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise EditFileError(f"{name}: line {line}: a NUL character: not a text file", hint=_FORMS)
    suffix = Path(name).suffix.lower()
    start = text.lstrip()[0]
    if suffix in (".csv", ".tsv") or (suffix not in (".json", ".jsonl", ".ndjson") and start not in "[{"):
        records = _csv(text, name, notes)
    elif suffix in (".jsonl", ".ndjson") and start != "[":
        records = _json_lines(text, name)
    else:
        records = _json(text, name)
    if not records:
        raise EditFileError(f"{name}: no records", hint=_FORMS)
    return records


def _json(text: str, name: str) -> list[Any]:
    try:
        value = _loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):  # one object a line, under another name
            return _json_lines(text, name)
        where = f"{name}: line {error.lineno}, column {error.colno}"
        raise EditFileError(f"{where}: not JSON: {error.msg}", hint=f"Correct the file there. {_FORMS}") from error
    except (ValueError, RecursionError) as error:
        raise EditFileError(f"{name}: not usable JSON: {_reason(error)}", hint="Correct the file.") from error
    return unpacked(value)


def _json_lines(text: str, name: str) -> list[Any]:
    records = []
    for number, line in enumerate(text.split("\n"), start=1):  # JSON may hold the other line ends of str.splitlines
        if not line.strip():
            continue
        try:
            records.append(_loads(line))
        except json.JSONDecodeError as error:
            where = f"{name}: line {number}, column {error.colno}"
            hint = "Write one whole record on each line."
            raise EditFileError(f"{where}: not JSON: {error.msg}", hint=hint) from error
        except (ValueError, RecursionError) as error:
            raise EditFileError(f"{name}: line {number}: not usable JSON: {_reason(error)}", hint=_FORMS) from error
    return records


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # the last would win in silence, and an edit would be lost
        raise ValueError(f"key {_twice(key for key, _ in pairs)!r} occurs twice in one record")
    return found


def _twice(keys: Iterable[str]) -> str | None:
    """The first of the keys that occur more than once, or None."""
    return next((key for key, times in Counter(keys).items() if times > 1), None)


def _constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _csv(text: str, name: str, notes: dict[str, list[int]]) -> list[Any]:
    told = _SEPARATOR.match(text)  # Excel and what exports to it
    if told is not None:
        text = "\n" + text[told.end() :]
    first = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = told.group(1) if told is not None else max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    own = False
    records = []
    try:
        for row in reader:
            if not any(row):
                continue
            if not header:
                header = _header(row, name)
                own = header == [*COLUMNS]
                continue
            if len(row) > len(header):
                raise EditFileError(
                    f"{name}: line {reader.line_num}: {len(row)} cells under {len(header)} columns",
                    hint=f'Put cells that hold "{delimiter}" in double quotes.',
                )
            records.append({k: v for k, v in zip(header, row, strict=False) if k and v})
            _read_cells(records[-1], len(records), f"{name}: line {reader.line_num}", notes, own=own)
    except csv.Error as error:
        if "field larger" in str(error):
            raise EditFileError(
                f"{name}: line {reader.line_num}: a cell has more than {csv.field_size_limit():,} characters",
                hint="Save the file as JSON, which has no such limit.",
            ) from error
        hint = 'Put cells with commas, quotes or line ends in double quotes, and write a quote in them as "".'
        raise EditFileError(f"{name}: line {reader.line_num}: not CSV: {error}", hint=hint) from error
    return records


def _header(row: list[str], name: str) -> list[str]:
    header = [cell.strip() for cell in row]
    known = {"prompt": PROMPTS, "target_new": TARGETS}
    missing = [key for key, names in known.items() if not set(names) & set(header)]
    if missing and "requested_rewrite" not in header:
        raise EditFileError(
            f"{name}: neither JSON nor a CSV with the columns {' and '.join(missing)}; it starts with {row[0][:40]!r}",
            hint="Name the columns in the first line: prompt,subject,target_new and more.",
        )
    twice = _twice(filter(None, header))
    if twice is not None:
        raise EditFileError(f"{name}: column {twice!r} occurs twice in the header", hint="Rename or remove one.")
    return header


def _read_cells(record: dict[str, Any], number: int, where: str, notes: dict[str, list[int]], *, own: bool) -> None:
    """Put the value of each cell in place of its text; a cell that stands for nothing goes."""
    for column, text in list(record.items()):
        found: list[str] = []
        try:
            record[column] = value_of(column, text, found, own=own, loads=_loads)
        except ValueError as error:
            raise EditFileError(
                f"{where}: {error}: {text[:40]!r}", hint='Write a JSON list: ["one text", "another"].'
            ) from error
        if record[column] is None:
            del record[column]
        for note in found:
            notes.setdefault(note, []).append(number)
