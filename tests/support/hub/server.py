"""An HTTP/1.1 origin on 127.0.0.1, port 0: counts what it receives, keeps a list of requests, carries out faults."""

from __future__ import annotations

import io
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wrappers import Request, Response

from tests.support.hub.faults import Fault, Faults

__all__ = ["Origin", "Seen"]


@dataclass(frozen=True)
class Seen:
    """One request: "METHOD /path", the length of its body, whether it carried a token, the status of the answer."""

    line: str
    length: int
    authorized: bool
    status: int | None


class _CountingIO(socket.SocketIO):
    def __init__(self, connection: socket.socket, count: Callable[[int], None]) -> None:
        super().__init__(connection, "r")
        connection._io_refs += 1  # type: ignore[attr-defined]
        self._count = count

    def readinto(self, buffer: Any) -> int | None:
        size = super().readinto(buffer)
        self._count(size or 0)
        return size


class _Handler(WSGIRequestHandler):
    def setup(self) -> None:
        super().setup()
        server: Any = self.server
        self.rfile.close()
        self.rfile = io.BufferedReader(_CountingIO(self.connection, server.count))

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
        pass


class _Server(ThreadedWSGIServer):
    """Sends a RST where a fault asked for it: with lingering off, closing without a shutdown does that."""

    daemon_threads = True
    count: Callable[[int], None]

    def shutdown_request(self, request: Any) -> None:
        if struct.unpack("ii", request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0]:
            self.close_request(request)
        else:
            super().shutdown_request(request)


class Origin:
    """`handle(request, segments)` answers; `segments` are the path's, each unquoted for itself (%2F is no slash)."""

    def __init__(self, handle: Callable[[Request, list[str]], Response], faults: Faults) -> None:
        self._handle, self._faults = handle, faults
        self._lock = threading.Lock()
        self.received = 0
        self.requests: list[Seen] = []
        self._server = _Server("127.0.0.1", 0, self._app, handler=_Handler)
        self._server.count = self._counted
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _counted(self, size: int) -> None:
        with self._lock:
            self.received += size

    def _app(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        request = Request(environ)
        path = urlsplit(environ.get("REQUEST_URI", request.path)).path
        line = f"{request.method} {path}"
        fault = self._faults.take(line)
        response = self._answer(request, path, environ, fault)
        if fault is not None and fault.then is not None:
            fault.then()
        with self._lock:
            status = None if response is None else response.status_code
            self.requests.append(Seen(line, request.content_length or 0, "Authorization" in request.headers, status))
        if response is None:
            self._drop(environ, reset=fault is not None and fault.kind == "reset")
            raise ConnectionAbortedError
        if fault is not None and fault.kind in ("cut", "reset"):
            half = response.get_data()[: len(response.get_data()) // 2]
            return self._halved(half, environ, start, response, reset=fault.kind == "reset")
        return response(environ, start)

    def _answer(self, request: Request, path: str, environ: dict[str, Any], fault: Fault | None) -> Response | None:
        """None: the line is to be dropped without an answer."""
        length = request.content_length or 0
        if fault is not None and fault.kind in ("cut", "reset") and length:
            request.stream.read(length // 2)
            return None
        request.get_data()
        if fault is not None and fault.kind == "status":
            kind = "application/json" if fault.body.startswith(b"{") else "text/html"
            return Response(fault.body, fault.status, dict(fault.headers), mimetype=kind)
        response = self._handle(request, [unquote(part) for part in path.strip("/").split("/")])
        if fault is not None and fault.kind == "lost":
            return None
        if fault is not None and fault.kind == "body":
            response.set_data(fault.body)
        if fault is not None and fault.kind == "flip" and response.get_data():
            data = bytearray(response.get_data())
            data[len(data) // 2] ^= 1
            response.set_data(bytes(data))
        return response

    def _halved(
        self, half: bytes, environ: dict[str, Any], start: Any, response: Response, *, reset: bool
    ) -> Iterator[bytes]:
        start(response.status, response.get_wsgi_headers(environ).to_wsgi_list())
        yield half
        self._drop(environ, reset=reset)
        raise ConnectionAbortedError

    def _drop(self, environ: dict[str, Any], *, reset: bool) -> None:
        connection: socket.socket = environ["werkzeug.socket"]
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            connection.shutdown(socket.SHUT_RDWR)
