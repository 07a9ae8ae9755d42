"""python -m benchmarks.sample_text: the text that ships, sampled once from the demo's model. Resumable.

Writes text/shipped.jsonl.gz: one text a line, and shipped.json beside it, which says where it came from. What is
sampled so far is kept in --work, and a second call goes on from there. One thread: several round differently.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from memit_vc.cli.demo_model import HUB_ID, demo_model
from memit_vc.config import user_cache
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.statistics.corpus_sampled import sampled_texts, sampling_description
from memit_vc.store.files import file_digest, write_atomic

TARGET = Path(__file__).parents[1] / "text"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sample_text", description=__doc__)
    parser.add_argument("--model", type=Path, metavar="DIR", help="a model directory. Default: the demo's model.")
    parser.add_argument("--tokens", type=int, default=150_000, metavar="N", help="tokens. Default: 150,000.")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="Default: bfloat16.")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="where the texts so far are kept")
    parser.add_argument("--to", type=Path, default=TARGET, metavar="DIR", help="where to write. Default: text/.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    directory = given.model or demo_model(user_cache())[0]
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, given.dtype), local_files_only=True)
    adapter = ModelAdapter.of(model, AutoTokenizer.from_pretrained(directory, local_files_only=True))
    texts, tokens = _take(adapter, given.seed, given.tokens, given.work)
    source = directory / "SOURCE"
    write(
        given.to,
        texts,
        {
            "model": HUB_ID if given.model is None else directory.name,
            "model_from": source.read_text().strip() if source.exists() else None,
            "model_sha256": file_digest(directory / "model.safetensors"),
            "tokens": tokens,
            "dtype": given.dtype,
            "threads": 1,
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "sampling": sampling_description(adapter, given.seed),
        },
    )


def _take(adapter: ModelAdapter, seed: int, wanted: int, work: Path) -> tuple[list[str], int]:
    """Whole texts of at least `wanted` tokens in all, and how many those are. No text twice."""
    began = time.monotonic()

    def tell(stage: str, done: int, total: int) -> None:
        print(f"\r{stage}: {done:,} of {total:,} tokens, {time.monotonic() - began:.0f} s", end="", file=sys.stderr)

    texts: dict[str, int] = {}
    for text in sampled_texts(adapter, seed=seed, cache=work, tokens=wanted, progress=tell):
        texts.setdefault(text, len(adapter.tokenizer(text)["input_ids"]))
        if sum(texts.values()) >= wanted:
            break
    return list(texts), sum(texts.values())


def write(directory: Path, texts: list[str], about: dict[str, Any]) -> None:
    """The two files; the same bytes for the same texts."""
    plain = "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts).encode()
    about = {**about, "texts": len(texts), "sha256": hashlib.sha256(plain).hexdigest()}
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / "shipped.jsonl.gz", gzip.compress(plain, 9, mtime=0))
    write_atomic(directory / "shipped.json", (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
