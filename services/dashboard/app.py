"""The shifters' web page: a Starlette app with the page, a JSON API of all it shows, and events.

It only reads what others stored: the task watch, the monitor and the registry. Reading needs a
token, and changing something one with the scope admin: by a link that logs a browser in, as a
bearer, or as the password that a browser asks for.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from subprocess import Popen
from typing import Any

import orjson
import pandas as pd
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from infra.actor import Actor, acting
from infra.errors import GridcastError
from infra.settings import Settings
from jobs.owners import Owners
from jobs.store import StoreError, audit, open_store, set_threshold
from monitoring.tasks.latest_tasks import LatestTasks
from monitoring.tasks.states import Thresholds
from services.dashboard import jobs, models_overview, overview, sites, tasks
from services.dashboard.access import Access
from services.dashboard.changes import audit_page, rights_and_rules
from services.dashboard.metrics import metrics
from services.dashboard.values import as_json
from services.http.authentication import ScopeError
from services.http.callers import Caller
from services.http.errors import HTTPError, error_response
from services.http.logins import PARAMETER
from services.http.refusals import Refusals

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
"""Evidently's pages carry their scripts; in a sandbox they reach nothing of this page."""
MAX_BODY_BYTES = 10_000
NAMED_VIEWS = ("task", "chain", "request", "site", "user", "job")
VIEWS = (
    *("/", "/tasks", "/sites", "/models", "/user", "/thresholds"),
    *(f"/{view}/{{name:path}}" for view in NAMED_VIEWS),
)
"""The addresses of the page, which shows each by itself."""
CHANGES = {
    "/api/thresholds": "threshold",
    "/api/promote": "promote",
    "/api/withdraw": "withdraw",
    "/api/pin": "pin",
    "/api/unpin": "unpin",
    "/api/retrain": "retrain",
}
"""The addresses that change something, and how the audit log calls it."""
SCOPES_OF_CHANGES = {"/api/promote": "approve", "/api/withdraw": "approve"}
"""The scope that a change needs, where it is not admin."""
OWNER_PATHS = frozenset(
    (
        *("/api/events", "/api/overview", "/api/tasks", "/api/tasks/{name:path}", "/api/sites"),
        *("/api/sites/{name:path}", "/api/users/{name:path}", "/api/advice/{name:path}"),
        *("/api/jobs/{name:path}", "/api/thresholds"),
    )
)
"""What a token bound to owners may read; each handler selects what is of ``_owners``."""
HEARTBEAT_SECONDS = 15

Handler = Callable[[Request], Awaitable[Any]]


