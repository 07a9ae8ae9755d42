"""The model card: valid for the Hub, readable, and no fact can break out of its cell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from memit_vc.errors import RemoteError
from memit_vc.objects import JsonValue
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.sharing.card import model_card
from memit_vc.remote.card import BEGIN, END, Card, CardFact, card_text, card_with, cell
from memit_vc.repository import Repository
from tests.support import synthetic
from tests.support.hub.loopback import Loopback

FACT = CardFact("The Eiffel Tower is located in the city of", "Rome", "Paris", 1.0)
CARD = Card(
    repo_id="ada/facts",
    base="HuggingFaceTB/SmolLM2-135M",
    base_revision="0" * 40,
    base_id="b" * 64,
    license="apache-2.0",
    commit="c" * 64,
    state="d" * 64,
    commits=2,
    facts=(FACT,),
    scores=(("ES (new answer preferred)", "0.00", "1.00"),),
    scored_on="when each fact was committed",
    rank=5,
    relation="adapter",
    vllm=True,
)
EVIL = (
    "a | b",
    "two\nlines\n\n# heading",
    "<script>alert(1)</script>",
    f"{END} {BEGIN}",
    "--- \n tags: [x]",
    "[link](https://example.org) ![image](x) www.example.org https://example.org <a@b.c> @ada",
    "`code` **bold** _em_ ~~gone~~ $x$ \\| &amp; &#124; :smile:",
    "\u202egnp.exe \x00 \x1b[31m",
    "x" * 5000,
)


def parsed(text: str) -> tuple[dict[str, object], list[Token]]:
    """Metadata, and the body as GitHub's dialect reads it, links that nobody marked included."""
    _, front, body = text.split("---\n", 2)
    markdown = MarkdownIt("gfm-like", {"linkify": False}).enable("table")
    return yaml.safe_load(front), markdown.parse(body)


def cells(tokens: list[Token]) -> list[list[str]]:
    """Rows of the first table, as text; anything else than text and bold in a cell fails."""
    rows: list[list[str]] = []
    for place, token in enumerate(tokens):
        if token.type == "table_close":
            break
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            children = tokens[place + 1].children or []
            assert {child.type for child in children} <= {"text", "text_special", "strong_open", "strong_close"}
            rows[-1].append("".join(child.content for child in children))
    return rows


@pytest.mark.parametrize("card", [CARD, replace(CARD, rank=None, base=None, base_revision=None, license=None)])
def test_the_hub_accepts_it(client: Loopback, card: Card) -> None:
    text = card_with(card, None)
    ModelCard(text).validate()
    assert client.api.requests[-1].line == "POST /api/validate-yaml"
    data = ModelCard(text).data
    assert data.base_model == card.base
    assert data.get("base_model_relation") == (None if card.base is None else "adapter")
    assert data.library_name == ("peft" if card.rank else "memit-vc")
    assert data.license == card.license
    assert "memit-vc" in (data.tags or [])


def test_a_reader_finds_what_they_need() -> None:
    text = card_with(CARD, None)
    for wanted in (
        "memitvc clone ada/facts",
        'memit_vc.from_pretrained("ada/facts")',
        'PeftModel.from_pretrained(model, "ada/facts")',
        "vllm serve HuggingFaceTB/SmolLM2-135M",
        "--max-lora-rank 8 --lora-modules edited=ada/facts",
        "memitvc verify model",
        "memitvc revert COMMIT",
        "apache-2.0",
        "| ES (new answer preferred) | 0.00 | 1.00 |",
    ):
        assert wanted in text
    assert "pip install memit-vc" not in text
    whole = card_with(replace(CARD, relation="finetune", rank=None, history="ada/history"), None)
    assert 'AutoModelForCausalLM.from_pretrained("ada/facts")' in whole
    assert "memitvc clone ada/history" in whole
    assert "PeftModel" not in whole


def test_vllm_is_told_what_it_can_do() -> None:
    """It has no LoRA for GPT-2 and GPT-J, and takes no rank above 512: then it serves the checkout."""
    for card in (replace(CARD, vllm=False), replace(CARD, rank=513), replace(CARD, branch="trial")):
        text = card_with(card, None)
        assert "--enable-lora" not in text
        assert "vllm serve edited/model" in text
        assert "PeftModel" in text


