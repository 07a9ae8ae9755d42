"""An S3 server on loopback (moto's), in which tests can inject faults. One for all tests of a process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.request import Request, urlopen

from tests.support.hub.faults import Faults

__all__ = ["ACCESS_KEY", "SECRET_KEY", "Bucket", "served"]

ACCESS_KEY, SECRET_KEY = "AKIAFORTESTSONLY0000", "tests/only+secret0000000000000000000000k"


@dataclass
class Bucket:
    """`name` is a bucket that exists; `requests` are the requests so far, "METHOD /path"."""

    endpoint: str
    name: str = "edits"
    faults: Faults = field(default_factory=Faults)
    requests: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def served() -> Iterator[Bucket]:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *args: Any) -> None:
            """Nothing."""

    bucket = Bucket("")
    app = DomainDispatcherApplication(create_backend_app)
    one = threading.Lock()  # moto compares and writes in two steps

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        bucket.requests.append(request)
        fault = bucket.faults.take(request)
        if fault is None:
            return done(environ, start)
        if fault.then is not None:
            fault.then()
            return done(environ, start)
        if fault.kind == "lost":
            done(environ, lambda *_: None)
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status = 500 if fault.kind == "lost" else fault.status
        start(f"{status} Injected", [("Content-Length", str(len(fault.body)))])
        return [fault.body]

    def done(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with one:
            return list(app(environ, start))

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    bucket.endpoint = f"http://127.0.0.1:{server.server_port}"
    with urlopen(Request(f"{bucket.endpoint}/{bucket.name}", method="PUT")) as made:  # noqa: S310 (loopback)
        assert made.status == 200
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
