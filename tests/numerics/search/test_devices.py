"""The search on a device that is not there: nothing lies elsewhere, and a step waits for the device once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from memit_vc.numerics.forward.tokens import Template
from memit_vc.numerics.model.adapter import ModelAdapter
from memit_vc.numerics.search.targets import Targets, find_targets
from tests.support.models import FACTS, hparams_for, load, tiny
from tests.support.pretend import Pretence, WrongDeviceError, where

FLAT = [Template(""), Template("The first report. "), Template("In 1987, it was said. ")]
CUDA = torch.device("cuda:0")


def search(adapter: ModelAdapter, **changes: Any) -> Targets:
    settings = {"v_num_grad_steps": 4, "v_lr": 0.1, "rotate": 2, "keep_factor": 0.5, **changes}
    hparams = hparams_for(adapter, [2], **settings)
    return find_targets(adapter, FACTS[:4], layer=2, hparams=hparams, templates=FLAT)


@pytest.mark.parametrize(("family", "device"), [("llama", "cuda:0"), ("bloom", "cuda:0"), ("gpt2", "mps:0")])
def test_a_device_finds_what_the_cpu_finds(family: str, device: str, tmp_path: Path) -> None:
    adapter = load(tiny(family, tmp_path))
    expected = search(adapter)
    with Pretence() as pretence:
        adapter.model.to(device)
        found = search(adapter)
        assert where(found.z) == torch.device(device)
        assert pretence.calls[torch.device(device)] > 100
        z = found.z.cpu()
    assert torch.equal(z, expected.z)
    assert (found.steps, found.loss) == (expected.steps, expected.loss)


def test_a_step_waits_once(tmp_path: Path) -> None:
    adapter = load(tiny("llama", tmp_path))
    waited = []
    with Pretence() as pretence:
        adapter.model.to(CUDA)
        for steps in (4, 8):
            pretence.waits.clear()
            search(adapter, v_num_grad_steps=steps)
            waited.append(pretence.waits.total())
    assert waited[1] - waited[0] == 4


def test_the_pretence_refuses_what_a_gpu_refuses() -> None:
    with Pretence() as pretence:
        here, there = torch.ones(3), torch.ones(3).to("cuda:0")
        assert where(there[1:].view(-1)) == there.device == CUDA
        assert where(torch.nn.Parameter(there)) == where(torch.zeros_like(there)) == CUDA
        assert (there * torch.tensor(2.0)).device == CUDA
        assert pretence.waits == {"to": 1}
        for wrong in (lambda: here + there, lambda: here[there.long()], there.numpy, lambda: torch.cat([here, there])):
            with pytest.raises(WrongDeviceError):
                wrong()
        with pytest.raises(WrongDeviceError, match="float64"):
            torch.ones(3).to("mps:0").double()
        assert there.cpu().device == torch.device("cpu")
