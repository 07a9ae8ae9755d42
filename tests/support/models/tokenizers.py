"""Fast tokenizers of the three kinds that matter for offsets, trained in a moment on a page of English."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.support.models.facts import FACTS
from tests.support.models.texts import SENTENCES

__all__ = ["Kind", "tokenizer"]

Kind = Literal["byte_bpe", "metaspace", "wordpiece"]
_SIZE = 480
_UNKNOWN = "<unk>"


def tokenizer(kind: Kind = "byte_bpe") -> PreTrainedTokenizerFast:
    """A new tokenizer object of a kind; what it knows is the same every time.

    byte_bpe: GPT-2's, no special tokens around a text. metaspace: Llama 2's, "▁" for a space and in front of the text,
    a BOS, unknown characters as bytes. wordpiece: BERT's, lower-case without accents, [CLS] … [SEP].
    """
    serialised, special = _trained(kind)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(serialised), **special)


@cache
def _trained(kind: Kind) -> tuple[str, Mapping[str, str]]:
    return _KINDS[kind]()


def _corpus() -> list[str]:
    return [*SENTENCES, *(f"{fact.prompt} {fact.target}." for fact in FACTS for _ in range(2))]


def _byte_bpe() -> tuple[str, Mapping[str, str]]:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_SIZE,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(_corpus(), trainer)
    return made.to_str(), {"eos_token": "<|end|>", "pad_token": "<|end|>"}


def _metaspace() -> tuple[str, Mapping[str, str]]:
    made = Tokenizer(models.BPE(unk_token=_UNKNOWN))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=_SIZE - 256, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    made.train_from_iterator(_corpus(), trainer)
    trained = json.loads(made.to_str())["model"]
    vocabulary: dict[str, int] = dict(trained["vocab"])
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    merges = [tuple(pair) for pair in trained["merges"]]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token=_UNKNOWN, byte_fallback=True, fuse_unk=True))
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return made.to_str(), {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def _wordpiece() -> tuple[str, Mapping[str, str]]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made = Tokenizer(models.WordPiece(unk_token=special[1]))
    made.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=_SIZE, special_tokens=special, show_progress=False)
    made.train_from_iterator(_corpus(), trainer)
    ends = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    return made.to_str(), {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}


_KINDS: dict[Kind, Callable[[], tuple[str, Any]]] = {
    "byte_bpe": _byte_bpe,
    "metaspace": _metaspace,
    "wordpiece": _wordpiece,
}
