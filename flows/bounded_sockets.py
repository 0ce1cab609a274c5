"""Web sockets that must log in: bounded in the time until they do, and in their number."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOGIN_SECONDS = 10.0
"""Seconds from a connection to its first message, which is its login."""
MAX_WAITING = 64
"""Connections at once that have not sent it."""


class BoundedSockets:
    """ASGI middleware: Prefect accepts a web socket and waits for its login without end.

    Args:
        app: The application.
        login_seconds: Seconds until a connection without a message is closed (1008).
        max_waiting: Connections without a message at once; further ones are refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        login_seconds: float = LOGIN_SECONDS,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.app, self.login_seconds, self.max_waiting = app, login_seconds, max_waiting
        self.waiting: set[object] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the connection on; end it when its first message is late."""
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        if len(self.waiting) >= self.max_waiting:
            await receive()
            await send({"type": "websocket.close", "code": 1013, "reason": "too many wait"})
            return
        connection = object()
        self.waiting.add(connection)
        deadline = asyncio.get_running_loop().time() + self.login_seconds

        async def receive_in_time() -> Message:
            if connection not in self.waiting:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                await send({"type": "websocket.close", "code": 1008, "reason": "no login in time"})
                message = {"type": "websocket.disconnect", "code": 1008}
            if message["type"] != "websocket.connect":
                self.waiting.discard(connection)
            return message

        try:
            await self.app(scope, receive_in_time, send)
        finally:
            self.waiting.discard(connection)
