"""A request that is not answered as asked: one status code, one clear sentence."""

from __future__ import annotations

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class HTTPError(Exception):
    """The caller gets ``status`` and ``{"error": sentence}``; ``retry_after`` (s) says when to try again."""

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.message = sentence
        self.retry_after = retry_after


def error_response(refusal: HTTPError) -> Response:
    """The response to a refused request."""
    headers = {}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refusal.status == 413:
        # What is left of an oversized body is not read, so the connection cannot serve another request.
        headers["Connection"] = "close"
    return Response(
        orjson.dumps({"error": refusal.message}), refusal.status, headers, "application/json"
    )


async def send_error(refusal: HTTPError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a refused request from ASGI middleware."""
    await error_response(refusal)(scope, receive, send)
