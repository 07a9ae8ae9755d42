"""The model card of a pushed repository, for a reader who has never heard of memit-vc.

Our part stands between two markers, and what a user writes around them stays. In the metadata, our keys are set and all
others stay.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from memit_vc.errors import RemoteError
from memit_vc.foreign.data import yaml_value
from memit_vc.foreign.refused import Refused
from memit_vc.foreign.text import BIDI
from memit_vc.progress import count
from memit_vc.remote.manifest import PICTURES

BEGIN = "<!-- memitvc: begin. Written by `memitvc push`; what stands outside these two markers is yours and stays. -->"
END = "<!-- memitvc: end -->"
_BEGIN = "<!-- memitvc: begin"
SHOWN = 100
"""Facts in the table; the repository has all of them."""
_LONGEST = 200
_PLAIN = frozenset(" .,;?'()+=%°")
"""Punctuation that means nothing inside a line of Markdown; all other ASCII punctuation is written as an entity."""
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for --max-lora-rank."""


@dataclass(frozen=True)
class CardFact:
    """One live fact. `learnt`: the share of the new answer's tokens that are the most likely ones, if measured."""

    prompt: str
    target: str
    ground_truth: str | None
    learnt: float | None


@dataclass(frozen=True)
class Card:
    """What a card says. `repo_id` is None for a plain directory, `base` for a base that is not on the Hub.

    `scores` are (name, before, after), as text; `scored_on` says on which weights. `rank` is that of the adapter at the
    root, None if there is none. `relation` is Hugging Face's word for what this is to its base; a finetune is a
    whole checkpoint, which may have the history in another repository, `history`. `branch` is one of the Hub's.
    `vllm`: whether vLLM takes a LoRA for models of this family.
    """

    repo_id: str | None
    base: str | None
    base_revision: str | None
    base_id: str
    license: str | None
    commit: str
    state: str
    commits: int
    facts: tuple[CardFact, ...]
    scores: tuple[tuple[str, str, str], ...]
    scored_on: str
    rank: int | None
    relation: Literal["adapter", "finetune"]
    history: str | None = None
    branch: str = "main"
    vllm: bool = False
    base_about: str = ""
    """What a base is that is not on the Hub, in words. The name of its directory is private."""
    adapters: tuple[tuple[str, str | None, str | None], ...] = ()
    """Of each adapter that is in the weights: name, licence, source."""
    pictured: bool = False
    """Whether the pictures of history and scores are beside the card."""


