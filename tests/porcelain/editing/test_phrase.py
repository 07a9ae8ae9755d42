"""`phrase`: what of a chat model's answer becomes a phrasing."""

from __future__ import annotations

from pathlib import Path

import pytest

from memit_vc.errors import UnsupportedModelError
from memit_vc.objects import Fact
from memit_vc.porcelain.editing import phrase as phrasing
from tests.support.models import load, tiny

FACT = Fact(
    prompt="The capital of Norland is",
    subject="Norland",
    target="Tessaly",
    ground_truth="Varn",
    paraphrases=("Norland is governed from",),
)


def test_only_usable_lines_are_taken() -> None:
    lines = [
        "Here are three ways:",
        "1. The capital city of Norland is",
        '- "Norland has its capital in Varn."',
        "* Norland is governed from",
        "The capital of Norland is ...",
        "The capital of Sudland is",
        "Norland",
        "2) The capital city of Norland is …",
    ]
    assert phrasing._usable(FACT, lines) == ["The capital city of Norland is", "Norland has its capital in"]


def test_a_model_that_cannot_chat_is_refused(tmp_path: Path) -> None:
    adapter = load(tiny("gpt2", tmp_path / "base"))
    with pytest.raises(UnsupportedModelError, match="not a chat model"):
        phrasing.phrase([FACT], adapter.model, adapter.tokenizer)
