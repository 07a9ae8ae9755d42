"""The server: it listens on this machine alone, answers one request after the other, and changes nothing by GET."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from memit_vc.errors import MemitVCError, UsageError
from memit_vc.web.desk import Desk
from memit_vc.web.guard import Guard

if TYPE_CHECKING:
    from starlette.requests import Request

_MOST_BYTES = 200_000
_T = TypeVar("_T")
_Do = Callable[[Mapping[str, Any]], dict[str, Any]]


class Server:
    """A socket that listens on 127.0.0.1, and the address with the token that opens the page."""

    def __init__(self, desk: Desk, *, port: int = 0) -> None:
        """`port` 0 takes a free one. UsageError for one that is taken."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(("127.0.0.1", port))
        except OSError as error:
            self._socket.close()
            raise UsageError(
                f"port {port} of 127.0.0.1 cannot be used: {error.strerror}",
                hint="Leave --port out: a free one is taken.",
            ) from error
        self.port: int = self._socket.getsockname()[1]
        token = secrets.token_urlsafe(32)
        self.address = f"http://127.0.0.1:{self.port}/{token}/"
        guarded = Guard(application(desk), token=token, port=self.port)
        # without an access log: its lines would hold the token
        config = uvicorn.Config(guarded, log_level="warning", access_log=False, server_header=False, ws="none")
        self.uvicorn = uvicorn.Server(config)

    def serve(self) -> None:
        """Answer until the process is asked to stop, or `uvicorn.should_exit` is set."""
        try:
            self.uvicorn.run(sockets=[self._socket])
        finally:
            self._socket.close()


def application(desk: Desk) -> Starlette:
    """The page, and what it posts to. Everything is done by one thread: the model is one, and so are its weights."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="memitvc-web")

    async def there(work: Callable[..., _T], *given: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(thread, work, *given)

    async def page(request: Request) -> Response:
        del request
        try:
            text, policy = await there(desk.page)
        except MemitVCError as error:
            return _refused(error)
        return HTMLResponse(text, headers={"content-security-policy": f"{policy}; frame-ancestors 'none'"})

    def posted(do: _Do) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            try:
                return JSONResponse(await there(do, await _body(request)))
            except MemitVCError as error:
                return _refused(error)

        return answer

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        await there(desk.close)
        thread.shutdown()

    posts: Mapping[str, _Do] = {"/ask": desk.ask, "/blame": desk.blame, "/run": desk.run}
    routes = [Route(path, posted(do), methods=["POST"]) for path, do in posts.items()]
    return Starlette(routes=[Route("/", page), *routes], lifespan=lifespan)


async def _body(request: Request) -> Mapping[str, Any]:
    """A JSON object. A form of another site could send none: its type would be another."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise UsageError("the request is not JSON", hint="Use the page.")
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > _MOST_BYTES:
            raise UsageError(f"the request has more than {_MOST_BYTES:,} bytes", hint="Shorten the prompt.")
    try:
        found = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the request is not JSON: {error}", hint="Use the page.") from error
    if not isinstance(found, dict):
        raise UsageError("the request is not a JSON object", hint="Use the page.")
    return found


def _refused(error: MemitVCError) -> Response:
    record = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
    return JSONResponse({"error": record}, status_code=400 if isinstance(error, UsageError) else 409)
