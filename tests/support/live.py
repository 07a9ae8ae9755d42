"""A running server of the live page, asked as a browser or anybody else would."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memit_vc.repository import Repository
from memit_vc.web.commands import newest_operation
from memit_vc.web.server import Server

__all__ = ["Live"]


@dataclass(frozen=True)
class Live:
    """A server that runs, and the repository that it shows."""

    server: Server
    repository: Repository

    @property
    def path(self) -> str:
        return self.server.address.partition(str(self.server.port))[2]

    def raw(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> tuple[int, Any, bytes]:
        """Exactly these headers, and a host only if it is among them."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    @property
    def headers(self) -> dict[str, str]:
        """A browser's, from the page itself."""
        host = f"127.0.0.1:{self.server.port}"
        own = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        return {**own, "Content-Type": "application/json"}

    def post(self, name: str, **fields: object) -> tuple[int, Any]:
        status, _, body = self.raw("POST", self.path + name, self.headers, json.dumps(fields).encode())
        return status, json.loads(body)

    def get(self) -> tuple[int, Any, str]:
        status, headers, body = self.raw("GET", self.path, {"Host": f"127.0.0.1:{self.server.port}"})
        return status, headers, body.decode()

    def seen(self) -> int:
        return newest_operation(self.repository)
