"""docs/commands.md is what the commands say of themselves, and each has an example that can be typed."""

from __future__ import annotations

import importlib.util
import shlex
from types import ModuleType

import pytest

from memit_vc.errors import MemitVCError
from tests.support.paths import ROOT

SCRIPT = ROOT / "docs" / "generate.py"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(generate: ModuleType) -> None:
    assert generate.main(["--check"]) == 0, "run `make docs`, and commit docs/commands.md"


def test_every_command_is_on_the_page(generate: ModuleType) -> None:
    titles = [line.lstrip("# ") for line in generate.page().splitlines() if line.startswith(("## ", "### "))]
    assert titles == ["All commands", *(name for name, _ in generate.commands())]


def test_what_stands_beside_the_commands_is_of_commands(generate: ModuleType) -> None:
    names = {name for name, _ in generate.commands()}
    assert all(command.epilog for _, command in generate.commands())
    assert generate.SPECIAL.keys() <= names
    assert {code for codes in generate.SPECIAL.values() for code in codes} <= generate.EXIT_CODES.keys()


def test_the_exit_codes_are_those_of_the_errors(generate: ModuleType) -> None:
    found, pending = {0, 129, 130, 141, 143}, [MemitVCError]
    while pending:
        error = pending.pop()
        found.add(error.exit_code)
        pending += error.__subclasses__()
    assert generate.EXIT_CODES.keys() == found


def test_every_example_parses(generate: ModuleType) -> None:
    lines = [line[2:] for line in generate.page().splitlines() if line.startswith("$ ") and "[OPTIONS]" not in line]
    assert len(lines) >= len(list(generate.commands()))
    known = dict(generate.commands())
    for line in lines:
        first, *words = shlex.split(line)
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        assert first == "memitvc"
        known[name].make_context(name, words[len(name.split()) :])  # UsageError for what it does not take
