"""Prefect's server as Gridcast runs it: its own application behind a guard of Host and Origin, which it lacks.

Without the guard any web page that an operator opens could reach the server on this machine: by a name that is made to resolve to
127.0.0.1 (Host), or by a socket to its event stream, which no browser forbids (Origin).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flows.dead_runs import start_crash_watch
from infra.settings import Settings, prepare_environment

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class Guard:
    """An ASGI application that lets through what asks for one of ``doors`` (host:port) and comes from one of their pages."""

    def __init__(self, app: ASGIApp, doors: set[str]) -> None:
        self.app, self.doors = app, doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, or answer 403 (to a socket: close it)."""
        if scope["type"] == "lifespan" or self._welcome(dict(scope["headers"])):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send(
                {"type": "websocket.close", "code": 1008, "reason": "foreign Host or Origin"}
            )
        else:
            await send(
                {
                    "type": "http.response.start",
                    "status": 403,
                    "headers": [(b"content-type", b"text/plain")],
                }
            )
            await send({"type": "http.response.body", "body": b"foreign Host or Origin"})

    def _welcome(self, headers: dict[bytes, bytes]) -> bool:
        origin = headers.get(b"origin")
        foreign = origin is not None and urlsplit(origin.decode("latin-1")).netloc not in self.doors
        return headers.get(b"host", b"").decode("latin-1") in self.doors and not foreign


def create_app() -> Any:
    """Prefect's API and pages, guarded; for ``uvicorn --factory flows.server:create_app``."""
    settings = prepare_environment()
    from prefect.server.api.server import create_app as create_prefect

    let_schedules_be_written()
    start_crash_watch(f"http://{own_door(settings)}/api")
    return Guard(
        create_prefect(final=True), set(settings.allowed_host_headers(settings.prefect_port))
    )


def own_door(settings: Settings) -> str:
    """Where this process asks itself: an address that stands for all is none to ask.

    >>> own_door(Settings(host="0.0.0.0", prefect_port=4200))
    '127.0.0.1:4200'
    """
    return f"{'127.0.0.1' if settings.host in ('0.0.0.0', '::') else settings.host}:{settings.prefect_port}"  # noqa: S104


def let_schedules_be_written() -> None:
    """Tell SQLAlchemy 2.1 to pass over the ``state`` of a run that is inserted in bulk, as 2.0 did without being told.

    Prefect 3.8.8 writes scheduled runs so, with the state beside the columns: it fails with "Can't evaluate bulk DML statement",
    in its log only, and no schedule ever runs.
    """
    from prefect.server.database import orm_models

    for model in (orm_models.FlowRun, orm_models.TaskRun):
        vars(model)["state"].bulk_dml_setter = _pass_over


def _pass_over(_model: type, _row: object, _state: object) -> None:
    return None
