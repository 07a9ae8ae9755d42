"""A loaded base is the one that the repository describes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memit_vc.errors import IntegrityError
from memit_vc.porcelain.editing.models import load_model
from memit_vc.repository import Repository
from tests.support.opened import Opened


def test_a_weight_that_is_recorded_the_other_way_round(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = opened("llama")
    load_model(repository)
    first, *others = repository.fact_weights()
    turned = replace(first, orientation="in_out", d_out=first.d_in, d_in=first.d_out)
    monkeypatch.setattr(Repository, "fact_weights", lambda _: (turned, *others))
    with pytest.raises(IntegrityError, match="another kind of matrix"):
        load_model(repository)
