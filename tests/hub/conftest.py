"""A loopback Hub for each test, and the client in this process turned towards it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.loopback import Loopback


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Loopback]:
    made = Loopback(tmp_path / "hub")
    yield made
    made.close()


@pytest.fixture
def client(hub: Loopback, monkeypatch: pytest.MonkeyPatch) -> Loopback:
    """The Hub, with huggingface_hub of this process pointed at it as ada, by plain LFS.

    The client reads HF_ENDPOINT when it is first imported, which in this process has happened long ago.
    """
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_ada")
    return hub
