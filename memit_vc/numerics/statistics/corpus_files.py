"""Texts of local files.

Large files are never held in memory: their records are found once, then read in shuffled order.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from memit_vc.errors import StorageError, UsageError
from memit_vc.foreign.files import opened
from memit_vc.foreign.placeholders import check_real
from memit_vc.foreign.refused import Refused, hint_of
from memit_vc.foreign.text import is_unicode
from memit_vc.objects.ids import JsonValue
from memit_vc.store.files import file_digest

Source: TypeAlias = tuple[dict[str, JsonValue], Callable[[], Iterator[str]]]
"""A description, and a function that reads the texts from the start."""

FIELDS = ("text", "content", "story", "article", "passage", "document", "body", "page", "sentence")
"""Field names tried in turn if none is given."""

_PLAIN = (".txt", ".text", ".md", ".rst", "")
WITH_FIELDS = (".jsonl", ".ndjson", ".json", ".parquet")
SUFFIXES = (".txt", ".text", ".md", ".rst", *WITH_FIELDS)
_NAME_IT = (
    "Name it: memitvc stats --corpus FILE --field NAME; later commits use these statistics. "
    "In a file for --health, call it text."
)
_MOST_JSON = 1 << 25
"""Bytes: what JSON holds takes up to 26 times as much memory."""
_MOST_BYTES = 1 << 28
_MOST_ROWS = 1 << 22
_PARAGRAPH = 4000
"""Bytes after which a paragraph of plain text is cut at the next line end: files without blank lines exist."""


def open_file(path: Path, *, field: str | None, seed: int) -> Source:
    """Description and reader of a file; raises as `corpus.open_corpus` says."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        require_parquet()
    if suffix not in SUFFIXES and suffix not in _PLAIN:
        raise UsageError(f"{path}: files of type {suffix} are not read", hint=f"Use one of {', '.join(SUFFIXES)}.")
    try:
        with opened(path) as file:
            check_real(file.read(512), pages=suffix not in _PLAIN)
            file.seek(0)
            sha256 = file_digest(path)
            if suffix in _PLAIN:
                reader = _spans_reader(path, _paragraph_spans(file), lambda raw, where: _decode(raw, where), seed)
            elif suffix == ".json":
                reader = _json_reader(path, file, field, seed)
            elif suffix == ".parquet":
                reader = partial(parquet_texts, path, field=field, seed=seed)
            else:
                reader = _lines_reader(path, file, field, seed)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be read: {error.strerror or error}", hint="Check the corpus's path and permissions."
        ) from error
    except Refused as error:
        raise StorageError(f"{path}: {error}", hint=hint_of(error, "Name another corpus.")) from error
    if next(reader(), None) is None:
        raise UsageError(f"{path}: holds no text", hint="Name another corpus, or the right field.")
    size = path.stat().st_size
    described: dict[str, JsonValue] = {
        "kind": "file",
        "name": path.name,
        "size": size,
        "sha256": sha256,
        "field": field,
        "seed": seed,
    }
    return described, reader


def text_field(names: Sequence[str], field: str | None, where: str) -> str:
    """The field to read of those a record has; UsageError that names what is there."""
    if field is not None and field in names:
        return field
    found = next((name for name in FIELDS if name in names), None)
    if field is None and found is not None:
        return found
    wanted = f"no field {field!r}" if field is not None else "no field that looks like text"
    raise UsageError(f"{where}: {wanted}; it has {', '.join(sorted(names)) or 'none'}", hint=_NAME_IT)


def require_parquet() -> None:
    """UsageError where nothing can read parquet files: said before anything is fetched or hashed."""
    if find_spec("pyarrow") is None:
        raise UsageError(
            "parquet files are read with pyarrow, which is not installed",
            hint="Install it: `pip install 'memit-vc[parquet]'`; or name a text or JSON Lines file.",
        )


