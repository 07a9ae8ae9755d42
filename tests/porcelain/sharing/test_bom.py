"""Bills of materials: valid by CycloneDX's own schema, complete, and without a word about this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from memit_vc.errors import UsageError
from memit_vc.porcelain.sharing.bom import export_bom
from memit_vc.porcelain.state import LiveState
from tests.support.opened import Opened


def valid(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    return json.loads(text)


def test_a_bill_of_materials_is_valid_and_complete(opened: Opened, tmp_path: Path) -> None:
    repository = opened("llama")
    made = export_bom(repository, "HEAD", tmp_path / "bom.json")
    found = valid(made.file)
    live = LiveState.of_head(repository)
    model = found["metadata"]["component"]
    assert [each["uid"] for each in model["pedigree"]["commits"]] == [
        repository.resolve(name) for name in ("HEAD~2", "HEAD~1", "HEAD")
    ]
    assert [each["diff"]["url"] for each in model["pedigree"]["patches"]] == [
        f"urn:sha256:{patch}" for patch in sorted(live.selection)
    ]
    told = "\n".join(each["diff"]["text"]["content"] for each in model["pedigree"]["patches"])
    assert {f"{each.fact.prompt} → {each.fact.target}" for each in live.live} == set(told.splitlines())
    assert model["pedigree"]["ancestors"][0]["properties"] == [{"name": "memitvc:base", "value": repository.base_id}]
    refs = {each["bom-ref"] for each in found["components"]}
    assert refs == set(found["dependencies"][0]["dependsOn"])
    assert {each["ref"] for each in model["modelCard"]["modelParameters"]["datasets"]} < refs
    facts = next(each for each in found["components"] if each["type"] == "data")
    content = json.loads(facts["data"][0]["contents"]["attachment"]["content"])
    assert content == [each.fact.to_json() for each in live.live]
    assert str(repository.root) not in made.file.read_text(encoding="utf-8")
    assert str(repository.config.base) not in made.file.read_text(encoding="utf-8")

    again = export_bom(repository, "HEAD", tmp_path / "again.json")
    assert again.file.read_bytes() == made.file.read_bytes()
    (tmp_path / "link").symlink_to("missing")
    for there in (made.file, tmp_path / "link"):
        with pytest.raises(UsageError, match="exists already"):
            export_bom(repository, "HEAD", there)
    assert (tmp_path / "link").is_symlink()


def test_the_base_has_a_bill_too(opened: Opened, tmp_path: Path) -> None:
    repository = opened("llama")
    found = valid(export_bom(repository, "HEAD~3", tmp_path / "bom.json").file)
    assert found["metadata"]["component"]["pedigree"]["patches"] == []


def test_licence_and_place_of_a_base_of_the_hub(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from memit_vc.porcelain.sharing import bom, card

    repository = opened("llama")
    gathered = card.gather_card(repository, repository.resolve("HEAD"))
    for licence, entry in (("apache-2.0", {"id": "Apache-2.0"}), ("llama3.2", {"name": "llama3.2"})):
        there = replace(gathered, base="owner/name", base_revision="a" * 40, license=licence)
        monkeypatch.setattr(bom, "gather_card", lambda *_, there=there: there)
        found = valid(export_bom(repository, "HEAD", tmp_path / f"{licence}.json").file)
        base = found["metadata"]["component"]["pedigree"]["ancestors"][0]
        assert base["purl"] == f"pkg:huggingface/owner/name@{'a' * 40}"
        assert base["licenses"] == [{"license": entry}]
