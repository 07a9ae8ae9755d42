"""The live page in a browser: the playground, the buttons, and who may use them."""

from __future__ import annotations

from typing import Any

import pytest

from memit_vc.porcelain.asking.ask import ask
from tests.support.browser import Browse, barriers
from tests.support.live import Live
from tests.support.models import FACTS
from tests.support.places import contents

pytestmark = pytest.mark.browser
TOKENS = 6


def asked(page: Any, prompt: str) -> None:
    page.fill("#prompt", prompt)
    page.fill("#right", "HEAD~3")
    page.fill("#tokens", str(TOKENS))
    page.click("#ask button[type=submit]")
    page.wait_for_selector("#answer table")


def pressed(page: Any, line: str) -> str:
    """What the page says after the button beside a command."""
    button = page.locator(f'button.run[aria-label="Run: {line}"]').first
    assert button.evaluate("each => each.parentElement.querySelector('code').textContent") == line
    with page.expect_navigation():
        button.click()
    told: str = page.text_content("#done")
    return told


@pytest.mark.parametrize(("scheme", "width"), [("light", 400), ("dark", 1600)])
def test_the_playground_shows_what_ask_says_and_has_no_barrier(
    browse: Browse, live: Live, scheme: str, width: int
) -> None:
    before = contents(live.repository.directory)
    opened = browse(live.server.address, scheme, width)
    page, prompt = opened.page, FACTS[4].prompt
    asked(page, prompt)
    (wanted,) = ask(live.repository, [prompt], ["HEAD", "HEAD~3"], new_tokens=TOKENS)
    assert page.locator("#answer pre").all_text_contents() == [answer.text for answer in wanted.answers]
    assert len({answer.text for answer in wanted.answers}) == 2
    assert page.text_content("#asked").startswith("They differ from token ")
    differ = int(page.text_content("#answer tr.differ th").partition(" ")[0])
    cells = [row.locator("td").all_text_contents() for row in page.locator("#answer tbody tr").all()]
    assert all(left == right for left, _, right, _ in cells[: differ - 1])
    assert cells[differ - 1][0] != cells[differ - 1][2]
    assert all(best.count("%") == 5 for row in cells for best in row[1::2] if best)
    page.click("#blame")
    page.wait_for_selector("#blamed table")
    assert prompt in page.text_content("#blamed tbody tr >> nth=0")
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    page.evaluate("document.querySelector('#rows button.open').click()")
    assert barriers(page) == ""
    assert opened.overflow == 0
    assert (opened.asked, opened.said) == ([], [])
    assert contents(live.repository.directory) == before  # nobody pressed a button


def test_a_button_shows_its_command_and_does_it(browse: Browse, live: Live) -> None:
    repository = live.repository
    start = repository.head().commit
    opened = browse(live.server.address)
    page = opened.page
    page.click(f"#commit-{start[:10]} summary")
    line = f"memitvc revert {start[:10]}"
    assert pressed(page, line).startswith(f"{line}: [main ")
    reverted = repository.head().commit
    assert repository.parents(reverted) == (start,)
    assert page.locator(f"#commit-{start[:10]} .lost").count() == 1
    assert "Revert" in page.text_content(".history li >> nth=0")
    assert pressed(page, "memitvc undo").startswith("memitvc undo: ")
    assert repository.head().commit == start
    page.click("#rows button.open >> nth=0")
    fact = page.locator("#rows button.run").first.evaluate("each => each.parentElement.firstChild.textContent")
    assert " --fact " in fact
    pressed(page, fact)
    assert len(repository.live_facts(repository.head().commit)) == len(repository.live_facts(start)) - 1
    assert (opened.asked, opened.said) == ([], [])


def test_a_page_that_is_behind_is_told_so(browse: Browse, live: Live) -> None:
    opened, other = browse(live.server.address), browse(live.server.address)
    start = live.repository.head().commit
    pressed(other.page, "memitvc undo")
    opened.page.click(f"#commit-{start[:10]} summary")
    opened.page.click(f'button.run[aria-label="Run: memitvc revert {start[:10]}"]')
    # no `wait_for_function`: from its second look on it evaluates a string in the page, whose policy refuses that
    opened.page.locator("#done", has_text="Load the page again").wait_for()
    assert live.repository.head().commit != start
    assert len(opened.said) == 1  # the browser's own line on the answer 409


def test_another_page_gets_nothing_and_an_address_without_the_token_403(browse: Browse, live: Live) -> None:
    before = contents(live.repository.directory)
    root = live.server.address.removesuffix(live.path)
    page = browse(f"http://localhost:{live.server.port}/").page  # another origin than 127.0.0.1
    page.unroute_all()
    for name in ("run", "ask", ""):
        got = page.evaluate(
            """([url, body]) => fetch(url, {method: body ? 'POST' : 'GET', mode: 'no-cors', body: body || undefined})
               .then(() => 'an answer', () => 'nothing')""",
            [live.server.address + name, name and f'{{"command": "memitvc undo", "seen": {live.seen()}}}'],
        )
        assert got == "nothing"
    assert page.goto(f"{root}/").status == 403
    assert page.goto(f"{root}/{'x' * 43}/").status == 403
    assert contents(live.repository.directory) == before
