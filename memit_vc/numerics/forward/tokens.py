"""The rows of prompts and targets, and where the subject is among the tokens, from character offsets of the prompt.

Never from decode-and-re-encode: that drifts as soon as a tokenizer adds a BOS, or writes a word start as a character of
its own. A row holds the prompt's own ids, as a generator gets them, and behind them the target's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from memit_vc.errors import EngineError, UnsupportedModelError
from memit_vc.foreign.text import is_unicode
from memit_vc.objects.seen import is_east_asian, is_spaceless

_ANCHORS = ("\n", ".", "1", "a", "。")
"""Texts with which a continuation is tokenised, until one is found with which it does not merge."""

Target: TypeAlias = "str | tuple[int, ...]"
"""What stands behind a prompt: a text, or the ids that a model wrote there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A text as the model sees it, special tokens in front included, special tokens behind (an EOS) left out.

    `offsets[i]` is the character span [start, end) of token i; `special[i]` marks tokens that stand for no text.
    """

    text: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    special: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """One row of a teacher-forced forward: `labels[j]` is to be predicted at position `positions[j]` of `ids`."""

    ids: tuple[int, ...]
    pivot: int
    """Index of the subject's last token; 0 if no subject is asked for."""
    positions: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    """Of each label, its weight in the row's loss; empty: equal weights with the sum 1."""


@dataclass(frozen=True, slots=True)
class Template:
    """A context template: the prompt goes between `prefix` and `suffix`. Joined, never formatted: braces are text.

    `between` stands before a target; None: what `join_target` puts there. `end` stands behind it: the first token of it
    is to be predicted, too. Its weight in the loss is `end_share`, that of the whole target is 1.
    """

    prefix: str
    suffix: str = ""
    between: str | None = None
    end: str = ""
    end_share: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Template:
        """Split at the one "{}"; EngineError if there is none."""
        prefix, braces, suffix = text.partition("{}")
        if not braces:
            raise EngineError(f"context template {text!r} has no {{}}", hint='Write "{}" where the prompt goes.')
        return cls(prefix, suffix)

    def fill(self, prompt: str) -> str:
        return self.prefix + prompt + self.suffix

    def span(self, span: tuple[int, int]) -> tuple[int, int]:
        """Where a span of the prompt lies in the filled text."""
        return span[0] + len(self.prefix), span[1] + len(self.prefix)


def check_offsets(tokenizer: Any) -> None:
    """UnsupportedModelError for a tokenizer that does not say which characters a token stands for."""
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedModelError(
            f"{type(tokenizer).__name__} gives no character offsets, so the subject's tokens cannot be found safely",
            hint="Load a fast tokenizer: AutoTokenizer.from_pretrained(…, use_fast=True), or convert it.",
        )


def encode(tokenizer: Any, texts: Sequence[str]) -> list[Encoded]:
    """Tokenise each text on its own (no padding). UnsupportedModelError for a tokenizer without offsets; EngineError
    for a text that is not Unicode: half of a character, or bytes of another encoding.
    """
    check_offsets(tokenizer)
    if not texts:
        return []
    for text in texts:
        if not is_unicode(text):
            raise EngineError(f"{text!r} is not text in UTF-8", hint="Save it, or type it, in UTF-8.")
    batch = tokenizer(
        list(texts), return_offsets_mapping=True, return_special_tokens_mask=True, return_attention_mask=False
    )
    encoded = []
    for text, ids, offsets, special in zip(
        texts, batch["input_ids"], batch["offset_mapping"], batch["special_tokens_mask"], strict=True
    ):
        end = len(ids)
        while end and special[end - 1] and end - 1 > 0:
            end -= 1
        encoded.append(
            Encoded(
                text=text,
                ids=tuple(ids[:end]),
                offsets=tuple((int(a), int(b)) for a, b in offsets[:end]),
                special=tuple(bool(s) for s in special[:end]),
            )
        )
    return encoded


