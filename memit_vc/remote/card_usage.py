"""The part of a model card that is to be typed: load, check, undo."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memit_vc.remote.card import Card

__all__ = ["usage"]

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for --max-lora-rank."""


def usage(card: Card) -> list[str]:
    """Sections of Markdown, headings included."""
    if card.relation == "finetune":
        return _whole(card)
    return [*_loading(card), *_checking(), *_undoing()]


def _repo(card: Card) -> str:
    return card.repo_id or "path/to/this/directory"


def _base(card: Card) -> str:
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
        f'base = "{_base(card)}"\n'
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
            f"```console\n$ vllm serve {_base(card)}{at} \\\n    --enable-lora --max-lora-rank {rank} "
            f"--lora-modules edited={_repo(card)}\n```",
        ]
    else:
        sections += [
            "vLLM takes no LoRA here; it serves the directory that `checkout` wrote:",
            "```console\n$ vllm serve edited/model\n```",
        ]
    return sections


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
