"""The live page: who is answered, what changes something, and that the playground has the bits of `ask`."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from memit_vc.cli import main, web
from memit_vc.objects import RefUpdate
from memit_vc.porcelain.asking.ask import ask
from memit_vc.porcelain.asking.blame import blame
from memit_vc.porcelain.editing import models
from memit_vc.porcelain.upkeep.gc import collect_garbage
from memit_vc.repository import Repository
from memit_vc.web import desk
from tests.support.live import Live
from tests.support.models import FACTS
from tests.support.places import contents

HOSTILE = "</script><script>alert(1)</script>\u202e"


def test_only_the_page_itself_is_answered(live: Live) -> None:
    good, before = live.headers, contents(live.repository.directory)
    undo = json.dumps({"command": "memitvc undo", "seen": live.seen()}).encode()
    port = live.server.port
    host = good["Host"]
    wrong: list[tuple[str, dict[str, str]]] = [
        ("/run", {}),
        ("/" + "x" * 43 + "/run", {}),
        (live.path[:-1], {}),
        ("//" + live.path.strip("/") + "/run", {}),
        (live.path + "run", {"Origin": "http://evil.example"}),
        (live.path + "run", {"Origin": "null"}),
        (live.path + "run", {"Origin": f"https://{host}"}),
        (live.path + "run", {"Origin": f"http://127.0.0.1:{port + 1}"}),
        (live.path + "run", {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}),
        (live.path + "run", {"Host": "127.0.0.1"}),
        (live.path + "run", {"Sec-Fetch-Site": "cross-site"}),
        (live.path + "run", {"Sec-Fetch-Site": "same-site"}),
    ]
    for path, more in wrong:
        for method in ("POST", "GET", "PUT", "OPTIONS"):
            status, headers, body = live.raw(method, path, {**good, **more}, undo if method == "POST" else b"")
            assert status == 403, (method, path, more)
            assert live.path.strip("/").encode() not in body
            assert "access-control-allow-origin" not in headers
    without_origin = {name: value for name, value in good.items() if name != "Origin"}
    assert live.raw("POST", live.path + "run", without_origin, undo)[0] == 403
    assert live.raw("GET", live.path, {"Host": f"evil.example:{port}"})[0] == 403
    assert live.raw("GET", live.path, {})[0] in (400, 403)
    plain = {**good, "Content-Type": "text/plain"}
    assert live.raw("POST", live.path + "run", plain, undo)[0] == 400
    assert contents(live.repository.directory) == before
    assert (
        live.raw(
            "POST", live.path + "run", {**good, "Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}, undo
        )[0]
        == 200
    )


def test_an_empty_log_of_operations_stops_nothing(live: Live) -> None:
    """As `gc --prune-operations` leaves it."""
    collect_garbage(live.repository, keep_operations=0)
    assert live.repository.operations() == []
    assert live.get()[0] == 200
    assert live.seen() == 0
    assert live.post("run", command="memitvc revert HEAD", seen=0)[0] == 200
    assert live.post("run", command="memitvc undo", seen=0)[0] != 200  # something was done since
    assert live.post("run", command="memitvc undo", seen=live.seen())[0] == 200


def test_get_changes_nothing(live: Live) -> None:
    before = contents(live.repository.directory)
    for name in ("", "ask", "blame", "run", "run?command=memitvc+undo", "favicon.ico"):
        for method in ("GET", "HEAD"):
            status, _, _ = live.raw(method, live.path + name, live.headers)
            assert status == (200 if name == "" else 404 if name == "favicon.ico" else 405)
    assert contents(live.repository.directory) == before


def test_the_page_keeps_its_policy_and_shows_hostile_text_as_text(live: Live) -> None:
    commit = live.repository.head().commit
    live.repository.publish(verb="tag", description="x", refs=[RefUpdate("tags/a&b", None, commit)])
    status, headers, page = live.get()
    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert re.findall(r"(?:src|href)=[\"']?(?!#)(\w+:|//)", page) == []
    assert '<option value="a&amp;b">' in page
    assert page.count("<script>") == 1
    assert f'data-operation="{live.seen()}"' in page


def test_the_playground_has_the_bits_of_ask_and_one_load(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[int] = []
    plainly = models.load_model
    monkeypatch.setattr(models, "load_model", lambda *given, **more: loads.append(1) or plainly(*given, **more))
    for prompt in (FACTS[0].prompt, FACTS[4].prompt, HOSTILE):
        status, found = live.post("ask", prompt=prompt, left="HEAD", right="HEAD~3", tokens=6)
        assert status == 200, found
        with Repository.open(live.repository.directory) as repository:
            (wanted,) = ask(
                repository, [prompt], ["HEAD", "HEAD~3"], new_tokens=6, loaded=models.load_model(repository)
            )
        assert [side["text"] for side in found["sides"]] == [answer.text for answer in wanted.answers]
        spelled = [[choices[0][0] for choices in side["best"]] for side in found["sides"]]
        assert all(len(choices) == 5 for side in found["sides"] for choices in side["best"])
        differ = found["differ"]
        if differ is None:
            assert spelled[0] == spelled[1]
        else:
            assert spelled[0][:differ] == spelled[1][:differ]
    assert loads.count(1) == 1 + 3  # the server's one, and the three of this test
    status, blamed = live.post("blame", prompt=FACTS[0].prompt, revision="HEAD")
    assert status == 200
    direct = blame(live.repository, FACTS[0].prompt)
    assert [fact["id"] for entry in blamed["facts"] for fact in entry["facts"]] == [
        fact.id for entry in direct.facts for fact in entry.facts
    ]


def test_the_buttons_do_what_they_say(live: Live, tmp_path: Path) -> None:
    repository = live.repository
    head = repository.head().commit
    victim = repository.live_facts(head)[0]
    line = f"memitvc revert {victim.commit[:10]} --fact '{victim.fact.subject}'"
    status, made = live.post("run", command=line, seen=live.seen())
    assert (status, "column out" in made["done"]) == (200, True)
    assert victim.fact.id not in {each.fact.id for each in repository.live_facts(repository.head().commit)}
    assert live.post("run", command="memitvc undo", seen=live.seen())[0] == 200
    assert repository.head().commit == head
    assert live.post("run", command="memitvc redo", seen=live.seen())[0] == 200
    stale = live.seen()
    assert live.post("run", command=f"memitvc revert {head[:10]}", seen=stale)[0] == 200
    out = tmp_path / "with blank"
    status, made = live.post("run", command=f"memitvc checkout HEAD -o '{out}'", seen=stale)
    assert (status, (out / "config.json").is_file()) == (200, True)
    before = contents(repository.directory)
    for line in (
        "memitvc", "memitvc gc", "rm -rf x", "'", "memitvc undo x", "memitvc revert nowhere",
        "memitvc revert HEAD; rm x",
        "memitvc revert --resolve", "memitvc revert -m x", "memitvc checkout HEAD --in-place x",
        f"memitvc checkout HEAD -o {repository.root / 'x'}",
        "memitvc checkout HEAD -o 'a\0b'", "memitvc checkout HEAD -o '\ud800'",
    ):  # fmt: skip
        status, found = live.post("run", command=line, seen=live.seen())
        assert status in (400, 409), line
        assert found["error"]["message"]
    assert live.post("run", command="memitvc undo", seen=stale)[1]["error"]["exit_code"] == 11
    for fields in (
        {},
        {"command": "memitvc undo"},
        {"command": 3, "seen": live.seen()},
        {"command": "memitvc undo", "seen": True},
    ):
        assert live.post("run", **fields)[0] == 400
    assert live.post("ask", prompt="a", left="HEAD", right="HEAD", tokens=10**9)[0] == 400
    assert live.raw("POST", live.path + "run", live.headers, b"[" * 100_000)[0] == 400
    assert live.raw("POST", live.path + "run", live.headers, b" " * 300_000)[0] == 400
    assert contents(repository.directory) == before


def test_the_command_needs_a_revision_and_the_extra(
    plain_repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = str(plain_repository.directory)
    assert main(["web", "nowhere", "-C", where]) == 1
    capsys.readouterr()
    monkeypatch.delitem(sys.modules, "memit_vc.web.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["web", "--json", "-C", where]) == 1
    error = json.loads(capsys.readouterr().err)["error"]
    assert "uvicorn" in error["message"]
    assert "memit-vc[web]" in error["hint"]


def test_what_came_while_the_page_was_made_is_not_undone_unseen(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page names the newest operation that it shows, and its button undoes only that one."""
    gather, told = desk.gather, list[Any]()

    def slow(*given: Any) -> Any:
        made, head = gather(*given), live.repository.head().commit
        live.repository.publish(verb="tag", description="late", refs=[RefUpdate("tags/late", None, head)])
        return made

    before = live.repository.operations(1)[0].id
    monkeypatch.setattr(desk, "gather", slow)
    monkeypatch.setattr(desk, "render_live", lambda _, *, operation, **__: told.append(operation))
    page = desk.Desk(live.repository.directory, "HEAD")
    page.page()
    page.close()
    assert live.repository.operations(1)[0].id == before + 1
    assert told == [before]