def last_token(encoded: Encoded, span: tuple[int, int]) -> int:
    """Index of the token that holds the last character of `span`.

    A character spelled by several byte tokens belongs to the last of them. Where a tokenizer drops that character
    (trailing space, a stripped accent), the last token that still lies inside the span counts.
    """
    start, end = span
    inside = -1
    for index, (a, b) in enumerate(encoded.offsets):
        if encoded.special[index] or a == b:
            continue
        if a < end <= b or (start < b <= end):
            inside = index
    if inside < 0:
        raise EngineError(
            f"no token covers {encoded.text[start:end]!r} in {encoded.text!r}",
            hint="Choose another spelling of the subject: the tokenizer drops this one.",
        )
    return inside


def join_target(text: str, target: str) -> str:
    """The text with the target behind it: one space between, but none in scripts that are written without spaces."""
    if not target or target[0].isspace() or text[-1:].isspace():
        return text + target
    before = text[-1:]  # in Chinese and Japanese, none before a year or a bracket either
    within = is_spaceless(before) and is_east_asian(before) and not target[0].isalpha()
    return text + ("" if within or is_spaceless(target[0]) else " ") + target


def target_rows(
    tokenizer: Any,
    asked: Sequence[tuple[str, Target]],
    *,
    spans: Sequence[tuple[int, int]] | None = None,
    between: Sequence[str | None] | None = None,
) -> list[TokenRow]:
    """The teacher-forced row of each (prompt, target), its last token left out; `spans` are the subjects', `between`
    stands before the targets.

    What is trained and scored is what generation sees: the ids that a generator gets for the prompt alone, and the
    target's ids behind them. Where a tokenizer would merge across the boundary, it does not here.
    """
    texts = list(dict.fromkeys(prompt for prompt, _ in asked))
    prompts = dict(zip(texts, encode(tokenizer, texts), strict=True))
    gaps = between or [None] * len(asked)
    spelt = {
        (text, target, gap): join_target(text, target) if gap is None else text + gap + target.lstrip()
        for (text, target), gap in zip(asked, gaps, strict=True)
        if isinstance(target, str)
    }
    joined = dict(zip(spelt, encode(tokenizer, [*spelt.values()]), strict=True))
    rows = []
    for number, (text, target) in enumerate(asked):
        prompt = prompts[text]
        start = len(prompt.ids)
        labels = _behind(tokenizer, prompt, joined[text, target, gaps[number]]) if isinstance(target, str) else target
        if not labels:
            raise EngineError(
                f"the target {target!r} of {text!r} has no token of its own",
                hint="Choose another spelling of the target: the tokenizer drops this one.",
            )
        if not start:
            raise EngineError(
                f"nothing precedes the target {target!r}, so it cannot be predicted",
                hint="Give the prompt at least one token.",
            )
        rows.append(
            TokenRow(
                ids=(*prompt.ids, *labels[:-1]),
                pivot=0 if spans is None else last_token(prompt, spans[number]),
                positions=tuple(range(start - 1, start - 1 + len(labels))),
                labels=labels,
            )
        )
    return rows


def _behind(tokenizer: Any, prompt: Encoded, whole: Encoded) -> tuple[int, ...]:
    """The ids of what `whole` has behind the prompt; tokenised apart where a token would span the prompt's end.

    Apart, but behind an anchor: SentencePiece puts a space before a text that stands alone.
    """
    start = len(prompt.ids)
    if len(whole.ids) > start and whole.ids[:start] == prompt.ids:
        return whole.ids[start:]
    return apart(tokenizer, whole.text[len(prompt.text) :])


def apart(tokenizer: Any, continuation: str) -> tuple[int, ...]:
    """The ids of a text that stands behind other text."""
    for anchor in _ANCHORS:
        before, both = tokenizer([anchor, anchor + continuation], add_special_tokens=False)["input_ids"]
        if before and both[: len(before)] == before:
            return tuple(both[len(before) :])
    return tuple(tokenizer(continuation, add_special_tokens=False)["input_ids"])
