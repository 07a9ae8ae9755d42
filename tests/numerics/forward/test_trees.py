"""Rows that share their beginnings give the hidden states that each row gives alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memit_vc.numerics.forward.trees import _Forest, grouped, laid_out
from tests.support.models import load, tiny

ROWS = [(5, 6, 7), (5, 6), (5, 6, 8, 9, 10), (11,), (5, 6, 7), (12, 13, 14, 15, 16, 17)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "falcon", "gemma3_text", "opt"])
@pytest.mark.parametrize("max_tokens", [4096, 6])
def test_hidden_states_are_those_of_each_row_alone(tmp_path: Path, family: str, max_tokens: int) -> None:
    adapter = load(tiny(family, tmp_path))
    groups = grouped(adapter, ROWS, max_tokens=max_tokens)
    assert sorted(number for group in groups for number in group) == list(range(len(ROWS)))
    for group in groups:
        rows = [ROWS[number] for number in group]
        laid = laid_out(adapter, rows)
        with torch.no_grad():
            together = adapter.backbone(**laid.inputs, use_cache=False).last_hidden_state
            for row, (line, columns) in zip(rows, laid.places, strict=True):
                alone = adapter.backbone(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0]
                torch.testing.assert_close(together[line, list(columns)], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("gpt_neo", {"window_size": 8}),
        ("mistral", {"sliding_window": 8}),
        ("gemma2", {"sliding_window": 8}),
        ("gpt2", {"n_positions": 8}),
    ],
)
def test_lines_are_no_wider_than_a_window(tmp_path: Path, family: str, config: dict[str, int]) -> None:
    adapter = load(tiny(family, tmp_path, **config))
    laid = laid_out(adapter, ROWS)
    assert laid.inputs["input_ids"].shape[1] <= 8
    with torch.no_grad():
        together = adapter.backbone(**laid.inputs, use_cache=False).last_hidden_state
        for row, (line, columns) in zip(ROWS, laid.places, strict=True):
            alone = adapter.backbone(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0]
            torch.testing.assert_close(together[line, list(columns)], alone, rtol=1e-4, atol=1e-5)
    if family != "gpt2":  # which has no positions for it
        rows = [*ROWS, tuple(range(20, 40))]
        padded = laid_out(adapter, rows)
        assert padded.places == [(number, range(len(row))) for number, row in enumerate(rows)]


def test_half_precision(tmp_path: Path) -> None:
    adapter = load(tiny("llama", tmp_path))
    adapter.model.bfloat16()
    laid = laid_out(adapter, ROWS)
    assert laid.inputs["attention_mask"].dtype == torch.bfloat16
    with torch.no_grad():
        together = adapter.backbone(**laid.inputs, use_cache=False).last_hidden_state
        for row, (line, columns) in zip(ROWS, laid.places, strict=True):
            alone = adapter.backbone(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0]
            torch.testing.assert_close(together[line, list(columns)], alone, rtol=0.05, atol=0.05)


def test_what_rows_begin_with_is_there_once() -> None:
    forest = _Forest.grown(ROWS, 100)
    assert len(forest.tokens) == 1
    assert sorted(forest.tokens[0]) == [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=12), st.integers(9, 30))
def test_a_row_lies_along_its_branch(rows: list[list[int]], width: int) -> None:
    forest = _Forest.grown(rows, width)
    seen = forest.visible()
    assert forest.width <= width
    for row, (line, columns) in zip(rows, forest.places, strict=True):
        assert [forest.tokens[line][column] for column in columns] == row
        assert [forest.depths[line][column] for column in columns] == list(range(len(row)))
        for offset, column in enumerate(columns):
            assert seen[line, column].nonzero()[:, 0].tolist() == sorted(columns[: offset + 1])
