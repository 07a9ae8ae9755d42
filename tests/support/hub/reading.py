"""The half of the API that reads: what a repository is, what is in it, and the bytes."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import yaml
from werkzeug.wrappers import Request, Response

from tests.support.hub.access import DATE, Access, HubError, answer, ranged
from tests.support.hub.gitstore import Entry
from tests.support.hub.xet import xet_files

__all__ = ["Reading"]


class Reading(Access):
    """See `Loopback`."""

    def _whoami(self, request: Request) -> Response:
        who = self._who(request)
        if who is None:
            raise HubError(401, "Invalid username or password.")
        orgs = [{"name": each} for each in who.orgs]
        auth = {"accessToken": {"role": who.role}}
        return answer({"type": "user", "name": who.user, "fullname": who.user, "orgs": orgs, "auth": auth})

    def _models(self, request: Request) -> Response:
        """What the client may see, of an author or with a word in its name."""
        author, word = request.args.get("author"), request.args.get("search", "")
        names = [name for name in self._visible(request) if author in (None, name.partition("/")[0]) and word in name]
        return answer([self._about(name, "main") for name in names])

    def _owned(self, request: Request) -> Response:
        """The user's own repositories, with the bytes that they take."""
        who = self._who(request)
        if who is None:
            raise HubError(401, "Invalid username or password.")
        rows = []
        for name in self._visible(request):
            if name.startswith(f"{who.user}/"):
                used = sum(each.get("size", 0) for each in self._about(name, "main")["siblings"])
                seen = "private" if self.repos[name].private else "public"
                row = {"id": name, "type": "model", "updatedAt": DATE, "visibility": seen}
                rows.append({**row, "storage": used, "storagePercent": 0.0})
        return answer(rows)

    def _visible(self, request: Request) -> list[str]:
        who = self._who(request)
        mine = () if who is None else (who.user, *who.orgs)
        return [name for name, repo in self.repos.items() if not repo.private or name.partition("/")[0] in mine]

    def _info(self, request: Request, name: str, revision: str) -> Response:
        self._repo(request, name)
        return answer(self._about(name, revision))

    def _about(self, name: str, revision: str) -> dict[str, Any]:
        repo = self.repos[name]
        sha = self._sha(repo, revision)
        files = [entry for entry in repo.store.tree(sha) if entry.kind == "file"]
        siblings = [{"rfilename": entry.path, **self._described(entry)} for entry in files]
        card = next((entry for entry in files if entry.path == "README.md"), None)
        data: Any = {}
        if card is not None:
            found = re.match(r"---\n(.*?)\n---\n", repo.store.blob(card.oid).decode(), re.DOTALL)
            data = yaml.safe_load(found[1]) if found else {}
        about = {"id": name, "modelId": name, "author": name.partition("/")[0], "sha": sha, "cardData": data}
        times = {"lastModified": DATE, "createdAt": DATE}
        state = {"private": repo.private, "gated": "auto" if repo.gated else False, "disabled": False}
        return {**about, **times, **state, "tags": data.get("tags", []), "siblings": siblings, "downloads": 0}

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
        response = answer(rows[start : start + self.page])
        if start + self.page < len(rows):
            arguments = {**request.args.to_dict(), "cursor": str(start + self.page)}
            query = "&".join(f"{key}={value}" for key, value in arguments.items())
            path = request.environ["REQUEST_URI"].partition("?")[0]
            response.headers["Link"] = f'<{self.endpoint}{path}?{query}>; rel="next"'
        return response

    def _paths_info(self, request: Request, name: str, revision: str) -> Response:
        repo = self._repo(request, name)
        wanted = set(request.get_json()["paths"] if request.is_json else request.form.getlist("paths"))
        return answer([self._row(each) for each in repo.store.tree(self._sha(repo, revision)) if each.path in wanted])

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
        return answer(kinds)

    def _commits(self, request: Request, name: str, revision: str) -> Response:
        repo = self._repo(request, name)
        log = repo.store.log(self._sha(repo, revision))
        rows = [
            {"id": sha, "title": title, "message": "", "date": DATE, "authors": [{"user": "ada"}]} for sha, title in log
        ]
        return self._paged(request, rows)

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

    def _raw(self, request: Request, name: str, revision: str, file: str) -> Response:
        """The file as git has it: of a large one the pointer."""
        repo = self._repo(request, name, content=True)
        entry = repo.store.entry(self._sha(repo, revision), file)
        if entry is None or entry.kind != "file":
            raise HubError(404, "Entry not found", "EntryNotFound")
        return ranged(request, repo.store.blob(entry.oid), {"ETag": f'"{entry.oid}"'})

    def _cached(self, request: Request, name: str, sha: str, file: str) -> Response:
        repo = self._repo(request, name, content=True)
        entry = repo.store.entry(sha, file)
        if entry is None:
            raise HubError(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": sha, "ETag": f'"{entry.oid}"'}
        return ranged(request, repo.store.blob(entry.oid), headers)
