"""Logins of browsers: the code of a link, valid once and for minutes, becomes a cookie.

Code and cookie are signed with the digest of a token and hold no token. Each is valid at the
server of one port only: browsers send a host's cookies to all of its ports.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from html import escape
from secrets import token_hex
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, Response

from infra.settings import Settings
from services.http.authentication import check_host_and_origin, read_head
from services.http.callers import LOGIN, Caller, Token, allows, digest_of, settings_tokens
from services.http.errors import HTTPError, error_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PARAMETER = "login"
"""The query parameter of a link that logs in."""
CODE_SECONDS = 15 * 60
SESSION_SECONDS = 30 * 24 * 3600
"""How long a browser stays logged in."""


def login_link(address: str, port: int, secret: str) -> str:
    """The address of a server with a new code.

    Args:
        address: The server's.
        port: Its port.
        secret: The token whose rights the login has.
    """
    return f"{address}/?{PARAMETER}={_signed(digest_of(secret), 'code', port, CODE_SECONDS)}"


class Logins:
    """The logins of browsers at one server.

    Args:
        settings: The tokens, the names of this machine, and whether TLS ends in front of it.
        port: The server's port.
    """

    def __init__(self, settings: Settings, port: int) -> None:
        self.tokens = settings_tokens(settings)
        self.hosts = frozenset(settings.host_names)
        self.port, self.cookie = port, f"gridcast-{port}"
        self.is_secure = settings.tls_in_front
        self._used: dict[str, float] = {}

    def caller(self, cookies: Mapping[str, str]) -> Caller | None:
        """The caller of the token that a cookie was made of; None if there is none."""
        token = self._token(cookies.get(self.cookie, ""), "session")
        return token.caller if token else None

    def login(self, request: Request) -> Response:
        """Give the browser of a link with a code its cookie, and lead it to the same page.

        By a page and not by a redirection, which a browser that comes from elsewhere (from a
        message, for instance) would follow without the cookie.

        Raises:
            HTTPError: The code is wrong, used or too old (401), or another host is named (400).
        """
        check_host_and_origin(read_head(request.scope), self.hosts)
        token = self._redeem(request.query_params[PARAMETER])
        if token is None and self.caller(request.cookies) is None:
            raise HTTPError(
                401, "the link has been used, or is too old: `gridcast login` prints a new one"
            )
        url = request.url.remove_query_params(PARAMETER)
        path = "/" + url.path.lstrip("/\\")
        address = escape(f"{path}?{url.query}" if url.query else path)
        response = HTMLResponse(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={address}">'
            f'<title>Gridcast</title><a href="{address}">Gridcast</a>',
            headers={"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"},
        )
        if token:
            response.set_cookie(
                self.cookie,
                _signed(token.digest, "session", self.port, SESSION_SECONDS),
                max_age=SESSION_SECONDS,
                secure=self.is_secure,
                httponly=True,
                samesite="strict",
            )
        return response

    def _redeem(self, code: str) -> Token | None:
        """The token of a code that is used for the first time; None for any other."""
        now = time.time()
        self._used = {used: until for used, until in self._used.items() if until > now}
        token = self._token(code, "code")
        if token is None or code in self._used or LOGIN in token.caller.scopes:
            return None
        self._used[code] = now + CODE_SECONDS
        return token

    def _token(self, text: str, purpose: str) -> Token | None:
        """The token that signed a code or session which is valid still; None if none did.

        Every token is compared, whole: the time taken tells nothing about them.
        """
        head = text.rpartition(".")[0]
        signers = [
            token
            for token in self.tokens
            if hmac.compare_digest(
                _sign(token.digest, purpose, self.port, head).encode(), text.encode()
            )
        ]
        return signers[-1] if signers and int(head.partition(".")[0]) > time.time() else None


class BrowserLogins:
    """ASGI middleware that logs browsers in to a server with a login of its own.

    Args:
        app: The server.
        logins: Its logins; those of tokens with the scope admin count.
        authorization: The header that it demands, which requests of such a login get.
    """

    def __init__(self, app: ASGIApp, logins: Logins, authorization: str) -> None:
        self.app, self.logins, self.authorization = app, logins, authorization.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with the header where its browser is logged in."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] == "http" and scope["path"] == "/" and scope["method"] == "GET":
            request = Request(scope)
            if PARAMETER in request.query_params:
                try:
                    response = self.logins.login(request)
                except HTTPError as error:
                    response = error_response(error)
                await response(scope, receive, send)
                return
        if self._is_logged_in(scope):
            header = (b"authorization", self.authorization)
            scope = {**scope, "headers": [*scope["headers"], header]}
        await self.app(scope, receive, send)

    def _is_logged_in(self, scope: Scope) -> bool:
        """Whether it is a request of this server's own pages, or to open one, with a cookie."""
        connection = HTTPConnection(scope)
        headers = connection.headers
        if "authorization" in headers or "cookie" not in headers:
            return False
        # A page on another port of this host: its requests carry the cookie too.
        is_own = headers.get("sec-fetch-site", "none") in ("same-origin", "none")
        is_opened = headers.get("sec-fetch-mode") == "navigate" and scope.get("method") == "GET"
        caller = self.logins.caller(connection.cookies)
        return caller is not None and allows(caller.scopes, "admin") and (is_own or is_opened)


def _signed(digest: bytes, purpose: str, port: int, seconds: int) -> str:
    return _sign(digest, purpose, port, f"{int(time.time()) + seconds}.{token_hex(16)}")


def _sign(digest: bytes, purpose: str, port: int, head: str) -> str:
    """Append the signature: HMAC-SHA256 of purpose, port and head."""
    message = f"gridcast {purpose} {port} {head}".encode()
    return f"{head}.{hmac.new(digest, message, hashlib.sha256).hexdigest()}"
