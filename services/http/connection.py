"""Connections whose request heads are bounded in bytes and in time, before any token is read."""

from __future__ import annotations

import asyncio

from uvicorn import config
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from services.http.errors import PROBLEM_TYPE, write_problem

MAX_HEAD_BYTES = 64 * 2**10
"""Bytes of a request line and its headers."""
HEAD_SECONDS = 10.0
"""Seconds for these to arrive, from the connection or from their first byte on."""


class BoundedProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, which itself keeps a head of any length for any time."""

    head_seconds = HEAD_SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a first head in time."""
        super().connection_made(transport)
        self._head_bytes = 0
        self._in_head = True
        self._timer = self.loop.call_later(self.head_seconds, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Refuse (431) a head that has not ended when it is too long."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"the request's headers are longer than {MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        if not self._in_head:
            self._in_head, self._head_bytes = True, 0
            self._timer = self.loop.call_later(self.head_seconds, self._give_up)

    def on_headers_complete(self) -> None:
        """End a head."""
        self._in_head = False
        self._timer.cancel()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse (400) bytes that are no HTTP."""
        self._refuse(400, "the request is not valid HTTP")

    def _give_up(self) -> None:
        self._refuse(408, f"the request's headers did not arrive within {self.head_seconds:g} s")

    def _refuse(self, status: int, message: str) -> None:
        if self.cycle is None or self.cycle.response_complete:
            body = write_problem(status, message)
            head = f"content-type: {PROBLEM_TYPE}\r\nconnection: close\r\n"
            length = f"content-length: {len(body)}\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + (head + length).encode() + body)
        self.transport.close()


def use_bounded_connections() -> None:
    """Let Uvicorn servers of this process, which BentoML configures, use these connections.

    Their clients are those that connect: X-Forwarded-For, which Uvicorn would believe of any
    account of this machine, is left to ``authentication``.
    """
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedProtocol.__name__}"
    vars(config)["ProxyHeadersMiddleware"] = lambda app, trusted_hosts: app
