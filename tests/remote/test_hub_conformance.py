"""The Hub passes what every remote must (tests/remote/conformance.py)."""

from __future__ import annotations

import pytest

from tests.remote.conformance import Conformance
from tests.support.hub.loopback import Loopback


class TestHub(Conformance):
    @pytest.fixture
    def url(self, client: Loopback) -> str:
        return "hf://ada/facts"

    @pytest.fixture(autouse=True)
    def _hub(self, client: Loopback) -> None:
        self.client = client

    def foreign(self, url: str, files: dict[str, bytes]) -> None:
        self.client.add(url.removeprefix("hf://"), files)
