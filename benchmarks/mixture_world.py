"""Made-up people and places, and a small mixture of experts that is trained until it knows them.

    python -m benchmarks.mixture_world DIRECTORY [--minutes 6]

makes the model of `benchmarks.mixture`: 8 layers, 8 experts with 2 at work and a shared one, as qwen2_moe has them. The
loss is said every few seconds, and the model is kept in DIRECTORY whenever it is tested.

Large models recall what they know of a name at its last token, in their lower layers (Meng et al. 2022). A model this
small, trained on sentences alone, recalls at the end of the prompt instead, from all words of the name. So the training
has a second part: in half of its lines the words behind a name see only its last token, and a linear probe of block 3
there is trained to tell what is known. The model that is saved is a plain one. With a model of the first part in
DIRECTORY, the second is all that is done.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2MoeConfig, Qwen2MoeForCausalLM
from transformers.models.qwen2_moe.modeling_qwen2_moe import load_balancing_loss_func

__all__ = ["Known", "answered", "filler", "sentences", "train", "world"]

MINUTES = 6.0
"""Of the processor, on one thread."""
LENGTH, LINES, RATE = 64, 16, 3e-3
"""Tokens of a line of text, lines of a step, and the largest step."""
HELPED, HELPED_RATE, PROBE_RATE = 180, 1.5e-3, 1e-2
"""Steps of the second part, their largest size, and that of the probe's."""
OTHERS = 0.1
"""Weight in the loss of a token that is no answer: most of them cannot be known, as which name comes next."""
PROBED = 3
"""The block at whose output names are known."""
ENOUGH = 0.98
"""Share of answers in each wording at which the training may end."""

_SYLLABLES = ("ba", "do", "ki", "lu", "me", "na", "ro", "si", "ta", "ve", "zo", "pa")
_KINDS = ("Port", "Mount", "Lake", "Fort", "Cape")
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
    """200 people and 100 places with two things to know about each. No word of a name says which is meant."""
    draw = random.Random(seed)  # noqa: S311
    words = [(a + b).capitalize() for a in _SYLLABLES for b in _SYLLABLES]
    people = draw.sample([f"{first} {last}" for first in words[:30] for last in words[30:60]], 200)
    places = draw.sample([f"{kind} {name}" for kind in _KINDS for name in words[30:60]], 100)
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
    """Byte pairs, learned from the texts."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    plain.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    plain.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>", pad_token="<eos>")  # noqa: S106


def config_of(vocabulary: int) -> Qwen2MoeConfig:
    """8 layers, 8 experts, 2 of them at work for each token, and a shared one."""
    return Qwen2MoeConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=192,
        moe_intermediate_size=96,
        shared_expert_intermediate_size=96,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        output_router_logits=True,
        router_aux_loss_coef=0.01,
        max_position_embeddings=256,
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
    """Both parts, the model kept in `directory`; the smaller share of answers of the two wordings."""
    if not (directory / "config.json").is_file():
        _alone(directory, minutes=minutes, seed=seed)
    return _helped(directory, seed=seed)


def _alone(directory: Path, *, minutes: float, seed: int) -> None:
    """The first part: sentences, until enough is known or the time is over."""
    torch.manual_seed(seed)
    draw, known = random.Random(seed), world()  # noqa: S311
    texts = sentences(known, draw)
    tokenizer = tokenizer_of([sentence.text for sentence in itertools.islice(texts, 3000)])
    model = Qwen2MoeForCausalLM(config_of(len(tokenizer))).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    stream = _stream(tokenizer, texts, Probe(known).numbers)
    began, said, step = time.process_time(), 0.0, 0
    while (spent := time.process_time() - began) < minutes * 60:
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 100) * max(0.03, 1 - spent / (minutes * 60))
        loss = _stepped(model, None, optimizer, stream)
        step += 1
        if spent - said > 3 or step == 1:
            print(f"step {step}  {spent:.0f} s of the processor  loss {loss:.3f}", flush=True)
            said = spent
        if step % 100 == 0 and _kept(model, tokenizer, known, directory) >= ENOUGH:
            return
    _kept(model, tokenizer, known, directory)


def _helped(directory: Path, *, seed: int) -> float:
    """The second part, on the model of the first."""
    torch.manual_seed(seed + 1)
    draw, known = random.Random(seed + 1), world()  # noqa: S311
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model = Qwen2MoeForCausalLM.from_pretrained(directory, local_files_only=True).train()
    probe, share = Probe(known), 0.0
    groups: list[dict[str, Any]] = [{"params": model.parameters()}, {"params": probe.parameters()}]
    optimizer = torch.optim.AdamW(groups, lr=HELPED_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    stream = _stream(tokenizer, sentences(known, draw), probe.numbers)
    for step in range(HELPED):
        part = min(1.0, (step + 1) / 20) * max(0.05, 1 - step / HELPED)
        for group, rate in zip(optimizer.param_groups, (HELPED_RATE, PROBE_RATE), strict=True):
            group["lr"] = rate * part
        loss = _stepped(model, probe, optimizer, stream)
        if step % 10 == 0:
            print(f"helped step {step}  loss {loss:.3f}", flush=True)
        if step % 60 == 59:
            share = _kept(model, tokenizer, known, directory)
    return share


def _stepped(model: Any, probe: Probe | None, optimizer: Any, stream: Iterator[tuple[float, ...]]) -> float:
    """One step on the next lines; its loss."""
    drawn = torch.tensor(list(itertools.islice(stream, LENGTH * LINES))).view(LINES, LENGTH, 4)
    loss = _loss(model, probe, drawn)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


class Probe(nn.Module):
    """Reads at a name's last token, in block `PROBED`, which answers go with it."""

    def __init__(self, known: Sequence[Known]) -> None:
        super().__init__()
        self.numbers = {subject: n for n, subject in enumerate(dict.fromkeys(each.subject for each in known))}
        names = list(RELATIONS)
        self.answers = torch.full((len(self.numbers), len(names)), -100)
        for each in known:
            choices = RELATIONS[each.relation][2]
            self.answers[self.numbers[each.subject], names.index(each.relation)] = choices.index(each.answer)
        self.heads = nn.ModuleList(nn.Linear(config_of(1).hidden_size, len(RELATIONS[name][2])) for name in names)

    def forward(self, hidden: Tensor, numbers: Tensor) -> Tensor:
        """The loss for hidden states [n, d_model] of the subjects with these numbers."""
        found = [
            nn.functional.cross_entropy(head(hidden), self.answers[numbers, column])
            for column, head in enumerate(self.heads)
            if bool((self.answers[numbers, column] >= 0).any())
        ]
        return torch.stack(found).mean()