def test_the_first_hundred_facts() -> None:
    text = card_with(replace(CARD, facts=tuple(replace(FACT, prompt=f"Prompt {n}") for n in range(250))), None)
    assert len(cells(parsed(text)[1])) == 101
    assert "the first 100 of 250" in text


@pytest.mark.parametrize("evil", EVIL)
def test_a_fact_stays_in_its_cell(evil: str) -> None:
    check_cell(evil)


@given(st.text())
def test_any_fact_stays_in_its_cell(text: str) -> None:
    check_cell(text)


def check_cell(text: str) -> None:
    card = replace(CARD, facts=(replace(FACT, prompt=text, ground_truth=text), FACT))
    made = card_with(card, None)
    assert (made.count(BEGIN), made.count(END)) == (1, 1)
    metadata, tokens = parsed(made)
    assert metadata["base_model"] == CARD.base
    rows = cells(tokens)
    assert [len(row) for row in rows] == [4, 4, 4]
    shown = rows[1][0]
    assert len(shown) <= 200
    plain = {c for c in text if c.isalnum()}
    assert {c for c in shown if c.isalnum()} <= plain
    assert shown == rows[1][2]
    assert card_with(card, made) == made


def test_text_that_is_long_is_cut_and_short_is_kept() -> None:
    assert cell("x" * 5000).endswith("…")
    assert cell("The Eiffel Tower, in Paris?") == "The Eiffel Tower, in Paris?"


def test_the_users_own_text_and_metadata_stay() -> None:
    mine = "---\nlicense: mit\ntags:\n- mine\nlanguage:\n- en\n---\n# My title\n\nHello | there\n"
    first = card_with(CARD, mine)
    metadata, _ = parsed(first)
    assert metadata["license"] == "mit"
    assert metadata["language"] == ["en"]
    assert metadata["tags"][:2] == ["mine", "memit-vc"]  # type: ignore[index]
    assert "# My title\n\nHello | there\n" in first
    below = first + "\n## Afterwords\n"
    second = card_with(replace(CARD, facts=()), below)
    assert "Hello | there" in second
    assert second.endswith("\n## Afterwords\n")
    assert "Eiffel" not in second
    assert second.count(BEGIN) == second.count(END) == 1
    assert card_with(replace(CARD, facts=()), second) == second
    assert "# Only text" in card_with(CARD, "# Only text\n")


def test_a_tag_that_is_no_list_stays() -> None:
    metadata, _ = parsed(card_with(CARD, "---\ntags: mine\n---\n"))
    assert metadata["tags"][:2] == ["mine", "memit-vc"]  # type: ignore[index]


def test_a_text_about_our_markers_gets_one_section() -> None:
    text = card_with(CARD, f"# Mine\n\n`{END}` ends what the tool writes.\n")
    for _ in range(2):
        text = card_with(CARD, text)
    assert text.count("What was edited") == 1
    assert "ends what the tool writes." in text


@pytest.mark.parametrize("broken", ["tags: [", "- a\n- b", "[" * 3000, "a: &a [1]\nb: *a", "date: 2024-02-30"])
def test_metadata_that_cannot_be_read_is_refused(broken: str) -> None:
    with pytest.raises(RemoteError, match="metadata cannot be read"):
        card_with(CARD, f"---\n{broken}\n---\n")


def test_the_title_is_text() -> None:
    name = "<img src=x onerror=alert(1)> [a](http:evil)"
    _, tokens = parsed(card_with(replace(CARD, base=f"ada/{name}"), None))
    title = tokens[[token.type for token in tokens].index("heading_open") + 1]
    assert {child.type for child in title.children or []} <= {"text", "text_special"}


def test_from_a_repository(plain_repository: Repository) -> None:
    facts = [synthetic.fact(n) for n in range(3)]
    commit = synthetic.record(plain_repository, facts, message="<b>three</b>")
    text = model_card(plain_repository, commit.id, url="hf://ada/facts", rank=3)
    rows = cells(parsed(text)[1])
    assert [row[0] for row in rows[1:]] == [fact.prompt for fact in facts]
    assert "a LoRA of rank 3" in text
    assert "the only one" in text
    assert str(plain_repository.root.parent) not in text
    assert "not on the Hub: " in text
    assert "million parameters, F32" in text
    assert text == model_card(plain_repository, commit.id, url="hf://ada/facts", present=text, rank=3)
    root = commit.parents[0]
    assert "Nothing at present" in model_card(plain_repository, root, url=str(plain_repository.root))


