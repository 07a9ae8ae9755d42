"""Repositories on tiny models, made once and copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from memit_vc.repository import Repository
from tests.export.histories import history

Opened = Callable[[str], Repository]
TOKENS = torch.arange(20, 180).reshape(20, 8)
"""Twenty prompts."""


@pytest.fixture(scope="session")
def histories(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    logging.disable_progress_bar()
    root = tmp_path_factory.mktemp("histories")

    def made(kind: str) -> Path:
        return root / kind / "work" if (root / kind).is_dir() else history(root / kind, kind)

    return made


@pytest.fixture
def opened(tmp_path: Path, histories: Callable[[str], Path]) -> Iterator[Opened]:
    """`opened(kind)`: a copy of a history, open; it must be whole at the end."""
    repositories: list[Repository] = []

    def copied(kind: str) -> Repository:
        target = tmp_path / f"repository-{len(repositories)}"
        shutil.copytree(histories(kind), target)
        repositories.append(Repository.open(target))
        return repositories[-1]

    yield copied
    for repository in repositories:
        assert repository.fsck() == []
        assert repository.orphans() == []
        repository.close()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits.double()


def plain_model(directory: Path, dtype: torch.dtype | str = "auto") -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True).eval()
