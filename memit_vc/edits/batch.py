"""A batch of facts from a file or from records: parsed at the edge, trusted inside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from memit_vc.edits.problem import RecordProblem
from memit_vc.edits.records import facts_of
from memit_vc.edits.sources import decode, read_bytes
from memit_vc.errors import EditFileError
from memit_vc.objects import Fact

_SHOWN = 5
"""Problems shown together, and records listed in one note."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditBatch:
    """Checked facts, in the file's order.

    `notes` say what was found, assumed or ignored; `origins` say where each fact comes from, counted from 1
    ("edits.json: record 3"). Facts that contradict each other are still here.
    """

    facts: tuple[Fact, ...]
    notes: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


def read_edits(source: str | Path, *, stdin: IO[bytes] | None = None) -> EditBatch:
    """Read JSON, JSON Lines or CSV from a file, or from `stdin` for "-"; EditFileError says what is wrong and where."""
    data, name = read_bytes(source, stdin)
    notes: dict[str, list[int]] = {}
    return parse_records(decode(data, name, notes), source=name, notes=notes)


def parse_records(
    records: Iterable[Mapping[str, Any]],
    *,
    source: str,
    deduplicate: bool = True,
    notes: Mapping[str, Sequence[int]] | None = None,
) -> EditBatch:
    """Check records of any of the formats (see `records.py`); the first few problems are reported together.

    A record that repeats an earlier one's question and target is left out and noted, unless `deduplicate` is false:
    then facts and rewrites correspond one to one. `notes` were taken when the file was read, each with its records.
    """
    facts: list[Fact] = []
    numbers: list[int] = []
    said = {note: list(where) for note, where in (notes or {}).items()}
    problems: list[tuple[int, RecordProblem]] = []
    wrong = 0
    for number, record in enumerate(records, start=1):
        found: list[str] = []
        try:
            made = facts_of(record, found)
            facts += made
            numbers += [number] * len(made)
        except RecordProblem as problem:
            wrong += 1
            if wrong <= _SHOWN:  # a million of them would take a gigabyte
                problems.append((number, problem))
        for note in dict.fromkeys(found):
            said.setdefault(note, []).append(number)
    if problems:
        raise _refused(source, problems, wrong)
    if not facts:
        raise EditFileError(f"{source}: no records", hint='Give at least one {"prompt", "subject", "target_new"}.')
    repeated = {later: earlier for earlier, later in duplicates(facts)} if deduplicate else {}
    lines = [f"{_records(where)}: {note}" for note, where in said.items()]
    lines += [
        f"record {numbers[later]}: repeats record {numbers[earlier]}, left out" for later, earlier in repeated.items()
    ]
    kept = [i for i in range(len(facts)) if i not in repeated]
    return EditBatch(
        facts=tuple(facts[i] for i in kept),
        notes=tuple(lines),
        origins=tuple(f"{source}: record {numbers[i]}" for i in kept),
    )


def duplicates(facts: Sequence[Fact]) -> list[tuple[int, int]]:
    """Positions (earlier, later) of facts with one question and one target; probes may differ."""
    first: dict[object, int] = {}
    pairs = [(first.setdefault(fact.claim, position), position) for position, fact in enumerate(facts)]
    return [(earlier, later) for earlier, later in pairs if earlier != later]


def _records(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"record {numbers[0]}"
    shown = ", ".join(str(n) for n in numbers[:_SHOWN])
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"records {shown}{more}"


def _refused(source: str, shown: Sequence[tuple[int, RecordProblem]], wrong: int) -> EditFileError:
    hint = "\n".join(dict.fromkeys(problem.hint for _, problem in shown))
    if wrong == 1:
        number, problem = shown[0]
        return EditFileError(f"{source}: record {number}: {problem.what}", hint=hint)
    lines = [f"  record {number}: {problem.what}" for number, problem in shown]
    if wrong > len(shown):
        lines.append(f"  and {wrong - len(shown)} more")
    return EditFileError("\n".join([f"{source}: {wrong} records are wrong:", *lines]), hint=hint)
