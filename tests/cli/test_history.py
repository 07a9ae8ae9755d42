"""What the commands print, for people and as JSON, and what goes from one into the next."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memit_vc.cli import main
from memit_vc.edits import write_records
from memit_vc.errors import IntegrityError, UsageError
from memit_vc.hparams import MEMITHyperParams
from memit_vc.numerics.statistics import moments
from memit_vc.numerics.statistics.tensorfile import read_metadata
from memit_vc.objects import RefUpdate
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.editing.statistics import compute_statistics, prepare_statistics
from memit_vc.repository import Repository
from tests.support.checkpoints import hash_directory
from tests.support.models import FACTS, SENTENCES
from tests.support.places import FIRST, SECOND, Cli, Place, make_place

HEX = re.compile(r"\b[0-9a-f]{10,64}\b")


def masked(text: str) -> str:
    """Ids replaced by #, so that shapes can be compared."""
    return HEX.sub("#", text)


@pytest.fixture
def two(cli: Cli, place: Place) -> Cli:
    """A second commit, one fact of which has probes."""
    cli.ok("commit", place.edits(SECOND), "-m", "Two more\n\nwith a body")
    return cli


def test_log(two: Cli) -> None:
    oneline = masked(two.ok("log", "--oneline").out).splitlines()
    assert oneline == ["# (HEAD -> main) Two more  +2", "# Two facts  +2", "# base llama #"]
    assert masked(two.ok("log", "-n", "1", "--oneline").out).splitlines() == oneline[:1]
    assert masked(two.ok("log", "--oneline", "HEAD~1").out).splitlines() == oneline[1:]
    full = two.ok("log").out
    assert "Author: ada\nDate:   20" in full
    assert "    Two more\n    \n    with a body\n    columns:  +2\n" in full
    entries = two.ok("log", "--json").json
    assert [e["message"] for e in entries[:2]] == ["Two more\n\nwith a body", "Two facts"]
    assert masked(entries[2]["message"]) == "base llama #"
    assert entries[0]["parents"] == [entries[1]["id"]]
    assert entries[0]["refs"] == ["HEAD -> main"]
    assert (entries[0]["columns_added"], entries[0]["columns_removed"]) == (2, 0)
    assert [e["kind"] for e in entries] == ["commit", "commit", "root"]


def test_graph_and_names(two: Cli, place: Place) -> None:
    entries = two.ok("log", "--json").json
    with Repository.open(place.work) as repository:
        names = {"heads/side": entries[1]["id"], "tags/v1": entries[0]["id"]}
        refs = [RefUpdate(name, None, target) for name, target in names.items()]
        repository.publish(verb="branch", description="names", refs=refs, head="heads/side")
    two.ok("revert", "HEAD")
    drawn = masked(two.ok("log", "--graph", "--all").out).splitlines()
    assert drawn == [
        '* # (HEAD -> side) Revert "Two facts" −2',
        "| * # (main, tag: v1) Two more  +2",
        "|/",
        "* # Two facts  +2",
        "* # base llama #",
    ]
    assert [e["refs"] for e in two.ok("log", "--all", "--json").json] == [
        ["HEAD -> side"],
        ["main", "tag: v1"],
        [],
        [],
    ]


def test_show_why_of_a_commit_that_puts_no_facts_in(two: Cli) -> None:
    assert "reaches paraphrases: " in two.ok("show", "--why").out
    two.ok("revert", "HEAD")
    assert two.ok("show", "--why").out.endswith("--why has nothing to explain: this commit puts no facts in\n")
    two.ok("revert", "HEAD")
    assert "not known: the commit has no scores of its own" in two.ok("show", "--why").out
    assert two.ok("fsck").code == 0