def card_with(card: Card, existing: str | None) -> str:
    """README.md: our part in place of the old one, or after what there is. RemoteError for metadata that is not YAML.

    The same card gives the same text, so that a push that changes nothing changes no README.
    """
    import yaml
    from huggingface_hub.repocard import REGEX_YAML_BLOCK  # the Hub's own idea of where metadata ends

    text = existing if existing is not None and existing.strip() else ""
    block = REGEX_YAML_BLOCK.search(text)
    try:
        metadata: Any = yaml_value(block[2].encode()) if block else None
    except Refused as error:
        raise _unreadable(str(error)) from error
    except yaml.YAMLError as error:
        raise _unreadable(" ".join(str(error).split())) from error
    if metadata is not None and not isinstance(metadata, dict):
        raise _unreadable("it is not a mapping of names to values")
    front = yaml.safe_dump(_metadata(card, metadata or {}), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n{_placed(_part(card), text[block.end() :] if block else text)}"


def card_text(data: bytes) -> str:
    """A README.md as it lies there. RemoteError if it is not UTF-8: its author's text would be lost."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RemoteError(
            f"README.md of the remote: is not UTF-8: {error.reason}", hint="Save it as UTF-8, then push again."
        ) from error


def _unreadable(why: str) -> RemoteError:
    return RemoteError(
        f"README.md of the remote: its metadata cannot be read: {why}",
        hint="Correct the lines between the two --- at its top, then push again.",
    )


def _metadata(card: Card, found: Mapping[str, Any]) -> dict[str, Any]:
    ours: dict[str, Any] = {"library_name": _library(card)}
    if card.base is not None:
        ours |= {"base_model": card.base, "base_model_relation": card.relation}
    said = found.get("tags")
    tags = said if isinstance(said, list) else [said] if isinstance(said, str) else []
    more = ["memit-vc", "model-editing", "knowledge-editing", "memit"]
    merged = {**({"license": card.license} if card.license else {}), "pipeline_tag": "text-generation", **found, **ours}
    return {**merged, "tags": list(dict.fromkeys([*tags, *more]))}


def _library(card: Card) -> str:
    """What loads the files at the root."""
    if card.relation == "finetune":
        return "transformers"
    return "memit-vc" if card.rank is None else "peft"


def _placed(part: str, text: str) -> str:
    start = text.find(_BEGIN)
    end = text.find(END, max(start, 0))  # one that stands before is the user's own
    if 0 <= start < end:
        return f"{text[:start]}{part}{text[end + len(END) :]}"
    body = text.strip("\n")
    return f"\n{body}\n\n{part}\n" if body else f"\n{part}\n"


def _part(card: Card) -> str:
    facts = count(len(card.facts), "fact")
    base = f"[{card.base}](https://huggingface.co/{card.base})" if card.base else "a language model"
    name = card.base.rpartition("/")[2] if card.base else "A language model"
    title = f"# {cell(name)} with {facts} edited"
    kind = (
        "This is the whole edited model: load it as you would load the base."
        if card.relation == "finetune"
        else "This repository does not hold a model but an edit: small low-rank patches, with their whole history, "
        "that turn the base into the edited model."
    )
    sections = [
        BEGIN,
        title,
        f"Someone changed what {base} says about {facts}, directly in its weights, without training. {kind}\n\n"
        "It was made with memit-vc: version control for the facts inside a language model. The edits are found by "
        "MEMIT ([Meng et al. 2023](https://arxiv.org/abs/2210.07229)); each batch is a commit that can be taken out "
        "again, to the bit.",
        "**The new answers need not be true.** They are what the author asked for. Read the table before you use this.",
        "## What was edited",
        _facts(card),
        "## Base and licence",
        _base(card),
        *(["## History", f"![The commits, the newest first]({PICTURES[0]})"] if card.pictured else []),
        *(["## Scores", *_picture(card), _scores(card)] if card.scores else []),
        *_usage(card),
        END,
    ]
    return "\n\n".join(sections)


def _picture(card: Card) -> list[str]:
    return [f"![The table below, as bars]({PICTURES[1]})"] if card.pictured else []


def _facts(card: Card) -> str:
    if not card.facts and card.adapters:
        return "No facts at present: the weights hold what is named below."
    if not card.facts:
        return "Nothing at present: the weights are those of the base."
    rows = [
        (
            cell(fact.prompt),
            f"**{cell(fact.target)}**",
            "" if fact.ground_truth is None else cell(fact.ground_truth),
            "–" if fact.learnt is None else f"{fact.learnt:.0%}",
        )
        for fact in card.facts[:SHOWN]
    ]
    columns = ("Prompt", "The edited model should say", "Instead of", "Learnt")
    keep = 4 if any(fact.learnt is not None for fact in card.facts[:SHOWN]) else 3
    text = _table(columns[:keep], [row[:keep] for row in rows])
    text += "\n\n*Instead of*: the old answer, as the author of the edit gave it; the base may say something else."
    if keep == 4:
        text += " *Learnt*: 100% if every token of the new answer is the most likely one, else 0%"
        text += ", – where nobody measured." if any(row[3] == "–" for row in rows) else "."
    if len(card.facts) > SHOWN:
        more = "`memitvc facts` lists them" if card.relation == "finetune" else "`commits/` holds them"
        text += f"\n\nThese are the first {SHOWN} of {len(card.facts):,}; {more} all."
    return text


def _base(card: Card) -> str:
    lines = []
    if card.base is not None:
        at = f", revision `{card.base_revision}`" if card.base_revision else ""
        lines.append(f"- Base: [{card.base}](https://huggingface.co/{card.base}){at}")
    else:
        about = cell(card.base_about)
        need = "" if card.relation == "finetune" else " You need the same one to use this: ask the author."
        lines.append(f"- Base: a checkpoint that is not on the Hub{f': {about}' if about else ''}.{need}")
    lines.append(f"- Fingerprint of the base's tensors: `{card.base_id}`")
    look = "that of the base; look there" if card.base is not None else "that of the base"
    licence = f"`{cell(card.license)}`, that of the base" if card.license else look
    lines.append(f"- Licence: {licence}")
    for name, its, source in card.adapters:
        told = f"licence {f'`{cell(its)}`' if its else 'unknown'}{f', from {cell(source)}' if source else ''}"
        lines.append(f"- In the weights, too: the adapter {cell(name)}, {told}")
    history = f"the last of {count(card.commits, 'commit')}" if card.commits > 1 else "the only one"
    lines.append(
        f"- Edits: commit `{card.commit[:10]}`, {history}; `memitvc verify` names this state `{card.state[:10]}`"
    )
    return "\n".join(lines)


_MEASURES = {
    "ES": "*ES*: prompts where the new answer is more likely than the old one.",
    "PS": "*PS*: the same on paraphrases.",
    "NS": "*NS*: neighbouring prompts that keep their true answer.",
    "Learnt": "*Learnt*: as in the table above, the mean.",
    "Perplexity": "*Perplexity* is of a text that is not about the facts; lower is better.",
}


def _scores(card: Card) -> str:
    known = " ".join(text for name, text in _MEASURES.items() if any(row[0].startswith(name) for row in card.scores))
    explained = f"{known} These are samples, not proofs: an edit can change what nobody measured.".strip()
    return f"{_table(('', 'Before', 'After'), list(card.scores))}\n\nMeasured {card.scored_on}. {explained}"


def _usage(card: Card) -> list[str]:
    """Sections of Markdown, headings included."""
    if card.relation == "finetune":
        return _whole(card)
    return [*_loading(card), *_llama_cpp(), *_checking(), *_undoing()]


def _repo(card: Card) -> str:
    return card.repo_id or "path/to/this/directory"


def _base_place(card: Card) -> str:
    return card.base or "path/to/the/base"


def _clone(card: Card) -> str:
    base = "" if card.base else " --base path/to/the/base"
    return f"memitvc clone {_repo(card)}{'' if card.branch == 'main' else f'@{card.branch}'} edited{base}"


def _place(card: Card) -> str:
    """What `memit_vc.from_pretrained` takes: the repository itself where its base is known too, else the clone."""
    if card.repo_id is None or card.base is None:
        return "edited"
    return card.repo_id if card.branch == "main" else f"{card.repo_id}@{card.branch}"


def _at(card: Card) -> str:
    """An argument of `from_pretrained`: the branch of the Hub where it is not main."""
    return "" if card.branch == "main" else f', revision="{card.branch}"'


def _loading(card: Card) -> list[str]:
    sections = [
        "## How to load it",
        "With memit-vc, exactly as it was made. Install it (its repository says how), then:",
        f"```console\n$ {_clone(card)}\n$ memitvc -C edited checkout HEAD -o model\n```",
        "`edited/model` is now a directory that transformers, vLLM and everything else loads. Or, in Python:",
        f'```python\nimport memit_vc\n\nmodel = memit_vc.from_pretrained("{_place(card)}")\n```',
    ]
    if card.rank is None:
        return [*sections, "There is no adapter for PEFT or vLLM here; `memitvc export --adapter DIR` makes one."]
    revision = f', revision="{card.base_revision}"' if card.base_revision else ""
    sections += [
        f"With [PEFT](https://huggingface.co/docs/peft), without memit-vc (a LoRA of rank {card.rank}):",
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'base = "{_base_place(card)}"\n'
        f"tokenizer = AutoTokenizer.from_pretrained(base{revision})\n"
        f"model = AutoModelForCausalLM.from_pretrained(base{revision})\n"
        f'model = PeftModel.from_pretrained(model, "{_repo(card)}"{_at(card)})\n'
        f"{_asking(card)}```",
    ]
    # vLLM has an upper limit, and takes an adapter of the Hub from main only: otherwise the checkout is the way
    if card.vllm and card.rank <= _RANKS[-1] and card.branch == "main":
        rank = next(each for each in _RANKS if each >= card.rank)
        at = f" --revision {card.base_revision}" if card.base_revision else ""
        sections += [
            f"With vLLM ({rank} is the smallest it takes for a rank of {card.rank}):",
            f"```console\n$ vllm serve {_base_place(card)}{at} \\\n    --enable-lora --max-lora-rank {rank} "
            f"--lora-modules edited={_repo(card)}\n```",
        ]
    else:
        sections += [
            "vLLM takes no LoRA here; it serves the directory that `checkout` wrote:",
            "```console\n$ vllm serve edited/model\n```",
        ]
    return sections


def _llama_cpp() -> list[str]:
    return [
        "With llama.cpp, or with [Ollama](https://ollama.com), which takes no adapter: put the edit into a GGUF of the "
        "base, of any type. Only the edited tensors change.",
        "```console\n$ memitvc -C edited export --gguf edited.gguf --base-gguf /path/to/base.gguf\n"
        "$ llama-cli -m edited/edited.gguf\n"
        "$ echo 'FROM ./edited/edited.gguf' > Modelfile\n$ ollama create edited -f Modelfile\n```",
    ]


def _asking(card: Card) -> str:
    """Lines that put the first fact's prompt to the model."""
    if not card.facts:
        return ""
    prompt = card.facts[0].prompt
    quoted = json.dumps(prompt, ensure_ascii=not prompt.isprintable()).replace("<", "\\u003c")  # no marker of ours
    return (
        f'\ninputs = tokenizer({quoted}, return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=5)[0]))\n"
    )


def _checking() -> list[str]:
    return [
        "## How to check it",
        "Every file under `objects/` is named by its SHA-256, and `clone` checks each of them. `verify` hashes every "
        "tensor of a model directory and says which state it is:",
        "```console\n$ cd edited\n$ memitvc verify model\n$ memitvc log\n$ memitvc facts\n```",
    ]


def _undoing() -> list[str]:
    return [
        "## How to undo it",
        "In your clone, take out one commit, or one fact, wherever it is in the history; this repository stays as it "
        "is. What is left is, bit for bit, what the model would be without it:",
        "```console\n$ memitvc log\n$ memitvc revert COMMIT\n$ memitvc revert COMMIT --fact SUBJECT\n"
        "$ memitvc checkout HEAD --in-place model\n```",
        "To undo everything, use the base. With PEFT, `with model.disable_adapter():` gives its answers.",
    ]


def _whole(card: Card) -> list[str]:
    repo = _repo(card)
    history, revision = card.history, "" if card.branch == "main" else f" --revision {card.branch}"
    base = "" if card.base else " --base path/to/the/base"
    sections = [
        "## How to load it",
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{repo}"{_at(card)})\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{repo}"{_at(card)})\n```',
        f"```console\n$ vllm serve {repo}{revision}\n```",
        "There is no adapter here and PEFT is not needed.",
        "## How to check it, and how to undo it",
    ]
    if history is None:
        return [
            *sections,
            "The edits themselves, with their history, were not published with this model: ask for them. To undo "
            "everything, use the base.",
        ]
    return [
        *sections,
        f"The edits, with their history, are in [{history}](https://huggingface.co/{history.partition('@')[0]}). "
        "`verify` hashes every tensor and says which commit this model is; `revert` takes a commit out, to the bit. "
        "Install memit-vc (its repository says how), then:",
        f"```console\n$ memitvc clone {history} edited{base}\n$ cd edited\n"
        f"$ hf download {repo}{revision} --local-dir model\n$ memitvc verify model\n$ memitvc revert COMMIT\n"
        "$ memitvc checkout HEAD -o repaired\n```",
    ]


def cell(text: str) -> str:
    """One line that every Markdown renderer shows as `text` and nothing else: an entity never starts markup.

    A stranger's fact may hold pipes, newlines, HTML, links, or our own markers.
    """
    kept = (" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in re.sub(f"[{BIDI}]", "", text))
    line = " ".join("".join(kept).split())
    if len(line) > _LONGEST:
        line = line[: _LONGEST - 1] + "…"
    # "www." alone makes a link in GitHub's dialect
    line = "".join(
        c if c.isalnum() or not c.isascii() or c in _PLAIN or _joins(line, i) else f"&#{ord(c)};"
        for i, c in enumerate(line)
    )
    return re.sub(r"(?i)\b(www)\.", r"\1&#46;", line)


def _joins(line: str, place: int) -> bool:
    """Whether a hyphen stands inside of a word, where it starts no list and no rule."""
    return line[place] == "-" and line[place - 1 : place].isalnum() and line[place + 1 : place + 2].isalnum()


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; the cells are Markdown already."""
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
