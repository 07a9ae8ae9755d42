"""The insertion into experts: against a plain float64 oracle, and one expert with gate 1 against the dense path."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memit_vc.numerics.edit.insert import insert
from memit_vc.numerics.edit.keys import Frontier
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.model.architecture import ARCHITECTURES
from memit_vc.numerics.statistics.factors import factorise, factorise_experts
from memit_vc.numerics.statistics.moments import collect
from tests.support.measure import distance
from tests.support.models import MIXTURE_FAMILIES, SENTENCES, facts, load, tiny
from tests.support.oracle import mixture

LAYERS = (1, 2)
PLAIN = parse_templates([["{}"]])
WEIGHT = 5.0


def asked(adapter: ModelAdapter) -> list[tuple[list[int], int]]:
    """Ids of three prompts, and the subject's last token in each."""
    found = []
    for fact in facts(3):
        encoded = adapter.tokenizer(fact.prompt, return_offsets_mapping=True)
        end = fact.subject_span[1]
        at = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < end <= b][-1]
        found.append((encoded["input_ids"], at))
    return found


def targets(adapter: ModelAdapter, size: float = 1.0) -> Tensor:
    """Some z [n, d_model], not far from where the model is."""
    now = Frontier(adapter, facts(3), layers=LAYERS, templates=PLAIN).current(LAYERS[0]).T
    return now + size * torch.randn(now.shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("family", sorted(MIXTURE_FAMILIES))
def test_experts_agree_with_the_oracle(family: str, tmp_path: Path) -> None:
    adapter = load(tiny(family, tmp_path))
    experts, block = adapter.architecture.rewrite, adapter.architecture.block
    moments = collect(adapter, SENTENCES, LAYERS, tokens=300)
    oracle: Any = copy.deepcopy(adapter.model).double()
    oracle.set_experts_implementation("eager")  # the only one that takes float64
    texts, left = [], moments.count
    for text in SENTENCES:
        texts.append(adapter.tokenizer(text)["input_ids"][:left])
        left -= len(texts[-1])
    count = moments.moment[1].shape[0]
    full = {layer: mixture.moment(oracle, experts.format(layer), [ids for ids in texts if ids]) for layer in LAYERS}
    blocks = {layer: mixture.diagonal_blocks(full[layer], count) for layer in LAYERS}
    for layer in LAYERS:
        assert distance(torch.block_diag(*moments.moment[layer].double()), blocks[layer]) < 1e-5

    z = targets(adapter)
    factors = {layer: factorise_experts(moments.moment[layer], WEIGHT) for layer in LAYERS}
    before = {name: parameter.clone() for name, parameter in adapter.model.named_parameters()}
    updates = insert(adapter, facts(3), z, layers=LAYERS, templates=PLAIN, factor=factors.__getitem__)
    assert all(torch.equal(parameter, before[name]) for name, parameter in adapter.model.named_parameters())

    same = {layer: factors[layer].matrix() / WEIGHT for layer in LAYERS}  # the ridges are the engine's own choice
    expected = mixture.edited(oracle, LAYERS, experts, block, asked(adapter), z, same, WEIGHT)
    for layer in LAYERS:
        assert distance(updates[layer].delta, expected[layer]) < 1e-4  # a float32 model against a float64 one
        keys, a = updates[layer].keys, factors[layer].matrix()
        whole = updates[layer].residual @ torch.linalg.solve(a + keys @ keys.T, keys).T
        assert distance(updates[layer].delta, whole) < 1e-6


class Dense(nn.Module):
    """The only expert of a layer as a dense MLP."""

    def __init__(self, experts: Any) -> None:
        super().__init__()
        self.gate_up, self.act = nn.Parameter(experts.gate_up_proj.data[0].clone()), experts.act_fn
        self.down_proj = nn.Linear(24, 32, bias=False)
        self.down_proj.weight.data = experts.down_proj.data[0].clone()

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = nn.functional.linear(hidden.flatten(0, 1), self.gate_up).chunk(2, dim=-1)
        found: Tensor = self.down_proj(self.act(gate) * up)
        return found.view(hidden.shape)


def twins(directory: Path) -> tuple[ModelAdapter, ModelAdapter]:
    """Mixtral with one expert, whose gate is 1, and the dense model that it is."""
    mixed = load(tiny("mixtral", directory, num_local_experts=1, num_experts_per_tok=1))
    mixed.model.set_experts_implementation("eager")
    dense: Any = copy.deepcopy(mixed.model)
    for layer in dense.model.layers:
        layer.mlp = Dense(layer.mlp.experts)
    return mixed, ModelAdapter.of(dense, mixed.tokenizer, architecture=ARCHITECTURES["llama"])


def test_one_expert_is_the_dense_path_bit_for_bit(tmp_path: Path) -> None:
    mixed, dense = twins(tmp_path)
    moments = [collect(adapter, SENTENCES, LAYERS, tokens=300).moment for adapter in (mixed, dense)]
    for layer in LAYERS:
        assert torch.equal(moments[0][layer][0], moments[1][layer])
    z = targets(dense)
    updates = [
        insert(
            mixed, facts(3), z, layers=LAYERS, templates=PLAIN, factor=lambda n: factorise_experts(moments[0][n], 5.0)
        ),
        insert(dense, facts(3), z, layers=LAYERS, templates=PLAIN, factor=lambda n: factorise(moments[1][n], 5.0)),
    ]
    for layer in LAYERS:
        one, other = (update[layer] for update in updates)
        for name in ("keys", "residual", "adjusted", "targets"):
            assert torch.equal(getattr(one, name), getattr(other, name)), (layer, name)


def test_an_expert_without_tokens_gets_a_recorded_ridge() -> None:
    seen = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    moments = torch.stack([seen.T @ seen / 64, torch.zeros(6, 6)])
    factor = factorise_experts(moments, 2.0)
    assert factor.blocks[0].ridge == 0.0
    assert factor.blocks[1].ridge > 0.0
    assert factor.ridges == 1
