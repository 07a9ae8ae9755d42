"""The half of the API that writes: repositories, branches and tags, uploads, commits."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import yaml
from werkzeug.wrappers import Request, Response

from tests.support.hub.access import Access, HubError, Repo, answer
from tests.support.hub.gitstore import MovedError

__all__ = ["Writing"]


class Writing(Access):
    """See `Loopback`."""

    def xet_hash(self, sha256: str) -> str:
        raise NotImplementedError

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
        return answer({"url": f"{self.endpoint}/{name}"})

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
        told = {"errors": [{"message": each} for each in errors], "warnings": []}
        return answer(told, 400 if errors else 200)

    def _change_ref(self, request: Request, name: str, kind: str, at: str) -> Response:
        repo = self._repo(request, name, write=True)
        prefix = "refs/heads/" if kind == "branch" else "refs/tags/"
        wanted = request.get_json(silent=True) or {}
        if request.method == "DELETE":
            if f"{prefix}{at}" not in repo.store.refs():
                raise HubError(404, f"Reference {at} does not exist", "RevisionNotFound")
            repo.store.set_ref(f"{prefix}{at}", None)
            return answer({})
        made, start = (at, wanted.get("startingPoint", "main")) if kind == "branch" else (wanted["tag"], at)
        sha = self._sha(repo, start)
        with repo.lock:
            if f"{prefix}{made}" in repo.store.refs():
                raise HubError(409, f"Reference already exists: {prefix}{made}")
            repo.store.set_ref(f"{prefix}{made}", sha)
        return answer({})

    def _preupload(self, request: Request, name: str, revision: str) -> Response:
        repo = self._repo(request, name, write=True)
        sha = self._sha(repo, revision)
        present = {entry.path: entry for entry in repo.store.tree(sha)}
        told = []
        for file in request.get_json()["files"]:
            binary = b"\0" in base64.b64decode(file["sample"])
            large = binary or file["size"] > self.large or repo.store.is_lfs_path(sha, file["path"])
            row = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if (entry := present.get(file["path"])) is not None:
                row["oid"] = entry.oid if entry.lfs is None else entry.lfs[0]
            told.append(row)
        return answer({"files": told})

    def _lfs(self, request: Request, name: str, action: str) -> Response:
        repo, wanted = self._repo(request, name, write=True), request.get_json()
        if action == "verify":
            path = repo.store.lfs_path(wanted["oid"])
            if not path.is_file() or path.stat().st_size != wanted["size"]:
                raise HubError(404, "the object is not there")
            return answer({})
        objects = []
        for each in wanted["objects"]:
            row = {"oid": each["oid"], "size": each["size"]}
            if not repo.store.lfs_path(each["oid"]).is_file():
                upload = {"href": f"{self.storage.url}/{name}/{each['oid']}?signature=1"}
                verify = {"href": f"{self.endpoint}/{name}.git/info/lfs/objects/verify"}
                row["actions"] = {"upload": upload, "verify": verify}
            objects.append(row)
        return answer({"transfer": "basic", "objects": objects})

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
        told = {"success": True, "commitOid": made, "commitUrl": f"{self.endpoint}/{name}/commit/{made}"}
        if ref.startswith("refs/pr/"):
            told["pullRequestUrl"] = f"{self.endpoint}/{name}/discussions/{number}"
        return answer(told)

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
        return answer({"success": [], "failed": failed})

    def _xet_token(self, request: Request, name: str, *, write: bool) -> Response:
        self._repo(request, name, write=write, content=not write)
        if self.cas is None:
            raise HubError(404, "Xet is not enabled here")
        told = {"accessToken": "xet", "casUrl": f"local://{self.cas}", "exp": 4102444800}
        response = answer(told)
        response.headers["X-Xet-Cas-Url"] = told["casUrl"]
        response.headers["X-Xet-Access-Token"] = "xet"
        response.headers["X-Xet-Token-Expiration"] = str(told["exp"])
        return response


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
