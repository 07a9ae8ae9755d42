"""`ask`: the answers are those of plain transformers on a checkout, from one load of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from memit_vc.errors import EngineError, RevisionError, UsageError
from memit_vc.porcelain.asking import ask as asking
from memit_vc.porcelain.asking.ask import Asked, ask, generated
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.sets.revert import revert
from memit_vc.repository import Repository
from tests.support.models import FACTS
from tests.support.opened import Opened
from tests.support.places import Cli

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
PROMPTS = [FACTS[0].prompt, " {Tom} & <b>, asked twice: ", "née\nO’Brien"]


@pytest.fixture
def repository(opened: Opened, with_history: Path) -> Repository:
    return opened(with_history)


def plain(directory: Path, prompt: str, *, tokens: int, template: str | None = None) -> str:
    """What the documentation of transformers tells one to write."""
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    model: Any = AutoModelForCausalLM.from_pretrained(directory)
    if template is None:
        inputs = tokenizer(prompt, return_tensors="pt")
    else:
        tokenizer.chat_template = template
        turn = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    made = model.generate(**given, do_sample=False, max_new_tokens=tokens)
    return str(tokenizer.decode(made[0, given["input_ids"].shape[1] :], skip_special_tokens=True))


def texts(found: list[Asked]) -> list[list[str]]:
    return [[answer.text for answer in asked.answers] for asked in found]


@pytest.mark.parametrize("template", [None, CHAT])
def test_the_answers_are_those_of_plain_transformers_on_checkouts(
    repository: Repository, tmp_path: Path, template: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    loaded = load_model(repository)
    loaded.adapter.tokenizer.chat_template = template
    monkeypatch.setattr(asking, "model_of", lambda *given, **more: loads.append(given) or loaded)
    revisions = ["HEAD", "HEAD~1", "HEAD~3"]
    found = ask(repository, PROMPTS, revisions, chat=template is not None, new_tokens=9)
    assert len(loads) == 1
    for place, revision in enumerate(revisions):
        checkout(repository, revision, tmp_path / revision)
        wanted = [plain(tmp_path / revision, prompt, tokens=9, template=template) for prompt in PROMPTS]
        assert [asked.answers[place].text for asked in found] == wanted
        assert found[0].answers[place].commit == repository.resolve(revision)
    if template is None:  # what the tiny model says in chat is no text
        assert len({answer.text for answer in found[0].answers}) > 1


def test_the_best_tokens_begin_with_the_one_taken_and_spell_the_answer(repository: Repository) -> None:
    loaded = load_model(repository)
    (row,) = generated(repository, [FACTS[0].prompt], ["HEAD", "HEAD~3"], new_tokens=6, best=5, loaded=loaded)
    for place, made in row:
        assert [len(choices) for choices in made.best] == [5] * len(made.ids)
        for choices in made.best:
            assert [choice.p for choice in choices] == sorted((choice.p for choice in choices), reverse=True)
            assert 0 < sum(choice.p for choice in choices) <= 1.0001
        assert "".join(choices[0].text for choices in made.best).startswith(made.text)
        (again,) = ask(repository, [FACTS[0].prompt], [place[0]], new_tokens=6, loaded=loaded)
        assert again.answers[0].text == made.text


def test_a_state_is_asked_once_by_whatever_name(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    revert(repository, ["HEAD"])
    revert(repository, ["HEAD"])
    made = []
    plainly = asking.generate
    monkeypatch.setattr(asking, "generate", lambda *given, **more: made.append(1) or plainly(*given, **more))
    (asked,) = ask(repository, [FACTS[0].prompt], ["HEAD", "main", "HEAD~2", "HEAD~1"], new_tokens=2)
    assert len(made) == 2
    assert asked.answers[0].state == asked.answers[2].state != asked.answers[3].state
    assert [answer.revision for answer in asked.answers] == ["HEAD", "main", "HEAD~2", "HEAD~1"]


def test_what_cannot_be_asked(repository: Repository) -> None:
    loaded = load_model(repository)
    with pytest.raises(UsageError, match="empty"):
        ask(repository, ["a", " "], loaded=loaded)
    with pytest.raises(RevisionError):
        ask(repository, ["a"], ["nowhere"], loaded=loaded)
    with pytest.raises(EngineError, match="no chat template"):
        ask(repository, ["a"], chat=True, loaded=loaded)
    limit = loaded.adapter.model.config.max_position_embeddings
    with pytest.raises(EngineError, match="none is left for an answer"):
        ask(repository, ["a b " * limit], loaded=loaded)


def test_the_command(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = FACTS[0].prompt
    both = cli.ok("ask", prompt, "The museum is in", "--at", "HEAD~1", "-n", "4", "--json").json
    assert [asked["prompt"] for asked in both] == [prompt, "The museum is in"]
    assert [answer["revision"] for answer in both[0]["answers"]] == ["HEAD", "HEAD~1"]
    now = both[0]["answers"][0]["text"].strip()
    assert cli.ok("ask", prompt, "-n", "4").out == f"{now}\n"
    assert cli.ok("ask", "-n", "4", stdin=f"\n{prompt}\r\n").out == f"{now}\n"
    table = cli.ok("ask", "-", "--at", "HEAD~1", "-n", "4", stdin=f"{prompt}\n").out.splitlines()
    assert table[0].split() == ["prompt", "HEAD", "HEAD~1"]
    assert table[2].startswith(prompt)
    refused = cli("ask", "--json", stdin="\n")
    assert (refused.code, refused.error["message"]) == (2, "there is nothing to ask")
    assert cli("ask", prompt, "--at", "nowhere").code == 1
