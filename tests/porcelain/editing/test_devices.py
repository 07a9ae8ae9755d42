"""A whole commit on a device that is not there: nothing lies elsewhere, and the weights are the CPU's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from memit_vc.porcelain.editing.commit import Committed, commit_facts
from memit_vc.porcelain.editing.evaluate import evaluate
from memit_vc.porcelain.editing.models import load_model
from memit_vc.porcelain.sets.revert import revert
from memit_vc.porcelain.state import LiveState
from memit_vc.porcelain.upkeep.fsck import fsck
from memit_vc.repository import Repository
from tests.support.models import facts
from tests.support.places import TOKENS, Place, copy_of, make_place
from tests.support.pretend import Pretence, where


def commits(place: Place, device: str) -> tuple[list[Committed], dict[int, Tensor]]:
    """Two commits, the first one's revert, the rest asked again, all on `device`; the weights of the last state."""
    wanted = facts(4)
    with Repository.open(place.work) as repository:
        loaded = load_model(repository, device=device)
        assert {where(parameter) for parameter in loaded.adapter.model.parameters()} == {torch.device(device)}
        made = [
            commit_facts(repository, part, tokens=TOKENS, loaded=loaded, hparams=repository.hparams())
            for part in (wanted[:2], wanted[2:])
        ]
        revert(repository, [made[0].id])
        evaluate(repository, facts=wanted, loaded=loaded)
        weights = loaded.materialised(LiveState.at(repository, repository.head().commit))
        assert fsck(repository) == ([], 0)
        return made, {layer: weight.cpu() for layer, weight in weights.items()}


@pytest.mark.parametrize(
    ("family", "device", "capability"),
    [
        ("llama", "cuda:0", (9, 0)),  # solves on the device
        ("llama", "mps:0", (0, 0)),  # has no float64 at all
    ],
)
def test_a_commit_on_a_device_is_the_cpus(
    family: str, device: str, capability: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(tmp_path, family, v_lr=0.2, v_num_grad_steps=6)
    (tmp_path / "copy").mkdir()
    other = copy_of(place, tmp_path / "copy")
    expected, weights = commits(place, "cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (2**33, 2**34))
    with Pretence() as pretence:
        found, there = commits(other, device)
        assert pretence.calls[torch.device(device)] > 1000
    for here, wanted in zip(found, expected, strict=True):  # other batches on a GPU: the last bits differ
        assert here.after == pytest.approx(dict(wanted.after), abs=1e-3)
    assert there.keys() == weights.keys()
    for layer, weight in weights.items():
        torch.testing.assert_close(there[layer], weight, rtol=0, atol=1e-4 * float(weight.abs().max()))
