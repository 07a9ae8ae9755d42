"""Chromium with a page that may ask one place only. It is the system's; where there is none, its tests are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

__all__ = ["Browse", "Shown", "barriers", "started"]


class Shown:
    """A page, what it said on the console, and what it asked for elsewhere: not a file, not of the server."""

    def __init__(self, page: Any, where: Path | str) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        address = where.as_uri() if isinstance(where, Path) else where
        own = urlsplit(address)[:2]
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))

        def route(way: Any) -> None:
            if urlsplit(way.request.url)[:2] == own:
                way.continue_()
            else:
                self.asked.append(way.request.url)
                way.abort()

        page.route("**/*", route)
        page.goto(address)

    @property
    def overflow(self) -> int:
        """Pixels that the page is wider than its window."""
        found: int = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        return max(found, 0)


Browse = Callable[..., Shown]


def barriers(page: Any) -> str:
    """What keeps people from the page, as axe finds it; "" for nothing."""
    found = pytest.importorskip("axe_playwright_python.sync_playwright").Axe().run(page)
    return found.generate_report() if found.violations_count else ""


@contextmanager
def started() -> Iterator[Any]:
    """A browser."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
