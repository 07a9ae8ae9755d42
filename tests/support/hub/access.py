"""Who may do what on the loopback Hub, and what it holds: repositories, tokens, two origins, faults."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from werkzeug.wrappers import Request, Response

from tests.support.hub.faults import Faults
from tests.support.hub.gitstore import GitStore
from tests.support.hub.server import Origin

__all__ = ["DATE", "Access", "HubError", "Repo", "Token", "answer", "ranged"]

DATE = "2026-01-31T12:00:00.000Z"


@dataclass(frozen=True)
class Token:
    user: str
    role: str = "write"
    orgs: tuple[str, ...] = ()


@dataclass
class Repo:
    store: GitStore
    private: bool = False
    gated: bool = False
    disabled: bool = False
    pull_requests: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class HubError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, **body: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body

    def response(self) -> Response:
        headers = {"X-Error-Message": self.message, **({"X-Error-Code": self.code} if self.code else {})}
        return Response(
            json.dumps({"error": self.message, **self.body}), self.status, headers, mimetype="application/json"
        )


class Access:
    """Tokens: `hf_ada` writes for ada and the organisation lab, `hf_bob` for bob, `hf_reader` is ada's read-only one.

    `private_by_default` is what the user's settings say of a new repository whose creator does not. `page` is the
    length of a page of a listing, `large` the size above which any file is a large one. `cas` is the folder of a Xet
    store; None means that this Hub has no Xet.
    """

    def __init__(self, root: Path, *, page: int = 1000, large: int = 10_000_000, cas: Path | None = None) -> None:
        self.root, self.page, self.large, self.cas = root, page, large, cas
        self.tokens = {
            "hf_ada": Token("ada", orgs=("lab",)),
            "hf_reader": Token("ada", role="read"),
            "hf_bob": Token("bob"),
        }
        self.private_by_default = False
        self.repos: dict[str, Repo] = {}
        self.faults = Faults()
        self._lock = threading.Lock()
        self.storage = Origin(self._stored, self.faults)
        self.api = Origin(self._api, self.faults)
        self.endpoint = self.api.url

    def close(self) -> None:
        self.api.close()
        self.storage.close()

    @property
    def received(self) -> int:
        """Bytes that came in over both origins, request lines and headers included."""
        return self.api.received + self.storage.received

    def lines(self, pattern: str = "") -> list[str]:
        """The requests so far that match, "METHOD /path"."""
        seen = self.api.requests + self.storage.requests
        return [each.line for each in seen if re.search(pattern, each.line)]

    def forget(self) -> None:
        """Forget requests, counts and faults."""
        for origin in (self.api, self.storage):
            origin.requests.clear()
            origin.received = 0
        self.faults.clear()

    def add(self, name: str, files: Mapping[str, bytes] | None = None, *, private: bool = False) -> Repo:
        """A repository as if somebody had pushed `files` to it; large ones by the rules of .gitattributes."""
        repo = Repo(GitStore.create(self.root / "models" / name), private)
        self.repos[name] = repo
        if files:
            head = repo.store.sha("main")
            large = {p: d for p, d in files.items() if repo.store.is_lfs_path(head, p) or len(d) > self.large}
            pointers = {path: (repo.store.put_lfs(data), len(data)) for path, data in large.items()}
            plain = {path: data for path, data in files.items() if path not in large}
            repo.store.commit("refs/heads/main", head, "files", plain, large=pointers)
        return repo

    # who may do what

    def _who(self, request: Request) -> Token | None:
        header = request.headers.get("Authorization", "")
        if not header:
            return None
        found = self.tokens.get(header.removeprefix("Bearer "))
        if found is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return found

    def _repo(self, request: Request, name: str, *, write: bool = False, content: bool = False) -> Repo:
        who, repo = self._who(request), self.repos.get(name)
        owner = name.partition("/")[0]
        owns = who is not None and owner in (who.user, *who.orgs)
        if repo is None or (repo.private and not owns):
            if who is None:
                raise HubError(401, "Invalid username or password.")
            raise HubError(404, "Repository not found", "RepoNotFound")
        if repo.disabled:
            raise HubError(403, "Access to this resource is disabled.")
        if content and repo.gated and not owns:
            raise HubError(401 if who is None else 403, f"Access to model {name} is restricted.", "GatedRepo")
        if write and (who is None or not owns or who.role != "write"):
            raise HubError(403, "Forbidden: you must use a write token to upload to a repository.")
        return repo

    @staticmethod
    def _sha(repo: Repo, revision: str) -> str:
        found = repo.store.sha(revision)
        if found is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def _api(self, request: Request, path: list[str]) -> Response:
        raise NotImplementedError

    def _stored(self, request: Request, path: list[str]) -> Response:
        raise NotImplementedError


def answer(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value), status, mimetype="application/json")


def ranged(request: Request, data: bytes, headers: Mapping[str, str]) -> Response:
    response = Response(data, 200, dict(headers), mimetype="application/octet-stream")
    return response.make_conditional(request.environ, accept_ranges=True, complete_length=len(data))