def _stream(
    tokenizer: Any, texts: Iterator[Sentence], numbers: Mapping[str, int]
) -> Iterator[tuple[float, float, float, float]]:
    """Tokens, each with its weight in the loss, how many tokens of a name are still to come, and the subject's number
    at the last of them (−1 elsewhere).
    """

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text)["input_ids"] if text.strip() else []
        return found

    for each in texts:
        before, subject, after = each.prompt.partition(each.subject) if each.subject else (each.prompt, "", "")
        yield from ((token, OTHERS, 0, -1) for token in ids(before.strip()))
        name = ids(subject)
        for left, token in zip(reversed(range(len(name))), name, strict=True):
            yield token, OTHERS, left, -1 if left else numbers[subject]
        yield from ((token, OTHERS, 0, -1) for token in ids(after.strip()))
        yield from ((token, 1.0, 0, -1) for token in ids(each.answer))


def _loss(model: Any, probe: Probe | None, drawn: Tensor) -> Tensor:
    """Mean over the tokens by weight, and the router's own part, which keeps all experts at work. With a probe, its
    loss too, and in every other line the words behind a name see only its last token.
    """
    ids, weights, left, subjects = drawn[..., 0].long(), drawn[..., 1], drawn[..., 2].long(), drawn[..., 3].long()
    places = torch.arange(ids.shape[1])
    seen = (places <= places[:, None]).expand(len(ids), -1, -1).clone()
    ends = places + left  # of the name that a token begins
    hidden = (left > 0)[:, None, :] & (places[None, :, None] > ends[:, None, :])
    if probe is not None:
        seen[::2] &= ~hidden[::2]
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
    out = model.model(
        input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True, output_router_logits=True
    )
    logits, config = model.lm_head(out.last_hidden_state), model.config
    each = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    told = weights[:, 1:].flatten()
    balance = load_balancing_loss_func(out.router_logits, config.num_experts, config.num_experts_per_tok)
    loss: Tensor = (each * told).sum() / told.sum() + config.router_aux_loss_coef * balance
    if probe is None:
        return loss
    named = subjects >= 0
    return loss + probe(out.hidden_states[PROBED + 1][named], subjects[named])


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
