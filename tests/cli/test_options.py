"""Options, places and settings that users get wrong, or have at their hand from other programs."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from memit_vc.cli import main
from memit_vc.cli.io import _encoded
from memit_vc.cli.main import COMMANDS
from memit_vc.errors import EngineError, MemitVCError
from memit_vc.numerics.model.memory import memory_errors
from memit_vc.objects import Fact
from memit_vc.porcelain.editing import commit as commit_module
from memit_vc.porcelain.output.recorded import record_hashes, recorded_hashes
from memit_vc.porcelain.upkeep import gc as gc_module
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.places import FIRST, SECOND, Cli, Place, contents, copy_of, make_place


@pytest.fixture
def damaged(finished: Place, tmp_path: Path) -> Place:
    """A copy that a test may break; it is not checked afterwards."""
    return copy_of(finished, tmp_path / "damaged")


@pytest.mark.parametrize(
    "arguments",
    [
        ("gc", "--grace", "nan"),
        ("squash", "--compress", "nan"),
    ],
)
def test_a_number_must_be_one(cli: Cli, arguments: tuple[str, ...]) -> None:
    failed = cli(*arguments)
    assert failed.code == 2
    assert "is not a finite number" in failed.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("facts", "--csv", "--json"), "--csv and --json do not go together"),
        (("facts", "--csv", "--measure"), "--csv and --measure do not go together"),
        (("bisect", "--good", "nowhere", "start"), "--good takes no subcommand"),
        (("bisect", "--pairs", "log"), "--pairs takes no subcommand"),
        (("gc", "--keep", "3"), "--keep goes with --prune-operations"),
        (("import", "--adapter", "x", "--theirs"), "--theirs goes with FILE"),
        (("import", "--adapter", "x", "--licence", " "), "--licence is empty"),
        (("verify", ".", "--signature", "s", "--key", "k", "--every"), "--every and --signature do not go together"),
        (("squash", "--all", "--compress", "0.1"), "no --all"),
        (("squash", "--all", "--resolve"), "no --all"),
        (("ask", "caf\udce9"), "is not text in UTF-8"),
        (("blame", "caf\udce9"), "is not text in UTF-8"),
        (("bisect", "--prompt", "caf\udce9", "--expect", "x"), "is not text in UTF-8"),
    ],
)
def test_what_would_not_be_used_is_refused(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    before = contents(cli.work)
    failed = cli(*arguments)
    assert failed.code == 2
    assert said in failed.err
    assert contents(cli.work) == before


def test_log_takes_ranges_and_counts_as_git_does(cli: Cli) -> None:
    cli.ok("revert", "HEAD")
    cli.ok("branch", "old", "HEAD~1")
    subjects = [entry["message"] for entry in cli.ok("log", "--json").json]
    assert len(subjects) == 3

    def shown(*arguments: str) -> list[str]:
        return [entry["message"] for entry in cli.ok("log", *arguments, "--json").json]

    assert shown("old..HEAD") == shown("old..") == subjects[:1]
    assert shown("HEAD~2..HEAD") == subjects[:2]
    assert shown("HEAD..old") == []
    assert shown("-2") == shown("-n", "2") == shown("-2", "HEAD") == subjects[:2]
    assert shown("-1", "HEAD~2..HEAD") == subjects[:1]
    assert cli("log", "nowhere..HEAD").code == 1
    assert cli("log", "-0").code == 2


def test_json_may_stand_before_the_command(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = cli.ok("log", "--json").json
    assert main(["--json", "-C", str(cli.work), "log"]) == 0
    assert json.loads(capsys.readouterr().out) == wanted
    assert main(["--json", "-C", str(cli.work), "show", "nowhere"]) == 1
    assert json.loads(capsys.readouterr().err)["error"]["exit_code"] == 1


def test_op_takes_the_directory_and_json_itself_too(cli: Cli) -> None:
    cli.ok("revert", "HEAD")
    told = cli.ok("op", "log", "--json").json
    assert told[0]["verb"] == "revert"
    assert cli.ok("op", "--json", "log").json == told


def test_places_that_a_checkout_cannot_take(cli: Cli, place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    inside = place.work / ".memitvc" / "model"
    places = {tmp_path / "file": "is a file", tmp_path / "link": "symbolic link", inside: "inside the"}
    for out, said in places.items():
        for arguments in (("checkout", "-o"), ("export", "--merged")):
            failed = cli(*arguments, out)
            assert failed.code == 2
            assert said in failed.err
    assert (tmp_path / "file").read_text() == "x"
    assert not inside.exists()
    assert not (tmp_path / "gone").exists()


def test_the_working_directory_is_not_replaced(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = place.work / "empty"
    here.mkdir()
    for arguments in (["checkout", "-o"], ["export", "--merged"]):
        assert main(["-C", str(here), *arguments, "."]) == 2
        assert "is the working directory, which cannot be replaced" in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_a_contradiction_in_a_file_is_named_by_its_records(cli: Cli, place: Place) -> None:
    one = {"prompt": SECOND[0].prompt, "subject": SECOND[0].subject, "target_new": SECOND[0].target}
    path = place.work / "edits.json"
    path.write_text(json.dumps([one, one, {**one, "target_new": "something else"}]))
    failed = cli("commit", path)
    assert failed.code == 13
    assert "edits.json: record 1 and record 3 contradict each other" in failed.err


def test_too_little_memory_is_said(cli: Cli, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(commit_module, "commit_facts", fail)
    failed = cli("commit", place.edits(SECOND))
    assert failed.code == 1
    assert "not enough memory" in failed.err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
    ],
)
def test_what_torch_says_of_memory_becomes_an_error_of_ours(error: Exception) -> None:
    with pytest.raises(EngineError, match="not enough memory") as caught, memory_errors():
        raise error
    assert caught.value.hint


def test_other_errors_of_torch_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_errors():
        raise RuntimeError("shapes cannot be multiplied")


def _init(place: Place, *options: str | Path) -> int:
    text = str(place.text)
    return main(["init", str(place.base), str(place.work), "--corpus", text, "--health", text, *map(str, options)])


def test_a_damaged_layer_that_nobody_edits_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = make_place(tmp_path, start=False, layers=[1], context_templates=None, template_length=2, n_templates=1)
    tensors = load_file(place.base / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"][3, 4] = torch.nan
    save_file(tensors, place.base / "model.safetensors", metadata={"format": "pt"})
    assert _init(place, "--hparams", tmp_path / "hparams.yaml") == 0
    assert "layer 0: model.layers.0.mlp.down_proj.weight: 1 of" in capsys.readouterr().err
    commit = ["commit", place.edits(FIRST[:1]), "-C", str(place.work), "--no-scores"]
    other = tmp_path / "other.yaml"
    other.write_text((tmp_path / "hparams.yaml").read_text().replace("layers: [1]", "layers: [0]"))
    assert main([*commit, "--hparams", str(other)]) == 1
    assert "layer 0 cannot be edited" in capsys.readouterr().err
    with Repository.open(place.work) as repository:
        assert next(weight.layer for weight in repository.weights()) == 1
        assert fsck(repository) == ([], 0)


@pytest.mark.parametrize(
    ("family", "searched", "name", "width"),
    [
        ("llama", "residuals", 0.3, 160),
        ("mixtral", "z", 0.0, 4 * 24),
        ("deepseek_v3", "z", 0.0, 4 * 24),  # its first layer is dense
    ],
)
def test_hyperparameters_that_were_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, searched: str, name: float, width: int
) -> None:
    place = make_place(tmp_path, family, start=False)
    assert _init(place) == 0
    shown = " ".join(capsys.readouterr().out.split())  # a long line goes on in the next
    assert "; hyperparameters guessed from its config " in shown
    written = (place.work / ".memitvc" / "hparams.yaml").read_text()
    assert "guessed from its config" in written
    assert f"search_for: {searched}\n" in written
    assert f"name_factor: {name}\n" in written
    assert f" for keys of width {width}: " in " ".join(written.replace("#", " ").split())


@pytest.mark.parametrize("given", ["mine", "mine.yaml"])
def test_a_file_of_the_users_keeps_its_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """Its ".yaml" may be left out, also beside a folder of that name."""
    place = make_place(tmp_path, start=False, keep_factor=0.1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hparams.yaml").rename("mine.yaml")
    Path("mine").mkdir()
    assert _init(place, "--hparams", given) == 0
    with Repository.open(place.work) as repository:
        values = repository.hparams()
    assert (values.search_for, values.keep_factor) == ("z", 0.1)


def test_a_name_without_an_owner_is_a_hub_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def absent(name: str, **_: Any) -> None:
        asked.append(name)
        raise LocalEntryNotFoundError("no cache, no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    assert main(["init", "gpt2", str(tmp_path / "work")]) == 14
    assert "gpt2 is not a directory here" in capsys.readouterr().err
    assert main(["init", "./gpt2", str(tmp_path / "work")]) == 1
    assert "./gpt2 is not a directory" in capsys.readouterr().err
    assert asked == ["gpt2"]
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_its_own_is_refused(
    damaged: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = damaged.work / ".memitvc" / "config.toml"
    config.write_text(config.read_text() + '\n[database]\nurl = "postgresql://user:password@host/team"\n')
    failed = Cli(damaged.work, capsys, monkeypatch)("log")
    assert failed.code == 1
    assert f"{config}: [database] is no longer supported" in failed.err
    assert "clone it from there" in failed.err
    assert "password" not in failed.err


def _sql(place: Place, statement: str, *values: object) -> None:
    with sqlite3.connect(place.work / ".memitvc" / "meta.db") as connection:
        assert connection.execute(statement, values).rowcount > 0


def test_fsck_full_computes_what_verify_goes_by(
    damaged: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = Cli(damaged.work, capsys, monkeypatch)
    cli.ok("checkout", "HEAD", "-o", tmp_path / "out")
    cli.ok("fsck", "--full")
    assert cli("fsck", "--full", "--quick").code == 2
    with Repository.open(damaged.work) as repository:
        state = repository.state_id(repository.state(repository.head().commit))
        hashes = recorded_hashes(repository, state)
        assert hashes is not None
        weight = min(hashes)
        record_hashes(repository, state, {**hashes, weight: "0" * 64})
    found = cli("fsck")  # the kept weights of the state do not fit the record; the record is looked at below
    assert (found.code, "weights are not those that are recorded for its state" in found.out) == (12, True)
    found = cli("fsck", "--full")
    assert found.code == 12
    assert f"evaluation {state}: the recorded hash of {weight}" in found.out


def test_fsck_reads_the_constraints(
    damaged: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Repository.open(damaged.work) as repository:
        blob = repository.blobs.put(b"no constraints at all")
    _sql(damaged, "UPDATE patches SET constraints = ?", blob)
    found = Cli(damaged.work, capsys, monkeypatch)("fsck")
    assert found.code == 12
    assert f"its constraints {blob[:10]} cannot be read" in found.out


def test_gc_bounds_what_searches_left(cli: Cli, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = place.work / ".memitvc" / "cache" / "z" / "ab"
    kept.mkdir(parents=True, exist_ok=True)
    for name, days in (("old", 3), ("older", 4), ("new", 2)):
        (kept / f"{name}.safetensors").write_bytes(bytes(1000))
        os.utime(kept / f"{name}.safetensors", (time.time() - days * 86400,) * 2)
    cli.ok("gc")
    assert len(list(kept.iterdir())) == 3
    recent = sum(path.stat().st_size for path in kept.parent.rglob("*.safetensors")) - 3000
    monkeypatch.setattr(gc_module, "SEARCHES", recent + 1500)
    assert cli.ok("gc", "--dry-run", "--json").json["cached"] == 2
    assert len(list(kept.iterdir())) == 3
    assert cli.ok("gc", "--json").json["cached"] == 2
    assert [path.name for path in kept.iterdir()] == ["new.safetensors"]
    (kept / "new.safetensors").unlink()  # it is no z


def test_facts_of_a_program_are_named_by_number(place: Place) -> None:
    fact = SECOND[0]
    other = Fact(prompt=fact.prompt, subject=fact.subject, target="something else")
    with Repository.open(place.work) as repository, pytest.raises(MemitVCError, match="facts 1 and 2 of the batch"):
        commit_module.commit_facts(repository, [fact, other])


@pytest.mark.parametrize("command", [[], ["op"], ["help"], ["help", "op"]])
def test_without_a_command_the_help_is_shown(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    name = [each for each in command if each != "help"]
    assert main([*name, "--help"]) == 0
    expected = capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr() == expected
    assert expected.out.startswith("Usage: memitvc")
    assert expected.err == ""


def test_the_help_has_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    titles = ("Start", "Edit", "Look", "Change history", "Share", "Ship", "Maintain")
    assert sorted(titles, key=lambda title: said.index(f"\n{title}:\n")) == list(titles)
    assert all(said.count(f"\n  {name} ") == 1 for name in COMMANDS)


def test_a_missing_command_with_json_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["message"] == "Missing command."


def test_init_tells_what_it_chose_and_how_long_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = make_place(tmp_path, start=False)
    assert _init(place, "--corpus", "shipped") == 0
    said = capsys.readouterr()
    rows = dict(line.split(maxsplit=1) for line in said.out.splitlines() if not line.startswith(" "))
    assert list(rows) == ["Initialized", "base", "edits", "text", "guesses", "time", "next"]
    assert rows["edits"].startswith("layers 1")
    assert rows["text"].startswith("shipped (text that comes with memit-vc)")
    assert rows["guesses"].startswith("layers, λ")
    assert re.match(r"here +on cpu, as a short probe of it says: about \d+ s", rows["time"])
    assert "memitvc commit EDITS" in said.out
    assert len(said.out.splitlines()) < 20


def test_a_link_to_an_empty_directory_is_filled_where_it_leads(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    cli.ok("checkout", "-o", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "config.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir() if "tmp-" in path.name) == []


def test_a_message_in_another_encoding_costs_no_computation(
    cli: Cli, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def computed(*_: object, **__: object) -> None:
        raise AssertionError("nothing is computed")

    monkeypatch.setattr("memit_vc.porcelain.editing.models.load_model", computed)
    for arguments in (("commit", place.edits(SECOND)), ("squash", "--resolve"), ("revert", "HEAD", "--resolve")):
        failed = cli(*arguments, "-m", "K\udcf6ln")
        assert failed.code == 2
        assert "is not text in UTF-8" in failed.err


def test_numbers_of_operations_that_sqlite_cannot_hold(cli: Cli) -> None:
    huge = "99999999999999999999"
    assert cli("op", "restore", huge).code == 2
    assert cli("op", "log", "-n", huge).code == 2
    newest = cli.ok("op", "log", "--json").json[0]
    said = cli.ok("op", "restore", str(newest["id"])).out
    assert said.startswith(f"nothing to restore: all is as after operation {newest['id']}")
    assert cli.ok("op", "log", "--json").json[0] == newest


def test_a_byte_order_mark_is_no_part_of_a_text(
    cli: Cli, place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = place.work / ".memitvc" / "config.toml"
    config.write_text("\ufeff" + config.read_text())
    cli.ok("remote", "add", "there", str(tmp_path / "there"))
    assert cli.ok("remote").out.startswith("there")
    (tmp_path / "prompts.txt").write_text("\ufeffRome is in\n")
    cli.ok("diff", "--behaviour", "--prompts", tmp_path / "prompts.txt", "HEAD", "HEAD")
    asked = cli.ok("ask", "-", "--json", stdin="\ufeffRome is in\n").json
    assert [each["prompt"] for each in asked] == ["Rome is in"]


def test_eval_tells_what_was_read_otherwise(cli: Cli, place: Place, tmp_path: Path) -> None:
    one = {"prompt": SECOND[0].prompt, "subject": SECOND[0].subject, "target_new": "Rome", "subjekt": "x"}
    (tmp_path / "facts.json").write_text(json.dumps([one]))
    assert 'unknown key "subjekt" was ignored' in cli.ok("eval", "--edits", tmp_path / "facts.json").err


def test_a_range_without_commits_is_said(cli: Cli) -> None:
    for verb in ("cherry-pick", "revert"):
        failed = cli(verb, "HEAD..HEAD")
        assert "HEAD..HEAD: no commit is in that range" in failed.err


def test_a_range_is_no_single_commit(cli: Cli, tmp_path: Path) -> None:
    outputs = ("export", "--merged", tmp_path / "m"), ("checkout", "-o", tmp_path / "c")
    for command in (("show",), ("facts",), ("switch",), *outputs):
        failed = cli(*command, "HEAD~1..HEAD")
        assert failed.code == 1
        assert "'HEAD~1..HEAD' is a range, and one commit is needed" in failed.err
        assert "switch -c" not in failed.err
    assert "no commit is called '../x'" in cli("facts", "../x").err
    assert "has more than two ends" in cli("log", "HEAD~1..HEAD..HEAD").err
    assert not {"m", "c"} & {path.name for path in tmp_path.iterdir()}


def test_a_fact_in_json_has_its_id_and_all_of_its_fields(cli: Cli, place: Place) -> None:
    new = replace(SECOND[0], paraphrases=(f"Where is {SECOND[0].subject}? In",))
    cli.ok("commit", place.edits([new]), "--no-scores")
    listed = {fact["id"]: fact for fact in cli.ok("facts", "--json").json}
    added = cli.ok("diff", "HEAD~1", "HEAD", "--json").json["added"]
    assert added == [{k: v for k, v in listed[fact["id"]].items() if k != "time"} for fact in added]
    assert any("paraphrase_prompts" in fact for fact in added)
    assert _encoded(new) == {**new.to_json(), "id": new.id}


def test_an_empty_prompt_or_message_is_named(cli: Cli, place: Place) -> None:
    assert "the prompt is empty" in cli("blame", " ").err
    before = cli.ok("log", "--json").json
    for command in (("revert", "HEAD"), ("commit", "--amend"), ("commit", place.edits(SECOND)), ("squash", "--all")):
        refused = cli(*command, "-m", " ")
        assert (refused.code, "the message is empty" in refused.err) == (2, True)
    assert cli.ok("log", "--json").json == before


def test_an_empty_name_of_a_text_is_not_the_default(cli: Cli) -> None:
    refused = cli("stats", "--corpus", "")
    assert (refused.code, "the name of the text is empty" in refused.err) == (2, True)


def test_a_number_that_no_float_holds_is_no_text(cli: Cli, tmp_path: Path) -> None:
    for value, hint in (("1e400", "Give a text, in quotes."), ("9" * 400, 'Write it in quotes: "999')):
        (tmp_path / "odd.json").write_text(f'[{{"prompt": "A is in", "subject": "A", "target_new": {value}}}]')
        refused = cli("commit", tmp_path / "odd.json")
        assert (refused.code, hint in refused.err) == (1, True)


@pytest.mark.parametrize("name", ["heads/main", "tags/x", "remotes/origin/main"])
def test_a_branch_is_not_called_as_a_kind_of_ref(cli: Cli, name: str) -> None:
    assert cli("branch", name).code == 2
    assert cli("tag", name).code == 2


def test_a_merge_tells_what_it_settled_and_what_it_did_not_use(cli: Cli, place: Place) -> None:
    head = cli.ok("log", "--json").json[0]["id"]
    cli.ok("switch", "-c", "side", "HEAD~1")
    cli.ok("commit", place.edits([replace(FIRST[0], target="Vienna")]), "--no-scores")
    for resolve in ((), ("--resolve",)):
        made = cli.ok("merge", "main", "--ours", *resolve)
        assert "1 contradiction settled:" in made.err
        assert "'Vienna'" in made.err
        cli.ok("undo")
    cli.ok("switch", "-c", "more", f"{head}~1")
    moved = cli.ok("merge", "main", "-m", "a message")
    assert "fast-forward" in moved.out
    assert "-m was not used" in moved.err
    cli.ok("fsck")
