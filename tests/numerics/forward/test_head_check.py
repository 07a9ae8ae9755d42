"""The head that the search reads must be the model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from memit_vc.errors import UnsupportedModelError
from memit_vc.numerics.forward.head_check import check_head
from memit_vc.numerics.model.adapter import ModelAdapter
from tests.support.models import load, tiny


@pytest.fixture
def adapter(tmp_path: Path) -> ModelAdapter:
    return load(tiny("llama", tmp_path))


def test_an_untied_head_that_a_file_names_by_the_embedding(adapter: ModelAdapter) -> None:
    """Shipped files name the embedding, for the family's tied models; a fine-tune may have a head of its own."""
    embedding = adapter.model.get_input_embeddings()
    head = nn.Linear(embedding.embedding_dim, embedding.num_embeddings, bias=False)
    adapter.model.set_output_embeddings(head)
    named = ModelAdapter.of(
        adapter.model, adapter.tokenizer, architecture=replace(adapter.architecture, head="model.embed_tokens")
    )
    check_head(named)
    hidden = torch.randn(3, embedding.embedding_dim)
    assert torch.equal(named.logits(hidden), head(hidden))
    assert not torch.allclose(named.logits(hidden), hidden @ embedding.weight.T)


def test_what_stands_between_the_last_block_and_the_logits_is_missed(adapter: ModelAdapter) -> None:
    check_head(adapter)
    with pytest.raises(UnsupportedModelError, match="does not give the model's own answers"):
        check_head(replace(adapter, architecture=replace(adapter.architecture, norm=None)))
    adapter.model.lm_head.register_forward_hook(lambda _, __, logits: logits * 1.5)
    check_head(adapter)  # a head is a head, whatever it does
    forward = adapter.model.forward

    def capped(*args: object, **kwargs: object) -> object:
        output = forward(*args, **kwargs)
        output.logits = torch.tanh(output.logits)
        return output

    adapter.model.forward = capped
    with pytest.raises(UnsupportedModelError, match="llama: what memit-vc takes for the final norm and the head"):
        check_head(adapter)
