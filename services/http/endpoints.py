"""The endpoints of a live predictor: a Starlette app, mounted into the BentoML service.

Bodies are read here, bounded; the work itself runs in threads, so that the process goes on
answering its liveness probe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from infra.actor import Actor, acting
from services.http import metrics as predictor_metrics
from services.http.admission import Admission, Work, run
from services.http.authentication import CALLER, client_address, is_local
from services.http.bodies import read_body
from services.http.callers import Caller
from services.http.columns import single_array
from services.http.contract import JSON_TYPE, NoOptions, Options
from services.http.errors import HTTPError, error_response, send_error
from services.http.match import (
    MatchRequest,
    SlotPrediction,
    match,
    read_match,
    write_match,
    write_outlook,
)
from services.http.measured import PATIENCE, measured, read_request
from services.http.openapi import PAGE, PAGE_HEADERS, SCRIPT, describe
from services.http.options import read_options
from services.http.rank import read_rank, write_rank
from services.http.refusals import Refusals
from services.http.requests import read_jobs_to_predict, read_outcomes
from services.http.responses import write_answer, write_json
from services.http.routes import ENDPOINTS
from services.http.task import read_task
from services.http.tracing import Traces

if TYPE_CHECKING:
    from services.live.live_predictor import LivePredictor

PREDICTING_THREADS, REPORTING_THREADS = 2, 2
"""Predictions share one history under one lock: more than one and a reader ahead gain nothing."""
MAX_REQUESTS = 64
MAX_BODY_BYTES = 256 * 2**20
"""Bytes of the bodies of all requests in hand."""
SERVED_BY_BENTOML = tuple(item.path for item in ENDPOINTS if item.served_by_bentoml)
ORIGIN, REPORTING = "predictor", "outcomes"
"""How the audit log calls this server, and what it takes."""


@dataclass(frozen=True)
class Body:
    """A request as it was read: media type, body, query parameters, who sent it, and from where."""

    media_type: str
    content: bytes
    query: dict[str, str]
    caller: Caller
    address: str | None = None

    @property
    def actor(self) -> Actor:
        """Who sent it, for the audit log."""
        return Actor(self.caller.name, ORIGIN, self.address)


@dataclass(frozen=True)
class Answer:
    """An answer of status 200, and about how many jobs it is."""

    media_type: str
    content: bytes
    jobs: int


Handler = Callable[[Body, Work[Answer]], Answer]


class ExactRoute(Route):
    """One address, compared as the guard compares it.

    The pattern of a plain route lets a line feed follow, which the guard's table does not.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """FULL for the path itself, whatever the method."""
        if scope["type"] == "http" and scope["path"] == self.path:
            return Match.FULL, {"endpoint": self.endpoint, "path_params": {}}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse another method (405)."""
        methods = sorted(self.methods or ())
        if scope["method"] in methods:
            await self.app(scope, receive, send)
            return
        await _wrong_method(self.path, methods)(scope, receive, send)


def _wrong_method(path: str, methods: Sequence[str]) -> Response:
    response = error_response(HTTPError(405, f"{path} takes {' and '.join(methods)} only"))
    response.headers["Allow"] = ", ".join(methods)
    return response


class UnknownRoute(BaseRoute):
    """Every other path but that of Swagger UI's files, which BentoML serves after this app."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """FULL for all but those files, and paths that redirect to one without the last slash."""
        path = scope["path"]
        if scope["type"] != "http" or path.startswith("/static_content/") or path.endswith("/"):
            return Match.NONE, {}
        return Match.FULL, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse (404); or another method than GET of what BentoML serves (405)."""
        if scope["path"] in SERVED_BY_BENTOML:
            await _wrong_method(scope["path"], ("GET", "HEAD"))(scope, receive, send)
            return
        await send_error(HTTPError(404, "there is nothing at this address"), scope, receive, send)


class Endpoints:
    """The endpoints, built before the worker has started; ``attach`` gives them its predictor."""

    def __init__(self) -> None:
        self.admission = Admission(MAX_REQUESTS, MAX_BODY_BYTES)
        self.predicting = ThreadPoolExecutor(PREDICTING_THREADS, "predict")
        self.reporting = ThreadPoolExecutor(REPORTING_THREADS, "report")

    def attach(self, predictor: LivePredictor, traces: Traces) -> None:
        """Answer from ``predictor`` from now on."""
        self.predictor = predictor
        self.refusals = Refusals(lambda: predictor.engine)
        self.metrics = predictor.metrics
        self.traces = traces

    def waits_for(self) -> str:
        """What the predictor waits for, if it is not ready."""
        return self.predictor.state.waits_for if hasattr(self, "predictor") else ""

    async def note_refused(self, scope: Scope, caller: Caller, why: str) -> None:
        """Record that a caller without the scope tried to report outcomes.

        Args:
            scope: The refused request.
            caller: Who sent it.
            why: Why it was refused.
        """
        if scope["path"] == "/outcomes" and scope["method"] == "POST" and hasattr(self, "refusals"):
            actor = Actor(caller.name, ORIGIN, self._address(HTTPConnection(scope)))
            await asyncio.to_thread(self.refusals.add, actor, REPORTING, scope["path"], why)

    def _address(self, request: HTTPConnection) -> str | None:
        """The address of a client; of one that comes through TLS in front, what the proxy saw."""
        has_proxy = self.predictor.settings.tls_in_front
        return client_address(request, lambda client: has_proxy and is_local(client))

    def app(self) -> Starlette:
        """The app to mount."""
        works: dict[str, Handler] = {
            "predict": self._predict,
            "outcomes": self._outcomes,
            "task": self._task,
            "rank": self._rank,
            "match": self._match,
            "outlook": self._outlook,
        }
        reads: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "model": self._model,
            "metrics": self._metrics,
            "docs": self._document,
        }
        answers = reads | {name: self._measured(name, work) for name, work in works.items()}
        routes = [
            ExactRoute(endpoint.path, answers[endpoint.name], methods=[endpoint.method])
            for endpoint in ENDPOINTS
            if not endpoint.served_by_bentoml
        ]
        document = ExactRoute("/openapi.json", self._document, methods=["GET"])
        pages = [ExactRoute(path, self._page, methods=["GET"]) for path in ("/", "/docs")]
        script = ExactRoute("/docs.js", self._script, methods=["GET"])
        return Starlette(routes=[*routes, document, *pages, script, UnknownRoute()])

    # -- around every request with a body

    def _measured(self, name: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that is counted, timed, traced and logged."""

        async def answer(request: Request, _: str) -> tuple[Response, int]:
            content = await self._answer(request, name, handler)
            return Response(content.content, media_type=content.media_type), content.jobs

        return measured(name, answer, self)

    async def _answer(self, request: Request, name: str, handler: Handler) -> Answer:
        """Admit a request, read its body, and do its work in a thread."""
        with self.admission.admit() as reservation:
            media, content = await read_request(request, reservation)
            caller, query = request.scope[CALLER], dict(request.query_params)
            body = Body(media, content, query, caller, self._address(request))
            work = Work[Answer](lambda work, body=body: handler(body, work))  # type: ignore[misc]
            del content, body  # the work alone keeps them
            if name != "outcomes":
                return await run(work, self.predicting, request, reservation)
            try:
                return await run(work, self.reporting, request, reservation, PATIENCE)
            except TimeoutError:
                # What a thread has begun may still be stored; sending it again changes nothing.
                raise HTTPError(
                    503,
                    "the store is busy; nothing was promised, so send the same outcomes again",
                    retry_after=5,
                ) from None

    @contextmanager
    def _step(self, name: str, work: Work[Answer]) -> Iterator[None]:
        """A step of the work of a request: a span, not begun where nobody waits any more."""
        work.check()
        with self.traces.step(name):
            yield

    # -- the work of each endpoint

    def _predict(self, body: Body, work: Work[Answer]) -> Answer:
        with self.predictor.idle.answering():
            with self._step("read", work):
                batch = read_body(body.media_type, body.content)
                options = read_options(batch.options, body.query, Options)
                request = read_jobs_to_predict(batch)
            with self._step("predict", work):
                answers, about = self.predictor.predict(request, options, body.caller)
            form = "arrow" if batch.shape == "arrow" else "json"
            canary = about.get("canary")
            by_canary = canary["jobs"] if canary else 0
            self.metrics.jobs.labels(form, about["model_version"]).inc(len(answers) - by_canary)
            if canary:
                self.metrics.jobs.labels(form, canary["model_version"]).inc(by_canary)
            with self._step("write", work):
                job_ids = single_array(request.jobs.column("job_id"))
                read = ("started_at",) if options.within is not None else ()
                about["unread"] = [name for name in request.unread if name not in read]
                return Answer(*write_answer(answers, job_ids, about, batch.shape), len(answers))

    def _outcomes(self, body: Body, work: Work[Answer]) -> Answer:
        with self._step("read", work):
            batch = read_body(body.media_type, body.content, NoOptions)
            report = read_outcomes(batch)
        with self._step("store and learn", work), acting(body.actor):
            try:
                counts = self.predictor.report(report.jobs, body.caller)
            except HTTPError as error:
                if error.status == 403:
                    self.refusals.add(body.actor, REPORTING, "/outcomes", error.message)
                raise
        for result, count in {**counts, "rejected": len(report.rejected)}.items():
            self.metrics.outcomes.labels(result).inc(count)
        answer = {**counts, "rejected": report.rejected}
        if report.left_out:
            answer["left_out"] = report.left_out
        return Answer(JSON_TYPE, write_json(answer), batch.jobs.num_rows)

    def _task(self, body: Body, work: Work[Answer]) -> Answer:
        if body.media_type != JSON_TYPE:
            raise HTTPError(415, f"the content type must be {JSON_TYPE}")
        with self.predictor.idle.answering(), self._step("task", work):
            needs = self.predictor.task(read_task(body.content), body.caller)
            return Answer(JSON_TYPE, write_json(needs), 1)

    def _rank(self, body: Body, work: Work[Answer]) -> Answer:
        with self.predictor.idle.answering():
            with self._step("read", work):
                request = read_rank(body.media_type, body.content, body.query)
            with self._step("rank", work):
                ranked, version = self.predictor.rank(request, body.caller)
            with self._step("write", work):
                return Answer(*write_rank(ranked, version, request.arrow), len(ranked))

    def _match(self, body: Body, work: Work[Answer]) -> Answer:
        with self.predictor.idle.answering():
            request, predicted, version = self._in_slot(body, work)
            with self._step("match", work):
                matched = match(request, predicted)
            with self._step("write", work):
                return Answer(*write_match(matched, version, request), len(matched))

    def _outlook(self, body: Body, work: Work[Answer]) -> Answer:
        with self.predictor.idle.answering():
            request, predicted, version = self._in_slot(body, work)
            return Answer(*write_outlook(predicted, version), request.jobs.jobs.num_rows)

    def _in_slot(self, body: Body, work: Work[Answer]) -> tuple[MatchRequest, SlotPrediction, str]:
        with self._step("read", work):
            request = read_match(body.media_type, body.content, body.query)
        with self._step("predict", work):
            return request, *self.predictor.in_slot(request, body.caller)

    async def _model(self, request: Request) -> Response:
        caller: Caller = request.scope[CALLER]
        return Response(write_json(self.predictor.describe(caller)), media_type=JSON_TYPE)

    async def _metrics(self, _: Request) -> Response:
        content_type, text = await asyncio.to_thread(predictor_metrics.expose)
        return Response(text, media_type=content_type)

    async def _document(self, _: Request) -> Response:
        return Response(write_json(describe()), media_type=JSON_TYPE)

    async def _page(self, _: Request) -> Response:
        return HTMLResponse(PAGE, headers=PAGE_HEADERS)

    async def _script(self, _: Request) -> Response:
        return Response(SCRIPT, media_type="text/javascript", headers=PAGE_HEADERS)
