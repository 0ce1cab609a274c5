"""Web pages that reach no other host, whatever their scripts try.

An ASGI application around one whose pages load analytics or open on something else. Every page gets
a Content-Security-Policy, and a script before its own ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

DROPPED = (b"accept-encoding", b"if-none-match", b"if-modified-since")
"""Headers of requests for pages: their answers must be complete and not compressed."""
SCRIPT = """
(() => {
  const origins = new Set([location.origin, ...ORIGINS]);
  const request = window.fetch.bind(window);
  window.fetch = (input, init) => {
    const url = new URL(input instanceof Request ? input.url : input, location.href);
    return origins.has(url.origin) || !url.protocol.startsWith("http")
      ? request(input, init)
      : Promise.reject(new TypeError(`${url.origin} is another host`));
  };
  for (const [name, value] of Object.entries(DEFAULTS)) {
    if (localStorage.getItem(name) === null) localStorage.setItem(name, value);
  }
})();
"""
"""Refuses requests to other hosts before they are made, and sets defaults in a new browser."""


class PrivatePages:
    """An ASGI application whose pages make no request to another host.

    Args:
        app: The application with the pages.
        origins: Further origins that pages may call, as ``http://localhost:4200``.
        defaults: Values of the browser's local storage, by name, where it has none.
    """

    def __init__(
        self, app: ASGIApp, origins: Iterable[str] = (), defaults: Mapping[str, str] | None = None
    ) -> None:
        self.app, allowed = app, sorted(origins)
        script = SCRIPT.replace("ORIGINS", json.dumps(allowed))
        script = script.replace("DEFAULTS", json.dumps(dict(defaults or {})))
        self.script = f"<script>{script}</script>".encode()
        sockets = [f"ws{origin.removeprefix('http')}" for origin in allowed]
        connect = " ".join(["'self'", "data:", "blob:", *allowed, *sockets])
        self.policy = "; ".join(
            (
                "default-src 'self' data: blob:",
                "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
                "style-src 'self' 'unsafe-inline'",
                f"connect-src {connect}",
            )
        ).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; pages are changed on their way back."""
        headers = scope.get("headers", [])
        if scope["type"] != "http" or b"text/html" not in dict(headers).get(b"accept", b""):
            await self.app(scope, receive, send)
            return
        forwarded = [(name, value) for name, value in headers if name not in DROPPED]
        start: Message = {}
        body = bytearray()

        async def change(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                if not _is_page(message):
                    await send(message)
                return
            if message["type"] != "http.response.body" or not _is_page(start):
                await send(message)
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body"):
                await self._send_page(start, bytes(body), send)

        await self.app({**scope, "headers": forwarded}, receive, change)

    async def _send_page(self, start: Message, body: bytes, send: Send) -> None:
        body = body.replace(b"<head>", b"<head>" + self.script, 1)
        headers = [
            (name, value)
            for name, value in start["headers"]
            if name.lower() not in (b"content-length", b"content-security-policy", b"etag")
        ]
        headers += [
            (b"content-length", str(len(body)).encode()),
            (b"content-security-policy", self.policy),
        ]
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _is_page(start: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/html")
        for name, value in start.get("headers", [])
    )
