"""The router's endpoints: the addresses of a predictor, answered by the shards of the users.

A call about jobs is divided by their users; outcomes are taken by any predictor, since all read
the store. Access is checked as a predictor does, by the same settings, before a body is read;
scopes and owners are checked by the predictors, which record refusals.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlencode

import httpx
import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from infra.aliases import Integers
from infra.ring import Ring, parse_ring, read_addresses
from infra.settings import Settings, SettingsError
from services.http.admission import Admission, while_connected
from services.http.authentication import Guard, is_local
from services.http.callers import settings_tokens, with_metrics_token
from services.http.endpoints import ExactRoute
from services.http.errors import HTTPError, ProblemResponses, error_response
from services.http.issuers import read_issuers
from services.http.match import MatchRequest, match, merge_outlooks, read_match, write_match
from services.http.measured import measured, read_request
from services.http.openapi import PAGE_HEADERS
from services.http.routes import DOCUMENT_PATHS, DOCUMENTED, answers_owners
from services.http.tracing import Traces
from services.router.calls import Call, check_call, merge, read_call
from services.router.metrics import RouterMetrics
from services.router.shards import Forwarded, Shards, problem_of

log = logging.getLogger("gridcast.router")

MAX_REQUESTS = 64
MAX_BODY_BYTES = 512 * 2**20
"""Bytes of the bodies of all requests in hand, and of what is sent to the shards of them."""
THREADS = 2
FORWARDED = ("authorization", "content-type", "traceparent", "tracestate", "forwarded")
"""Headers that the predictors are sent as they came."""
RETURNED = ("content-type", "retry-after", "www-authenticate", *PAGE_HEADERS)
"""Headers of a predictor's answer that the caller gets."""
_JOB = re.compile(r"^job (\d+)")

Result = TypeVar("Result")
Reading = Callable[[Request], Awaitable[Response]]


