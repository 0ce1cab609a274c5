"""What every endpoint that reads a body does: its id, counts, time, trace, log line and errors."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from uuid import uuid4

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from services.http.admission import Reservation, read_bounded_body
from services.http.bodies import media_type
from services.http.contract import ARROW_TYPE, MAX_ARROW_BYTES, MAX_JSON_BYTES
from services.http.errors import HTTPError, error_response
from services.http.metrics import size_class
from services.http.responses import write_json
from services.http.tracing import Traces

log = logging.getLogger("bentoml.gridcast")

PATIENCE = 10.0
"""Seconds for a body to arrive, and for a report to be stored."""
SLOW = 1.0
"""Seconds from which on a request is worth a line in the log."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class Server(Protocol):
    """What answers: its metrics ``requests`` and ``request_seconds``, and its traces."""

    metrics: Any
    traces: Traces


Answering = Callable[[Request, str], Awaitable[tuple[Response, int]]]
"""Gives the response to a request of an id, and about how many jobs it is."""


def measured(
    name: str, answer: Answering, server: Server
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that is counted, timed, traced and logged, and whose failures are one sentence.

    Args:
        name: The endpoint.
        answer: Answers it.
        server: Has the metrics and traces.
    """

    async def endpoint(request: Request) -> Response:
        started = time.perf_counter()
        header = request.headers.get("x-request-id", "")
        request_id = header if _REQUEST_ID.fullmatch(header) else uuid4().hex
        content_type = request.headers.get("content-type", "")
        form = "arrow" if content_type.lower().startswith(ARROW_TYPE) else "json"
        with server.traces.request(f"POST /{name}", request.headers) as span:
            response, jobs = await _answered(request, name, answer, request_id)
            span.set_attributes(
                {
                    "http.request.method": "POST",
                    "http.route": f"/{name}",
                    "http.response.status_code": response.status_code,
                    "gridcast.request_id": request_id,
                    "gridcast.door": form,
                    "gridcast.jobs": jobs,
                }
            )
        response.headers["X-Request-ID"] = request_id
        seconds = time.perf_counter() - started
        server.metrics.requests.labels(name, form, str(response.status_code)).inc()
        if jobs:
            size = size_class(jobs)
            server.metrics.request_seconds.labels(name, form, size).observe(seconds)
        _log_request(request_id, name, form, response.status_code, jobs, seconds)
        return response

    return endpoint


async def _answered(
    request: Request, name: str, answer: Answering, request_id: str
) -> tuple[Response, int]:
    """The response, and about how many jobs it is; every failure is one sentence."""
    try:
        return await answer(request, request_id)
    except HTTPError as error:
        return error_response(error), 0
    except ClientDisconnect:
        message = "the client closed the connection before it was answered"
        return error_response(HTTPError(400, message)), 0
    except Exception:
        log.exception("request %s to /%s failed", request_id, name)
        message = f"internal error; the log tells more under {request_id}"
        return error_response(HTTPError(500, message)), 0


async def read_request(request: Request, reservation: Reservation) -> tuple[str, bytes]:
    """The media type and the body of a request, within their limits.

    Args:
        request: The request.
        reservation: Grows with the body.

    Raises:
        HTTPError: 400, 408, 413, 415 or 429.
    """
    media = media_type(request.headers.get("content-type", ""))
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPError(415, "compressed bodies are not read")
    content = await read_bounded_body(
        request.stream(),
        request.headers.get("content-length"),
        MAX_ARROW_BYTES if media == ARROW_TYPE else MAX_JSON_BYTES,
        reservation,
        PATIENCE,
    )
    return media, content


def _log_request(
    request_id: str, endpoint: str, form: str, status: int, jobs: int, seconds: float
) -> None:
    """Log a line of JSON about a request, nothing of its content; at INFO if refused or slow."""
    level = logging.INFO if status != 200 or seconds > SLOW else logging.DEBUG
    if log.isEnabledFor(level):
        line = {
            "request_id": request_id,
            "endpoint": endpoint,
            "door": form,
            "status": status,
            "jobs": jobs,
            "ms": round(seconds * 1e3, 1),
        }
        log.log(level, "%s", write_json(line).decode())
