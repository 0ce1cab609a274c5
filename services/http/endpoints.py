"""The doors: what each address does with a request. A Starlette app, mounted into the BentoML service.

Bodies are read here, bounded; the work itself runs in threads, so that the process goes on answering whether it lives.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from services.http import metrics as measured
from services.http.admission import Admission, Reservation, read_bounded_body
from services.http.bodies import ARROW_TYPE, JSON_TYPE, MAX_ARROW_BYTES, MAX_JSON_BYTES, read_body
from services.http.columns import one_array
from services.http.contract import read_jobs_to_predict, read_options, read_outcomes
from services.http.errors import HTTPError, error_response
from services.http.openapi import PAGE, describe
from services.http.rank import read_rank, write_rank
from services.http.responses import write_answer, write_json
from services.http.task import read_task
from services.http.tracing import Traces

if TYPE_CHECKING:
    from services.live.live_predictor import LivePredictor

log = logging.getLogger("bentoml.gridcast")

PATIENCE = 10.0
"""Seconds for a body to arrive, and for a report to be stored, before the caller is told to come again."""
PREDICTING, REPORTING = 2, 2
"""Threads: predictions share one history under one lock, so more than one and a reader ahead of it gains nothing."""
SLOW = 1.0
"""Seconds."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
WAITING = 64
HELD_BYTES = 256 * 2**20

Handler = Callable[[Request, Reservation], Awaitable[tuple[Response, int]]]
Made = TypeVar("Made")


def _tell(
    request_id: str, endpoint: str, door: str, status: int, jobs: int, seconds: float
) -> None:
    """A line of JSON about a request, and nothing of what was in it; only a refused or slow one is worth a line that is kept."""
    level = logging.INFO if status != 200 or seconds > SLOW else logging.DEBUG
    if log.isEnabledFor(level):
        told = {
            "request_id": request_id,
            "endpoint": endpoint,
            "door": door,
            "status": status,
            "jobs": jobs,
            "ms": round(seconds * 1e3, 1),
        }
        log.log(level, "%s", write_json(told).decode())


