"""Prefect's server: its own application behind checks of Host, Origin and logins.

Without it any web page that an operator opens could reach the server on this machine: by a name
that resolves to 127.0.0.1 (Host), or by a web socket to its event stream, which no browser forbids
(Origin). Prefect checks logins itself, but fails on those that are not ASCII, and shows the
documents of its API without one. A browser may log in by a link too. Its own pages reach no other
host: they load an analytics library even where that is off.
"""

from __future__ import annotations

import base64
import hmac
import json
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flows.bounded_sockets import BoundedSockets
from flows.dead_runs import start_crash_watch
from infra.private_pages import PrivatePages
from infra.setting_values import metrics_token
from infra.settings import prepare_environment
from services.http.logins import BrowserLogins, Logins

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

METRICS_PATH = "/api/metrics"
DOCUMENTS = ("/docs", "/redoc", "/openapi.json")
"""Pages that need a login, beside the API; the pages with the login's own form need none."""


class Guard:
    """An ASGI application that passes on requests to, and from pages of, ``hosts``.

    Args:
        app: What it guards.
        hosts: As host:port.
        login: What callers must give, ``user:password``; empty for nothing.
        metrics_token: A bearer token that reads the metrics and nothing else; empty: none.
    """

    def __init__(
        self, app: ASGIApp, hosts: set[str], login: str = "", metrics_token: str = ""
    ) -> None:
        self.metrics_header = f"Bearer {metrics_token}".encode()
        self.app, self.hosts, self.login = app, hosts, login.encode()
        self.header = basic_header(login).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401 or 403 (a web socket is closed)."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self._is_allowed(headers):
            if scope["path"] == METRICS_PATH and self._reads_metrics(headers):
                headers[b"authorization"] = self.header
                scope = {**scope, "headers": list(headers.items())}
            has_login = bool(self.login) and headers.get(b"authorization") == self.header
            if scope["type"] == "websocket" and self.login:
                await self.app(scope, self._logged_in(receive, send, has_login), send)
            elif scope["type"] == "http" and self._has_wrong_login(scope["path"], headers):
                await _refuse(send, 401, b"Unauthorized")
            elif has_login and scope["path"].endswith("/ui-settings"):
                plain = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
                scope = {**scope, "headers": plain}
                await self.app(scope, receive, _without_login_form(send))
            else:
                await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send(
                {"type": "websocket.close", "code": 1008, "reason": "foreign Host or Origin"}
            )
        else:
            await _refuse(send, 403, b"foreign Host or Origin")

    def _reads_metrics(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request has the token that reads metrics."""
        header = headers.get(b"authorization", b"")
        has_token = len(self.metrics_header) > len(b"Bearer ")
        return has_token and hmac.compare_digest(header, self.metrics_header)

    def _has_wrong_login(self, path: str, headers: dict[bytes, bytes]) -> bool:
        """Whether a request gives another login, or gives none for the documents of the API."""
        header = headers.get(b"authorization")
        if not self.login or header is None:
            return bool(self.login) and path.startswith(DOCUMENTS)
        try:
            given_login = base64.b64decode(header.partition(b" ")[2])
        except ValueError:
            return True
        return not hmac.compare_digest(given_login, self.login)

    def _logged_in(self, receive: Receive, send: Send, has_login: bool) -> Receive:
        """``receive`` of a web socket whose first message must be a login.

        Args:
            receive: The socket's.
            send: The socket's.
            has_login: Whether its opening request has one, which its first message then gets.
        """
        is_logged_in = False

        async def receive_after_login() -> Message:
            nonlocal is_logged_in
            message = await receive()
            if is_logged_in or message["type"] != "websocket.receive":
                return message
            if has_login:
                text = json.dumps({"type": "auth", "token": self.login.decode()})
                message = {"type": "websocket.receive", "text": text}
            is_logged_in = self._is_login(message.get("text") or "")
            if is_logged_in:
                return message
            await send({"type": "websocket.close", "code": 1008, "reason": "not logged in"})
            return {"type": "websocket.disconnect", "code": 1008}

        return receive_after_login

    def _is_login(self, text: str) -> bool:
        try:
            message = json.loads(text)
            token = message["token"].encode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return False
        return message.get("type") == "auth" and hmac.compare_digest(token, self.login)

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
    from prefect.settings import PREFECT_SERVER_API_HOST

    allow_bulk_inserts()
    own = own_host(PREFECT_SERVER_API_HOST.value(), settings.prefect_port)
    start_crash_watch(f"http://{own}/api", settings.prefect_login)
    app = create_prefect(final=True)
    # Prefect's logging makes Uvicorn's access log propagate again: a line for each poll.
    logging.getLogger("uvicorn.access").propagate = False
    hosts = set(settings.allowed_host_headers(settings.prefect_port))
    # The page calls the API by the name in PREFECT_API_URL, whatever name it was opened by.
    origins = {f"http://{host}" for host in hosts if "[" not in host}  # which no policy can name
    login = settings.prefect_login
    secret = metrics_token(settings.admin_token)
    guard = Guard(BoundedSockets(PrivatePages(app, origins)), hosts, login, secret)
    if not login:
        return guard
    return BrowserLogins(guard, Logins(settings, settings.prefect_port), basic_header(login))


async def _refuse(send: Send, status: int, sentence: bytes) -> None:
    headers = [(b"content-type", b"text/plain")]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="gridcast"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": sentence})


def own_host(host: str, port: int) -> str:
    """Return host:port for this server's own requests; an address of all interfaces is none.

    >>> own_host("0.0.0.0", 4200)
    '127.0.0.1:4200'
    """
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def basic_header(login: str) -> str:
    """The Authorization header of a login ``user:password``."""
    return f"Basic {base64.b64encode(login.encode()).decode()}"


def _without_login_form(send: Send) -> Send:
    """``send`` of the settings of Prefect's pages, which then ask for no login."""

    async def send_changed(message: Message) -> None:
        if message["type"] == "http.response.body":  # of the same length
            body = message.get("body", b"").replace(b'"BASIC"', b"null   ")
            message = {**message, "body": body}
        await send(message)

    return send_changed


def allow_bulk_inserts() -> None:
    """Let SQLAlchemy 2.1 ignore the ``state`` of a run that is inserted in bulk, as 2.0 did.

    Prefect 3.9.1 writes scheduled runs so. It would fail with "Can't evaluate bulk DML statement",
    in its log only, and no schedule would ever run.
    """
    from prefect.server.database import orm_models

    for model in (orm_models.FlowRun, orm_models.TaskRun):
        vars(model)["state"].bulk_dml_setter = _ignore


def _ignore(_model: type, _row: object, _state: object) -> None:
    return None
