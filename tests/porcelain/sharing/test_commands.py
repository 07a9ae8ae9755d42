"""remote, push, fetch, pull and clone as they are typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memit_vc.cli import main
from memit_vc.objects import canonical_json, digest
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.history.settings import corpus_of
from memit_vc.porcelain.sets.branch import create_branch
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.sharing import clone as cloning
from memit_vc.porcelain.sharing.remotes import named_remote
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.cli import test_lazy
from tests.support.places import FIRST, TOKENS, Cli, Result, make_place
from tests.support.remotes import World, edited
from tests.support.synthetic import travelling


@pytest.fixture
def here(world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(world.work, capsys, monkeypatch)


@pytest.fixture
def there(world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(world.empty, capsys, monkeypatch)


def edit(world: World, number: int) -> str:
    with Repository.open(world.work) as repository:
        return edited(repository, number).id


def test_remotes_are_named(world: World, here: Cli) -> None:
    assert here.ok("remote").out == f"origin  {world.shared}\n"
    config = world.work / ".memitvc" / "config.toml"
    config.write_text(f'# mine\n{config.read_text()}\n[mine]\nnote = "kept"\n')
    here.ok("remote", "add", "other", "../place")
    assert config.read_text().startswith("# mine\n")
    kept = str(world.work.parent / "place")
    assert here.ok("remote", "list", "--json").json == [
        {"name": "origin", "url": str(world.shared)},
        {"name": "other", "url": kept},
    ]
    assert here("remote", "add", "other", "../x").code == 1
    here.ok("remote", "add", "Origin", "../y")  # SQLite's LIKE ignores case
    here.ok("push", "origin")
    here.ok("remote", "remove", "Origin")
    assert "origin/main" in here.ok("log").out
    assert here("remote", "add", "a/b", "../x").code == 2
    assert here("remote", "add", "..", "../x").code == 2
    assert here("remote", "add", "x").code == 2
    assert here("remote", "remove", "nobody").code == 1
    secret = here("remote", "add", "web", "https://ada:hf_secret@example.org/x")
    assert secret.code == 2
    assert "hf_secret" not in secret.out + secret.err
    here.ok("push", "other")
    assert "other/main" in here.ok("log").out
    here.ok("remote", "remove", "other")
    assert "other/main" not in here.ok("log").out
    assert here.ok("remote").out == f"origin  {world.shared}\n"
    assert 'note = "kept"' in config.read_text()
    assert Path(kept, "memitvc.json").is_file()
    with Repository.open(world.work) as repository:
        assert repository.config.base == str(world.base)


def test_a_remote_that_was_written_by_hand(world: World, here: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its URL is read as that of `remote add`; a path is relative to the repository, wherever one works."""
    monkeypatch.chdir(world.work.parent.parent)
    config = world.work / ".memitvc" / "config.toml"
    as_added = config.read_text()

    def origin(url: str) -> None:
        config.write_text(re.sub(r"(?s)\[remote.*", f'[remote.origin]\nurl = "{url}"\n', as_added))

    origin("../byhand")
    assert str(world.work.parent / "byhand") in here.ok("push").out
    assert (world.work.parent / "byhand" / "memitvc.json").is_file()
    for url, said in (
        ("ftp://there/edits", "ftp:// is not a known kind"),
        ("file://there/edits", "not the address of"),
    ):
        origin(url)
        refused = here("push")
        assert refused.code == 2
        assert said in refused.err
    origin("https://huggingface.co/ada/edits")
    with Repository.open(world.work) as repository:
        assert named_remote(repository, None) == ("origin", "hf://ada/edits")
    assert not (world.work.parent.parent / "https:").exists()


