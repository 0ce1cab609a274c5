"""The web page of the shifter: a Starlette app that serves the page, a JSON API for all that it shows, and news as they come.

Reading needs no token on this machine; from elsewhere any token, and to change something one with the scope admin: as a bearer, or as
the password that a browser asks for.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from infra.errors import GridcastError
from infra.settings import Settings, prepare_environment
from jobs.store import open_store, set_threshold
from monitoring.tasks.states import Thresholds
from monitoring.tasks.watch import COLUMNS, TaskWatch
from services.dashboard import models_overview, overview
from services.dashboard.task_updates import send_task_updates
from services.http.authentication import (
    Token,
    check_host_and_origin,
    is_local,
    read_tokens,
    scopes_of_header,
)
from services.http.errors import HTTPError, error_response

log = logging.getLogger("gridcast.dashboard")

PAGE = Path(__file__).parent / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
OF_REPORTS = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:"
)
"""Evidently's pages are whole in themselves, scripts and all; as a page of nowhere they reach nothing of this one."""
MOST_BODY = 10_000
HEARTBEAT = 15.0
GRACE = 2
"""Seconds that open pages, which listen for news, may hold up the end."""

Answer = Callable[[Request], Awaitable[Any]]


class Dashboard:
    """What the page shows, looked at anew by a thread, and the doors to it."""

    def __init__(
        self, settings: Settings, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.settings, self.clock = settings, clock
        self.engine = open_store(settings.store_url)
        self.watch = TaskWatch(self.engine, settings)
        self.tasks = pd.DataFrame(columns=COLUMNS)
        self.seen_at = ""
        self.ended = threading.Event()
        self.tokens = read_tokens(settings.tokens.get_secret_value())
        self.hosts = frozenset(settings.host_names)

    def look(self) -> None:
        """Look at the tasks now, and tell the production system."""
        now = self.clock()
        self.tasks = overview.by_severity(self.watch.update(now))
        self.seen_at = now.isoformat()
        send_task_updates(self.engine, self.settings, now)

    def keep_looking(self) -> None:
        """Look every so often until ``ended``; what goes wrong is logged and tried again."""
        while not self.ended.is_set():
            try:
                self.look()
            except Exception:
                log.exception("the tasks could not be looked at; trying again")
            self.ended.wait(self.settings.dashboard_seconds)

    def app(self, watching: bool = True) -> Starlette:
        """The app; with ``watching`` it looks at the tasks by itself while it runs."""

        @asynccontextmanager
        async def life(_: Starlette) -> AsyncIterator[None]:
            thread = threading.Thread(target=self.keep_looking, name="tasks", daemon=True)
            if watching:
                thread.start()
            yield
            self.ended.set()

        reads = {
            "tasks": self._tasks,
            "tasks/{name:path}": self._task,
            "sites": self._sites,
            "models": self._models,
        }
        changes = {
            "thresholds": self._set_threshold,
            "promote": self._promote,
            "pin": self._pin,
            "unpin": self._unpin,
        }
        changes["retrain"] = self._retrain
        return Starlette(
            lifespan=life,
            routes=[
                Route("/", self._guarded(self._index)),
                Route("/api/events", self._guarded(self._events)),
                Route("/reports/{name}", self._guarded(self._report)),
                *(
                    Route(f"/api/{path}", self._guarded(door))
                    for path, door in {**reads, "thresholds": self._thresholds}.items()
                ),
                *(
                    Route(f"/api/{path}", self._guarded(door, "admin"), methods=["POST"])
                    for path, door in changes.items()
                ),
                Mount("/page", StaticFiles(directory=PAGE)),
            ],
        )

    def _guarded(self, door: Answer, scope: str = "") -> Callable[[Request], Awaitable[Response]]:
        """A door for those who may pass it; whatever goes wrong is one sentence."""

        async def answer(request: Request) -> Response:
            try:
                check(request, scope, self.tokens, self.hosts)
                found = await door(request)
            except HTTPError as refusal:
                found = error_response(refusal)
            except GridcastError as error:
                found = error_response(HTTPError(409, str(error)))
            response = (
                found
                if isinstance(found, Response)
                else Response(overview.as_json(found), media_type="application/json")
            )
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return answer

    async def _index(self, request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def _events(self, request: Request) -> Response:
        async def news() -> AsyncIterator[str]:
            told = None
            for beat in range(10**9):
                if self.seen_at != told:
                    told = self.seen_at
                    yield f"data: {told}\n\n"
                elif beat % int(HEARTBEAT) == 0:
                    yield ": still here\n\n"
                if self.ended.is_set() or await request.is_disconnected():
                    return
                await asyncio.sleep(1.0)

        return StreamingResponse(news(), media_type="text/event-stream")

    async def _report(self, request: Request) -> Response:
        path = self.settings.folder("reports") / Path(request.path_params["name"]).name
        if path.suffix != ".html" or not path.is_file():
            raise HTTPError(404, "there is no such report")
        return FileResponse(path, headers={"Content-Security-Policy": OF_REPORTS})

    async def _tasks(self, request: Request) -> Any:
        return overview.tasks(self.tasks, dict(request.query_params))

    async def _task(self, request: Request) -> Any:
        return await asyncio.to_thread(
            overview.task,
            self.engine,
            self.tasks,
            request.path_params["name"],
            dict(request.query_params),
        )

    async def _sites(self, request: Request) -> Any:
        return await asyncio.to_thread(overview.sites, self.engine, self.clock())

    async def _models(self, request: Request) -> Any:
        return await asyncio.to_thread(models_overview.models, self.engine, self.settings)

    async def _thresholds(self, request: Request) -> Any:
        return await asyncio.to_thread(overview.thresholds, self.engine)

    async def _set_threshold(self, request: Request) -> Any:
        asked = await _body(request)
        name, value, group, by = (asked.get(key) for key in ("name", "value", "group", "by"))
        if (
            name not in Thresholds.__dataclass_fields__
            or isinstance(value, bool)
            or not isinstance(value, int | float)
            or not value > 0
        ):
            raise HTTPError(
                422,
                f"name must be one of {', '.join(Thresholds.__dataclass_fields__)} and value a positive number",
            )
        if not all(isinstance(text, str) and 0 < len(text.strip()) <= 100 for text in (group, by)):
            raise HTTPError(
                422, "group (or all) and by, who sets it, must be texts of at most 100 characters"
            )

        def store() -> None:
            with self.engine.begin() as connection:
                set_threshold(
                    connection,
                    str(group).strip(),
                    str(name),
                    float(value),
                    str(by).strip(),
                    self.clock(),
                )

        await asyncio.to_thread(store)
        return {"sentence": f"{name} of {group} is {value:g} from the next look on"}

    async def _promote(self, request: Request) -> Any:
        from models.releases import champion

        version = (await _body(request)).get("version")
        if not isinstance(version, int):
            raise HTTPError(422, "version must be a number")
        chosen = await asyncio.to_thread(
            champion.promote, version, self.settings, by="the page", why="chosen on the page"
        )
        return {"sentence": f"{chosen.label} is the champion"}

    async def _pin(self, request: Request) -> Any:
        from models.releases import registry

        kept = await asyncio.to_thread(
            registry.pin, by="the page", why="pinned on the page", settings=self.settings
        )
        return {"sentence": f"{kept.label} stays the champion until it is unpinned"}

    async def _unpin(self, request: Request) -> Any:
        from models.releases import registry

        await asyncio.to_thread(registry.unpin, self.settings)
        return {"sentence": "the champion may be replaced again"}

    async def _retrain(self, request: Request) -> Any:
        await asyncio.to_thread(models_overview.start_training, self.settings)
        return {"sentence": "a training has been started; its version will be listed here"}


def check(request: Request, scope: str, tokens: tuple[Token, ...], hosts: frozenset[str]) -> None:
    """Raise HTTPError unless this caller may read, or, where a ``scope`` is asked for, may change something."""
    headers = {
        name.decode("latin-1").lower(): value.decode("latin-1")
        for name, value in request.headers.raw
    }
    check_host_and_origin(headers, hosts)
    if not scope and is_local(request.client.host if request.client else None):
        return
    if not tokens:
        raise HTTPError(403, "no tokens are configured; set GRIDCAST_TOKENS")
    scopes = scopes_of_header(_as_bearer(headers.get("authorization", "")), tokens)
    if scopes is None:
        raise HTTPError(401, "a known token is needed")
    if scope and scope not in scopes:
        raise HTTPError(403, f"the token has not the scope {scope}")


def _as_bearer(header: str) -> str:
    """The password of a browser's Basic header as a bearer token."""
    kind, _, value = header.partition(" ")
    if kind.lower() != "basic":
        return header
    try:
        return "Bearer " + base64.b64decode(value).decode().partition(":")[2]
    except ValueError:
        return ""


async def _body(request: Request) -> dict[str, Any]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY:
            raise HTTPError(413, f"a body of more than {MOST_BODY:,} bytes is not read")
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise HTTPError(400, "the body is no JSON") from None
    if not isinstance(found, dict):
        raise HTTPError(400, "the body must be a JSON object")
    return found


def create_app() -> Starlette:
    """The app as ``gridcast up`` serves it."""
    return Dashboard(prepare_environment()).app()


def run(settings: Settings) -> None:
    """Serve the page until Ctrl-C."""
    import uvicorn

    uvicorn.run(
        Dashboard(settings).app(), host=settings.host, port=settings.dashboard_port, log_level="warning", access_log=False,
        timeout_graceful_shutdown=GRACE,
    )  # fmt: skip
