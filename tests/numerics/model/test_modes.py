"""What a caller or another model has switched on does not get into an edit, nor out of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from memit_vc import execute_memit
from memit_vc.compat.editor import BaseEditor
from memit_vc.compat.models import second_model
from memit_vc.errors import EngineError
from memit_vc.numerics.forward.templates import sample_templates
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.search.targets import find_targets
from tests.support.measure import second_moments
from tests.support.models import FACTS, SENTENCES, hparams_for, load, tiny

REQUESTS = [{"prompt": fact.prompt, "subject": fact.subject, "target_new": fact.target} for fact in FACTS[:2]]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny("llama", tmp_path_factory.mktemp("llama"))


def settings(adapter: ModelAdapter) -> tuple[Any, dict[int, torch.Tensor]]:
    hparams = hparams_for(adapter, v_num_grad_steps=3, v_lr=0.1, device="cpu")
    return hparams, second_moments(adapter, hparams.layers, SENTENCES)


def test_the_parameters_of_a_model_that_is_searched_keep_their_flags(directory: Path) -> None:
    adapter = load(directory)
    hparams, _ = settings(adapter)
    second = second_model(adapter.model, [adapter.parameter_name(1)])
    parameters = [*adapter.model.parameters(), *second.parameters()]
    parameters[0].requires_grad_(False)
    flags = [parameter.requires_grad for parameter in parameters]
    seen: list[list[bool]] = []
    find_targets(
        ModelAdapter.of(second, adapter.tokenizer),
        FACTS[:2],
        layer=2,
        hparams=hparams,
        templates=[Template("")],
        on_step=lambda *_: seen.append([parameter.requires_grad for parameter in parameters]),
    )
    assert seen == [flags] * 3
    assert all(parameter.grad is None for parameter in parameters)
    assert {id(parameter) for parameter in parameters} == {
        id(parameter) for model in (adapter.model, second) for parameter in model.parameters()
    }


def test_an_edit_under_inference_mode(directory: Path) -> None:
    adapter = load(directory)
    hparams, statistics = settings(adapter)
    expected = execute_memit(adapter.model, adapter.tokenizer, REQUESTS, hparams, statistics=statistics)
    with torch.inference_mode():
        found = execute_memit(adapter.model, adapter.tokenizer, REQUESTS, hparams, statistics=statistics)
    assert found.keys() == expected.keys()
    for name, pair in found.items():
        assert all(torch.equal(*both) for both in zip(pair, expected[name], strict=True))
    hparams.model_name = (adapter.model, adapter.tokenizer)
    with torch.inference_mode():
        editor = BaseEditor.from_hparams(hparams, statistics=statistics)
        for _ in range(2):
            _, edited, _ = editor.edit(requests=REQUESTS, keep_original_weight=True, verbose=False)
        editor.edit(requests=REQUESTS, keep_original_weight=False, verbose=False)
    assert not any(parameter.is_inference() for parameter in [*edited.parameters(), *editor.model.parameters()])


def test_a_model_made_under_inference_mode_is_refused(directory: Path) -> None:
    adapter = load(directory)
    hparams, statistics = settings(adapter)
    with torch.inference_mode():
        made = copy.deepcopy(adapter.model)
    with pytest.raises(EngineError, match=r"made under torch\.inference_mode\(\): 57 of its weights") as caught:
        execute_memit(made, adapter.tokenizer, REQUESTS, hparams, statistics=statistics)
    assert caught.value.hint == "Load or copy the model outside that block; the edit itself may run inside."


def test_templates_are_sampled_from_the_models_own_logits(tmp_path: Path) -> None:
    """A soft cap flattens what is sampled from."""
    adapter = load(tiny("gemma2", tmp_path, final_logit_softcapping=0.5))
    _, sampled = sample_templates(adapter, seed=3, length=6, prefixes=("The", "I"))
    generator = torch.Generator().manual_seed(3)
    for prefix, found in zip(("The", "I"), sampled, strict=True):
        ids = adapter.tokenizer(prefix, return_tensors="pt")["input_ids"]
        for _ in range(6):
            with torch.no_grad():
                best = adapter.model(ids).logits[:, -1].float().topk(5)
            chosen = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
            ids = torch.cat([ids, best.indices.gather(1, chosen)], dim=1)
        text = adapter.tokenizer.decode(ids[0], skip_special_tokens=True)
        assert found == " ".join(text.replace("{", " ").replace("}", " ").split()) + ". {}"
