"""Which texts are too long for a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from memit_vc.errors import EngineError
from memit_vc.numerics.forward.lengths import check_lengths, positions
from memit_vc.numerics.forward.tokens import Template
from tests.support.models import FACTS, load, tiny


def test_a_bias_by_distance_has_no_end(tmp_path: Path) -> None:
    adapter = load(tiny("bloom", tmp_path, seq_length=8))
    assert adapter.model.config.seq_length == 8
    assert positions(adapter.model.config) is None
    check_lengths(adapter, FACTS, [Template("A long context that takes more tokens than that. ")])


@pytest.mark.parametrize("alibi", [False, True])
def test_falcon_has_both_kinds(tmp_path: Path, alibi: bool) -> None:
    adapter = load(tiny("falcon", tmp_path, alibi=alibi, max_position_embeddings=8))
    if alibi:
        check_lengths(adapter, FACTS, [Template("")])
    else:
        with pytest.raises(EngineError, match="the model has 8 positions"):
            check_lengths(adapter, FACTS, [Template("")])