def test_a_branch_that_nobody_could_fetch_is_not_pushed(world: World, here: Cli, there: Cli) -> None:
    """A name that is too long behind `remotes/origin/`, and one that looks like another one there."""
    published = (world.shared / "memitvc.json").read_bytes()
    here.ok("branch", "b" * 245)
    refused = here("push", "origin", "b" * 245)
    assert refused.code == 2
    assert "cannot be the name of a remote branch" in refused.err
    assert (world.shared / "memitvc.json").read_bytes() == published
    here.ok("branch", "cat")
    here.ok("push", "origin", "cat")
    published = (world.shared / "memitvc.json").read_bytes()
    there.ok("branch", "\u0441\u0430\u0442")
    refused = there("push", "origin", "\u0441\u0430\u0442")
    assert refused.code == 2
    assert "looks like" in refused.err
    assert (world.shared / "memitvc.json").read_bytes() == published
    there.ok("fetch")


def test_a_name_means_one_thing(world: World, here: Cli) -> None:
    assert "heads/main exists already" in here("tag", "main").err
    here.ok("fetch")
    assert "remotes/origin/main exists already" in here("tag", "origin/main").err
    here.ok("tag", "v9")
    assert "tags/v9 exists already" in here("branch", "v9").err
    assert "tags/v9 exists already" in here("branch", "-m", "main", "v9").err
    assert "heads/main exists already" in here("push", "--tag", "main").err


def test_push_says_what_went(world: World, here: Cli) -> None:
    assert "has all of main already" in here.ok("push").out
    made = edit(world, 1)
    planned = here.ok("push", "--dry-run")
    assert "would send 1 commit, 3 objects" in planned.out
    assert f"commits/{made}.json" in planned.out
    sent = here.ok("push", "--json").json
    assert sent["commits"] == [made]
    assert sent["bytes"] == sum(sent["files"].values()) == sum((world.shared / p).stat().st_size for p in sent["files"])
    assert sent["new"] == made
    with Repository.open(world.work) as repository:
        assert repository.operations(1)[0].description == "main to origin"


