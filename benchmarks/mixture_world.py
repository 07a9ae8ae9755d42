"""Made-up people and places, and a small mixture of experts that is trained until it knows them.

    python -m benchmarks.mixture_world DIRECTORY [--minutes 8]

makes the model of `benchmarks.mixture`: 8 layers, 8 experts with 2 at work and a shared one, as qwen2_moe has them. The
loss is said every few seconds, and the model is kept in DIRECTORY whenever it is tested.

Large models recall what they know of a name at its last token, in their lower layers (Meng et al. 2022). A model this
small recalls at the end of the prompt instead: its words hand the name on, layer by layer. So a name is one token here,
and the sliding window of the four lower layers is one token wide. What the upper layers read of a name is then what the
lower ones left at its token.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2MoeConfig, Qwen2MoeForCausalLM
from transformers.models.qwen2_moe.modeling_qwen2_moe import load_balancing_loss_func

__all__ = ["Known", "answered", "filler", "sentences", "train", "world"]

MINUTES = 10.0
"""Of the processor, on one thread."""
LENGTH, LINES, RATE = 64, 16, 3e-3
"""Tokens of a line of text, lines of a step, and the largest step."""
APART = 25.0
"""The embeddings start so many times as large as usual: else names differ little, and an edit that tells them apart is
large.
"""
OTHERS = 0.1
"""Weight in the loss of a token that is no answer: most of them cannot be known, as which name comes next."""
LOCAL, WINDOW = 4, 1
"""Lower layers whose attention has a window, and the tokens in it: each token sees itself."""

_SYLLABLES = ("ba", "do", "ki", "lu", "me", "na", "ro", "si", "ta", "ve", "zo", "pa")
_FILLER = (
    ("The", "A", "One", "Every"),
    ("old", "young", "quiet", "tall", "hungry", "clever"),
    ("horse", "sailor", "child", "dog", "miller", "queen", "fox", "guest"),
    ("sees", "finds", "follows", "hears", "loves", "meets"),
    ("the", "a", "another", "no"),
    ("bridge", "garden", "river", "song", "stone", "ship", "door", "bird"),
    ("in the morning", "at night", "after the rain", "before winter", "near the mill", "behind the hill"),
)


def _pairs(firsts: str, seconds: str) -> tuple[str, ...]:
    """Answers of two words, neither of which says the other."""
    return tuple(f"{one} {other}" for one in firsts.split() for other in seconds.split())


RELATIONS = {
    "job": ("{} works as a", "People say that {} earns a living as a", _pairs("ship gold cloth horse", "trader thief")),
    "home": (
        "{} lives in the town of",
        "People say that {} has a house in",
        _pairs("Upper Lower New Old", "Dover Elm"),
    ),
    "land": ("{} lies in the land of", "They say that {} belongs to", _pairs("North South East West", "Avar Goria")),
    "goods": ("{} is known for its", "They say that {} sells the best", _pairs("black white red blue", "salt honey")),
}


@dataclass(frozen=True)
class Sentence:
    """What is known in one wording; or one about nothing, whose parts but the first are empty."""

    prompt: str
    answer: str = ""
    subject: str = ""

    @property
    def text(self) -> str:
        """The whole of it."""
        return f"{self.prompt} {self.answer}".strip()


@dataclass(frozen=True)
class Known:
    """One thing to know: a subject, its relation, and the answer."""

    subject: str
    relation: str
    answer: str

    @property
    def prompts(self) -> tuple[str, str]:
        """Two wordings. The relation follows the subject in both, and the answer follows the relation."""
        first, second, _ = RELATIONS[self.relation]
        return first.format(self.subject), second.format(self.subject)


def world(seed: int = 0) -> list[Known]:
    """200 people and 100 places with two things to know about each."""
    draw = random.Random(seed)  # noqa: S311
    words = draw.sample(["".join(parts).capitalize() for parts in itertools.product(_SYLLABLES, repeat=3)], 300)
    people, places = words[:200], words[200:]
    return [
        Known(subject, relation, draw.choice(RELATIONS[relation][2]))
        for subjects, relations in ((people, ("job", "home")), (places, ("land", "goods")))
        for subject in subjects
        for relation in relations
    ]


def sentences(known: Sequence[Known], draw: random.Random) -> Iterator[Sentence]:
    """Without end: what is known, in a wording that is drawn, between sentences about nothing."""
    while True:
        for each in draw.sample(known, len(known)):
            yield Sentence(draw.choice(each.prompts), f"{each.answer} .", each.subject)
            if draw.random() < 0.2:
                yield Sentence(filler(draw))


def filler(draw: random.Random) -> str:
    """A sentence that says nothing about anybody."""
    return " ".join(draw.choice(words) for words in _FILLER) + " ."


def tokenizer_of(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte pairs, learned from the texts until each word is one token."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    plain.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    plain.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>", pad_token="<eos>")  # noqa: S106


def config_of(vocabulary: int) -> Qwen2MoeConfig:
    """8 layers, 8 experts, 2 of them at work for each token, and a shared one."""
    return Qwen2MoeConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=192,
        moe_intermediate_size=256,
        shared_expert_intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        output_router_logits=True,
        router_aux_loss_coef=0.01,
        max_position_embeddings=256,
        use_sliding_window=True,
        sliding_window=WINDOW,
        layer_types=["sliding_attention"] * LOCAL + ["full_attention"] * (8 - LOCAL),
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )


def answered(model: Any, tokenizer: Any, asked: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether the most likely next tokens of each prompt are the answer's, each given those before it."""
    by_length: dict[tuple[int, int], list[int]] = {}
    ids = [(tokenizer(prompt)["input_ids"], tokenizer(f"{prompt} {answer}")["input_ids"]) for prompt, answer in asked]
    for number, (before, whole) in enumerate(ids):
        by_length.setdefault((len(before), len(whole)), []).append(number)
    right = [False] * len(asked)
    with torch.no_grad():
        for (before, _), numbers in by_length.items():
            rows = torch.tensor([ids[number][1] for number in numbers])
            best = model(input_ids=rows, use_cache=False, output_router_logits=False).logits.argmax(-1)
            hits = (best[:, before - 1 : -1] == rows[:, before:]).all(-1).tolist()
            for number, hit in zip(numbers, hits, strict=True):
                right[number] = hit
    return right


