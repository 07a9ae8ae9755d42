"""The verb that CONTRIBUTING.md adds as an example works as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from memit_vc.cli.main import COMMANDS
from memit_vc.errors import MemitVCError
from memit_vc.objects import RefUpdate
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.repository import Repository
from tests.support.models import FACTS
from tests.support.paths import ROOT
from tests.support.places import Cli, make_place

PAGE = ROOT / "CONTRIBUTING.md"
PLACES = ("memit_vc.porcelain.history.contains", "memit_vc.cli.contains", "memit_vc.porcelain.sets.forget")


def test_the_example_of_a_verb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for name, text in zip(PLACES, blocks, strict=True):
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(text, name, "exec"), module.__dict__)  # noqa: S102
    (entry,) = re.findall(r'"contains": \("(\w+)", "([^"]+)"\)', PAGE.read_text(encoding="utf-8"))
    monkeypatch.setitem(COMMANDS, "contains", entry)

    place = make_place(tmp_path)
    with Repository.open(place.work) as repository:
        root = repository.head().commit
        repository.publish(verb="tag", description="tag", refs=[RefUpdate("tags/base", None, root)])
        commit_facts(repository, FACTS[:2], scores=False)
    cli = Cli(place.work, capsys, monkeypatch)
    first = FACTS[0]
    assert cli.ok("contains", first.subject).out == f"heads/main  {first.prompt} {first.target}\n"
    assert cli.ok("contains", first.subject, "--json").json == [
        {"ref": "heads/main", "prompt": first.prompt, "target": first.target}
    ]
    assert cli.ok("contains", "nobody").out == ""

    with Repository.open(place.work) as repository:
        made = sys.modules["memit_vc.porcelain.sets.forget"].forget(repository, first.subject)
        assert made.removed == 1
        with pytest.raises(MemitVCError, match="no fact about"):
            sys.modules["memit_vc.porcelain.sets.forget"].forget(repository, first.subject)
    assert cli.ok("contains", first.subject).out == ""
    cli.ok("fsck")
