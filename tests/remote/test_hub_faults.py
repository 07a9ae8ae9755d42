"""Each fault of the protocol: nothing half done on either side, the message names the cause, and a re-run completes."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from memit_vc.errors import MemitVCError, RefMovedError, RemoteError
from memit_vc.remote import hub_retry
from memit_vc.remote.hub import HubRemote
from memit_vc.remote.protocol import Change
from tests.remote.test_hub import BLOB, FIRST, NAME, ROOM, remote
from tests.support.hub.faults import Fault
from tests.support.hub.loopback import Loopback, Token

SECOND = Change("second", {"memitvc.json": b"[2]", "objects/22/22": BLOB[1:], "note.txt": b"two\n"})
SECRET = "hf_thisisthetokenthatnobodymaysee"  # noqa: S105
AT_ONCE = {"Retry-After": "0"}
COMMIT, PUT = "POST .*/commit/", "PUT /"


@pytest.fixture(autouse=True)
def _secret(client: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    client.tokens[SECRET] = client.tokens["hf_ada"]
    monkeypatch.setenv("HF_TOKEN", SECRET)


@pytest.fixture
def pushed(client: Loopback) -> tuple[HubRemote, str]:
    here = remote(client)
    made = here.publish(FIRST, parent=None)
    client.forget()
    return here, made


def content(hub: Loopback, name: str = NAME) -> dict[str, str]:
    store = hub.repos[name].store
    return {entry.path: entry.oid for entry in store.tree(store.refs()["refs/heads/main"]) if entry.kind == "file"}


def refused(call: Any) -> RemoteError:
    """The error of a call that must fail, which shows no secret."""
    with pytest.raises(MemitVCError) as caught:
        call()
    said = f"{caught.value.message} {caught.value.hint}"
    assert SECRET not in said
    assert "signature=1" not in said
    assert isinstance(caught.value, RemoteError), repr(caught.value)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("route", "kind", "headers"),
    [
        (COMMIT, "lost", {}),
        (COMMIT, "status", AT_ONCE),
        (COMMIT, "cut", {}),
        (COMMIT, "body", {}),
        (PUT, "cut", {}),
        (PUT, "status", AT_ONCE),
        (PUT, "lost", {}),
        ("POST .*/preupload/", "status", AT_ONCE),
        ("POST .*/objects/batch", "status", AT_ONCE),
        ("POST .*/objects/verify", "status", AT_ONCE),
        ("POST .*/validate-yaml", "body", {}),
    ],
)
def test_what_passes_is_got_over(
    client: Loopback, pushed: tuple[HubRemote, str], route: str, kind: Any, headers: Mapping[str, str]
) -> None:
    here, parent = pushed
    html = b"<html>502 Bad Gateway</html>"
    fault = client.faults.add(Fault(route, kind, headers=headers, body=html if kind == "body" else b"{}"))
    change = replace(SECOND, adds={**SECOND.adds, "README.md": b"# again\n"})
    made = here.publish(change, parent=parent)
    assert fault.struck == 1
    assert here.head() == made
    assert client.repos[NAME].store.parents(made) == [parent]
    assert content(client).keys() >= change.adds.keys()


def test_a_commit_refused_for_being_there_already_is_done(client: Loopback, pushed: tuple[HubRemote, str]) -> None:
    here, parent = pushed
    client.faults.add(Fault(COMMIT, "lost"))
    client.faults.add(Fault("GET .*/commits/", "status", 500, headers=AT_ONCE))
    made = here.publish(SECOND, parent=parent)
    assert len(client.lines(COMMIT)) == 1
    assert here.publish(SECOND, parent=parent) == made
    assert [title for _, title in client.repos[NAME].store.log(made)] == ["second", "first", "initial commit"]


def test_a_lost_answer_and_somebody_on_top_of_it(client: Loopback, pushed: tuple[HubRemote, str]) -> None:
    here, parent = pushed
    store = client.repos[NAME].store
    made = here.publish(SECOND, parent=parent)
    top = store.commit("refs/heads/main", made, "theirs", {"note.txt": b"three\n"})
    assert here.publish(SECOND, parent=parent) == made
    assert here.head() == top


def test_a_lost_answer_for_a_pull_request(client: Loopback, pushed: tuple[HubRemote, str]) -> None:
    _, parent = pushed
    client.faults.add(Fault(COMMIT, "lost"))
    there = remote(client, create_pr=True)
    made = there.publish(SECOND, parent=parent)
    refs = client.repos[NAME].store.refs()
    assert refs["refs/pr/1"] == made
    assert "refs/pr/2" not in refs
    assert there.pull_request == f"{client.endpoint}/{NAME}/discussions/1"


def test_what_is_older_than_the_parent_is_not_asked_for(client: Loopback, pushed: tuple[HubRemote, str]) -> None:
    here, parent = pushed
    client.page = 2
    for number in range(6):
        parent = here.publish(Change("more", {"note.txt": b"%d" % number}), parent=parent)
    client.forget()
    client.faults.add(Fault(COMMIT, "lost"))
    here.publish(SECOND, parent=parent)
    assert len(client.lines("GET .*/commits/")) == 1


def test_a_pull_request_on_a_branch_that_moved(client: Loopback, pushed: tuple[HubRemote, str]) -> None:
    _, parent = pushed
    client.faults.add(Fault(COMMIT, "status", 412))
    with pytest.raises(RefMovedError):
        remote(client, create_pr=True).publish(SECOND, parent=parent)


def test_a_lost_answer_after_somebody_elses_push_is_a_conflict(client: Loopback, pushed: tuple[HubRemote, str]) -> None:
    here, parent = pushed
    client.repos[NAME].store.commit("refs/heads/main", parent, "theirs", {"note.txt": b"three\n"})
    client.faults.add(Fault(COMMIT, "status", headers=AT_ONCE))
    with pytest.raises(RefMovedError):
        here.publish(SECOND, parent=parent)


def test_a_limit_is_waited_for_or_told(
    client: Loopback, pushed: tuple[HubRemote, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, parent = pushed
    limited = {"RateLimit": '"api";r=0;t=1'}
    client.faults.add(Fault(COMMIT, "status", 429, headers=limited, times=2))
    began = time.monotonic()
    made = here.publish(SECOND, parent=parent)
    assert 2 <= time.monotonic() - began < 10
    told = b'{"error":"You have exceeded the rate limit. You can retry this action in 43 minutes"}'
    client.faults.add(Fault(COMMIT, "status", 429, body=told))
    began = time.monotonic()
    error = refused(lambda: here.publish(Change("third", {"note.txt": b"3"}), parent=made))
    assert "43 minutes" in error.message
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "headers",
    [
        {"RateLimit": '"api";r=0;t=172'},
        {"Retry-After": "172"},
        {"Retry-After": format_datetime(datetime.now(timezone.utc) + timedelta(days=1), usegmt=True)},
    ],
)
def test_a_long_wait_is_named(client: Loopback, pushed: tuple[HubRemote, str], headers: dict[str, str]) -> None:
    here, parent = pushed
    client.faults.add(Fault(COMMIT, "status", 429, headers=headers, times=9))
    said = refused(lambda: here.publish(SECOND, parent=parent)).message
    found = re.search(r"asks to wait (\d+) s", said)
    assert found is not None
    assert int(found[1]) == 172 or 80_000 < int(found[1]) <= 86_400


def test_a_token_of_any_form_is_masked(
    client: Loopback, pushed: tuple[HubRemote, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of an enterprise's Hub, which looks like nothing; and no command to the terminal is passed on."""
    here, parent = pushed
    token = "s3cret.of-another/form"  # noqa: S105
    client.tokens[token] = client.tokens[SECRET]
    monkeypatch.setenv("HF_TOKEN", token)
    body = f'{{"error":"denied for {token} \\u001b]0;x\\u0007"}}'.encode()
    client.faults.add(Fault(COMMIT, "status", 400, body=body, times=9))
    said = refused(lambda: here.publish(SECOND, parent=parent)).message
    assert "denied for … ]0;x" in said
    assert token not in said