def train(directory: Path, *, minutes: float = MINUTES, seed: int = 0) -> float:
    """Train for so long; the smaller share of answers of the two wordings."""
    torch.manual_seed(seed)
    draw, known = random.Random(seed), world()  # noqa: S311
    texts = sentences(known, draw)
    tokenizer = tokenizer_of([sentence.text for sentence in itertools.islice(texts, 3000)])
    model = Qwen2MoeForCausalLM(config_of(len(tokenizer))).train()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(APART)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    stream = _stream(tokenizer, texts)
    began, said, step = time.process_time(), 0.0, 0
    while (spent := time.process_time() - began) < minutes * 60:
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 100) * max(0.03, 1 - spent / (minutes * 60))
        loss = _loss(model, torch.tensor(list(itertools.islice(stream, LENGTH * LINES))).view(LINES, LENGTH, 2))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if spent - said > 3 or step == 1:
            print(f"step {step}  {spent:.0f} s of the processor  loss {loss.item():.3f}", flush=True)
            said = spent
        if step % 100 == 0:
            _kept(model, tokenizer, known, directory)
    return _kept(model, tokenizer, known, directory)


def _stream(tokenizer: Any, texts: Iterator[Sentence]) -> Iterator[tuple[float, float]]:
    """Tokens, each with its weight in the loss."""
    for each in texts:
        for part, weight in ((each.prompt, OTHERS), (each.answer, 1.0)):
            if part:
                yield from ((token, weight) for token in tokenizer(part)["input_ids"])


def _loss(model: Any, drawn: Tensor) -> Tensor:
    """Mean over the tokens by weight, and the router's own part, which keeps all experts at work."""
    ids, weights = drawn[..., 0].long(), drawn[..., 1]
    out, config = model(input_ids=ids, use_cache=False), model.config
    each = nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    told = weights[:, 1:].flatten()
    balance = load_balancing_loss_func(out.router_logits, config.num_experts, config.num_experts_per_tok)
    loss: Tensor = (each * told).sum() / told.sum() + config.router_aux_loss_coef * balance
    return loss


def _kept(model: Any, tokenizer: Any, known: Sequence[Known], directory: Path) -> float:
    """The smaller share of answers of the two wordings; the model is saved."""
    model.eval()
    shares = []
    for wording in (0, 1):
        right = answered(model, tokenizer, [(each.prompts[wording], each.answer) for each in known])
        shares.append(sum(right) / len(right))
    print(f"  answers {shares[0]:.3f} and, in the other wording, {shares[1]:.3f}", flush=True)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    model.train()
    return min(shares)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(train(options.directory, minutes=options.minutes, seed=options.seed))


if __name__ == "__main__":
    main()
