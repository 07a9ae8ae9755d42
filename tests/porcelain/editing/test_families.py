"""Every family, from init to a reverted edit: what transformers loads is what was committed, and nothing is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from memit_vc.numerics.model.architecture import ARCHITECTURES, MIXTURES
from memit_vc.objects import Fact
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.output.verify import verify
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.state import LiveState
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.checkpoints import hash_directory
from tests.support.models import facts
from tests.support.places import TOKENS, make_place

HALF = [
    ("qwen3_moe", "bfloat16"),
    ("gpt_oss", "bfloat16"),
    ("llama", "bfloat16"),
    ("gpt2", "bfloat16"),
    ("llama", "float16"),
    ("gpt2", "float16"),
]
CASES = [(family, "float32") for family in (*sorted(ARCHITECTURES), *sorted(MIXTURES))] + HALF


def plain(directory: Path) -> Any:
    """The model as anybody without memit-vc loads it."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype="auto", local_files_only=True).eval()


def log_probability(model: Any, directory: Path, fact: Fact) -> float:
    """Of the target after the prompt, from the whole model's logits."""
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    given = len(tokenizer(fact.prompt)["input_ids"])
    ids = torch.tensor([tokenizer(f"{fact.prompt} {fact.target}")["input_ids"]])
    with torch.no_grad():
        predicted = model(ids).logits[0, given - 1 : -1].float().log_softmax(-1)
    return float(predicted.gather(1, ids[0, given:, None]).sum())


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(ids).logits
    return found


@pytest.mark.parametrize(("family", "dtype"), CASES)
def test_a_family_edits_checks_out_and_reverts(family: str, dtype: str, tmp_path: Path) -> None:
    # the keys of so narrow experts are short: for a z as far away as a dense model's, the update would not fit the grid
    own = {"v_lr": 0.2} if family in MIXTURES else {"search_for": "residuals"}  # as init has it
    place = make_place(tmp_path, family, dtype=dtype, v_num_grad_steps=20, **own)
    wanted = facts(3)
    with Repository.open(place.work) as repository:
        loaded = load_model(repository)
        made = commit_facts(repository, wanted, tokens=TOKENS, loaded=loaded)
        assert made.facts == 3
        # what float32 rounds away is the grid's 1e-6; half precision keeps most of an edit of this size, never all
        assert made.survived == pytest.approx(1, abs=1e-4 if dtype == "float32" else 0.1)
        assert dtype == "float32" or made.survived != 1

        edited = checkout(repository, "HEAD", tmp_path / "edited")
        model, base = plain(edited.directory), plain(place.base)
        assert str(next(model.parameters()).dtype) == f"torch.{dtype}"
        ids = loaded.adapter.tokenizer([wanted[0].prompt], return_tensors="pt")["input_ids"]
        with loaded.holding(LiveState.at(repository, made.id)) as adapter:
            assert torch.equal(logits(model, ids), logits(adapter.model, ids))
        assert torch.equal(logits(base, ids), logits(loaded.adapter.model, ids))
        for fact in wanted:
            after, before = (log_probability(m, place.base, fact) for m in (model, base))
            assert after > before, fact

        revert(repository, ["HEAD"])
        reverted = checkout(repository, "HEAD", tmp_path / "reverted")
        assert hash_directory(reverted.directory) == hash_directory(place.base)
        assert verify(repository, reverted.directory).is_base
        assert verify(repository, edited.directory).commits == (made.id,)
        assert fsck(repository) == ([], 0)
