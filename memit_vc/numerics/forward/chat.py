"""A prompt as a user's turn of a chat, in the format of the tokenizer's own chat template."""

from __future__ import annotations

from typing import Any

from memit_vc.numerics.forward.tokens import Template

SEARCHED = "{}"
"""The user's words where the search for z asks in chat."""

SCORED = "Finish this sentence: {}"
"""The user's words where `chat_acc` asks: others than the search's."""

_MARK = "\ue000prompt\ue000"
"""Private use: in no template."""


def chat_template(tokenizer: Any, wording: str) -> Template | None:
    """The text around a prompt up to where the assistant's answer begins; `wording` has "{}" for the prompt.

    None for a tokenizer without a chat template, or with one that does not take a single user's turn.
    """
    text = _asked(tokenizer, wording.replace("{}", _MARK))
    if text is None:
        return None
    before, mark, after = text.partition(_MARK)
    bos = tokenizer.bos_token or ""
    if bos and before.startswith(bos) and tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]:
        before = before.removeprefix(bos)  # the tokenizer puts it there itself
    return Template(before, after) if mark else None


def chat_ids(tokenizer: Any, prompt: str) -> tuple[int, ...] | None:
    """The tokens of a chat in which the user says `prompt`, up to where the answer begins; None as above."""
    text = _asked(tokenizer, prompt)
    return None if text is None else tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _asked(tokenizer: Any, words: str) -> str | None:
    if not getattr(tokenizer, "chat_template", None):
        return None
    turn = [{"role": "user", "content": words}]
    try:
        # models that think first are asked to answer at once
        return str(
            tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        )
    except Exception:
        return None