def test_what_does_not_pass_is_told(client: Loopback, pushed: tuple[HubRemote, str]) -> None:
    here, parent = pushed
    before = content(client)
    for status, words in ((500, "HTTP 500"), (403, "may not write here"), (422, "HTTP 422"), (400, "HTTP 400")):
        client.faults.add(Fault(COMMIT, "status", status, headers=AT_ONCE, times=9))
        assert words in refused(lambda: here.publish(SECOND, parent=parent)).message
        client.faults.clear()
    client.faults.add(Fault(PUT, "status", 403, times=99))
    third = Change("third", {"objects/33/33": BLOB[2:]})
    assert "may not write here" in refused(lambda: here.publish(third, parent=parent)).message
    client.faults.clear()
    assert content(client) == before
    here.publish(SECOND, parent=parent)
    assert content(client).keys() - before.keys() == {"note.txt", "objects/22/22"}


def test_rights(
    client: Loopback, pushed: tuple[HubRemote, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, parent = pushed
    repo = client.repos[NAME]
    client.tokens[SECRET] = Token("ada", role="read")
    error = refused(lambda: remote(client).publish(SECOND, parent=parent))
    assert "may not write" in error.message
    assert "--create-pr" in str(error.hint)
    client.tokens[SECRET] = client.tokens["hf_bob"]
    assert "rights" in refused(lambda: remote(client, "ada/other").publish(FIRST, parent=None)).message
    repo.gated = True
    assert "gated" in refused(lambda: remote(client).read("memitvc.json", parent, limit=ROOM)).message
    repo.gated, repo.disabled = False, True
    assert "disabled" in refused(lambda: remote(client).head()).message
    repo.disabled, repo.private = False, True
    assert remote(client).head() is None
    del client.tokens[SECRET]
    assert "token" in refused(lambda: remote(client).head()).message
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "hf auth login" in str(refused(lambda: remote(client).head()).hint)


@pytest.mark.parametrize("kind", ["cut", "reset", "status"])
def test_a_broken_download_is_done_again(
    client: Loopback, pushed: tuple[HubRemote, str], tmp_path: Path, kind: Any
) -> None:
    here, made = pushed
    fault = client.faults.add(Fault("GET /ada/facts/[0-9a-f]{64}", kind, headers=AT_ONCE))
    here.fetch("objects/ab/cdef", made, tmp_path / "got", limit=ROOM)
    assert fault.struck == 1
    assert (tmp_path / "got").read_bytes() == BLOB


def test_a_download_that_never_comes(client: Loopback, pushed: tuple[HubRemote, str], tmp_path: Path) -> None:
    here, made = pushed
    client.faults.add(Fault("GET /ada/facts/[0-9a-f]{64}", "status", 503, headers=AT_ONCE, times=99))
    error = refused(lambda: here.fetch("objects/ab/cdef", made, tmp_path / "got", limit=ROOM))
    assert "HTTP 503" in error.message
    assert "downloading objects/ab/cdef" in error.message
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_nobody_listens(client: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_retry, "ATTEMPTS", 1)
    gone = HubRemote(NAME, endpoint="http://127.0.0.1:9")
    assert "the connection failed" in refused(gone.head).message
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "offline mode" in refused(remote(client).head).message


def test_a_conflict_of_creation_without_an_address(client: Loopback) -> None:
    client.add(NAME)
    client.faults.add(Fault("POST /api/repos/create", "status", 409))
    made = remote(client).publish(FIRST, parent=None)
    assert remote(client).head() == made


def test_creation_is_tried_again(client: Loopback) -> None:
    client.faults.add(Fault("POST /api/repos/create", "status", 503, headers=AT_ONCE))
    client.faults.add(Fault("POST /api/repos/create", "lost", skip=1))
    made = remote(client).publish(FIRST, parent=None)
    assert remote(client).head() == made


def test_an_invalid_card_names_the_reason(client: Loopback, pushed: tuple[HubRemote, str]) -> None:
    here, parent = pushed
    wrong = Change("card", {"README.md": b"---\ntags: 5\n---\n"})
    assert "tags" in refused(lambda: here.publish(wrong, parent=parent)).message
    assert here.head() == parent


@pytest.mark.skipif(importlib.util.find_spec("hf_xet") is None, reason="needs hf_xet")
@pytest.mark.parametrize(("status", "words"), [(404, "no Xet storage"), (403, "storage refuses your token")])
def test_a_refusal_by_xet(
    client: Loopback, pushed: tuple[HubRemote, str], monkeypatch: pytest.MonkeyPatch, status: int, words: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    here, parent = pushed
    client.faults.add(Fault("GET .*/xet-write-token/", "status", status, times=99))
    assert words in refused(lambda: here.publish(SECOND, parent=parent)).message
    assert len(client.lines("xet-write-token")) == 1
    assert client.lines("auth-check/write")
    assert here.head() == parent
