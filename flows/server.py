"""Prefect's server: its own application behind a check of Host and Origin, which it lacks.

Without it any web page that an operator opens could reach the server on this machine: by a name
that resolves to 127.0.0.1 (Host), or by a web socket to its event stream, which no browser forbids
(Origin). Its own pages reach no other host: they load an analytics library even where that is off.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flows.bounded_sockets import BoundedSockets
from flows.dead_runs import start_crash_watch
from infra.private_pages import PrivatePages
from infra.settings import Settings, prepare_environment

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class Guard:
    """An ASGI application that passes on requests to, and from pages of, ``hosts`` (host:port)."""

    def __init__(self, app: ASGIApp, hosts: set[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403 (a web socket is closed)."""
        if scope["type"] == "lifespan" or self._is_allowed(dict(scope["headers"])):
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

    def _is_allowed(self, headers: dict[bytes, bytes]) -> bool:
        hosts = [headers.get(b"host", b"").decode("latin-1")]
        try:
            if (origin := headers.get(b"origin")) is not None:
                hosts.append(urlsplit(origin.decode("latin-1")).netloc)
        except ValueError:  # as of "http://[": no page has such an origin
            return False
        return self.hosts.issuperset(hosts)


def create_app() -> Any:
    """Prefect's API and pages, guarded; for ``uvicorn --factory flows.server:create_app``."""
    settings = prepare_environment()
    from prefect.server.api.server import create_app as create_prefect

    allow_bulk_inserts()
    start_crash_watch(f"http://{own_host(settings)}/api", settings.prefect_login)
    app = create_prefect(final=True)
    # Prefect's logging makes Uvicorn's access log propagate again: a line for each poll.
    logging.getLogger("uvicorn.access").propagate = False
    hosts = set(settings.allowed_host_headers(settings.prefect_port))
    # The page calls the API by the name in PREFECT_API_URL, whatever name it was opened by.
    origins = {f"http://{host}" for host in hosts if "[" not in host}  # which no policy can name
    return Guard(BoundedSockets(PrivatePages(app, origins)), hosts)


def own_host(settings: Settings) -> str:
    """Return host:port for this server's own requests; an address of all interfaces is none.

    >>> own_host(Settings(host="0.0.0.0", prefect_port=4200))
    '127.0.0.1:4200'
    """
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    return f"[{host}]:{settings.prefect_port}" if ":" in host else f"{host}:{settings.prefect_port}"


def allow_bulk_inserts() -> None:
    """Let SQLAlchemy 2.1 ignore the ``state`` of a run that is inserted in bulk, as 2.0 did.

    Prefect 3.8.8 writes scheduled runs so. It would fail with "Can't evaluate bulk DML statement",
    in its log only, and no schedule would ever run.
    """
    from prefect.server.database import orm_models

    for model in (orm_models.FlowRun, orm_models.TaskRun):
        vars(model)["state"].bulk_dml_setter = _ignore


def _ignore(_model: type, _row: object, _state: object) -> None:
    return None