def test_a_stale_adapter_goes(world: World, here: Cli) -> None:
    assert (world.shared / "adapter_config.json").is_file()
    config = json.loads((world.shared / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    assert f"a LoRA of rank {config['r']})" in (world.shared / "README.md").read_text()
    assert "model_name: ''\n" in (world.shared / "hparams.yaml").read_text()
    edit(world, 1)
    assert "is out of date and was removed" in here.ok("push", "--no-adapter").err
    assert not list(world.shared.glob("adapter_*"))
    assert str(world.base.parent) not in "".join(
        path.read_text(errors="replace") for path in world.shared.iterdir() if path.is_file()
    )


def test_pull_moves_the_branch_and_undo_takes_it_back(world: World, here: Cli, there: Cli) -> None:
    first = there.ok("pull", "--json").json
    with Repository.open(world.work) as repository:
        tip = repository.head().commit
    assert (first["after"], first["fetched"]["commits"]) == (tip, 4)
    assert [fact["subject"] for fact in there.ok("facts", "--json").json] == [
        fact["subject"] for fact in here.ok("facts", "--json").json
    ]
    again = there.ok("pull").out.splitlines()
    assert again == [f"everything from {world.shared} is here already", "main is up to date"]
    made = edit(world, 1)
    here.ok("push")
    assert f"origin/main: {tip[:10]} → {made[:10]}" in there.ok("fetch").out
    assert there.ok("log", "origin/main", "--json").json[0]["id"] == made
    assert there.ok("diff", "HEAD", "origin/main").out
    assert f"main: {tip[:10]} → {made[:10]}" in there.ok("pull").out
    there.ok("undo")
    assert there.ok("status", "--json").json["commit"] == tip
    there.ok("redo")
    assert there.ok("status", "--json").json["commit"] == made


def test_status_tells_how_far_the_remote_is(world: World, here: Cli, there: Cli) -> None:
    there.ok("pull")
    assert "remote  origin/main: the same, as of the last fetch" in there.ok("status").out
    edit(world, 1)
    here.ok("push")
    there.ok("fetch")
    assert "remote  origin/main: 1 commit to pull, as of the last fetch" in there.ok("status").out
    there.ok("revert", "HEAD~1")
    assert there.ok("status", "--json").json["followed"] == [{"name": "origin/main", "ahead": 1, "behind": 1}]
    there.ok("switch", "--detach", "HEAD~1")
    assert "remote " not in there.ok("status").out


def test_a_push_after_a_squash_says_what_can_be_done(world: World, here: Cli) -> None:
    here.ok("push")
    pushed = here.ok("op", "log", "--json").json[0]["id"]
    here.ok("squash", "--all")
    refused = here("push")
    assert refused.code == 11
    assert "before its history was rewritten" in refused.err
    assert "memitvc undo" in refused.err
    here.ok("branch", "short")
    here.ok("push", "origin", "short")
    here.ok("op", "restore", str(pushed))
    assert "has all of main already" in here.ok("push").out


def test_a_rewrite_that_undo_and_restore_put_back_is_still_one(world: World, here: Cli) -> None:
    """A merge of what was rewritten would bring reverted facts back."""
    here.ok("push")
    here.ok("revert", "HEAD")
    here.ok("squash", "HEAD~2..HEAD")
    squashed = here.ok("op", "log", "--json").json[0]["id"]
    assert "before its history was rewritten" in here("push").err
    here.ok("undo")
    here.ok("op", "restore", str(squashed))
    assert "before its history was rewritten" in here("push").err
    here.ok("fsck")


def test_a_push_names_the_tags_that_it_brings(world: World, here: Cli) -> None:
    here.ok("push")
    here.ok("tag", "v1")
    pushed = here.ok("push")
    tip = here.ok("log", "--json").json[0]["id"]
    assert f"v1: new tag at {tip[:10]}" in pushed.out
    assert "main:" not in pushed.out
    assert here.ok("push", "--json").json["tags"] == {}
    here.ok("tag", "v2")
    assert here.ok("push", "--json").json["tags"] == {"v2": tip}
    here.ok("fsck")


def test_a_push_after_an_undo_says_that_a_pull_comes_first(world: World, here: Cli, there: Cli) -> None:
    """Nothing was rewritten: what `undo` took back can be pulled again, also with a commit of one's own beside it."""
    there.ok("pull")
    made = edit(world, 1)
    here.ok("push")
    there.ok("pull")
    there.ok("undo")
    refused = there("push")
    assert (refused.code, "rewritten" in refused.err) == (11, False)
    assert "Pull first: memitvc pull origin main" in refused.err
    with Repository.open(world.empty) as repository:
        revert(repository, ["HEAD~1"])
    refused = there("push")
    assert (refused.code, "rewritten" in refused.err) == (11, False)
    there.ok("undo")
    there.ok("pull")
    assert there.ok("log", "--json").json[0]["id"] == made
    there.ok("fsck")


def test_both_sides_moved(world: World, here: Cli, there: Cli) -> None:
    there.ok("pull")
    made = edit(world, 1)
    here.ok("push")
    with Repository.open(world.empty) as repository:
        revert(repository, ["HEAD~1"])
    refused = there("push")
    assert refused.code == 11
    assert "memitvc pull origin main" in refused.err
    stopped = there("pull", "--json")
    assert stopped.code == 11
    assert stopped.error["hint"] == "Join them: memitvc merge origin/main"
    assert there.ok("log", "origin/main", "--json").json[0]["id"] == made
    there.ok("merge", "origin/main")
    there.ok("push")
    here.ok("pull")
    assert here.ok("log", "--json").json[0] == there.ok("log", "--json").json[0]


def test_branches(world: World, here: Cli, there: Cli) -> None:
    there.ok("pull")
    with Repository.open(world.work) as repository:
        create_branch(repository, "trial")
    assert "trial: new →" in here.ok("push", "origin", "trial").out
    assert "origin/trial: new →" in there.ok("fetch").out
    assert there("pull", "origin", "nothing").code == 1
    there.ok("pull", "origin", "trial")
    there.ok("switch", "HEAD~1", "--detach") if there("switch", "HEAD~1").code else None
    assert there("pull").code == 2
    assert there("push").code == 2


def test_clone(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> Result:
        capsys.readouterr()
        code = main(["clone", "-C", str(tmp_path), *arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    needs = run("shared", "copy")
    assert needs.code == 2
    assert "--base" in needs.err
    assert not (tmp_path / "copy").exists()
    made = run("shared", "copy", "--base", str(world.base), "--json")
    assert made.code == 0, made.err
    assert made.json["branch"] == "main"
    assert made.json["fetched"]["commits"] == 4
    with Repository.open(tmp_path / "copy") as repository:
        assert fsck(repository) == ([], 0)
        assert repository.config.base == str(world.base)
        assert "hyperparameters of this repository, from" in repository.hparams_path.read_text()
        assert f"model_name: {world.base}" in repository.hparams_path.read_text()
    assert run("shared", "copy", "--base", str(world.base)).code == 1
    assert run("nowhere-at-all", "--base", str(world.base)).code == 14
    assert not (tmp_path / "nowhere-at-all").exists()
    assert run("shared", "third", "--base", str(tmp_path / "no-model")).code != 0
    assert not (tmp_path / "third").exists()


def test_a_clone_that_another_one_overtakes_is_told(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command, source = ["clone", "-C", str(tmp_path), "shared", "copy", "--base", str(world.base)], cloning._source

    def overtaken(*given: Any) -> tuple[str, str | None]:
        monkeypatch.setattr(cloning, "_source", source)
        assert main(command) == 0
        return source(*given)

    monkeypatch.setattr(cloning, "_source", overtaken)
    assert main(command) == 1
    assert "exists already\nhint: Pull there" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "copy").iterdir()] == [".memitvc"]
    with Repository.open(tmp_path / "copy") as repository:
        assert fsck(repository) == ([], 0)


def test_another_model_is_no_base(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.support.models import tiny

    other = tiny("llama", tmp_path / "other", seed=5)
    code = main(["clone", "-C", str(tmp_path), "shared", "copy", "--base", str(other)])
    said = capsys.readouterr().err
    assert code == 12
    assert "has other bytes" in said
    assert not (tmp_path / "copy").exists()


def test_a_repository_on_another_base_is_kept_apart(world: World, tmp_path: Path, here: Cli) -> None:
    from memit_vc.porcelain.setup import init
    from tests.support.models import tiny

    other = tiny("llama", tmp_path / "other", seed=5)
    hparams = world.work / ".memitvc" / "hparams.yaml"
    init(str(other), directory=tmp_path / "elsewhere", hparams=hparams)
    before = sorted(path.relative_to(world.shared) for path in world.shared.rglob("*"))
    for command in ("push", "fetch"):
        place = Cli(tmp_path / "elsewhere", here.capsys, here.monkeypatch)
        place("remote", "add", "origin", world.shared)
        refused = place(command)
        assert refused.code == 14
        assert "is about base" in refused.err
    assert sorted(path.relative_to(world.shared) for path in world.shared.rglob("*")) == before
    with Repository.open(tmp_path / "elsewhere") as repository:
        assert fsck(repository) == ([], 0)


def test_naming_a_remote_loads_nothing_heavy(world: World) -> None:
    run = (
        "import sys; from memit_vc.cli import main;"
        f"code = main(['remote', '-C', {str(world.work)!r}]) or main(['push', '-C', {str(world.work)!r}]);"
        "heavy = {'torch', 'transformers', 'alembic', 'numpy', 'huggingface_hub'} & set(sys.modules);"
        "sys.exit(code or (f'{heavy}' if heavy else 0))"
    )
    made = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize("command", ["fetch", "pull", "clone", "import"])
def test_what_comes_from_others_needs_no_torch(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    edit(world, 1)
    work, patch = ["-C", str(world.work)], str(tmp_path / "one.memitvc")
    assert main(["push", *work]) == 0
    assert main(["export", "--patch", patch, *work]) == 0
    arguments = {"clone": [str(world.shared), str(tmp_path / "copy"), "--base", str(world.base)], "import": [patch]}
    where = [] if command == "clone" else ["-C", str(world.empty)]
    monkeypatch.setattr(test_lazy, "HEAVY", ("torch", "transformers"))
    assert test_lazy.offenders([[command, *arguments.get(command, []), *where]]) == {}


def test_remotes_that_cannot_be_read_stop_only_what_asks_for_them(world: World, here: Cli) -> None:
    config = world.work / ".memitvc" / "config.toml"
    spoilt = re.sub(r"(?s)\[remote.*", "[remote]\norigin = 'place'\n", config.read_text())
    config.write_text(spoilt)
    here.ok("log")
    for command in (["push"], ["fetch"], ["remote"], ["remote", "add", "other", "../x"]):
        refused = here(*command)
        assert refused.code == 1
        assert "[remote] must have tables with a URL" in refused.err
    assert config.read_text() == spoilt


def test_inherited_scores_travel_under_the_word_of_the_format(world: World, here: Cli, there: Cli) -> None:
    here.ok("squash", "HEAD~3..HEAD~1")
    here.ok("remote", "add", "fresh", "../fresh")
    here.ok("push", "fresh")
    records = [json.loads(path.read_bytes()) for path in (world.work.parent / "fresh" / "commits").iterdir()]
    assert sum("brought" in record for record in records) == 1
    with Repository.open(world.work) as repository:
        squashed = next(record["commit"] for record in records if "brought" in record)
        assert squashed["kind"] == "squash"
        assert repository.has_commit(digest("commit", canonical_json(squashed)))
    there.ok("remote", "add", "fresh", str(world.work.parent / "fresh"))
    there.ok("fetch", "fresh")


def test_a_clone_goes_into_a_new_or_empty_directory(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not into the remote itself, which nobody could use then, nor among files of something else."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "bare").mkdir()
    for place in ([], ["shared"], ["full"]):
        assert main(["clone", "-C", str(tmp_path), "shared", *place, "--base", str(world.base)]) == 1
        assert "is not empty" in capsys.readouterr().err
    assert not (world.shared / ".memitvc").exists()
    assert main(["clone", "-C", str(tmp_path), "shared", "bare", "--base", str(world.base)]) == 0


def test_a_branch_that_only_the_remote_has_is_started_there(world: World, here: Cli, there: Cli) -> None:
    here.ok("branch", "trial", "HEAD~1")
    here.ok("push", "origin", "trial")
    there.ok("fetch")
    assert "`memitvc switch -c trial origin/trial` makes it" in there("switch", "trial").err


def test_fetch_makes_a_damaged_object_good(world: World, here: Cli) -> None:
    edit(world, 1)
    here.ok("push")
    with Repository.open(world.work) as repository:
        blob = travelling(repository)[0]
        path = repository.blobs.path(blob)
    whole = path.read_bytes()
    for damage in (b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.chmod(0o644)
        path.write_bytes(damage)
        assert here("fsck").code == 12
        here.ok("fetch")
        assert path.read_bytes() == whole
        here.ok("fsck")


def test_a_clone_takes_the_text_of_the_statistics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else its commits would be solved with another text than those that it got."""
    place = make_place(tmp_path, v_num_grad_steps=2)
    with Repository.open(place.work) as repository:
        commit_facts(repository, FIRST, corpus="shipped", tokens=TOKENS, scores=False)
    shared, copy = str(tmp_path / "shared"), tmp_path / "copy"
    assert main(["-C", str(place.work), "remote", "add", "origin", shared]) == 0
    assert main(["-C", str(place.work), "push", "--no-adapter"]) == 0
    capsys.readouterr()
    assert main(["clone", shared, str(copy), "--base", str(place.base)]) == 0
    said = capsys.readouterr()
    assert "new commits take the statistics' text of the present ones: shipped" in said.out + said.err
    with Repository.open(copy) as repository:
        assert repository.config.corpus == "shipped"
        commit = repository.commit(repository.head().commit)
        assert corpus_of(repository, [commit.provenance]) == "shipped"
        private = repository.blobs.put(json.dumps({"statistics": {"id": "1", "corpus": "a file"}}).encode())
        settings = repository.blobs.put(json.dumps({"settings": []}).encode())
        assert corpus_of(repository, [settings, None, commit.provenance]) == "shipped"
        assert corpus_of(repository, [private, commit.provenance]) is None  # the newest text is the one in use
