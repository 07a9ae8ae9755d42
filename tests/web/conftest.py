"""A server that runs on a copy of a history."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memit_vc.web.desk import Desk
from memit_vc.web.server import Server
from tests.support.live import Live
from tests.support.opened import Opened


@pytest.fixture
def live(opened: Opened, with_history: Path) -> Iterator[Live]:
    repository = opened(with_history)
    server = Server(Desk(repository.directory, "HEAD"))
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.uvicorn.started and time.monotonic() < deadline:
            time.sleep(0.01)
        yield Live(server, repository)
    finally:
        server.uvicorn.should_exit = True
        thread.join()
