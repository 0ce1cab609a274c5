"""Who may read the page and change something: tokens, and a login of browsers by a cookie.

A link with ``?token=`` logs a browser in once. Its cookie holds no token but a digest of one, which
opens the page alone and no other server of Gridcast.
"""

from __future__ import annotations

import hashlib
import hmac
from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from infra.settings import Settings
from services.http.authentication import (
    NO_TOKENS,
    NOT_KNOWN,
    Token,
    allows,
    as_bearer,
    check_host_and_origin,
    is_local,
    known_token,
    read_head,
    read_tokens,
    scopes_of_header,
)
from services.http.errors import HTTPError

LOGIN_SECONDS = 30 * 24 * 3600
"""How long a browser stays logged in."""


class Access:
    """The callers of the page.

    Args:
        settings: The tokens, the names of this machine and the page's port.
    """

    def __init__(self, settings: Settings) -> None:
        self.tokens = read_tokens(settings.all_tokens)
        self.hosts = frozenset(settings.host_names)
        self.open_on_loopback = settings.open_on_loopback
        # Browsers send a host's cookies to all of its ports, where another Gridcast may be.
        self.cookie = f"gridcast-{settings.dashboard_port}"
        self.is_secure = settings.tls_in_front

    def check(self, request: Request, scope: str = "") -> None:
        """Let a caller pass who may read, or with a ``scope`` change something.

        Raises:
            HTTPError: The caller may not (401, 403), or names another host (400).
        """
        headers = read_head(request.scope)
        check_host_and_origin(headers, self.hosts)
        if scope and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            # A page on another port of this host: its requests carry the cookie too.
            raise HTTPError(403, "changes from pages of another origin are refused")
        client = request.client.host if request.client else None
        if not scope and self.open_on_loopback and is_local(client):
            return
        if not self.tokens:
            raise HTTPError(403, NO_TOKENS)
        if "authorization" in headers:
            scopes = scopes_of_header(as_bearer(headers["authorization"]), self.tokens)
        else:
            scopes = self._scopes_of_cookie(request.cookies.get(self.cookie, ""))
        if scopes is None:
            raise HTTPError(401, NOT_KNOWN)
        if scope and not allows(scopes, scope):
            raise HTTPError(403, f"the token has not the scope {scope}")

    def login(self, request: Request) -> Response:
        """Give the browser of a link with ``?token=`` its cookie, and lead it to the same page.

        By a page and not by a redirection, which a browser that comes from elsewhere (from a
        message, for instance) would follow without the cookie.

        Raises:
            HTTPError: The token is unknown (401), or another host is named (400).
        """
        check_host_and_origin(read_head(request.scope), self.hosts)
        token = known_token(request.query_params["token"], self.tokens)
        if token is None:
            raise HTTPError(401, "the token of this link is unknown")
        url = request.url.remove_query_params("token")
        address = escape(f"{url.path}?{url.query}" if url.query else url.path)
        response = HTMLResponse(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={address}">'
            f'<title>Gridcast</title><a href="{address}">Gridcast</a>'
        )
        response.set_cookie(
            self.cookie,
            _session(token),
            max_age=LOGIN_SECONDS,
            secure=self.is_secure,
            httponly=True,
            samesite="strict",
        )
        return response

    def _scopes_of_cookie(self, session: str) -> frozenset[str] | None:
        """The scopes of the token that a cookie was made of; None if there is none.

        Every token is compared, whole: the time taken tells nothing about them.
        """
        scopes: frozenset[str] | None = None
        for token in self.tokens:
            if hmac.compare_digest(_session(token).encode(), session.encode()):
                scopes = token.scopes
        return scopes


def _session(token: Token) -> str:
    return hmac.new(token.digest, b"the page of tasks", hashlib.sha256).hexdigest()
