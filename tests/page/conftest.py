"""A browser that may ask for files only. Chromium is the system's; where there is none, its tests are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest


class Opened:
    """A page, what it said on the console, and what it asked for beyond files."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))

        def route(way: Any) -> None:
            if way.request.url.startswith("file:"):
                way.continue_()
            else:
                self.asked.append(way.request.url)
                way.abort()

        page.route("**/*", route)
        page.goto(path.as_uri())


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium: Any) -> Iterator[Callable[..., Opened]]:
    """`browse(path, scheme, width)`."""
    with ExitStack() as stack:

        def opened(path: Path, scheme: str = "light", width: int = 1200) -> Opened:
            context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(120_000)
            return Opened(page, path)

        yield opened
