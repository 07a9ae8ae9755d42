"""The pictures of docs/report.md: the sections of a report in Chromium. `python docs/pictures.py REPORT.html`

Each has few colours, because the repository keeps every version of it.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent
WIDE, NARROW = 1000, 420
HIGHEST = 560
"""Pixels of a picture: what is below them looks like what is above."""
COLOURS = 64
SECTIONS = ("history", "curves", "facts", "comparisons", "weights", "interference", "provenance")


def main(report: Path) -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDE, "height": 900})
        page.goto(report.absolute().as_uri())
        _kept("report", page.screenshot())
        page.click("#rows button.open >> nth=0")
        for name in SECTIONS:
            _kept(f"report-{name}", _clipped(page, f"section[aria-labelledby={name}]"))
        page.set_viewport_size({"width": NARROW, "height": 900})
        page.goto("about:blank")
        page.goto(report.absolute().as_uri())
        _kept("report-narrow", page.screenshot())
        browser.close()


def _clipped(page: Any, selector: str) -> bytes:
    box = page.locator(selector).evaluate(
        "each => { const box = each.getBoundingClientRect();"
        "return {x: box.x + scrollX - 12, y: box.y + scrollY - 8, width: box.width + 24, height: box.height + 16}; }"
    )
    taken: bytes = page.screenshot(clip={**box, "height": min(box["height"], HIGHEST)}, full_page=True)
    return taken


def _kept(name: str, picture: bytes) -> None:
    with Image.open(io.BytesIO(picture)) as image:
        few = image.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(DOCS / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