def test_show(two: Cli) -> None:
    shown = two.ok("show", "--json").json
    assert [fact["subject"] for fact in shown["facts"]] == [fact.subject for fact in SECOND]
    assert shown["live"] is True
    assert shown["removed"] == []
    for fact in shown["facts"]:
        assert fact["role"] == "edit"
        assert set(fact["before"]) == set(fact["after"])
        assert fact["after"]["rewrite_acc"] is not None
    assert shown["scores"]["after"]["perplexity"] > 1
    assert shown["provenance"]["algorithm"] == "MEMIT with live history"
    assert shown["provenance"]["hparams"]["layers"] == [1, 2]
    people = two.ok("show").out
    assert "perplexity of health text" in people
    assert f"+ {SECOND[0].prompt} → {SECOND[0].target}" in people
    assert json.loads("{" + two.ok("show", "--provenance").out.partition("\n{")[2])["versions"]["torch"]
    two.ok("revert", "HEAD")
    reverted = two.ok("show", "--json").json
    assert [fact["subject"] for fact in reverted["removed"]] == [fact.subject for fact in SECOND]
    assert two.ok("show", "HEAD~1", "--json").json["live"] is False
    assert f"− {SECOND[0].prompt} → {SECOND[0].target}" in two.ok("show").out
    assert two.ok("show", "HEAD~3").out.startswith("commit ")


def test_status(two: Cli, place: Place) -> None:
    found = two.ok("status", "--json").json
    assert (found["branch"], found["live_facts"], found["live_columns"], found["commits"]) == ("main", 4, 4, 2)
    assert found["base"] == str(place.base)
    assert found["statistics"] == 1
    assert found["kept"] == []
    lines = masked(two.ok("status").out).splitlines()
    assert lines[0] == "On branch main: # Two more"
    assert lines[2] == "state   #: 4 facts live (2.5% of the layers' inputs); 2 commits on the base"
    head = two.ok("log", "--json").json[0]["id"]
    with Repository.open(place.work) as repository:
        repository.publish(verb="switch", description="detach", head=head)
    assert two.ok("status").out.startswith(f"HEAD detached at {head[:10]}")
    two.ok("revert", "HEAD")
    assert two.ok("status", "--json").json["branch"] is None
    assert two.ok("log", "--json").json[0]["refs"] == ["HEAD"]


def test_facts(two: Cli) -> None:
    listed = two.ok("facts", "--json").json
    assert [f["subject"] for f in listed] == [f.subject for f in (*FIRST, *SECOND)]
    assert listed[0]["target_new"] == FIRST[0].target
    assert listed[0]["ground_truth"] == FIRST[0].ground_truth
    assert [f["subject"] for f in two.ok("facts", "--json", "--subject", "mira").json] == ["Mira Holt"]
    assert len(two.ok("facts", "--json", "--commit", "HEAD").json) == 2
    assert len(two.ok("facts", "HEAD~1", "--json").json) == 2
    assert two.ok("facts", "HEAD~2").out == "no facts are live\n"
    live = len(two.ok("facts", "--json").json)
    assert two.ok("facts", "--subject", "nowhere").out == f"none of the {live} live facts is like that\n"
    rows = list(csv.DictReader(io.StringIO(two.ok("facts", "--csv").out)))
    assert [row["target_new"] for row in rows] == [f.target for f in (*FIRST, *SECOND)]
    assert FIRST[0].prompt in two.ok("facts").out


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_facts_go_onto_another_base(two: Cli, tmp_path: Path, form: str) -> None:
    other = make_place(tmp_path / "other", "gpt2")
    there = Cli(other.work, two.capsys, two.monkeypatch)
    given = two.ok("facts", form).out
    made = there.ok("commit", "-", "--no-scores", "--json", stdin=given)
    assert made.json["facts"] == 4
    wanted = [(f.prompt, f.subject, f.target) for f in (*FIRST, *SECOND)]
    assert [(f["prompt"], f["subject"], f["target_new"]) for f in there.ok("facts", "--json").json] == wanted
    assert there.ok("fsck").out.startswith("ok")
    # and the other way round nothing is left to do
    assert two("commit", "-", stdin=there.ok("facts", form).out).code == 1


