"""What is shipped of ten facts in SmolLM2-135M: the bytes of a push, and an adapter that PEFT computes with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from memit_vc.cli.demo_facts import FIRST, SECOND
from memit_vc.porcelain.editing.commit import commit_facts
from memit_vc.porcelain.output.checkout import checkout
from memit_vc.porcelain.output.export_adapter import export_adapter
from memit_vc.porcelain.setup import init
from memit_vc.porcelain.sharing.push import push
from memit_vc.porcelain.sharing.remotes import add_remote
from memit_vc.repository import Repository
from tests.support.hub.loopback import Loopback

PROMPTS = [text for fact in (*FIRST, *SECOND) for text in (fact.prompt, *fact.paraphrases)][:20]

pytestmark = [pytest.mark.model, pytest.mark.slow]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """One commit of ten facts; how well they were learnt is of no concern here, so the search is cut short."""
    directory = os.environ.get("MEMITVC_TEST_MODEL")
    if not directory:
        pytest.skip("MEMITVC_TEST_MODEL names no SmolLM2-135M directory")
    work = tmp_path_factory.mktemp("work")
    init(directory, directory=work, corpus="pydoc")
    with Repository.open(work) as opened:
        values = opened.hparams().replace(v_num_grad_steps=4)
        commit_facts(opened, FIRST, hparams=values, tokens=3072, scores=False)
        yield opened
        assert opened.fsck() == []


def test_a_push_sends_little_more_than_the_patch(client: Loopback, repository: Repository, tmp_path: Path) -> None:
    add_remote(repository, "origin", "hf://ada/facts", directory=tmp_path)
    client.forget()
    pushed = push(repository, adapter=False, constraints=False)
    patch = repository.patch_path(repository.commit(repository.head().commit).patches[0]).stat().st_size
    print(f"\n{len(pushed.files)} files, {client.received} bytes received, {patch} of them the patch")
    assert patch < client.received <= 1.1 * patch + 64_000


def test_peft_computes_what_the_checkout_computes(repository: Repository, tmp_path: Path) -> None:
    base = Path(repository.config.base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    made = export_adapter(repository, "HEAD", tmp_path / "adapter")
    whole = AutoModelForCausalLM.from_pretrained(checkout(repository, "HEAD", tmp_path / "out").directory).eval()
    adapted = AutoModelForCausalLM.from_pretrained(base).eval()
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    adapted = PeftModel.from_pretrained(adapted, str(made.directory))
    differences, moved = [], []
    with torch.no_grad():
        for prompt in PROMPTS:
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            expected = whole(ids).logits
            differences.append(float((adapted(ids).logits - expected).abs().max()))
            moved.append(float((plain(ids).logits - expected).abs().max()))
    print(f"\nlargest difference of a logit on {len(PROMPTS)} prompts: {max(differences):.1e}")
    assert min(moved) > 0.1
    assert max(differences) < 1e-4