class Router:
    """Divides calls among shards and merges their answers.

    Its addresses are read before access is: a wrong list is refused before a token is made.

    Args:
        settings: Say where the shards are.
        transport: Carries the requests to them; connections of the network unless given.

    Raises:
        SettingsError: They do not.
    """

    def __init__(
        self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.settings, self._transport = settings, transport
        self.metrics = RouterMetrics()
        self.traces = Traces(settings.otel_endpoint)
        self.admission = Admission(MAX_REQUESTS, MAX_BODY_BYTES)
        self._addresses = read_addresses(settings)
        self._use(parse_ring(settings, self._addresses))
        self._note = ""

    def app(self) -> ASGIApp:
        """The app to serve, which lets callers pass whom a predictor would."""
        reads: dict[str, Reading] = dict.fromkeys(
            (*DOCUMENT_PATHS, "/docs.json", "/model"), self._read
        )
        reads |= {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics}
        routes: list[BaseRoute] = [
            ExactRoute(path, answer, methods=["GET"]) for path, answer in reads.items()
        ]
        for item in DOCUMENTED:
            if item.method == "POST":
                answer = self._outcomes if item.name == "outcomes" else self._divide
                routes.append(
                    ExactRoute(item.path, measured(item.name, answer, self), methods=["POST"])
                )
        routes.append(Route("/static_content/{path:path}", self._read, methods=["GET"]))
        guarded = Guard(
            Starlette(routes=routes, lifespan=self._lifespan),
            tokens=with_metrics_token(settings_tokens(self.settings), self.settings),
            hosts=frozenset(self.settings.host_names),
            scope_of_path={},
            open_on_loopback=self.settings.open_on_loopback,
            issuers=read_issuers(self.settings),
            owner_paths=answers_owners,
        )
        return ProblemResponses(guarded)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.shards = Shards(self.metrics, self._transport)
        self._threads = ThreadPoolExecutor(THREADS, "route")
        following = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            following.cancel()
            await self.shards.close()
            self._threads.shutdown()
            self.traces.stop()

    # -- the ring

    def _use(self, ring: Ring) -> None:
        self.ring = ring
        self.metrics.shards.set(ring.count)
        self.metrics.since.set_to_current_time()

    async def _follow(self) -> None:
        """Take over changed addresses once every shard of them has a ready predictor."""
        while True:
            await asyncio.sleep(self.settings.watch_seconds)
            try:
                await self._look()
            except Exception:  # whatever it is, the router goes on
                log.exception("the addresses of the shards cannot be read")

    async def _look(self) -> None:
        trouble = ""
        try:
            addresses = read_addresses(self.settings)
            if addresses != self._addresses:
                ring = parse_ring(self.settings, addresses)
                if unready := await self.shards.unready(ring):
                    trouble = unready[0]
                else:
                    self._addresses = addresses
                    self._use(ring)
                    log.warning("users are divided among %d shards from now on", ring.count)
        except SettingsError as error:
            trouble = str(error)
        if trouble and trouble != self._note:
            log.warning("the changed addresses of the shards are not used: %s", trouble)
        self._note = trouble
        self.metrics.waiting.set(bool(trouble))

    # -- endpoints

    async def _livez(self, _: Request) -> Response:
        return PlainTextResponse("")

    async def _readyz(self, _: Request) -> Response:
        """200 while any shard has a ready predictor: the users of the others get 503.

        Either answer names the shards that have none, and what they wait for.
        """
        ring = self.ring
        unready = await self.shards.unready(ring)
        if len(unready) < ring.count:
            return PlainTextResponse("; ".join(unready))
        return error_response(HTTPError(503, f"not ready yet: {'; '.join(unready)}", 1))

    async def _metrics(self, _: Request) -> Response:
        content_type, text = self.metrics.expose()
        return Response(text, media_type=content_type)

    async def _read(self, request: Request) -> Response:
        """What any predictor answers, as the model and the documents."""
        try:
            return _returned(await self.shards.ask_any(self.ring, _forwarded(request)))
        except HTTPError as error:
            return error_response(error)

    async def _outcomes(self, request: Request, request_id: str) -> tuple[Response, int]:
        """Let any predictor store outcomes; the others read them from the store."""
        with self.admission.admit() as reservation:
            _, body = await read_request(request, reservation)
            sent = asyncio.ensure_future(
                self.shards.ask_any(self.ring, _forwarded(request, body, request_id))
            )
            # Not cancelled where the caller has gone: it may be stored already.
            reservation.work = sent
            return _returned(await while_connected(sent, request)), 0

    async def _divide(self, request: Request, request_id: str) -> tuple[Response, int]:
        """Answer a call about jobs from the shards of their users."""
        with self.admission.admit() as reservation:
            media, body = await read_request(request, reservation)
            reservation.grow(len(body))  # what is sent to the shards
            work = asyncio.ensure_future(self._answer(request, request_id, media, body))
            try:
                return await while_connected(work, request)
            finally:
                work.cancel()

    async def _answer(
        self, request: Request, request_id: str, media: str, body: bytes
    ) -> tuple[Response, int]:
        ring, name = self.ring, request.url.path[1:]
        query = dict(request.query_params)
        call = await self._in_thread(read_call, name, media, body, query)
        shard_of_job = ring.of_slots(call.slots)
        numbers = np.unique(shard_of_job).tolist() or [1]
        for number in numbers:
            self.metrics.jobs.labels(str(number)).inc(int((shard_of_job == number).sum()))
        if len(numbers) == 1:
            sent = _forwarded(request, body, request_id)
            return _returned(await self.shards.ask(ring, numbers[0], sent, 0)), len(call)
        waiting, path = None, ""
        if name == "match":
            # What the shards predict is all that the choice needs of them.
            waiting = await self._in_thread(read_match, media, body, query)
            path = _outlook_path(waiting, query)
        jobs_of_shard = [np.flatnonzero(shard_of_job == number) for number in numbers]
        outcomes = await asyncio.gather(
            *(
                self._ask(request, request_id, call, ring, number, jobs, path)
                for number, jobs in zip(numbers, jobs_of_shard, strict=True)
            ),
            return_exceptions=True,
        )
        responses = [_or_raise(outcome) for outcome in outcomes]
        refused = [
            (jobs, response)
            for jobs, response in zip(jobs_of_shard, responses, strict=True)
            if response.status_code != 200
        ]
        if refused:
            if any(response.status_code in (400, 413, 422) for _, response in refused):
                await self._in_thread(check_call, name, media, body, query)
            refusals = [_refusal(jobs, response) for jobs, response in refused]
            return min(refusals, key=lambda item: item[0])[1], 0
        contents = [response.content for response in responses]
        answers = list(zip(jobs_of_shard, contents, strict=True))
        if waiting is not None:
            media, merged = await self._in_thread(_match, waiting, answers)
        else:
            media = responses[0].headers["content-type"]
            merged = await self._in_thread(merge, call, answers)
        return Response(merged, media_type=media), len(call)

    async def _ask(
        self,
        request: Request,
        request_id: str,
        call: Call,
        ring: Ring,
        number: int,
        jobs: Integers,
        path: str,
    ) -> httpx.Response:
        body = await self._in_thread(call.take, jobs)
        sent = _forwarded(request, body, request_id, path)
        return await self.shards.ask(ring, number, sent, int(jobs[0]))

    async def _in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Do work on a body in a thread, so that the process goes on answering its checks."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _or_raise(answer: httpx.Response | BaseException) -> httpx.Response:
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _outlook_path(waiting: MatchRequest, query: Mapping[str, str]) -> str:
    """Where the shards predict waiting jobs in a slot, all of them as of one time."""
    at = {} if waiting.options.at else {"at": waiting.at.isoformat()}
    return f"/outlook?{urlencode({**query, **at})}"


def _match(waiting: MatchRequest, answers: Sequence[tuple[Integers, bytes]]) -> tuple[str, bytes]:
    """Content type and body of the answer of ``/match``, chosen from the shards' predictions."""
    predicted, version = merge_outlooks(answers)
    return write_match(match(waiting, predicted), version, waiting)


def _forwarded(
    request: Request, body: bytes = b"", request_id: str = "", path: str = ""
) -> Forwarded:
    """A request as the predictors are sent it, to its own path and query unless one is given."""
    headers = {name: request.headers[name] for name in FORWARDED if name in request.headers}
    client = request.client.host if request.client else None
    if is_local(client):
        # A proxy of this machine says whom it forwards; without one the caller is local.
        if via := request.headers.get("x-forwarded-for"):
            headers["x-forwarded-for"] = via
    else:
        headers["x-forwarded-for"] = str(client)
    headers["accept-encoding"] = "identity"
    if request_id:
        headers["x-request-id"] = request_id
    query = request.scope["query_string"].decode("latin-1")
    path = path or request.url.path + (f"?{query}" if query else "")
    return Forwarded(request.method, path, headers, body)


def _returned(response: httpx.Response) -> Response:
    """A predictor's answer as the caller gets it."""
    headers = {name: response.headers[name] for name in RETURNED if name in response.headers}
    return Response(response.content, response.status_code, headers)


def _refusal(jobs: Integers, response: httpx.Response) -> tuple[int, Response]:
    """A shard's refusal by the position that the job has in the whole call, and that position."""
    message = problem_of(response)
    if not message:
        return int(jobs[0]), _returned(response)
    named = _JOB.match(message)
    position = int(jobs[int(named[1])] if named else jobs[0])
    message = _JOB.sub(f"job {position}", message)
    return position, error_response(HTTPError(response.status_code, message))
