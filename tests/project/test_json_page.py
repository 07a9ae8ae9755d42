"""docs/json.md names every field that commands print and every column of the database."""

from __future__ import annotations

import re

from memit_vc.cli.main import COMMANDS
from memit_vc.objects import RefUpdate
from memit_vc.repository import Repository
from memit_vc.store.schema import metadata
from tests.support.paths import ROOT
from tests.support.places import Cli, Place

PAGE = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
OUTCOME = {"id", "branch", "state", "added", "removed", "contradictions", "notes", "warnings"}
OPERATION = {"id", "time", "verb", "description", "undone_by", "moved"}
FACT = {"prompt", "subject", "target_new", "ground_truth", "paraphrase_prompts", "neighborhood_prompts", "id"}
_NAMES = re.compile(r"`([^`]+)`")


def rows(title: str) -> dict[str, list[str]]:
    """The tables below a heading: first cell to the other cells."""
    part = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in part.splitlines() if line.startswith("| `")
    ]
    return {name.strip("| "): more for name, *more in cells}


def fields(command: str) -> set[str]:
    found = rows("JSON")
    text = next(more[0] for names, more in found.items() if f"`{command}`" in names)
    named = set(_NAMES.findall(text))
    named |= OUTCOME if text.startswith("outcome") else set()
    named |= OPERATION if "operation" in text else set()
    named |= FACT if "facts" in text else set()
    return named | (fields("log") if "entry of `log`" in text else set())


def test_every_command_has_a_row() -> None:
    named = {name.split()[0] for names in rows("JSON") for name in _NAMES.findall(names)}
    assert set(COMMANDS) - named == {"demo"}


def test_every_column_of_the_database_is_named() -> None:
    told = {name.strip("`"): set(_NAMES.findall(more[-1])) for name, more in rows("Tables of meta.db").items()}
    assert set(told) == set(metadata.tables)
    for name, table in metadata.tables.items():
        assert {column.name for column in table.columns} <= told[name], name


def test_every_field_is_named(cli: Cli, place: Place) -> None:
    with Repository.open(place.work) as repository:
        head = repository.head().commit
        repository.publish(verb="tag", description="tag", refs=[RefUpdate("tags/v1", None, head)])
    remote = place.work.parent / "shared"
    cli.ok("remote", "add", "origin", remote)
    asked = {
        "log": [], "show": [], "status": [], "facts": [], "diff": ["HEAD~1", "HEAD"], "branch": [], "tag": [],
        "remote": [], "fsck": ["--quick"], "gc": ["--dry-run"], "push": ["--no-adapter"], "fetch": [], "pull": [],
        "revert": ["HEAD"], "undo": [], "switch": ["--detach", "HEAD~1"], "stats": [],
    }  # fmt: skip
    for command, arguments in asked.items():
        printed = cli.ok(command, *arguments, "--json").json
        for record in printed if isinstance(printed, list) else [printed]:
            assert set(record) <= fields(command), command
    entries = cli.ok("log", "--all", "--json").json
    assert [entry["time"] for entry in entries if entry["kind"] == "root"] == [None]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", e["time"]) for e in entries if e["kind"] != "root")
