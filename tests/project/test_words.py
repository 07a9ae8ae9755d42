"""Sentences that a reader needs to read only once: patterns that do not come back into documents and messages."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from memit_vc.cli.main import COMMANDS, cli
from tests.support.paths import ROOT

DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")],
    key=lambda page: str(page.relative_to(ROOT)),
)
GENERATED = "commands.md"
"""Its prose is the commands' help."""
MOST_WORDS = 35

PATTERNS = {
    r"(?<!there )\b(?:is|are|was|were) no (?!longer|more\b)": 'write "is not a"',
    r"(?<!there )\b(?:is|are) none\b": "name what is missing",
    r"\bwhat shall\b": "ask directly, or say what is missing",
    r"\banew\b": 'write "again"',
    r"\bin the place of\b": 'write "instead of"',
    r"\b(?:is|are|was|were) told\b": 'write "is asked", "says" or "gets a message"',
    r"\b(?:lies|lie) in\b": 'write "is in"',
    r"\b(?:whoever|whosoever)\b": 'write "someone who"',
    r"\bsomebody\b": 'write "someone"',
    r"\bwhat (?:is|was|are) to be\b": "name the thing",
}
_CODE = re.compile(r"```.*?```|`[^`]*`|^    [^\n]*$|<!--.*?-->", re.MULTILINE | re.DOTALL)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def complaints(text: str) -> Iterator[str]:
    """Each bad pattern with its words around it."""
    flat = " ".join(text.split())
    for pattern, advice in PATTERNS.items():
        for found in re.finditer(pattern, flat, re.IGNORECASE):
            around = flat[max(0, found.start() - 30) : found.end() + 30]
            yield f"…{around}…: {advice}"


def long_sentences(text: str) -> Iterator[str]:
    """Sentences of more than `MOST_WORDS` words; a colon or a comma does not end one."""
    for sentence in _SENTENCE.split(" ".join(text.split())):
        if len(sentence.split()) > MOST_WORDS:
            yield f"{len(sentence.split())} words: {sentence}"


def prose(page: Path) -> list[str]:
    """Paragraphs and list items of a document, without code; the cells of tables one by one."""
    text = _CODE.sub("`code`", page.read_text(encoding="utf-8"))
    parts: list[str] = []
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:- |\d+\. |#|\|))", text):
        parts += block.split("|") if block.lstrip().startswith("|") else [block]
    return [part for part in parts if part.strip()]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_documents(page: Path) -> None:
    if page.name == GENERATED:
        pytest.skip("generated from the help: see test_help")
    found = [wrong for part in prose(page) for wrong in (*complaints(part), *long_sentences(part))]
    assert found == []


def helps() -> Iterator[tuple[str, str]]:
    """(where, text) of every text that `--help` prints."""
    context = click.Context(cli, info_name="memitvc")
    for name, (_, short) in COMMANDS.items():
        yield "memitvc --help", short
        command = cli.get_command(context, name)
        assert command is not None
        for each in (command, *(command.commands.values() if isinstance(command, click.Group) else ())):
            where = f"{name} --help" if each is command else f"{name} {each.name} --help"
            for paragraph in inspect.cleandoc(each.help or "").split("\n\n"):
                if not paragraph.startswith("\b"):
                    yield where, paragraph
            for option in each.params:
                if isinstance(option, click.Option) and option.help:
                    yield f"{where}, {option.opts[-1]}", option.help


def messages() -> Iterator[tuple[str, str]]:
    """(where, text) of every string in the program that is not a docstring: messages and hints are among them."""
    for path in sorted((ROOT / "memit_vc").rglob("*.py")):
        if path.name == "demo_facts.py":  # prompts, as people write them
            continue
        pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
        while pending:
            node = pending.pop()
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
                yield f"{path.relative_to(ROOT)}:{node.lineno}", "".join(map(str, parts))
            elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                pending += ast.iter_child_nodes(node)


def test_help() -> None:
    found = [f"{where}: {wrong}" for where, text in helps() for wrong in (*complaints(text), *long_sentences(text))]
    assert found == []


def test_messages() -> None:
    found = [f"{where}: {wrong}" for where, text in messages() for wrong in complaints(text)]
    assert found == []


def test_the_patterns_find_what_they_are_for() -> None:
    for text in ("it is no file", "what shall be committed?", "solve anew", "in the place of it", "whoever pushed"):
        assert list(complaints(text)), text
    for text in ("there is no file", "it is no longer there", "the file is not a patch", "in place of"):
        assert not list(complaints(text)), text
    assert list(long_sentences("word " * 35 + "end. Short."))
    assert not list(long_sentences("word " * 34 + "end. Short."))