def test_the_address_stands_on_no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with web._doorway("http://127.0.0.1:1/secret/") as page:
        assert "secret" not in str(page)
        assert "http://127.0.0.1:1/secret/" in page.read_text()
        assert page.parent.stat().st_mode & 0o077 == 0
    assert not page.exists()


def test_a_page_whose_repository_was_replaced_refuses(live: Live, with_history: Path, tmp_path: Path) -> None:
    """SQLite would go on writing into the meta.db that it opened, wherever that lies now."""
    root, away = live.repository.root, tmp_path / "away" / ".memitvc"
    away.parent.mkdir()
    seen = live.seen()
    assert live.get()[0] == 200
    live.repository.close()  # the page alone has the database open
    root.rename(away)
    moved = contents(away.parent)

    def refused(reason: str) -> None:
        status, found = live.post("run", command="memitvc undo", seen=seen)
        assert (status, found["error"]["exit_code"]) == (409, 12)
        assert f"meta.db {reason}" in found["error"]["message"]
        status, _, page = live.get()
        assert (status, reason in page) == (409, True)

    refused("can no longer be found")
    shutil.copytree(with_history / ".memitvc", root)
    other = contents(root.parent)
    refused("is another file now")
    assert live.post("blame", prompt=FACTS[0].prompt, revision="HEAD")[0] == 409
    assert (contents(away.parent), contents(root.parent)) == (moved, other)
    shutil.rmtree(root)
    away.rename(root)
    assert live.post("run", command="memitvc undo", seen=seen)[0] == 200
