"""Second moments: one pass for all layers, against a pass for every layer."""

from __future__ import annotations

import time

from benchmarks import reference
from benchmarks.places import Options, place
from benchmarks.report import Report, Row
from memit_vc.numerics.statistics.corpus import open_corpus
from memit_vc.numerics.statistics.moments import collect
from memit_vc.numerics.statistics.token_batches import token_batches
from memit_vc.remote.hub_corpus import find_dataset

__all__ = ["run"]

LENGTH = 512


def run(options: Options) -> Report:
    """The layers that the model's hyperparameters edit, over the same tokens on both sides."""
    tokens = options.tokens or (2_000 if options.quick else 40_000)
    with place(options) as here:
        adapter, layers = here.loaded.adapter, here.hparams.layers
        texts = list(open_corpus(options.corpus, find_dataset=find_dataset))
        length = min(LENGTH, getattr(adapter.model.config, "max_position_embeddings", None) or LENGTH)
        collect(adapter, texts[:4], layers, tokens=100)  # what only a first call does
        began = time.perf_counter()
        found = collect(adapter, texts, layers, tokens=tokens, max_length=length)
        ours = time.perf_counter() - began
        # tokenising stands outside: it is a small part, and the same on both sides
        batches = token_batches(adapter.tokenizer, texts, tokens=tokens, max_length=length, batch_tokens=8192)
        rows = [row for batch in batches for row in batch]
        reference.second_moment(adapter, rows[:4], layers[0])
        began = time.perf_counter()
        expected = {layer: reference.second_moment(adapter, rows, layer) for layer in layers}
        theirs = time.perf_counter() - began
        difference = max(
            float((found.moment[layer].double() - moment.double()).norm() / moment.double().norm())
            for layer, moment in expected.items()
        )
    settings = {"model": options.directory().name, "corpus": options.corpus, "tokens": found.count}
    case = f"{found.count:,} tokens, layers {layers[0]} to {layers[-1]}"
    return Report(
        "statistics",
        "second moments of all edited layers",
        "one pass per layer through the blocks below it",
        settings,
        [Row(case, ours, theirs, difference=difference, goal=("≥", 3.0))],
    )