def test_eval(two: Cli, tmp_path: Path) -> None:
    first = two.ok("eval", "--json").json
    assert set(first["scores"]) == {"facts", "total", "error", "perplexity", "probe"}
    assert len(first["scores"]["facts"]) == 4
    assert two.ok("eval", "--json").json == first  # read back, not measured again
    edits = tmp_path / "more.json"
    edits.write_text(write_records(FACTS[4:6], format="json"), encoding="utf-8")
    before = two.ok("eval", "HEAD~2", "--edits", edits, "--no-perplexity", "--json").json
    assert len(before["scores"]["facts"]) == 2
    assert before["scores"]["perplexity"] is None
    people = two.ok("eval", "--per-fact").out
    assert people.startswith("commit ")
    assert ", 4 facts\n" in people
    assert FIRST[0].prompt in people
    assert "argmax accuracy, prompts" in people
    none = two("eval", "HEAD~2", "--no-perplexity")
    assert none.code == 1
    assert "no facts are live" in none.err
    shown, after = two.ok("show", "--json").json, first["scores"]["facts"]
    for fact in shown["facts"]:
        assert after[fact["id"]] == fact["after"]


def test_commit_reports_and_limits_the_perplexity(cli: Cli, place: Place) -> None:
    edits = place.edits(SECOND)
    refused = cli("commit", edits, "--require", "perplexity_rise <= 0")
    if refused.code:  # a tiny model's perplexity may as well fall
        assert refused.code == 16
        assert "perplexity_rise <= 0 is 0." in refused.err
        assert "the branch did not move" in refused.err
        assert len(cli.ok("log", "--json").json) == 2
        refused = cli.ok("commit", edits, "--require", "perplexity_rise <= 1000")
    assert re.search(r"^\[main [0-9a-f]{10}\] 2 facts, \d+\.\d% of the update kept$", refused.out, re.M)
    assert "perplexity of health text" in refused.out


def test_checkout_and_in_place(two: Cli, place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = two.ok("checkout", "-o", out, "--json").json
    assert made["directory"] == str(out)
    assert len(made["tensors"]) == 2
    found = hash_directory(out)
    assert {name: found[name] for name in made["tensors"]} == made["tensors"]
    verified = two.ok("verify", out, "--json").json
    assert verified["commits"] == [two.ok("log", "--json").json[0]["id"]]
    again = two("checkout", "-o", out)
    assert again.code == 2
    assert "out" in again.err
    two.ok("checkout", "HEAD~1", "--in-place", out)
    assert two.ok("verify", out, "--expect", "HEAD~1").code == 0
    wrong = two("verify", out, "--expect", "HEAD")
    assert wrong.code == 15
    two.ok("checkout", "HEAD~2", "--in-place", out)
    assert "is the untouched base" in two.ok("verify", out).out
    assert hash_directory(out) == hash_directory(place.base)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("mine")
    for option in ("-o", "--in-place"):
        assert two("checkout", option, precious).code == 2
    assert (precious / "thesis.txt").read_text() == "mine"
    assert two("checkout", "-o", "a", "--in-place", "b").code == 2


@pytest.mark.parametrize("kind", ["txt", "jsonl", "json", "parquet", "pydoc", "self"])
def test_corpora(cli: Cli, place: Place, kind: str) -> None:
    texts = place.text.read_text().split("\n\n")
    path = place.work / f"corpus.{kind}"
    if kind == "txt":
        path.write_text("\n\n".join(texts))
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps({"body": text}) for text in texts))
    elif kind == "json":
        path.write_text(json.dumps([{"body": text} for text in texts]))
    elif kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"body": texts}), path)
    corpus = str(path) if path.exists() else kind
    made = cli.ok("stats", "--corpus", corpus, "--tokens", "300", "--json").json
    assert made["computed"] is True
    assert made["layers"] == [1, 2]
    assert made["tokens"] == 300
    again = cli.ok("stats", "--corpus", corpus, "--tokens", "300")
    assert again.out.startswith(f"statistics {made['id'][:10]} already there: 300 tokens, layers 1, 2")


def test_a_text_that_is_shorter_than_asked_for(cli: Cli, place: Place) -> None:
    """The number that was read is reported, everywhere, and that it is less than was asked for."""
    place.work.joinpath("short.txt").write_text("\n\n".join(SENTENCES[:7]))
    made = cli.ok("stats", "--corpus", place.work / "short.txt", "--tokens", "100000", "--json").json
    (key,) = (place.work / ".memitvc" / "statistics").glob(f"{made['id']}/layer-1.safetensors")
    assert made["tokens"] == read_metadata(key)["count"] < 320
    assert made["asked"] == 100_000
    again = cli.ok("stats", "--corpus", place.work / "short.txt", "--tokens", "100000")
    assert f"already there: {made['tokens']} tokens" in again.out
    assert f"100,000 tokens were asked for, and the text has only {made['tokens']}" in again.err
    told = cli.ok("commit", place.edits(SECOND), "--no-scores")
    assert f"statistics of {made['tokens']} tokens" in told.err
    assert "of a longer text" in told.err
    assert cli.ok("show", "--json").json["provenance"]["statistics"]["tokens"] == made["tokens"]


