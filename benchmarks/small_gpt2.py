"""python -m benchmarks.small_gpt2 DIRECTORY --corpus FILE.jsonl: a GPT-2 trained for minutes: another family.

It has six layers and its own byte pairs, and writes sentences without meaning. One text in ten is kept from it, the
same ones as elsewhere in the benchmarks. It is there to see whether an order that the demo's model shows holds.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.real import HELD_OUT

LENGTH, LINES, RATE = 128, 16, 1e-3


def train(directory: Path, texts: list[str], *, minutes: float, seed: int = 0) -> None:
    """For so many minutes of the processor, on one thread."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    draw = random.Random(seed)  # noqa: S311
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain.train_from_iterator(texts, trainer)
    marks = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<|endoftext|>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, **marks)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=512, n_embd=192, n_layer=6, n_head=6, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config).train()
    ids = torch.tensor([i for text in texts for i in [*tokenizer(text)["input_ids"], 0]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    began, said = time.process_time(), 0.0
    while (spent := time.process_time() - began) < minutes * 60:
        optimizer.param_groups[0]["lr"] = RATE * max(0.05, 1 - spent / (minutes * 60))
        starts = [draw.randrange(len(ids) - LENGTH) for _ in range(LINES)]
        rows = torch.stack([ids[start : start + LENGTH] for start in starts])
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if spent - said > 10:
            print(f"{spent:.0f} s of the processor  loss {loss.item():.3f}", flush=True)
            said = spent
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_gpt2", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    parser.add_argument("--corpus", type=Path, required=True, metavar="FILE")
    parser.add_argument("--minutes", type=float, default=6.0)
    given = parser.parse_args()
    lines = given.corpus.read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for number, line in enumerate(lines) if number % HELD_OUT]
    train(given.directory, texts, minutes=given.minutes)


if __name__ == "__main__":
    main()
