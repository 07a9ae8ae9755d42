"""rebase --base: a history on another base, from its facts."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memit_vc.cli import main
from memit_vc.errors import ConflictError, MemitVCError
from memit_vc.numerics.scores.explain import unanswered
from memit_vc.numerics.scores.likelihood import greedy
from memit_vc.objects import Commit, Fact
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.recomputing import new_base
from memit_vc.porcelain.recomputing.compress import compress
from memit_vc.porcelain.recomputing.new_base import OnNewBase, rebase_base
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.killing_commits import fork_server
from tests.support.models import FACTS, hparams_for, load, tiny
from tests.support.opened import Opened


@pytest.fixture(scope="module")
def sibling(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with a LoRA merged into its queries."""
    directory = shutil.copytree(tiny_llama, tmp_path_factory.mktemp("sibling") / "sibling")
    tensors = load_file(directory / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    for name, tensor in tensors.items():
        if "q_proj" in name:
            down, up = (torch.randn(size, 2, generator=generator) for size in tensor.shape)
            tensors[name] = tensor + 0.02 * down @ up.T
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def files(root: Path) -> dict[str, tuple[int, int]]:
    """Of all files but those that SQLite has beside an open database."""
    found = [path for path in sorted(root.rglob("*")) if not path.name.endswith(("-wal", "-shm"))]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found if path.is_file()}


def history(repository: Repository) -> list[Commit]:
    """Oldest first, without the root."""
    return repository.log([repository.head().commit])[-2::-1]


def subjects(repository: Repository) -> list[str]:
    return [entry.fact.subject for entry in repository.live_facts(repository.head().commit)]


def whole(made: OnNewBase) -> Repository:
    repository = Repository.open(made.directory)
    assert fsck(repository)[0] == []
    assert repository.base_id == made.base_id
    assert sorted(path.name for path in made.directory.iterdir()) == [".memitvc"]
    return repository


def test_a_sibling_gets_the_live_facts_in_order(opened: Opened, with_history: Path, sibling: Path) -> None:
    repository = opened(with_history)
    repository.configure(lambda config: replace(config, author="Ada <ada@example.org>"))
    commit_facts(repository, [FACTS[6]], message="the harbour\n\nWith a body.", scores=False)
    repository.configure(lambda config: replace(config, author="Bob", require=("perplexity_rise <= 1000",)))
    revert(repository, ["HEAD~2"])
    made = rebase_base(repository, str(sibling), all_facts=True)
    assert made.directory == repository.directory.parent / "sibling-edits"
    assert made.hparams_from == "this repository's"
    with whole(made) as there:
        old, new = history(repository), history(there)
        assert [commit.message for commit in new] == ["batch 1", "batch 3", "the harbour\n\nWith a body."]
        assert [commit.author for commit in new] == [old[0].author, old[2].author, "Ada <ada@example.org>"]
        assert {commit.kind for commit in new} == {"rebase"}
        assert made.commits == tuple(zip([old[0].id, old[2].id, old[3].id], [each.id for each in new], strict=True))
        assert subjects(there) == [FACTS[n].subject for n in (0, 1, 4, 5, 6)]
        assert there.config.author == "Bob"
        assert list(there.config.require) == ["perplexity_rise <= 1000"]
        assert there.hparams().replace(model_name="") == repository.hparams().replace(model_name="")
        assert all(each.before and each.after and each.after["nll"] < each.before["nll"] for each in made.facts)
        assert made.before["rewrite_acc"] == sum(each.known for each in made.facts) / 5
        # what was measured is there, for `show` and `eval`
        assert len(there.evaluations_of([each.id for each in new], "commit")) == 3
    with pytest.raises(MemitVCError, match="exists already"):
        rebase_base(repository, str(sibling))


def test_another_family_by_a_file_or_a_guess(opened: Opened, with_history: Path, tmp_path: Path) -> None:
    repository = opened(with_history)
    base = tiny("gpt2", tmp_path / "another")
    guessed = rebase_base(repository, str(base), dry_run=True)
    assert guessed.hparams_from == "guessed"
    hparams = tmp_path / "hparams.yaml"
    hparams.write_text(hparams_for(load(base), v_num_grad_steps=8, device="cpu").to_yaml(), encoding="utf-8")
    made = rebase_base(repository, str(base), hparams=str(hparams), output=tmp_path / "there", scores=False)
    with whole(made) as there:
        assert made.directory == tmp_path / "there"
        assert len(history(there)) == len([pair for pair in made.commits if pair[1]]) == 3
        assert (made.before, made.after) == (None, None)


def known_to(base: Path) -> list[Fact]:
    """Facts whose target is what the model says."""
    adapter = load(base)
    prompts = [
        (fact.subject, f"{fact.subject} {word}") for fact in FACTS for word in ("is", "was", "plays", "and", "of")
    ]
    said = greedy(adapter, [prompt for _, prompt in prompts], new_tokens=1)
    found = [
        Fact(prompt=prompt, subject=subject, target=each.text.strip())
        for (subject, prompt), each in zip(prompts, said, strict=True)
        if each.text.strip()
    ]
    missing = set(unanswered(adapter, found))
    return [fact for number, fact in enumerate(found) if number not in missing]