def test_other_tokens_and_layers_come_from_the_chosen_text(cli: Cli, place: Place, tmp_path: Path) -> None:
    """`stats --tokens`, which a warning recommends, must not go back to the text of `init`."""
    other = place.work / "other.txt"
    other.write_text("\n\n".join(reversed(SENTENCES)) + "\n\nAnd more of it.")
    direct = cli.ok("stats", "--corpus", other, "--tokens", "200", "--json").json["id"]
    cli.ok("stats", "--corpus", "other.txt", "--tokens", "300")
    cli.ok("stats")  # what is there already stays what it is
    assert cli.ok("stats", "--tokens", "200", "--json").json["id"] == direct
    cli.monkeypatch.chdir(tmp_path)
    assert cli.ok("stats", "--tokens", "200", "--json").json["id"] == direct
    with Repository.open(place.work) as repository:
        loaded, values = load_model(repository), repository.hparams()
        for layers in ([1], [1, 2, 3]):
            made = prepare_statistics(loaded, values.replace(layers=layers, v_loss_layer=5))
            record = repository.statistics()[made.id]
            assert isinstance(record, dict)
            assert record["corpus"]["name"] == "other.txt"
        shutil.rmtree(repository.root / "statistics" / direct)  # gone: the same once more
        assert prepare_statistics(loaded, values).id == direct
        other.write_text("Another text. " * 200)
        with pytest.raises(IntegrityError, match=r"other.txt is another text than it was"):
            prepare_statistics(loaded, values, tokens=250)
        shutil.rmtree(repository.root / "statistics" / direct)
        with pytest.raises(IntegrityError, match="are damaged or gone"):
            prepare_statistics(loaded, values)


def test_a_stopped_statistics_run_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    tokens = 500

    def report(stage: str, done: int, total: int) -> None:
        if total == tokens:
            seen.append(done)
            if stop and done > tokens / 2:
                raise KeyboardInterrupt

    # small batches, saved as often as can be
    monkeypatch.setitem(moments.collect.__kwdefaults__, "batch_tokens", 64)
    monkeypatch.setitem(moments.collect.__kwdefaults__, "save_every", 0.0)
    with Repository.open(place.work) as repository:
        stop = False
        whole = compute_statistics(repository, tokens=tokens, progress=report)
        assert seen[0] == 0
        directory = place.work / ".memitvc" / "statistics" / whole.id
        made = files(directory)
        shutil.rmtree(directory)
        stop = True
        with pytest.raises(KeyboardInterrupt):
            compute_statistics(repository, tokens=tokens, progress=report)
        stop = False
        seen.clear()
        again = compute_statistics(repository, tokens=tokens, progress=report)
    assert (again.id, again.computed) == (whole.id, True)
    assert seen[0] > 0
    assert files(directory) == made


