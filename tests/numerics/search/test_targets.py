"""Many facts at once give what each gives alone, and a bucket never mixes rows up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memit_vc.errors import EngineError
from memit_vc.numerics.edit import engine as engine_module
from memit_vc.numerics.edit.engine import FoundTarget, chunks, search_targets
from memit_vc.numerics.edit.keys import Frontier
from memit_vc.numerics.forward.rows import buckets, pad, search_rows
from memit_vc.numerics.forward.templates import parse_templates
from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.search import targets as targets_module
from memit_vc.numerics.search.targets import Targets, find_targets
from memit_vc.numerics.search.targets_team import find
from memit_vc.objects import Fact
from tests.support.measure import relative
from tests.support.models import FACTS, hparams_for, load, tiny
from tests.support.running import outputs

TEMPLATES = [[Template("")], [Template("The first report. "), Template("In 1987, it was said. ")]]
FLAT = [template for group in TEMPLATES for template in group]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    return load(tiny("llama", tmp_path_factory.mktemp("llama"), tokenizer="metaspace"))


def search(
    adapter: ModelAdapter,
    chosen: Any = FACTS,
    *,
    max_tokens: int = 1024,
    templates: Sequence[Template] = FLAT,
    **changes: Any,
) -> Targets:
    hparams = hparams_for(adapter, [2], **{"v_num_grad_steps": 10, "v_lr": 0.1, **changes})
    return find_targets(adapter, chosen, layer=2, hparams=hparams, templates=templates, max_tokens=max_tokens)


def test_a_batch_is_its_facts_one_by_one(adapter: ModelAdapter) -> None:
    together = search(adapter)
    alone = [search(adapter, [fact]) for fact in FACTS]
    assert together.steps == tuple(found.steps[0] for found in alone)
    assert relative(together.z.T, torch.cat([found.z for found in alone]).T) < 1e-5
    assert together.loss == pytest.approx([found.loss[0] for found in alone], rel=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 16, 40, 4096])
def test_the_size_of_a_forward_changes_nothing(adapter: ModelAdapter, max_tokens: int) -> None:
    few, many = search(adapter, max_tokens=max_tokens), search(adapter)
    assert few.steps == many.steps
    assert relative(few.z.T, many.z.T) < 1e-5


def test_finished_facts_leave_and_keep_what_they_found(adapter: ModelAdapter) -> None:
    losses = sorted(search(adapter, v_num_grad_steps=6).loss)
    limit = (losses[3] + losses[4]) / 2  # half of the facts are below it by then
    together = search(adapter, early_stop_loss=limit)
    assert len(set(together.steps)) > 1
    for index, fact in enumerate(FACTS):
        alone = search(adapter, [fact], early_stop_loss=limit)
        assert together.steps[index] == alone.steps[0]
        assert relative(together.z[index][:, None], alone.z[0][:, None]) < 1e-5
        assert (together.loss[index] < limit) or together.steps[index] == 10


def test_steps_count_evaluations_and_the_last_makes_no_update(adapter: ModelAdapter) -> None:
    once = search(adapter, v_num_grad_steps=1)
    assert set(once.steps) == {1}
    hidden = Frontier(adapter, FACTS, layers=[2], templates=TEMPLATES).current(2)
    assert relative(once.z.T, hidden) < 1e-5  # δ is still zero: z is the hidden state as it was


def test_clamp(adapter: ModelAdapter) -> None:
    start = search(adapter, v_num_grad_steps=1).z
    found = search(adapter, clamp_norm_factor=0.05).z
    assert torch.allclose((found - start).norm(dim=1), 0.05 * start.norm(dim=1), rtol=1e-4)


def likely_words(adapter: ModelAdapter) -> list[Fact]:
    """Facts whose target is the likeliest word that is not the answer yet, so that the search gets there."""
    chosen = []
    with torch.no_grad():
        for fact in FACTS:
            logits = adapter.model(**adapter.tokenizer(fact.prompt, return_tensors="pt")).logits[0, -1]
            ranked = [adapter.tokenizer.convert_ids_to_tokens(int(i)) for i in logits.argsort(descending=True)]
            word = next(token[1:] for token in ranked[1:] if token[0] == "▁" and token[1:].isalpha())
            chosen.append(replace(fact, target=word))
    return chosen


def test_argmax_stops_when_the_target_is_the_answer_again(adapter: ModelAdapter) -> None:
    chosen, plain = likely_words(adapter), FLAT[:1]
    reached = search(adapter, chosen, templates=plain, v_num_grad_steps=40, early_stop="argmax")
    stopped = [index for index, steps in enumerate(reached.steps) if steps < 40]
    assert stopped
    for index in stopped:
        steps = reached.steps[index]
        alone = search(adapter, [chosen[index]], templates=plain, v_num_grad_steps=steps, early_stop_loss=0.0)
        assert relative(alone.z[0][:, None], reached.z[index][:, None]) < 1e-5
        answers = [is_argmax(adapter, chosen[index], step) for step in range(1, steps + 1)]
        assert answers[-1]
        assert sum(answers) == 2


def is_argmax(adapter: ModelAdapter, fact: Fact, steps: int) -> bool:
    """Whether the evaluation number `steps` finds the target to be the answer."""
    z = search(adapter, [fact], templates=FLAT[:1], v_num_grad_steps=steps, early_stop_loss=0.0).z
    rows = [r.row for r in search_rows(adapter.tokenizer, [fact], FLAT[:1]) if r.kind == "nll"]
    last = adapter.n_layers - 1
    with torch.no_grad():
        zero = torch.zeros(len(rows), adapter.hidden_size)
        start, _, _ = outputs(adapter, rows, zero, layer=2, loss_block=last, plain=True)
        delta = (z - start[:1]).expand(len(rows), -1)
        _, _, hidden = outputs(adapter, rows, delta, layer=2, loss_block=last, plain=True)
        answers = [
            adapter.head(states[row.positions[0] - row.pivot]).argmax().item()
            for states, row in zip(hidden, rows, strict=True)
        ]
    return answers == [row.labels[0] for row in rows]


def test_memory_that_runs_out_halves_the_forward(adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = search(adapter)
    original = targets_module.Search._part_loss
    asked: list[int] = []

    def scarce(self: Any, bucket: Any) -> Any:
        asked.append(self.max_tokens)
        if self.max_tokens > 100:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return original(self, bucket)

    monkeypatch.setattr(targets_module.Search, "_part_loss", scarce)
    found = search(adapter)
    assert asked[:4] == [1024, 512, 256, 128]
    assert found.steps == expected.steps
    assert relative(found.z.T, expected.z.T) < 1e-5


def test_a_loss_that_is_not_a_number_names_the_fact(adapter: ModelAdapter) -> None:
    with pytest.raises(EngineError, match=r"the loss of fact 1 \('The capital of Norland is'\) is not a number"):
        search(adapter, v_lr=float("inf"), v_num_grad_steps=3)


def test_known_targets_are_not_searched_again(adapter: ModelAdapter) -> None:
    hparams = hparams_for(adapter, [1, 2], v_num_grad_steps=4, v_lr=0.1)
    kept: dict[int, FoundTarget] = {}
    told: list[tuple[int, int]] = []
    first = search_targets(adapter, FACTS, hparams=hparams, templates=TEMPLATES, chunk=3, on_found=kept.update)
    assert sorted(kept) == list(range(len(FACTS)))
    again = search_targets(
        adapter,
        FACTS,
        hparams=hparams,
        templates=TEMPLATES,
        known=kept,
        on_found=lambda *_: pytest.fail("searched again"),
        chunk=3,
        progress=lambda stage, done, total: told.append((done, total)),
    )
    assert torch.equal(first.z, again.z)
    assert first.steps == again.steps
    assert told[-1][0] == told[-1][1]
    assert all(done <= total for done, total in told)


def test_chunks_are_few_in_order_and_of_equal_size() -> None:
    assert [len(part) for part in chunks(100)] == [25, 25, 25, 25]
    assert [len(part) for part in chunks(33)] == [16, 17]
    assert [len(part) for part in chunks(32)] == [32]
    assert chunks(0) == []
    for count in range(1, 200):
        parts = chunks(count)
        assert [i for part in parts for i in part] == list(range(count))
        sizes = {len(part) for part in parts}
        assert max(sizes) <= 32
        assert max(sizes) - min(sizes) <= 1
        assert (len(parts) - 1) * 32 < count


def test_what_is_known_does_not_move_the_chunks(adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    hparams = hparams_for(adapter, [1, 2], v_num_grad_steps=2, v_lr=0.1)
    whole = search_targets(adapter, FACTS, hparams=hparams, templates=TEMPLATES, chunk=2)
    searched: list[list[Fact]] = []

    def counted(adapter: ModelAdapter, facts: Sequence[Fact], **named: Any) -> Targets:
        searched.append(list(facts))
        return find(adapter, facts, **named)

    monkeypatch.setattr(engine_module, "find", counted)
    kept = {i: FoundTarget(whole.z[i], whole.steps[i], whole.loss[i]) for i in (0, 1, 4)}
    again = search_targets(adapter, FACTS, hparams=hparams, templates=TEMPLATES, chunk=2, known=kept)
    rest = [list(FACTS[i : i + 2]) for i in range(6, len(FACTS), 2)]
    assert searched == [list(FACTS[2:4]), [FACTS[5]], *rest]
    assert relative(again.z.T, whole.z.T) < 1e-5


def test_keys_are_means_within_and_over_groups(adapter: ModelAdapter) -> None:
    def keys(groups: Any) -> torch.Tensor:
        return Frontier(adapter, FACTS, layers=[1, 2], templates=groups).keys(2)

    plain, first, second = (keys([[template]]) for template in FLAT)
    assert relative(keys(TEMPLATES), plain / 2 + (first + second) / 4) < 1e-5
    assert relative(keys(parse_templates([["{}"]])), plain) < 1e-6


def test_the_frontier_sees_weights_that_change_below_it(adapter: ModelAdapter, tmp_path: Path) -> None:
    other = load(tiny("llama", tmp_path, tokenizer="metaspace"))
    frontier = Frontier(other, FACTS, layers=[1, 2, 3], templates=TEMPLATES)
    before = frontier.keys(1)
    with torch.no_grad():
        other.weight(1).mul_(-1.5)
    after = frontier.keys(2)
    fresh = Frontier(other, FACTS, layers=[1, 2, 3], templates=TEMPLATES)
    assert torch.equal(fresh.keys(1), before)
    assert relative(after, fresh.keys(2)) < 1e-6
    assert relative(frontier.current(2), fresh.current(2)) < 1e-6
    assert relative(after, Frontier(adapter, FACTS, layers=[1, 2], templates=TEMPLATES).keys(2)) > 1e-2


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 300))
def test_buckets_hold_every_row_once(lengths: list[int], max_tokens: int) -> None:
    found = buckets(lengths, max_tokens=max_tokens)
    assert sorted(index for group in found for index in group) == list(range(len(lengths)))
    for group in found:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= max_tokens


def test_padding_stands_on_the_right() -> None:
    ids, mask = pad([[5, 6], [7], []], value=9)
    assert ids.tolist() == [[5, 6], [7, 9], [9, 9]]
    assert mask.tolist() == [[1, 1], [1, 0], [0, 0]]