def parquet_texts(path: Path, *, field: str | None, seed: int) -> Iterator[str]:
    """Texts of a parquet file: row groups in shuffled order, and the rows of each. StorageError, UsageError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    order = random.Random(seed)  # noqa: S311 (an order, not a secret)
    try:
        with pq.ParquetFile(path) as file:
            column = text_field(file.schema_arrow.names, field, str(path))
            kind = file.schema_arrow.field(column).type
            if pa.types.is_nested(kind):
                raise UsageError(
                    f"{path}: column {column!r} holds {kind}, not text",
                    hint=f"Is the text in another column? {_NAME_IT}",
                )
        plain = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        with pq.ParquetFile(path, read_dictionary=[column] if plain else None) as file:  # each text is held once
            for group in order.sample(range(file.num_row_groups), file.num_row_groups):
                _check_group(file.metadata.row_group(group), column)
                texts = file.read_row_group(group, columns=[column]).column(column)
                places = list(range(len(texts)))
                order.shuffle(places)
                for row in (texts[place].as_py() for place in places):
                    if row is not None and not isinstance(row, str):
                        raise UsageError(
                            f"{path}: column {column!r} holds {type(row).__name__}, not text",
                            hint=f"Is the text in another column? {_NAME_IT}",
                        )
                    if row and row.strip():
                        yield row
    except Refused as error:
        raise StorageError(f"{path}: {error}", hint=hint_of(error, "Name another corpus.")) from error
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # text that is no UTF-8, dates of no year
        raise StorageError(
            f"{path}: not a readable parquet file: {error}", hint="Copy or download it again."
        ) from error


def _check_group(group: Any, column: str) -> None:
    """Refused for a row group that could not be held: a few bytes of a file may stand for any number of texts."""
    sizes = {part.path_in_schema: part.total_uncompressed_size for part in map(group.column, range(group.num_columns))}
    if group.num_rows > _MOST_ROWS or sizes.get(column, 0) > _MOST_BYTES:
        raise Refused(
            f"has a row group of {group.num_rows:,} rows and {sizes.get(column, 0):,} bytes of text",
            hint=f"Write it with row groups of at most {_MOST_ROWS:,} rows and {_MOST_BYTES:,} bytes.",
        )


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file. Refused for one that could not be held."""
    while line := file.readline(_MOST_BYTES + 1):
        if len(line) > _MOST_BYTES:
            raise Refused(f"has a line of more than {_MOST_BYTES:,} bytes", hint="Put line ends into it.")
        yield line


def _spans_reader(
    path: Path, spans: Sequence[tuple[int, int]], parse: Callable[[bytes, str], str | None], seed: int
) -> Callable[[], Iterator[str]]:
    order = list(range(len(spans)))
    random.Random(seed).shuffle(order)  # noqa: S311

    def read() -> Iterator[str]:
        with path.open("rb") as file:
            for index in order:
                start, end = spans[index]
                file.seek(start)
                text = parse(file.read(end - start), f"{path}, record {index + 1}")
                if text and text.strip():
                    yield text.strip()

    return read


def _paragraph_spans(file: BinaryIO) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    start = position = 0
    for line in _lines(file):
        blank = not line.strip()
        if blank or position - start >= _PARAGRAPH:
            spans.append((start, position))
            start = position
        position += len(line)
    spans.append((start, position))
    return [(a, b) for a, b in spans if b > a]


def _lines_reader(path: Path, file: BinaryIO, field: str | None, seed: int) -> Callable[[], Iterator[str]]:
    spans, position = [], 0
    for line in _lines(file):
        if line.strip():
            spans.append((position, position + len(line)))
        position += len(line)

    def parse(raw: bytes, where: str) -> str | None:
        try:
            return _record_text(json.loads(_decode(raw, where)), field, where)
        except (ValueError, RecursionError) as error:
            raise StorageError(f"{where}: not JSON: {error}", hint="Write one JSON value on each line.") from error

    return _spans_reader(path, spans, parse, seed)


def _json_reader(path: Path, file: BinaryIO, field: str | None, seed: int) -> Callable[[], Iterator[str]]:
    raw = file.read(_MOST_JSON + 1)
    if len(raw) > _MOST_JSON:
        raise Refused(
            f"is JSON of more than {_MOST_JSON:,} bytes, which is read as a whole",
            hint="Write one record on each line, for example with `jq -c '.[]'`, and name the file .jsonl.",
        )
    try:
        records = json.loads(_decode(raw, str(path)))
    except (ValueError, RecursionError) as error:
        raise StorageError(
            f"{path}: not JSON: {error}", hint="Name the file .jsonl if each line is one record."
        ) from error
    if not isinstance(records, list):
        raise UsageError(
            f"{path}: holds a JSON {type(records).__name__}, not a list of texts or of records",
            hint="Put [ and ] around it, or name it .jsonl if each line is one record.",
        )
    texts = [_record_text(record, field, f"{path}, record {index + 1}") for index, record in enumerate(records)]
    random.Random(seed).shuffle(texts)  # noqa: S311
    return lambda: (text for text in texts if text and text.strip())


def _record_text(record: Any, field: str | None, where: str) -> str | None:
    if isinstance(record, dict):
        record = record[text_field(list(record), field, where)]
    if record is not None and not isinstance(record, str):
        raise UsageError(
            f"{where}: its text is of type {type(record).__name__}", hint=f"Is the text in another field? {_NAME_IT}"
        )
    if record is not None and not is_unicode(record):
        raise StorageError(f"{where}: its text holds half of a character", hint="Correct the record, or leave it out.")
    return record


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StorageError(f"{where}: not UTF-8 text ({error.reason})", hint="Convert the file to UTF-8.") from error