def files(directory: Path) -> dict[str, str]:
    """SHA-256 of each file."""
    found = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    assert found
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_easyedits_statistics_are_imported(cli: Cli, place: Place) -> None:
    root = place.work / "stats" / place.base.name / "wikipedia_stats"
    root.mkdir(parents=True)
    width = 160
    generator = torch.Generator().manual_seed(0)
    for layer in (1, 2):
        keys = torch.randn(width, 500, generator=generator)
        np.savez(
            root / f"model.layers.{layer}.mlp.down_proj_float32_mom2_100000.npz",
            **{"mom2.mom2": (keys @ keys.T).numpy(), "mom2.count": np.array(500)},
        )
    # one that is symmetric and cannot be factored changes nothing
    wrong = place.work / "wrong" / place.base.name / "wikipedia_stats"
    shutil.copytree(root, wrong)
    mixed = torch.full((width, width), 50.0).fill_diagonal_(1.0)
    first = wrong / "model.layers.1.mlp.down_proj_float32_mom2_100000.npz"
    np.savez(first, **{"mom2.mom2": mixed.numpy(), "mom2.count": np.array(500)})
    before = cli.ok("status", "--json").json["statistics"]
    kept = sorted((place.work / ".memitvc" / "statistics").rglob("*"))
    assert "not positive definite" in cli("stats", "--import", place.work / "wrong").err
    assert cli.ok("status", "--json").json["statistics"] == before
    assert sorted((place.work / ".memitvc" / "statistics").rglob("*")) == kept
    cli.ok("commit", place.edits(SECOND[:1]), "--no-scores")
    cli.ok("undo")
    made = cli.ok("stats", "--import", place.work / "stats", "--json").json
    assert (made["tokens"], made["layers"]) == (500, [1, 2])
    cli.ok("stats")  # they stay what they are
    more = cli("stats", "--tokens", "200")  # their text is not known
    assert (more.code, "were imported from files" in more.err, "--tokens cannot be had" in more.err) == (2, True, True)
    with Repository.open(place.work) as repository, pytest.raises(UsageError, match=r"layers \[3\] cannot be had"):
        prepare_statistics(load_model(repository), repository.hparams().replace(layers=[1, 2, 3], v_loss_layer=5))
    # from now on they are the ones that are used
    cli.ok("commit", place.edits(SECOND), "--no-scores")
    assert cli.ok("show", "--json").json["provenance"]["statistics"]["id"] == made["id"]


def test_hparams_for_one_commit(cli: Cli, place: Place) -> None:
    values = MEMITHyperParams.from_hparams(place.work / ".memitvc" / "hparams.yaml")
    values.history, values.mom2_update_weight = False, 7.0
    (place.work / "plain.yaml").write_text(values.to_yaml())
    cli.ok("commit", place.edits(SECOND), "--hparams", place.work / "plain.yaml", "--no-scores")
    provenance = cli.ok("show", "--json").json["provenance"]
    assert provenance["algorithm"] == "MEMIT"
    assert provenance["hparams"]["mom2_update_weight"] == 7.0


def test_directories(place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    below = place.work / "deep" / "down"
    below.mkdir(parents=True)
    monkeypatch.chdir(place.work.parent)
    for arguments in (
        ["-C", "work", "log", "--oneline"],
        ["log", "--oneline", "-C", "work"],
        ["-C", "work", "log", "--oneline", "-C", "deep/down"],
    ):
        capsys.readouterr()
        assert main(arguments) == 0
        assert "Two facts" in capsys.readouterr().out
    monkeypatch.chdir(below)
    assert main(["log", "--oneline"]) == 0
    assert main(["checkout", "-o", "model"]) == 0
    assert (below / "model" / "config.json").is_file()


def test_a_reader_that_has_gone_is_told_nothing(place: Place) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "memit_vc", "log", "-C", str(place.work)]
    made = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert made.returncode != 0
    assert made.stderr == ""


def test_what_goes_where(two: Cli) -> None:
    """Data on stdout, notes on stderr."""
    record: dict[str, Any] = {"prompt": "The official religion of Pellan is", "target_new": "football"}
    noted = two.ok("commit", "-", "--no-scores", "--json", stdin=json.dumps([record]))
    assert 'record 1: subject "Pellan" found in the prompt' in noted.err
    assert noted.json["facts"] == 1
    reverted = two.ok("revert", "HEAD~1")
    assert "these later commits were computed on top of it" in reverted.err
    assert masked(reverted.out) == "[main #] 2 columns out\n"


def test_scores_outlive_a_squash(two: Cli) -> None:
    def scores() -> dict[str, tuple[Any, Any]]:
        shown = [two.ok("show", revision, "--json").json for revision in ("HEAD~1", "HEAD")]
        return {fact["id"]: (fact["before"], fact["after"]) for each in shown for fact in each["facts"]}

    before = scores()
    assert any(after is not None for _, after in before.values())
    two.ok("squash", "--all")
    squashed = {fact["id"]: (fact["before"], fact["after"]) for fact in two.ok("show", "--json").json["facts"]}
    assert squashed == before