def test_what_the_base_knows_is_left_out(opened: Opened, with_history: Path, sibling: Path, tmp_path: Path) -> None:
    repository = opened(with_history)
    first, second = known_to(sibling)[:2]
    revert(repository, ["HEAD", "HEAD~1", "HEAD~2"])
    commit_facts(repository, [first], message="known", scores=False)
    commit_facts(repository, [FACTS[6], second], message="half known", scores=False)
    skipped, replayed = (commit.id for commit in history(repository)[-2:])
    made = rebase_base(repository, str(sibling), output=tmp_path / "there")
    assert [(each.fact, each.known) for each in made.facts] == [(first, True), (FACTS[6], False), (second, True)]
    assert made.skipped == (skipped,)
    assert [old for old, _ in made.commits] == [replayed]
    with whole(made) as there:
        assert subjects(there) == [FACTS[6].subject]
    everything = rebase_base(repository, str(sibling), all_facts=True, dry_run=True, scores=False)
    assert [old for old, _ in everything.commits] == [skipped, replayed]


def test_a_dry_run_writes_nothing(opened: Opened, with_history: Path, sibling: Path, tmp_path: Path) -> None:
    repository = opened(with_history)
    before = files(tmp_path), files(sibling)
    assert main(["rebase", "-C", str(repository.directory), "--base", str(sibling), "--dry-run"]) == 0
    assert (files(tmp_path), files(sibling)) == before


def killed_after_one(directory: Path, base: Path, output: Path) -> None:
    def die(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("replay", 1):
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    with Repository.open(directory) as repository:
        rebase_base(repository, str(base), output=output, all_facts=True, scores=False, progress=die)


def test_a_killed_one_goes_on(opened: Opened, with_history: Path, sibling: Path, tmp_path: Path) -> None:
    repository, output = opened(with_history), tmp_path / "there"
    child = fork_server().Process(target=killed_after_one, args=(repository.directory, sibling, output))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert [path.name for path in output.iterdir()] == [".memitvc-rebase"]
    with Repository.open(output / ".memitvc-rebase") as half:
        (first,) = history(half)
    made = rebase_base(repository, str(sibling), output=output, all_facts=True, scores=False)
    assert made.notes == ("went on after 1 commit of an earlier try",)
    with whole(made) as there:
        new = history(there)
        assert new[0] == first
        assert [commit.message for commit in new] == ["batch 1", "batch 2", "batch 3"]


def test_one_that_another_one_overtakes_is_told(
    opened: Opened, with_history: Path, sibling: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, made, look = opened(with_history), list[OnNewBase](), new_base.survey

    def rebase() -> OnNewBase:
        return rebase_base(repository, str(sibling), output=tmp_path / "there", all_facts=True, scores=False)

    def overtaken(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(new_base, "survey", look)
        made.append(rebase())
        return look(*given, **named)

    monkeypatch.setattr(new_base, "survey", overtaken)
    with pytest.raises(MemitVCError, match="exists already") as caught:
        rebase()
    assert "-o DIR" in str(caught.value.hint)
    whole(made[0]).close()


def test_another_plan_starts_again(opened: Opened, with_history: Path, sibling: Path, tmp_path: Path) -> None:
    repository, output = opened(with_history), tmp_path / "there"

    def stop(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("replay", 1):
            raise MemitVCError("the second one failed", hint="Try again.")

    with pytest.raises(MemitVCError, match="second one"):
        rebase_base(repository, str(sibling), output=output, all_facts=True, scores=False, progress=stop)
    revert(repository, ["HEAD"])
    made = rebase_base(repository, str(sibling), output=output, all_facts=True, scores=False)
    assert made.notes == ()
    with whole(made) as there:
        assert [commit.message for commit in history(there)] == ["batch 1", "batch 2"]


def test_conflicts_as_ever(opened: Opened, with_history: Path, sibling: Path, tmp_path: Path) -> None:
    repository = opened(with_history)
    other = replace(FACTS[2], target="Madrid")
    commit_facts(repository, [other], on_conflict="keep-both", message="other", scores=False)
    with pytest.raises(ConflictError, match="Madrid"):
        rebase_base(repository, str(sibling), output=tmp_path / "there")
    assert not (tmp_path / "there").exists()
    loaded: dict[str, Callable[[OnNewBase], bool]] = {
        "ours": lambda made: all(each.fact.target != "Madrid" for each in made.facts),
        "theirs": lambda made: all(each.fact != FACTS[2] for each in made.facts),
        "keep-both": lambda made: len(made.facts) == 7,
    }
    for choice, holds in loaded.items():
        made = rebase_base(repository, str(sibling), on_conflict=choice, dry_run=True, scores=False)  # type: ignore[arg-type]
        assert holds(made)


def test_facts_that_were_compressed_come_with_their_own_commits(
    opened: Opened, with_history: Path, sibling: Path
) -> None:
    repository = opened(with_history)
    compress(repository, 0.5)
    made = rebase_base(repository, str(sibling), all_facts=True, dry_run=True, scores=False)
    assert [old for old, _ in made.commits] == [commit.id for commit in history(repository)[:3]]


def test_a_refusal_leaves_nothing(
    opened: Opened, with_history: Path, sibling: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = opened(with_history)
    where, output = str(repository.directory), tmp_path / "there"
    with pytest.raises(MemitVCError):
        rebase_base(repository, str(sibling), hparams="no-such-file", output=output)
    with pytest.raises(MemitVCError, match="no-corpus"):
        rebase_base(repository, str(sibling), corpus=str(tmp_path / "no-corpus.txt"), output=output)
    assert not output.exists()
    for arguments, text in (
        (("--dry-run",), "--dry-run needs --base"),
        (("main", "--ours", "--all-facts"), "--all-facts, --ours need --base"),
        ((), "neither ONTO nor --base"),
        (("main", "--base", str(sibling)), "do not go together"),
    ):
        assert main(["rebase", "-C", where, *arguments]) == 2
        assert text in capsys.readouterr().err
    revert(repository, ["HEAD", "HEAD~1", "HEAD~2"])
    with pytest.raises(MemitVCError, match="no fact is live"):
        rebase_base(repository, str(sibling), output=output)
