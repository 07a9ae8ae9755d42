"""A Hub for tests: what huggingface_hub calls, answered as huggingface.co answers.

Two origins: `endpoint` speaks the API, `storage` takes and gives the bytes of large files and refuses a token, which a
client must never send there. Files lie in `<root>/models/<ns>/<name>/.git`, large ones in `.git/lfs/objects`.
"""

from __future__ import annotations

import hashlib

from werkzeug.wrappers import Request, Response

from tests.support.hub.access import HubError, Repo, Token, answer, ranged
from tests.support.hub.reading import Reading
from tests.support.hub.writing import Writing

__all__ = ["Loopback", "Repo", "Token"]

_LIMITS = {"RateLimit": '"api";r=998;t=172', "RateLimit-Policy": '"fixed window";"api";q=1000;w=300'}


class Loopback(Reading, Writing):
    """The routes; what is configured is said at `Access`."""

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
            case ("GET", "api", "models"):
                return self._models(request)
            case ("GET", "api", "settings", "repositories"):
                return self._owned(request)
            case (method, "api", "models", ns, name, *rest):
                return self._model(request, method, f"{ns}/{name}", rest)
            case ("POST", ns, git, "info", "lfs", "objects", action) if git.endswith(".git"):
                return self._lfs(request, f"{ns}/{git[:-4]}", action)
            case ("HEAD" | "GET", ns, name, "resolve", revision, *file):
                return self._resolve(request, f"{ns}/{name}", revision, "/".join(file))
            case ("HEAD" | "GET", ns, name, "raw", revision, *file):
                return self._raw(request, f"{ns}/{name}", revision, "/".join(file))
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
                return answer({})
            case ("PUT", "settings"):
                repo, wanted = self._repo(request, name, write=True), request.get_json()
                repo.private = wanted.get("visibility", "private" if repo.private else "public") == "private"
                repo.gated = bool(wanted.get("gated", repo.gated))
                return answer({})
            case ("POST", "preupload", revision):
                return self._preupload(request, name, revision)
            case ("POST", "commit", revision):
                return self._commit(request, name, revision)
            case ("POST", "lfs-files", "duplicate"):
                return self._duplicate(request, name)
            case ("GET", "xet-write-token" | "xet-read-token" as kind, _):
                return self._xet_token(request, name, write=kind == "xet-write-token")
        raise HubError(404, f"no such route: {method} {'/'.join(rest)}")

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
        return ranged(request, store.lfs_path(sha256).read_bytes(), {"ETag": f'"{sha256}"'})
