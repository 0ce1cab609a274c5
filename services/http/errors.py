"""Refused requests: one status code, one clear sentence, as a problem of RFC 9457."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PROBLEM_TYPE = "application/problem+json"
"""The media type of every refusal (RFC 9457)."""

MAX_QUOTED = 100
"""Characters of a caller's text that a message repeats."""


class HTTPError(Exception):
    """A request is answered with ``status`` and a problem whose detail is ``message``.

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


def write_problem(status: int, message: str) -> bytes:
    """The body of a refusal (RFC 9457); ``error`` has the sentence for callers of version 0.1."""
    title = HTTPStatus(status).phrase
    return orjson.dumps({"title": title, "status": status, "detail": message, "error": message})


def error_response(error: HTTPError) -> Response:
    """The response to a refused request."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status in (413, 431):
        # The rest of an oversized request is not read: the connection cannot serve another one.
        headers["Connection"] = "close"
    body = write_problem(error.status, error.message)
    response = Response(body, error.status, headers, PROBLEM_TYPE)
    if error.status == 401:
        # A browser asks for a password, which is the token; it reads a header for each scheme.
        for scheme in ("Bearer", 'Basic realm="Gridcast: the password is a token"'):
            response.headers.append("WWW-Authenticate", scheme)
    return response


async def send_error(error: HTTPError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a refused request from ASGI middleware."""
    await error_response(error)(scope, receive, send)


class ProblemResponses:
    """ASGI middleware that makes a problem of every refusal which is not one, as of a framework.

    Args:
        app: What may answer otherwise.
        waits_for: Says what the server waits for where it is not ready.
    """

    def __init__(self, app: ASGIApp, waits_for: Callable[[], str] = lambda: "") -> None:
        self.app, self.waits_for = app, waits_for

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; replace the answer if it is a refusal in another form."""
        replaced = False

        async def send_problem(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] >= 400:
                headers = {name.lower(): value for name, value in message["headers"]}
                if headers.get(b"content-type", b"").decode("latin-1") != PROBLEM_TYPE:
                    replaced = True
                    response = error_response(self._refusal(message["status"], scope))
                    if allowed := headers.get(b"allow"):
                        response.headers["Allow"] = allowed.decode("latin-1")
                    await response(scope, receive, send)
            if not replaced:
                await send(message)

        await self.app(scope, receive, send_problem if scope["type"] == "http" else send)

    def _refusal(self, status: int, scope: Scope) -> HTTPError:
        """The refusal of something that is not ours, whose own text may be anything."""
        sentences = {
            404: "there is nothing at this address",
            405: f"{quote(scope['path'])} does not take {scope['method']}",
            503: f"not ready yet: {self.waits_for() or 'it starts'}",
        }
        message = sentences.get(status, HTTPStatus(status).phrase.lower())
        return HTTPError(status, message, 1 if status == 503 else None)