class Endpoints:
    """The endpoints over one live state, which ``open`` brings: BentoML wants the app before the worker has started."""

    live: LivePredictor
    metrics: measured.Metrics
    traces: Traces

    def __init__(self) -> None:
        self.admission = Admission(WAITING, HELD_BYTES)
        self.predicting = ThreadPoolExecutor(PREDICTING, "predict")
        self.reporting = ThreadPoolExecutor(REPORTING, "report")

    def open(self, live: LivePredictor, traces: Traces) -> None:
        """Answer from ``live`` from now on."""
        self.live = live
        self.metrics = live.metrics
        self.traces = traces

    def app(self) -> Starlette:
        """The app to mount."""
        doors = {
            "/predict": self._predict,
            "/outcomes": self._outcomes,
            "/task": self._task,
            "/rank": self._rank,
        }
        pages = {
            "/model": self._model,
            "/metrics": self._metrics,
            "/docs.json": self._docs,
            "/openapi.json": self._docs,
            "/": self._page,
        }
        return Starlette(
            routes=[
                *(
                    Route(path, self._counted(path[1:], door), methods=["POST"])
                    for path, door in doors.items()
                ),
                *(Route(path, page, methods=["GET"]) for path, page in pages.items()),
            ]
        )

    def _counted(self, name: str, door: Handler) -> Callable[[Request], Awaitable[Response]]:
        """A door as an endpoint: admitted, measured, traced, and whatever goes wrong in it answered by one sentence."""

        async def answer(request: Request) -> Response:
            started = time.perf_counter()
            given = request.headers.get("x-request-id", "")
            request_id = given if REQUEST_ID.fullmatch(given) else uuid4().hex
            kind = "arrow" if ARROW_TYPE in request.headers.get("content-type", "") else "json"
            with self.traces.request(f"POST /{name}", request.headers) as span:
                response, jobs = await self._answered(request, name, door, request_id)
                span.set_attributes(
                    {
                        "http.request.method": "POST",
                        "http.route": f"/{name}",
                        "gridcast.request_id": request_id,
                    }
                )
                span.set_attributes(
                    {
                        "http.response.status_code": response.status_code,
                        "gridcast.door": kind,
                        "gridcast.jobs": jobs,
                    }
                )
            response.headers["X-Request-ID"] = request_id
            seconds = time.perf_counter() - started
            self.metrics.requests.labels(name, kind, str(response.status_code)).inc()
            if jobs:
                self.metrics.request_seconds.labels(name, kind, measured.size_class(jobs)).observe(
                    seconds
                )
            _tell(request_id, name, kind, response.status_code, jobs, seconds)
            return response

        return answer

    async def _answered(
        self, request: Request, name: str, door: Handler, request_id: str
    ) -> tuple[Response, int]:
        try:
            with self.admission.admit() as reservation:
                return await door(request, reservation)
        except HTTPError as refusal:
            return error_response(refusal), 0
        except ClientDisconnect:
            return error_response(
                HTTPError(400, "the connection closed before the body was whole")
            ), 0
        except Exception:
            log.exception("request %s to /%s failed", request_id, name)
            return error_response(
                HTTPError(
                    500, f"this should not have happened; the log tells more under {request_id}"
                )
            ), 0

    async def _in_thread(self, threads: ThreadPoolExecutor, work: Callable[[], Made]) -> Made:
        """What ``work`` makes in one of ``threads``, its spans within the request's."""
        return await asyncio.get_running_loop().run_in_executor(threads, copy_context().run, work)

    async def _body(self, request: Request, reservation: Reservation) -> tuple[str, bytes]:
        kind = request.headers.get("content-type", "")
        plain = kind.partition(";")[0].strip().lower()
        if plain not in (JSON_TYPE, ARROW_TYPE):
            raise HTTPError(415, f"the content type must be {JSON_TYPE} or {ARROW_TYPE}")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise HTTPError(415, "compressed bodies are not read")
        most = MAX_ARROW_BYTES if plain == ARROW_TYPE else MAX_JSON_BYTES
        body = await read_bounded_body(
            request.stream(), request.headers.get("content-length"), most, reservation, PATIENCE
        )
        return kind, body

    async def _predict(self, request: Request, reservation: Reservation) -> tuple[Response, int]:
        kind, body = await self._body(request, reservation)
        query = dict(request.query_params)

        def work() -> tuple[str, bytes, int]:
            with self.live.idle.answering():
                with self.traces.step("read"):
                    batch = read_body(kind, body)
                    options = read_options(batch.options, query)
                    asked = read_jobs_to_predict(batch)
                with self.traces.step("predict"):
                    answers, about = self.live.predict(asked, options)
                self.metrics.jobs.labels(
                    "arrow" if batch.shape == "arrow" else "json", about["model_version"]
                ).inc(len(answers))
                with self.traces.step("write"):
                    job_ids = one_array(asked.jobs.column("job_id"))
                    return *write_answer(
                        answers, job_ids, {**about, "unread": list(asked.unread)}, batch.shape
                    ), len(answers)

        content_type, content, jobs = await self._in_thread(self.predicting, work)
        return Response(content, media_type=content_type), jobs

    async def _outcomes(self, request: Request, reservation: Reservation) -> tuple[Response, int]:
        kind, body = await self._body(request, reservation)

        def work() -> tuple[bytes, int]:
            with self.traces.step("read"):
                batch = read_body(kind, body)
                if batch.options:
                    raise HTTPError(
                        422, f"there is no option {next(iter(batch.options))[:100]!r} here"
                    )
                reported = read_outcomes(batch)
            with self.traces.step("store and learn"):
                added = self.live.report(reported.jobs)
            for result, count in {**added, "rejected": len(reported.rejected)}.items():
                self.metrics.outcomes.labels(result).inc(count)
            return write_json({**added, "rejected": reported.rejected}), batch.jobs.num_rows

        try:
            # A report that a thread has begun may still be stored after this; sending it again changes nothing.
            content, jobs = await asyncio.wait_for(self._in_thread(self.reporting, work), PATIENCE)
        except TimeoutError:
            raise HTTPError(
                503,
                "the store is busy; nothing was promised, so send the same outcomes again",
                retry_after=5,
            ) from None
        return Response(content, media_type=JSON_TYPE), jobs

    async def _task(self, request: Request, reservation: Reservation) -> tuple[Response, int]:
        kind, body = await self._body(request, reservation)
        if not kind.lower().startswith(JSON_TYPE):
            raise HTTPError(415, f"the content type must be {JSON_TYPE}")

        def work() -> bytes:
            with self.live.idle.answering(), self.traces.step("task"):
                return write_json(self.live.task(read_task(body)))

        return Response(await self._in_thread(self.predicting, work), media_type=JSON_TYPE), 1

    async def _rank(self, request: Request, reservation: Reservation) -> tuple[Response, int]:
        kind, body = await self._body(request, reservation)
        query = dict(request.query_params)

        def work() -> tuple[str, bytes, int]:
            with self.live.idle.answering(), self.traces.step("rank"):
                asked = read_rank(kind, body, query)
                ranked, version = self.live.rank(asked)
                return *write_rank(ranked, version, asked.arrow), len(ranked)

        content_type, content, candidates = await self._in_thread(self.predicting, work)
        return Response(content, media_type=content_type), candidates

    async def _model(self, _: Request) -> Response:
        return Response(write_json(self.live.describe()), media_type=JSON_TYPE)

    async def _metrics(self, _: Request) -> Response:
        content_type, text = await asyncio.to_thread(measured.expose)
        return Response(text, media_type=content_type)

    async def _docs(self, _: Request) -> Response:
        return Response(write_json(describe()), media_type=JSON_TYPE)

    async def _page(self, _: Request) -> Response:
        return HTMLResponse(PAGE)
