"""A prompt as a user's turn of a chat, in the format of the tokenizer's own chat template."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from memit_vc.numerics.forward.tokens import Template

SEARCHED = ("{}", "Complete this: {}", "What comes next? {}", "Continue the sentence.\n{}")
"""The user's words where a search asks in chat. With the first alone, other words in chat hardly profit."""

SCORED = "Finish this sentence: {}"
"""The user's words where `chat_acc` asks: others than the search's."""

END_SHARE = 0.25
"""The weight of the token that ends an answer, beside 1 for the target. With an equal weight, fewer answers name the
target; without any, an answer goes on behind it (docs/quality.md).
"""

_DAY = {
    "Y": "2024",
    "y": "24",
    "m": "07",
    "-m": "7",
    "d": "26",
    "-d": "26",
    "e": "26",
    "j": "208",
    "F": "2024-07-26",
    "b": "Jul",
    "B": "July",
    "a": "Fri",
    "A": "Friday",
    "H": "12",
    "I": "12",
    "M": "00",
    "S": "00",
    "p": "PM",
}
_DATED = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f" | replace('%{code}', '{value}')" for code, value in _DAY.items())
    + " }}{%- endmacro %}\n"
)
"""In front of a template: some write today's date, but a search and a score must ask the same on every day.

transformers hands data to a template, no functions, so this one is written in the template's language.
"""

_MARK, _ANSWER = "\ue000prompt\ue000", "\ue000answer\ue000"
"""Private use: in no template."""


def chat_template(tokenizer: Any, wording: str) -> Template | None:
    """The text around a prompt up to where the assistant's answer begins; `wording` has "{}" for the prompt.

    None for a tokenizer without a chat template, or with one that does not take a single user's turn.
    """
    text = _asked(tokenizer, wording.replace("{}", _MARK), before=_DATED)
    if text is None:
        return None
    before, mark, after = text.partition(_MARK)
    bos = tokenizer.bos_token or ""
    if bos and before.startswith(bos) and tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]:
        before = before.removeprefix(bos)  # the tokenizer puts it there itself
    return Template(before, after) if mark else None


def turns(tokenizer: Any) -> list[Template]:
    """The texts around a prompt with which a search asks in chat, and what ends an answer there; none as above.

    A template that writes more than space between the question and the answer has none: a model that thinks first
    should not learn to answer within its thoughts.
    """
    found = [(wording, chat_template(tokenizer, wording)) for wording in SEARCHED]
    made = [_answered(tokenizer, wording, turn) for wording, turn in found if turn is not None]
    return [turn for turn in made if turn is not None]


def _answered(tokenizer: Any, wording: str, turn: Template) -> Template | None:
    """The turn as the template writes it with an answer behind."""
    question = {"role": "user", "content": wording.replace("{}", _MARK)}
    whole = _rendered(tokenizer, [question, {"role": "assistant", "content": _ANSWER}], _DATED)
    if whole is None:  # it takes no answer
        return turn
    before, answer, end = whole.partition(_ANSWER)
    behind = before.partition(_MARK)[2]
    between = behind.removeprefix(turn.suffix)
    if not answer or not behind.startswith(turn.suffix) or between.strip():
        return None
    return replace(turn, between=between, end=end.lstrip(), end_share=END_SHARE)


def chat_ids(tokenizer: Any, prompt: str) -> tuple[int, ...] | None:
    """The tokens of a chat in which the user says `prompt`, up to where the answer begins; None as above."""
    text = _asked(tokenizer, prompt)
    return None if text is None else tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _asked(tokenizer: Any, words: str, before: str = "") -> str | None:
    """`before` is put in front of the template."""
    return _rendered(tokenizer, [{"role": "user", "content": words}], before, add_generation_prompt=True)


def _rendered(tokenizer: Any, said: list[dict[str, str]], before: str, **options: Any) -> str | None:
    if not getattr(tokenizer, "chat_template", None):
        return None
    try:
        # models that think first are asked to answer at once
        options |= {"chat_template": before + tokenizer.get_chat_template(), "enable_thinking": False}
        return str(tokenizer.apply_chat_template(said, tokenize=False, **options))
    except Exception:
        return None
