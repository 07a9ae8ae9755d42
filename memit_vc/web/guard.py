"""Who may ask: whoever knows the token, from the page itself. Everybody else gets 403, whatever is asked.

A page of another origin can send requests here, by the address or by a name of its own that it lets point to this
machine. It knows no token; and its host, its origin, or what the browser says of the site tells it apart.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ALWAYS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """The application for requests that pass, with the token taken off their path."""

    def __init__(self, app: ASGIApp, *, token: str, port: int) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_ALWAYS]
            await send(message)

        rest = self._passed(scope)
        if rest is None:
            await _refuse(guarded)
        else:
            await self._app({**scope, "path": rest, "raw_path": rest.encode(), "root_path": ""}, receive, guarded)

    def _passed(self, scope: Scope) -> str | None:
        """The path behind the token; None for a request that may not be answered."""
        if scope["type"] != "http":
            return None
        given: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name.lower(), []).append(value)
        _, first, *rest = str(scope["path"]).split("/", 2) if str(scope["path"]).startswith("/") else ("", "")
        hosts, origins = given.get(b"host", []), given.get(b"origin", [])
        changing = scope["method"] not in ("GET", "HEAD")
        allowed = (
            hmac.compare_digest(first.encode(), self._token)
            and bool(rest)
            and len(hosts) == 1
            and hosts[0].lower() in self._hosts
            and (len(origins) == 1 if changing else len(origins) <= 1)
            and all(origin.lower() == b"http://" + hosts[0].lower() for origin in origins)
            and all(site in (b"same-origin", b"none") for site in given.get(b"sec-fetch-site", []))
        )
        return f"/{rest[0]}" if allowed else None


async def _refuse(send: Send) -> None:
    text = b"403: open the address that `memitvc web` printed\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": text})