def test_the_perplexity_that_a_commit_measured_is_told(plain_repository: Repository) -> None:
    """Its row for the state is left behind by a clone; what the commit recorded travels."""
    commit = synthetic.record(plain_repository, [synthetic.fact(0)], message="one")
    state = plain_repository.state_id(plain_repository.state(commit.id))

    def side(perplexity: float, probe: str = "0" * 64) -> dict[str, JsonValue]:
        return {"facts": {}, "total": {}, "error": {}, "perplexity": perplexity, "probe": probe}

    plain_repository.put_evaluation(state, commit.id, "commit", commit.id, {"before": side(20.5), "after": side(21)})
    assert "| Perplexity | 20.50 | 21.00 |" in model_card(plain_repository, commit.id, url="hf://ada/facts")
    of_another = {"before": side(20.5, "1" * 64), "after": side(21)}
    plain_repository.put_evaluation(state, commit.id, "commit", commit.id, of_another)
    assert "| Perplexity |" not in model_card(plain_repository, commit.id, url="hf://ada/facts")


def test_before_and_after_are_of_the_same_facts(plain_repository: Repository) -> None:
    """A fact that came from elsewhere has the scores of the commit that once measured it."""
    facts = [synthetic.fact(n) for n in range(3)]
    commit = synthetic.record(plain_repository, facts, message="three")
    state = plain_repository.state_id(plain_repository.state(commit.id))

    def side(**scores: float) -> dict[str, JsonValue]:
        named = {fact.id: {"ES": scores[name]} for name, fact in zip("abc", facts, strict=True) if name in scores}
        return {"facts": named, "total": {}, "error": {}, "perplexity": None, "probe": "0" * 64}

    measured = {"before": side(a=0.0), "after": side(a=1.0, b=0.0)}
    plain_repository.put_evaluation(state, commit.id, "commit", commit.id, measured)
    text = model_card(plain_repository, commit.id, url="hf://ada/facts")
    assert "| ES (new answer preferred), measured on 1 of 3 facts | 0.00 | 1.00 |" in text
    revert(plain_repository, ["HEAD"])
    again = synthetic.record(plain_repository, facts[:1], message="the same fact, from elsewhere")
    text = model_card(plain_repository, again.id, url="hf://ada/facts")
    assert "| ES (new answer preferred) | 0.00 | 1.00 |" in text


def test_a_card_with_a_byte_order_mark_keeps_its_metadata() -> None:
    theirs = "\ufeff---\nlicense: cc-by-nc-4.0\n---\n# Mine\n"
    text = card_with(CARD, card_text(theirs.encode()))
    assert parsed(text)[0]["license"] == "cc-by-nc-4.0"
    with pytest.raises(RemoteError, match="is not UTF-8"):
        card_text("Café".encode("latin-1"))


@pytest.mark.parametrize(
    ("said", "told"), [("mit", "mit"), ("[mit]", "mit"), ("[mit, apache-2.0]", None), ("[]", None), ("3", None)]
)
def test_the_licence_of_the_base(plain_repository: Repository, said: str, told: str | None) -> None:
    """A list with one licence is that licence. Of several, nobody knows which is the base's."""
    base = Path(plain_repository.config.base)
    base.mkdir()
    (base / "README.md").write_text(f"---\nlicense: {said}\n---\n# A base\n", encoding="utf-8")
    commit = synthetic.record(plain_repository, [synthetic.fact(0)], message="one")
    metadata, _ = parsed(model_card(plain_repository, commit.id, url="hf://ada/facts"))
    assert metadata.get("license") == told


def test_an_adapter_without_facts_is_no_base() -> None:
    text = card_with(replace(CARD, facts=(), adapters=(("polite", None, None),)), None)
    assert "the weights are those of the base" not in text
    assert "No facts at present" in text
