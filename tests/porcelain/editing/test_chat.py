"""A search that also asks in chat: what it asks, what the patch says of it, and older patches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from memit_vc.errors import VerificationError
from memit_vc.numerics.edit import engine
from memit_vc.numerics.forward.chat import END_SHARE, SEARCHED
from memit_vc.numerics.forward.tokens import Template
from memit_vc.objects import Commit, canonical_json
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.editing.provenance import Recorded
from memit_vc.porcelain.editing.remembered import known_targets
from memit_vc.porcelain.recomputing.reproduce import reproduce
from memit_vc.porcelain.setup import init
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.places import FIRST, SECOND, TOKENS, Place, make_place

CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}.\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TURNS = [f"user: {words}.\nassistant: " for words in SEARCHED]


@pytest.fixture
def chatting(tmp_path: Path) -> Place:
    place = make_place(tmp_path, start=False)
    (place.base / "chat_template.jinja").write_text(CHAT)
    text = str(place.text)
    init(str(place.base), directory=place.work, hparams=tmp_path / "hparams.yaml", corpus=text, health=text)
    return place


def recorded(repository: Repository, commit: Commit) -> dict[str, object]:
    assert commit.provenance is not None
    found: dict[str, object] = json.loads(repository.blobs.read(commit.provenance))
    return found


@pytest.mark.parametrize("search_for", ["z", "residuals"])
def test_the_search_asks_in_chat_and_the_patch_says_so(
    chatting: Place, monkeypatch: pytest.MonkeyPatch, search_for: str
) -> None:
    asked: list[Template] = []
    find = engine.find

    def watched(*args: object, **options: object) -> object:
        asked.extend(options["templates"])  # type: ignore[call-overload]
        return find(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "find", watched)
    with Repository.open(chatting.work) as repository:
        loaded = load_model(repository)
        hparams = repository.hparams().replace(chat=True, search_for=search_for, context_templates=[["{}"], ["So: {}"]])
        made = commit_facts(repository, FIRST, hparams=hparams, tokens=TOKENS, loaded=loaded, scores=False)
        assert asked[:2] == [Template(""), Template("So: ")]  # what a file gives is asked, too
        assert asked[2:6] == [replace(Template.parse(t), between="", end=".\n", end_share=END_SHARE) for t in TURNS]
        record = recorded(repository, repository.commit(made.id))
        assert record["chat"] == [[*turn.split("{}"), "", ".\n", 0.25] for turn in TURNS]
        assert record["context_templates"] == [["{}"], ["So: {}"]]
        assert reproduce(repository, loaded=loaded).same_blob
        loaded.adapter.tokenizer.chat_template = CHAT.replace("}}.", "}}!")  # as another version might read it
        with pytest.raises(VerificationError, match="asked in chat with other texts"):
            reproduce(repository, loaded=loaded)

        again = hparams.replace(chat=False)
        commit_facts(repository, SECOND, hparams=again, tokens=TOKENS, loaded=loaded, scores=False)
        assert asked[-2:] == [Template(""), Template("So: ")]
        assert recorded(repository, repository.commit(repository.head().commit))["chat"] == []
        assert reproduce(repository, loaded=loaded).same_blob
        assert fsck(repository) == ([], 0)


def test_the_plain_prompt_counts_as_much_as_all_others(chatting: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are means of groups of templates: the turns of a chat join the sampled ones, or are a group of their own."""
    groups: list[list[int]] = []
    insert = engine.insert

    def watched(*args: object, **options: object) -> object:
        groups.append([len(group) for group in options["templates"]])  # type: ignore[attr-defined]
        return insert(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "insert", watched)
    with Repository.open(chatting.work) as repository:
        loaded = load_model(repository)
        for number, given in enumerate([[["{}"]], [["{}"], ["So: {}", "Then: {}"]]]):
            hparams = repository.hparams().replace(chat=True, context_templates=given)
            facts = FIRST[number : number + 1]
            commit_facts(repository, facts, hparams=hparams, tokens=TOKENS, loaded=loaded, scores=False)
        assert groups == [[1, 4], [1, 6]]
        assert fsck(repository) == ([], 0)


def test_what_a_chat_asks_is_part_of_what_was_searched(chatting: Place) -> None:
    with Repository.open(chatting.work) as repository:
        loaded, hparams = load_model(repository), repository.hparams().replace(chat=True)
        state = repository.state_id(())

        def known(chat: bool) -> int:
            return len(known_targets(loaded, FIRST, state, hparams.replace(chat=chat), [["{}"]], "", 384).known)

        found = engine.FoundTarget(loaded.adapter.model.lm_head.weight.detach()[0], 3, 0.5)
        known_targets(loaded, FIRST, state, hparams, [["{}"]], "", 384).keep({0: found, 1: found})
        assert (known(True), known(False)) == (2, 0)
        loaded.adapter.tokenizer.chat_template = CHAT.replace("user", "human").replace("assistant: ", "model: ")
        assert known(True) == 0
        loaded.adapter.tokenizer.chat_template = CHAT.replace("}}.", "}}!")
        assert known(True) == 0


def test_an_older_patch_had_its_turn_among_the_context_templates(chatting: Place) -> None:
    with Repository.open(chatting.work) as repository:
        loaded, hparams = load_model(repository), repository.hparams().replace(chat=True)
        made = commit_facts(repository, FIRST, hparams=hparams, tokens=TOKENS, loaded=loaded, scores=False)
        record = recorded(repository, repository.commit(made.id))
        groups = [["{}"], ["So: {}", TURNS[0]]]
        older = {name: value for name, value in record.items() if name != "chat"} | {"context_templates": groups}
        blob = repository.blobs.put(canonical_json(older))
        read = Recorded.read(repository, blob)
        assert read is not None
        assert read.hparams.context_templates == groups
        assert not read.hparams.chat  # so that nothing is asked twice
        assert fsck(repository)[0] == []
