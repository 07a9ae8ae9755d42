"""A Hub for tests: what huggingface_hub calls, answered as huggingface.co answers.

Two origins: `endpoint` speaks the API, `storage` takes and gives the bytes of large files and refuses a token, which a
client must never send there. Files lie in `<root>/models/<ns>/<name>/.git`, large ones in `.git/lfs/objects`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from werkzeug.wrappers import Request, Response

from tests.hub.faults import Faults
from tests.hub.gitstore import Entry, GitStore, MovedError
from tests.hub.server import Origin
from tests.hub.xet import xet_files

__all__ = ["Loopback", "Repo", "Token"]

_DATE = "2026-01-31T12:00:00.000Z"
_LIMITS = {"RateLimit": '"api";r=998;t=172', "RateLimit-Policy": '"fixed window";"api";q=1000;w=300'}


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


class Loopback:
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

    # the API

    def _api(self, request: Request, path: list[str]) -> Response:
        try:
            response = self._route(request, path)
        except HubError as error:
            response = error.response()
        response.headers.update(_LIMITS)
        return response

    def _route(self, request: Request, path: list[str]) -> Response:
        match (request.method, *path):
            case ("GET", "api", "whoami-v2"):
                return self._whoami(request)
            case ("POST", "api", "repos", "create"):
                return self._create(request)
            case ("POST", "api", "validate-yaml"):
                return self._validate(request)
            case (method, "api", "models", ns, name, *rest):
                return self._model(request, method, f"{ns}/{name}", rest)
            case ("POST", ns, git, "info", "lfs", "objects", action) if git.endswith(".git"):
                return self._lfs(request, f"{ns}/{git[:-4]}", action)
            case ("HEAD" | "GET", ns, name, "resolve", revision, *file):
                return self._resolve(request, f"{ns}/{name}", revision, "/".join(file))
            case ("HEAD" | "GET", "api", "resolve-cache", "models", ns, name, sha, *file):
                return self._cached(request, f"{ns}/{name}", sha, "/".join(file))
        raise HubError(404, f"no such route: {request.method} /{'/'.join(path)}")

    def _model(self, request: Request, method: str, name: str, rest: list[str]) -> Response:
        match (method, *rest):
            case ("GET",):
                return self._info(request, name, "main")
            case ("GET", "revision", revision):
                return self._info(request, name, revision)
            case ("GET", "tree", revision, *under):
                return self._tree(request, name, revision, "/".join(under))
            case ("POST", "paths-info", revision):
                return self._paths_info(request, name, revision)
            case ("GET", "refs"):
                return self._refs(request, name)
            case ("GET", "commits", revision):
                return self._commits(request, name, revision)
            case ("POST" | "DELETE", "branch" | "tag" as kind, at):
                return self._change_ref(request, name, kind, at)
            case ("GET", "auth-check", *write):
                self._repo(request, name, write=bool(write), content=True)
                return _json({})
            case ("PUT", "settings"):
                repo, wanted = self._repo(request, name, write=True), request.get_json()
                repo.private = wanted.get("visibility", "private" if repo.private else "public") == "private"
                repo.gated = bool(wanted.get("gated", repo.gated))
                return _json({})
            case ("POST", "preupload", revision):
                return self._preupload(request, name, revision)
            case ("POST", "commit", revision):
                return self._commit(request, name, revision)
            case ("POST", "lfs-files", "duplicate"):
                return self._duplicate(request, name)
            case ("GET", "xet-write-token" | "xet-read-token" as kind, _):
                return self._xet_token(request, name, write=kind == "xet-write-token")
        raise HubError(404, f"no such route: {method} {'/'.join(rest)}")

    def _whoami(self, request: Request) -> Response:
        who = self._who(request)
        if who is None:
            raise HubError(401, "Invalid username or password.")
        orgs = [{"name": each} for each in who.orgs]
        auth = {"accessToken": {"role": who.role}}
        return _json({"type": "user", "name": who.user, "fullname": who.user, "orgs": orgs, "auth": auth})

    def _create(self, request: Request) -> Response:
        who, wanted = self._who(request), request.get_json()
        if who is None:
            raise HubError(401, "Invalid username or password.")
        owner = wanted.get("organization") or who.user
        name = f"{owner}/{wanted['name']}"
        if who.role != "write" or owner not in (who.user, *who.orgs):
            raise HubError(403, "You don't have the rights to create a model under this namespace")
        with self._lock:
            if name in self.repos:
                raise HubError(409, "You already created this model repo", url=f"{self.endpoint}/{name}")
            said = wanted.get("visibility")
            self.add(name, private=self.private_by_default if said is None else said == "private")
        return _json({"url": f"{self.endpoint}/{name}"})

    def _validate(self, request: Request) -> Response:
        """As far as the product needs it: front matter is YAML, a mapping, with the Hub's types for our keys."""
        content = request.get_json()["content"]
        found = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", content, re.DOTALL)
        errors: list[str] = []
        if found:
            try:
                data = yaml.safe_load(found[1])
            except yaml.YAMLError as error:
                data, errors = {}, [f"YAML: {error}"]
            if not isinstance(data, dict):
                data, errors = {}, ["Metadata must be a mapping"]
            errors += _wrong_metadata(data)
        answer = {"errors": [{"message": each} for each in errors], "warnings": []}
        return _json(answer, 400 if errors else 200)

    def _info(self, request: Request, name: str, revision: str) -> Response:
        repo = self._repo(request, name)
        sha = self._sha(repo, revision)
        files = [entry for entry in repo.store.tree(sha) if entry.kind == "file"]
        siblings = [{"rfilename": entry.path, **self._described(entry)} for entry in files]
        card = next((entry for entry in files if entry.path == "README.md"), None)
        data: Any = {}
        if card is not None:
            found = re.match(r"---\n(.*?)\n---\n", repo.store.blob(card.oid).decode(), re.DOTALL)
            data = yaml.safe_load(found[1]) if found else {}
        about = {"id": name, "modelId": name, "author": name.partition("/")[0], "sha": sha, "cardData": data}
        times = {"lastModified": _DATE, "createdAt": _DATE}
        state = {"private": repo.private, "gated": "auto" if repo.gated else False, "disabled": False}
        return _json({**about, **times, **state, "tags": data.get("tags", []), "siblings": siblings, "downloads": 0})

    @staticmethod
    def _described(entry: Entry) -> dict[str, Any]:
        if entry.lfs is None:
            return {"size": entry.size, "blobId": entry.oid}
        sha256, size = entry.lfs
        return {"size": size, "blobId": entry.oid, "lfs": {"sha256": sha256, "size": size, "pointerSize": entry.size}}

    def _row(self, entry: Entry) -> dict[str, Any]:
        row: dict[str, Any] = {"type": entry.kind, "oid": entry.oid, "size": entry.size, "path": entry.path}
        if entry.lfs is not None:
            sha256, size = entry.lfs
            row |= {"size": size, "lfs": {"oid": sha256, "size": size, "pointerSize": entry.size}}
            row["xetHash"] = self.xet_hash(sha256)
        return row

    def xet_hash(self, sha256: str) -> str:
        """Large files have one on the Hub; where there is no Xet store it is only a name."""
        if self.cas is not None and (found := xet_files(self.cas).get(sha256)):
            return found
        return hashlib.sha256(b"xet" + sha256.encode()).hexdigest()

    def _tree(self, request: Request, name: str, revision: str, under: str) -> Response:
        repo = self._repo(request, name)
        deep = request.args.get("recursive", "false").lower() == "true"
        rows = [self._row(entry) for entry in repo.store.tree(self._sha(repo, revision), under, recursive=deep)]
        if under and not rows:
            raise HubError(404, f"{under} does not exist on {revision}", "EntryNotFound")
        return self._paged(request, rows)

    def _paged(self, request: Request, rows: list[dict[str, Any]]) -> Response:
        start = int(request.args.get("cursor", "0"))
        response = _json(rows[start : start + self.page])
        if start + self.page < len(rows):
            arguments = {**request.args.to_dict(), "cursor": str(start + self.page)}
            query = "&".join(f"{key}={value}" for key, value in arguments.items())
            path = request.environ["REQUEST_URI"].partition("?")[0]
            response.headers["Link"] = f'<{self.endpoint}{path}?{query}>; rel="next"'
        return response

    def _paths_info(self, request: Request, name: str, revision: str) -> Response:
        repo = self._repo(request, name)
        wanted = set(request.form.getlist("paths"))
        return _json([self._row(each) for each in repo.store.tree(self._sha(repo, revision)) if each.path in wanted])

    def _refs(self, request: Request, name: str) -> Response:
        repo = self._repo(request, name)
        kinds: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": []}
        places = {"refs/heads/": "branches", "refs/tags/": "tags"}
        if request.args.get("include_prs"):
            places["refs/pr/"] = "pullRequests"
            kinds["pullRequests"] = []
        for ref, sha in repo.store.refs().items():
            for prefix, kind in places.items():
                if ref.startswith(prefix):
                    kinds[kind].append({"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha})
        return _json(kinds)

    def _commits(self, request: Request, name: str, revision: str) -> Response:
        repo = self._repo(request, name)
        log = repo.store.log(self._sha(repo, revision))
        rows = [
            {"id": sha, "title": title, "message": "", "date": _DATE, "authors": [{"user": "ada"}]}
            for sha, title in log
        ]
        return self._paged(request, rows)

    def _change_ref(self, request: Request, name: str, kind: str, at: str) -> Response:
        repo = self._repo(request, name, write=True)
        prefix = "refs/heads/" if kind == "branch" else "refs/tags/"
        wanted = request.get_json(silent=True) or {}
        if request.method == "DELETE":
            if f"{prefix}{at}" not in repo.store.refs():
                raise HubError(404, f"Reference {at} does not exist", "RevisionNotFound")
            repo.store.set_ref(f"{prefix}{at}", None)
            return _json({})
        made, start = (at, wanted.get("startingPoint", "main")) if kind == "branch" else (wanted["tag"], at)
        sha = self._sha(repo, start)
        with repo.lock:
            if f"{prefix}{made}" in repo.store.refs():
                raise HubError(409, f"Reference already exists: {prefix}{made}")
            repo.store.set_ref(f"{prefix}{made}", sha)
        return _json({})

    # writing

    def _preupload(self, request: Request, name: str, revision: str) -> Response:
        repo = self._repo(request, name, write=True)
        sha = self._sha(repo, revision)
        present = {entry.path: entry for entry in repo.store.tree(sha)}
        answer = []
        for file in request.get_json()["files"]:
            binary = b"\0" in base64.b64decode(file["sample"])
            large = binary or file["size"] > self.large or repo.store.is_lfs_path(sha, file["path"])
            row = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if (entry := present.get(file["path"])) is not None:
                row["oid"] = entry.oid if entry.lfs is None else entry.lfs[0]
            answer.append(row)
        return _json({"files": answer})

    def _lfs(self, request: Request, name: str, action: str) -> Response:
        repo, wanted = self._repo(request, name, write=True), request.get_json()
        if action == "verify":
            path = repo.store.lfs_path(wanted["oid"])
            if not path.is_file() or path.stat().st_size != wanted["size"]:
                raise HubError(404, "the object is not there")
            return _json({})
        objects = []
        for each in wanted["objects"]:
            row = {"oid": each["oid"], "size": each["size"]}
            if not repo.store.lfs_path(each["oid"]).is_file():
                upload = {"href": f"{self.storage.url}/{name}/{each['oid']}?signature=1"}
                verify = {"href": f"{self.endpoint}/{name}.git/info/lfs/objects/verify"}
                row["actions"] = {"upload": upload, "verify": verify}
            objects.append(row)
        return _json({"transfer": "basic", "objects": objects})

    def _commit(self, request: Request, name: str, revision: str) -> Response:
        repo = self._repo(request, name, write=True)
        lines = [json.loads(line) for line in request.get_data().splitlines()]
        header = lines[0]["value"]
        files: dict[str, bytes] = {}
        large: dict[str, tuple[str, int]] = {}
        deleted: list[str] = []
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                large[value["path"]] = (value["oid"], self._size_of(repo, value))
            else:
                deleted.append(value["path"])
            if "\\" in value["path"]:
                raise HubError(422, "Invalid path: a path has no backslash")
        head = self._sha(repo, revision)
        parent = header.get("parentCommit")
        message = "\n\n".join(part for part in (header["summary"], header.get("description")) if part)
        if request.args.get("create_pr"):
            with repo.lock:
                repo.pull_requests += 1
                number = repo.pull_requests
            ref, old, start = f"refs/pr/{number}", None, parent or head
        else:
            ref, old, start = f"refs/heads/{revision}", parent or head, None
        if old is not None and old != head:
            raise HubError(412, "The branch was updated since you opened this page. Please refresh and try again.")
        try:
            made = repo.store.commit(ref, old, message, files, large=large, deleted=deleted, start=start)
        except MovedError as error:
            raise HubError(412, "A commit has happened since. Please refresh and try again.") from error
        answer = {"success": True, "commitOid": made, "commitUrl": f"{self.endpoint}/{name}/commit/{made}"}
        if ref.startswith("refs/pr/"):
            answer["pullRequestUrl"] = f"{self.endpoint}/{name}/discussions/{number}"
        return _json(answer)

    def _size_of(self, repo: Repo, value: dict[str, Any]) -> int:
        path = repo.store.lfs_path(value["oid"])
        if not path.is_file() and self.cas is None:
            raise HubError(400, f"LFS pointer {value['oid']} points to a file that was never uploaded")
        return path.stat().st_size if path.is_file() else int(value["size"])

    def _duplicate(self, request: Request, name: str) -> Response:
        source, wanted = self._repo(request, name, content=True), request.get_json()
        target = self._repo(request, wanted["target"]["name"], write=True)
        failed = []
        for file in wanted["files"]:
            path = source.store.lfs_path(file["sha256"])
            if path.is_file() and file["xetHash"] == self.xet_hash(file["sha256"]):
                target.store.put_lfs(path.read_bytes())
            else:
                failed.append({"sha256": file["sha256"], "error": "not found"})
        return _json({"success": [], "failed": failed})

    def _xet_token(self, request: Request, name: str, *, write: bool) -> Response:
        self._repo(request, name, write=write, content=not write)
        if self.cas is None:
            raise HubError(404, "Xet is not enabled here")
        answer = {"accessToken": "xet", "casUrl": f"local://{self.cas}", "exp": 4102444800}
        response = _json(answer)
        response.headers["X-Xet-Cas-Url"] = answer["casUrl"]
        response.headers["X-Xet-Access-Token"] = "xet"
        response.headers["X-Xet-Token-Expiration"] = str(answer["exp"])
        return response

    # reading

    def _resolve(self, request: Request, name: str, revision: str, file: str) -> Response:
        repo = self._repo(request, name, content=True)
        sha = self._sha(repo, revision)
        entry = repo.store.entry(sha, file)
        if entry is None or entry.kind != "file":
            error = HubError(404, "Entry not found", "EntryNotFound").response()
            error.headers["X-Repo-Commit"] = sha
            return error
        headers = {"X-Repo-Commit": sha}
        if entry.lfs is None:
            location = f"/api/resolve-cache/models/{name}/{sha}/{file}"
            return Response(b"", 307, {**headers, "Location": location, "ETag": f'"{entry.oid}"'})
        sha256, size = entry.lfs
        headers |= {"X-Linked-Size": str(size), "X-Linked-ETag": f'"{sha256}"', "ETag": f'"{entry.oid}"'}
        if self.cas is not None and (xet_hash := xet_files(self.cas).get(sha256)):
            token = f"{self.endpoint}/api/models/{name}/xet-read-token/{sha}"
            headers |= {"X-Xet-Hash": xet_hash, "Link": f'<{token}>; rel="xet-auth"'}
        return Response(b"", 302, {**headers, "Location": f"{self.storage.url}/{name}/{sha256}?signature=1"})

    def _cached(self, request: Request, name: str, sha: str, file: str) -> Response:
        repo = self._repo(request, name, content=True)
        entry = repo.store.entry(sha, file)
        if entry is None:
            raise HubError(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": sha, "ETag": f'"{entry.oid}"'}
        return _ranged(request, repo.store.blob(entry.oid), headers)

    def _stored(self, request: Request, path: list[str]) -> Response:
        """The other origin: signed URLs, no tokens."""
        if "Authorization" in request.headers:
            return Response(b"Only one auth mechanism allowed", 400)
        name, sha256 = "/".join(path[:2]), path[2]
        store = self.repos[name].store
        if request.method == "PUT":
            data = request.get_data()
            if hashlib.sha256(data).hexdigest() != sha256:
                return Response(b"BadDigest", 400)
            store.put_lfs(data)
            return Response(b"", 200)
        return _ranged(request, store.lfs_path(sha256).read_bytes(), {"ETag": f'"{sha256}"'})


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value), status, mimetype="application/json")


def _ranged(request: Request, data: bytes, headers: Mapping[str, str]) -> Response:
    response = Response(data, 200, dict(headers), mimetype="application/octet-stream")
    return response.make_conditional(request.environ, accept_ranges=True, complete_length=len(data))


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "base_model": lambda value: (
        isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))
    ),
    "base_model_relation": lambda value: value in ("adapter", "finetune", "merge", "quantized"),
    "library_name": lambda value: isinstance(value, str),
    "license": lambda value: isinstance(value, str),
    "pipeline_tag": lambda value: isinstance(value, str),
    "tags": lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
}


def _wrong_metadata(data: dict[str, Any]) -> list[str]:
    return [
        f'"{key}" is not valid: {data[key]!r}' for key, check in _CHECKS.items() if key in data and not check(data[key])
    ]