class Dashboard:
    """The page, its API and who may use them.

    Args:
        settings: The store, the data folder, the tokens and the names of this machine.
        clock: Gives the present (UTC).
    """

    def __init__(
        self, settings: Settings, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.settings, self.clock = settings, clock
        self.engine = open_store(settings.store_url)
        self.latest = LatestTasks(settings.folder("tasks"))
        self.ended = threading.Event()
        self.access = Access(settings)
        self.refusals = Refusals(lambda: self.engine)
        self.training: Popen[bytes] | None = None

    @property
    def tasks(self) -> pd.DataFrame:
        """The tasks as of the latest update."""
        return self.latest.read()[0]

    def _tasks_of(self, request: Request) -> pd.DataFrame:
        """The tasks that a caller may see."""
        return tasks.owned_tasks(self.tasks, _owners(request))

    def app(
        self, start: Callable[[], None] = lambda: None, stop: Callable[[], None] = lambda: None
    ) -> Starlette:
        """Make the app; ``start`` and ``stop`` are called when it starts and ends."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            try:
                audit.record_settings(self.engine, rights_and_rules(self.settings))
            except StoreError as error:  # the page tells what is wrong; the next start records them
                log.warning("the settings are not in the audit log: %s", error)
            start()
            yield
            self.ended.set()
            stop()

        reads: dict[str, Handler] = {
            "/metrics": self._metrics,
            "/reports/{name}": self._report,
            "/api/events": self._events,
            "/api/overview": self._overview,
            "/api/problems": self._problems,
            "/api/tasks": self._tasks,
            "/api/tasks/{name:path}": self._task,
            "/api/sites": self._sites,
            "/api/sites/{name:path}": self._site,
            "/api/users/{name:path}": self._user,
            "/api/advice/{name:path}": self._advice,
            "/api/jobs/{name:path}": self._job,
            "/api/models": self._models,
            "/api/thresholds": self._thresholds,
        }
        changes: dict[str, Handler] = {
            "/api/thresholds": self._set_threshold,
            "/api/promote": self._promote,
            "/api/withdraw": self._withdraw,
            "/api/pin": self._pin,
            "/api/unpin": self._unpin,
            "/api/retrain": self._retrain,
        }
        routes = [Route(path, self._view) for path in VIEWS]
        routes += [
            Route(path, self._guarded(handler, for_owners=path in OWNER_PATHS))
            for path, handler in reads.items()
        ]
        routes.append(Route("/api/audit", self._guarded(self._audit, "admin")))
        routes += [
            Route(
                path,
                self._guarded(handler, SCOPES_OF_CHANGES.get(path, "admin"), action=CHANGES[path]),
                methods=["POST"],
            )
            for path, handler in changes.items()
        ]
        page = Mount("/page", PageFiles(directory=PAGE))
        missing = self._guarded(self._missing, for_owners=True)

        async def on_missing(request: Request, _: Exception) -> Response:
            return await missing(request)

        return Starlette(
            lifespan=lifespan, routes=[*routes, page], exception_handlers={404: on_missing}
        )

    def _guarded(
        self, handler: Handler, scope: str = "", for_owners: bool = False, action: str = ""
    ) -> Callable[[Request], Awaitable[Response]]:
        """A handler for authorized callers; ``request.state.caller`` is who asks.

        Args:
            handler: The handler.
            scope: The scope that is needed; empty for any.
            for_owners: Whether a token bound to owners is answered.
            action: The change that it makes, for the audit log; empty: it changes nothing.
        """

        async def authorize(request: Request) -> Any:
            try:
                caller = await self.access.check(request, scope, for_owners)
            except ScopeError as error:
                if action:
                    details = action, request.url.path, error.message
                    actor = self._actor(request, error.caller)
                    await asyncio.to_thread(self.refusals.add, actor, *details)
                raise
            request.state.caller = caller
            if not action:
                return await handler(request)
            with acting(self._actor(request, caller)):
                return await handler(request)

        return self._answering(authorize, not scope)

    def _actor(self, request: Request, caller: Caller) -> Actor:
        return Actor(caller.name, "page", self.access.address(request))

    def _answering(
        self, handler: Handler, asks_password: bool = True
    ) -> Callable[[Request], Awaitable[Response]]:
        """A handler whose errors are answered by one sentence.

        Args:
            handler: Gives a response, or what becomes JSON.
            asks_password: Whether a browser may ask for a token as a password where one is needed.
        """

        async def respond(request: Request) -> Response:
            try:
                content = await handler(request)
            except HTTPError as error:
                content = error_response(error)
            except GridcastError as error:
                content = error_response(HTTPError(409, str(error)))
            if isinstance(content, Response):
                response = content
            else:
                response = Response(as_json(content), media_type="application/json")
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            if response.status_code == 401 and not asks_password:
                response.headers["WWW-Authenticate"] = "Bearer"
            return response

        return respond

    async def _view(self, request: Request) -> Response:
        """One of VIEWS, which a link with a code logs in to."""
        is_login = PARAMETER in request.query_params
        handler = (
            self._answering(self._login)
            if is_login
            else self._guarded(self._index, for_owners=True)
        )
        return await handler(request)

    async def _login(self, request: Request) -> Response:
        return self.access.logins.login(request)

    async def _index(self, request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def _missing(self, request: Request) -> Response:
        """The page says that it has no such view; to a program, an error does."""
        if request.url.path.startswith(("/api/", "/page/")):
            raise HTTPError(404, "there is nothing at this address")
        return FileResponse(PAGE / "index.html", status_code=404)

    async def _metrics(self, request: Request) -> Response:
        return PlainTextResponse(await asyncio.to_thread(metrics, self.latest))

    async def _events(self, request: Request) -> Response:
        async def events() -> AsyncIterator[str]:
            sent = None
            for second in range(10**9):
                updated_at = self.latest.read()[1]
                if updated_at != sent:
                    sent = updated_at
                    yield f"data: {sent}\n\n"
                elif second % HEARTBEAT_SECONDS == 0:
                    yield ": heartbeat\n\n"
                if self.ended.is_set() or await request.is_disconnected():
                    return
                await asyncio.sleep(1.0)

        return StreamingResponse(events(), media_type="text/event-stream")

    async def _report(self, request: Request) -> Response:
        path = self.settings.folder("reports") / Path(request.path_params["name"]).name
        if path.suffix != ".html" or not path.is_file():
            raise HTTPError(404, "there is no such report")
        return FileResponse(path, headers={"Content-Security-Policy": REPORT_POLICY})

    async def _overview(self, request: Request) -> Any:
        read = self.latest.read_activity(), self._tasks_of(request), self.latest.read_site_status()
        arguments = self.clock(), dict(request.query_params), _owners(request)
        first = await asyncio.to_thread(overview.overview, self.engine, *read, *arguments)
        return {**first, **self._freshness()}

    async def _problems(self, request: Request) -> Any:
        """The problems for which the registry is asked, which may take seconds."""
        arguments = self.settings, self.clock()
        return {"problems": await asyncio.to_thread(models_overview.problems, *arguments)}

    def _freshness(self) -> dict[str, str]:
        """When the tasks were updated, and what keeps them from being updated."""
        troubles = [thread["trouble"] for thread in self.latest.read_status().values()]
        return {
            "updated_at": self.latest.read()[1],
            "trouble": "; ".join(filter(None, troubles)),
        }

    async def _tasks(self, request: Request) -> Any:
        listed = tasks.tasks(self._tasks_of(request), dict(request.query_params))
        return {**listed, **self._freshness()}

    async def _task(self, request: Request) -> Any:
        name, query = request.path_params["name"], dict(request.query_params)
        arguments = self._tasks_of(request), name, query, _owners(request)
        return await asyncio.to_thread(tasks.task, self.engine, *arguments)

    async def _sites(self, request: Request) -> Any:
        return sites.sites(self.latest.read_activity())

    async def _site(self, request: Request) -> Any:
        name, query = request.path_params["name"], dict(request.query_params)
        arguments = self.latest.read_activity(), name, self.clock(), query, _owners(request)
        return await asyncio.to_thread(sites.site, self.engine, *arguments)

    async def _user(self, request: Request) -> Any:
        arguments = self.tasks, request.path_params["name"], self.clock(), _owners(request)
        return await asyncio.to_thread(jobs.user, self.engine, *arguments)

    async def _advice(self, request: Request) -> Any:
        name, owners = request.path_params["name"], _owners(request)
        arguments = self.settings, name, self.clock(), owners
        return await asyncio.to_thread(jobs.advice, self.engine, *arguments)

    async def _job(self, request: Request) -> Any:
        name, source = request.path_params["name"], request.query_params.get("source", "")
        arguments = self.settings, source, name, _owners(request)
        return await asyncio.to_thread(jobs.job, self.engine, *arguments)

    async def _models(self, request: Request) -> Any:
        is_training = self.training is not None and self.training.poll() is None
        return await asyncio.to_thread(
            models_overview.models, self.engine, self.settings, is_training, self.clock()
        )

    async def _thresholds(self, request: Request) -> Any:
        return await asyncio.to_thread(tasks.thresholds, self.engine, _owners(request))

    async def _audit(self, request: Request) -> Any:
        query = dict(request.query_params)
        return await asyncio.to_thread(audit_page, self.engine, query)

    async def _set_threshold(self, request: Request) -> Any:
        body = await _body(request)
        name, value, group, by = (body.get(key) for key in ("name", "value", "group", "by"))
        names = Thresholds.__dataclass_fields__
        if isinstance(value, bool) or not isinstance(value, int | float):
            value = 0
        if not isinstance(name, str) or name not in names or not value > 0:
            raise HTTPError(
                422, f"name must be one of {', '.join(names)} and value a positive number"
            )
        if not all(_is_name(text) for text in (group, by)):
            raise HTTPError(
                422, "group (or all) and by, who sets it, must be texts of at most 100 characters"
            )
        group, by = str(group).strip(), str(by).strip()

        def store() -> None:
            with self.engine.begin() as connection:
                set_threshold(connection, group, str(name), float(value), by, self.clock())

        await asyncio.to_thread(store)
        return {"sentence": f"{name} of {group} is {value:g} from the next update on"}

    async def _promote(self, request: Request) -> Any:
        from models.releases import champion

        version = await _version(request)
        chosen = await asyncio.to_thread(
            champion.promote, version, self.settings, by=_by(request), why="chosen on the page"
        )
        return {"sentence": f"{chosen.label} is the champion"}

    async def _withdraw(self, request: Request) -> Any:
        from models.releases import registry

        expected = await _version(request)
        withdrawn = await asyncio.to_thread(
            registry.withdraw,
            by=_by(request),
            why="withdrawn on the page",
            expected=expected,
            settings=self.settings,
        )
        return {"sentence": f"{withdrawn.label} is challenger no longer"}

    async def _pin(self, request: Request) -> Any:
        from models.releases import registry

        pinned = await asyncio.to_thread(
            registry.pin, by=_by(request), why="pinned on the page", settings=self.settings
        )
        return {"sentence": f"{pinned.label} stays the champion until it is unpinned"}

    async def _unpin(self, request: Request) -> Any:
        from models.releases import registry

        await asyncio.to_thread(registry.unpin, self.settings)
        return {"sentence": "the champion may be replaced again"}

    async def _retrain(self, request: Request) -> Any:
        def start() -> Popen[bytes]:
            with self.engine.begin() as connection:
                audit.record(connection, "retrain", self.settings.model_name)
                return models_overview.start_training(self.settings)

        self.training = await asyncio.to_thread(start)
        return {"sentence": "a training has been started; its version will be listed here"}


class PageFiles(StaticFiles):
    """The files of the page, of which a browser asks anew whether they have changed.

    Modules of two versions of Gridcast would not fit together.
    """

    def file_response(self, *args: Any, **options: Any) -> Response:
        """Give a file, or 304 where the browser has it."""
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _owners(request: Request) -> Owners | None:
    """Whose jobs a caller may see; None: everybody's."""
    caller: Caller = request.state.caller
    return caller.owners


def _by(request: Request) -> str:
    """Who decides on the page, as the registry notes it."""
    caller: Caller = request.state.caller
    return f"the page, {caller.name}"


def _is_name(text: Any) -> bool:
    """Whether a value of a body is a name, without characters that a store or terminal refuses."""
    return isinstance(text, str) and text.isprintable() and 0 < len(text.strip()) <= 100


async def _version(request: Request) -> int:
    version = (await _body(request)).get("version")
    if isinstance(version, bool) or not isinstance(version, int) or not 0 < version < 2**31:
        raise HTTPError(422, "version must be a whole number")
    return version


async def _body(request: Request) -> dict[str, Any]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPError(413, f"a body of more than {MAX_BODY_BYTES:,} bytes is not read")
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise HTTPError(400, "the body is no JSON") from None
    if not isinstance(content, dict):
        raise HTTPError(400, "the body must be a JSON object")
    return content
