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
from uuid import uuid4

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from services import metrics as measured
from services.admission import Admission, Held, read_bounded
from services.answers import write_answer, write_json
from services.bodies import ARROW_TYPE, JSON_TYPE, MOST_ARROW_BYTES, MOST_JSON_BYTES, read_body
from services.description import PAGE, describe
from services.doors import jobs_asked, outcomes_reported, read_options
from services.live import Live
from services.refusal import RefusalError, refused

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

Door = Callable[[Request, Held], Awaitable[tuple[Response, int]]]


def _tell(request_id: str, endpoint: str, door: str, status: int, jobs: int, seconds: float) -> None:
    """A line of JSON about a request, and nothing of what was in it; only a refused or slow one is worth a line that is kept."""
    level = logging.INFO if status != 200 or seconds > SLOW else logging.DEBUG
    if log.isEnabledFor(level):
        told = {"request_id": request_id, "endpoint": endpoint, "door": door, "status": status, "jobs": jobs, "ms": round(seconds * 1e3, 1)}
        log.log(level, "%s", write_json(told).decode())


class Doors:
    """The endpoints over one live state, which ``open`` brings: BentoML wants the app before the worker has started."""

    live: Live
    metrics: measured.Metrics

    def __init__(self) -> None:
        self.admission = Admission(WAITING, HELD_BYTES)
        self.predicting = ThreadPoolExecutor(PREDICTING, "predict")
        self.reporting = ThreadPoolExecutor(REPORTING, "report")

    def open(self, live: Live) -> None:
        """Answer from ``live`` from now on."""
        self.live = live
        self.metrics = live.metrics

    def app(self) -> Starlette:
        """The app to mount."""
        doors = {"/predict": self._predict, "/outcomes": self._outcomes}
        pages = {"/model": self._model, "/metrics": self._metrics, "/docs.json": self._docs, "/openapi.json": self._docs, "/": self._page}
        return Starlette(
            routes=[
                *(Route(path, self._counted(path[1:], door), methods=["POST"]) for path, door in doors.items()),
                *(Route(path, page, methods=["GET"]) for path, page in pages.items()),
            ]
        )

    def _counted(self, name: str, door: Door) -> Callable[[Request], Awaitable[Response]]:
        """A door as an endpoint: admitted, measured, and whatever goes wrong in it answered by one sentence."""

        async def answer(request: Request) -> Response:
            started, jobs = time.perf_counter(), 0
            given = request.headers.get("x-request-id", "")
            request_id = given if REQUEST_ID.fullmatch(given) else uuid4().hex
            try:
                with self.admission.admit() as held:
                    response, jobs = await door(request, held)
            except RefusalError as refusal:
                response = refused(refusal)
            except ClientDisconnect:
                response = refused(RefusalError(400, "the connection closed before the body was whole"))
            except Exception:
                log.exception("request %s to /%s failed", request_id, name)
                response = refused(RefusalError(500, f"this should not have happened; the log tells more under {request_id}"))
            response.headers["X-Request-ID"] = request_id
            kind = "arrow" if ARROW_TYPE in request.headers.get("content-type", "") else "json"
            seconds = time.perf_counter() - started
            self.metrics.requests.labels(name, kind, str(response.status_code)).inc()
            if jobs:
                self.metrics.request_seconds.labels(name, kind, measured.size_class(jobs)).observe(seconds)
            _tell(request_id, name, kind, response.status_code, jobs, seconds)
            return response

        return answer

    async def _body(self, request: Request, held: Held) -> tuple[str, bytes]:
        kind = request.headers.get("content-type", "")
        plain = kind.partition(";")[0].strip().lower()
        if plain not in (JSON_TYPE, ARROW_TYPE):
            raise RefusalError(415, f"the content type must be {JSON_TYPE} or {ARROW_TYPE}")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise RefusalError(415, "compressed bodies are not read")
        most = MOST_ARROW_BYTES if plain == ARROW_TYPE else MOST_JSON_BYTES
        body = await read_bounded(request.stream(), request.headers.get("content-length"), most, held, PATIENCE)
        return kind, body

    async def _predict(self, request: Request, held: Held) -> tuple[Response, int]:
        kind, body = await self._body(request, held)
        query = dict(request.query_params)

        def work() -> tuple[str, bytes, int]:
            with self.live.log.answering():
                batch = read_body(kind, body)
                options = read_options(batch.options, query)
                asked = jobs_asked(batch)
                answers, about = self.live.predict(asked, options)
                self.metrics.jobs.labels("arrow" if batch.shape == "arrow" else "json", about["model_version"]).inc(len(answers))
                job_ids = asked.jobs.column("job_id").combine_chunks()
                return *write_answer(answers, job_ids, {**about, "unread": list(asked.unread)}, batch.shape), len(answers)

        content_type, content, jobs = await asyncio.get_running_loop().run_in_executor(self.predicting, work)
        return Response(content, media_type=content_type), jobs

    async def _outcomes(self, request: Request, held: Held) -> tuple[Response, int]:
        kind, body = await self._body(request, held)

        def work() -> tuple[bytes, int]:
            batch = read_body(kind, body)
            if batch.options:
                raise RefusalError(422, f"there is no option {next(iter(batch.options))[:100]!r} here")
            reported = outcomes_reported(batch)
            added = self.live.report(reported.jobs)
            for result, count in {**added, "rejected": len(reported.rejected)}.items():
                self.metrics.outcomes.labels(result).inc(count)
            return write_json({**added, "rejected": reported.rejected}), batch.jobs.num_rows

        try:
            # A report that a thread has begun may still be stored after this; sending it again changes nothing.
            content, jobs = await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(self.reporting, work), PATIENCE)
        except TimeoutError:
            raise RefusalError(503, "the store is busy; nothing was promised, so send the same outcomes again", retry_after=5) from None
        return Response(content, media_type=JSON_TYPE), jobs

    async def _model(self, _: Request) -> Response:
        return Response(write_json(self.live.describe()), media_type=JSON_TYPE)

    async def _metrics(self, _: Request) -> Response:
        content_type, text = await asyncio.to_thread(measured.expose)
        return Response(text, media_type=content_type)

    async def _docs(self, _: Request) -> Response:
        return Response(write_json(describe()), media_type=JSON_TYPE)

    async def _page(self, _: Request) -> Response:
        return HTMLResponse(PAGE)
