"""Which texts are too long for a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from memit_vc.errors import EngineError
from memit_vc.numerics.forward.lengths import check_lengths, check_probes, positions
from memit_vc.numerics.forward.tokens import Template, target_rows
from memit_vc.numerics.scores.likelihood import continuations, first_tokens
from memit_vc.numerics.search.rehearsal import Rehearsal
from memit_vc.objects import Probe
from tests.support.models import FACTS, load, tiny


def test_a_bias_by_distance_has_no_end(tmp_path: Path) -> None:
    adapter = load(tiny("bloom", tmp_path, seq_length=8))
    assert adapter.model.config.seq_length == 8
    assert positions(adapter.model.config) is None
    check_lengths(adapter, FACTS, [Template("A long context that takes more tokens than that. ")])


def test_a_text_beyond_the_positions_is_no_traceback(tmp_path: Path) -> None:
    """Learned positions end: whatever reads a longer text says so."""
    adapter = load(tiny("gpt2", tmp_path, n_positions=64))
    long = "The river of Norland " * 40
    for read in (
        lambda: continuations(adapter, [(long, "Tessaly")]),
        lambda: first_tokens(adapter, [long]),
        lambda: check_probes(adapter, [FACTS[0], replace(FACTS[1], paraphrases=("Short.", long))]),
        lambda: check_probes(adapter, [replace(FACTS[1], ground_truth=long)]),
        lambda: check_probes(adapter, [replace(FACTS[1], neighbourhood=(Probe(prompt=long, answer="Tessaly"),))]),
    ):
        with pytest.raises(EngineError, match="the model has 64 positions"):
            read()
    check_probes(adapter, FACTS)


def test_an_earlier_fact_that_is_too_long_is_not_rehearsed(tmp_path: Path) -> None:
    adapter = load(tiny("gpt2", tmp_path, n_positions=64))
    long = replace(FACTS[0], prompt="The river of Norland " * 40 + FACTS[0].prompt)
    ways = {"layer": 0, "plain": True, "through": True}
    rehearsal = Rehearsal(adapter, [long, FACTS[1]], weight=0.2, searched=[FACTS[2]], steps=6, **ways)
    assert [row.ids for row in rehearsal._rows] == [
        row.ids for row in target_rows(adapter.tokenizer, [(FACTS[1].prompt, FACTS[1].target)])
    ]


@pytest.mark.parametrize("alibi", [False, True])
def test_falcon_has_both_kinds(tmp_path: Path, alibi: bool) -> None:
    adapter = load(tiny("falcon", tmp_path, alibi=alibi, max_position_embeddings=8))
    if alibi:
        check_lengths(adapter, FACTS, [Template("")])
    else:
        with pytest.raises(EngineError, match="the model has 8 positions"):
            check_lengths(adapter, FACTS, [Template("")])
