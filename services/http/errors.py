"""Refused requests: one status code, one clear sentence."""

from __future__ import annotations

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

MAX_QUOTED = 100
"""Characters of a caller's text that a message repeats."""


class HTTPError(Exception):
    """A request is answered with ``status`` and ``{"error": message}``.

    Args:
        status: The HTTP status code.
        message: One sentence.
        retry_after: After how many seconds the same request may succeed, where it may.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


def bare(error: HTTPError) -> HTTPError:
    """The same error without its history, whose frames would keep a refused body in memory."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def quote(text: str) -> str:
    """A caller's text for a message: quoted, and cut where it is long."""
    return repr(text[:MAX_QUOTED])


def error_response(error: HTTPError) -> Response:
    """The response to a refused request."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (413, 431):
        # The rest of an oversized request is not read: the connection cannot serve another one.
        headers["Connection"] = "close"
    body = orjson.dumps({"error": error.message})
    return Response(body, error.status, headers, "application/json")


async def send_error(error: HTTPError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a refused request from ASGI middleware."""
    await error_response(error)(scope, receive, send)
