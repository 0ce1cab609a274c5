"""Who may read the page and change something: tokens, and a login of browsers by a cookie.

A link with ``?token=`` logs a browser in once. Its cookie holds no token but a digest of one, which
opens the page alone and no other server of Gridcast.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import replace
from html import escape
from ipaddress import ip_address, ip_network

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from infra.settings import Settings, SettingsError, split_list
from jobs.owners import Owners
from services.http.authentication import (
    FOR_ALL,
    NO_TOKENS,
    NOT_KNOWN,
    ScopeError,
    as_bearer,
    caller_of_header,
    check_host_and_origin,
    is_local,
    read_head,
)
from services.http.callers import (
    LOCAL,
    LOGIN,
    Caller,
    Token,
    allows,
    known_token,
    read_rights,
    settings_tokens,
)
from services.http.errors import HTTPError
from services.http.issuers import read_issuers

GROUPS_HEADER = "x-forwarded-groups"
LOGIN_SECONDS = 30 * 24 * 3600
"""How long a browser stays logged in."""


class Access:
    """The callers of the page.

    Args:
        settings: The tokens, the names of this machine and the page's port.
    """

    def __init__(self, settings: Settings) -> None:
        self.tokens = settings_tokens(settings)
        self.issuers = read_issuers(settings)
        self.logins = ProxyLogins(settings)
        self.hosts = frozenset(settings.host_names)
        self.open_on_loopback = settings.open_on_loopback
        # Browsers send a host's cookies to all of its ports, where another Gridcast may be.
        self.cookie = f"gridcast-{settings.dashboard_port}"
        self.is_secure = settings.tls_in_front

    async def check(self, request: Request, scope: str = "", for_owners: bool = False) -> Caller:
        """Let a caller pass who may read, or with a ``scope`` change something.

        Args:
            request: The request.
            scope: The scope that is needed; empty for any.
            for_owners: Whether a token bound to owners is answered, about their jobs only.

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
            return LOCAL
        if not self.tokens and not self.issuers:
            raise HTTPError(403, NO_TOKENS)
        if "authorization" in headers:
            bearer = as_bearer(headers["authorization"])
            await self.issuers.prepare(bearer)
            caller = caller_of_header(bearer, self.tokens, self.issuers)
        else:
            caller = self._caller_of_cookie(request.cookies.get(self.cookie, ""))
        if caller is None:
            raise HTTPError(401, NOT_KNOWN)
        if LOGIN in caller.scopes:
            caller = self.logins.caller(headers, client)
        if scope and not allows(caller.scopes, scope):
            raise ScopeError(f"the token has not the scope {scope}", caller)
        if caller.owners is not None and not for_owners:
            raise ScopeError(FOR_ALL, caller)
        return caller

    def login(self, request: Request) -> Response:
        """Give the browser of a link with ``?token=`` its cookie, and lead it to the same page.

        By a page and not by a redirection, which a browser that comes from elsewhere (from a
        message, for instance) would follow without the cookie.

        Raises:
            HTTPError: The token is unknown (401), or another host is named (400).
        """
        check_host_and_origin(read_head(request.scope), self.hosts)
        token = known_token(request.query_params["token"], self.tokens)
        if token is None or LOGIN in token.caller.scopes:
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

    def _caller_of_cookie(self, session: str) -> Caller | None:
        """The caller of the token that a cookie was made of; None if there is none.

        Every token is compared, whole: the time taken tells nothing about them.
        """
        caller: Caller | None = None
        for token in self.tokens:
            if hmac.compare_digest(_session(token).encode(), session.encode()):
                caller = token.caller
        return caller


class ProxyLogins:
    """People whom a proxy in front of the page has logged in (OIDC), as its headers name them.

    A header is believed if it comes with a token of the scope ``login`` from an address of
    GRIDCAST_LOGIN_PROXIES: any account of the proxy's machine has the address, none the token.

    Args:
        settings: The proxy's addresses, the header of the user, and the rights by group.
    """

    def __init__(self, settings: Settings) -> None:
        try:
            self.networks = tuple(map(ip_network, split_list(settings.login_proxies)))
        except ValueError as error:
            raise SettingsError(f"GRIDCAST_LOGIN_PROXIES: {error}") from None
        self.user_header = settings.login_user_header.lower()
        self.rights: dict[str, Caller] = {}
        for entry in split_list(settings.login_rights):
            group, _, rights = entry.partition(":")
            try:
                self.rights[group] = read_rights(rights, group)
            except ValueError as error:
                raise SettingsError(f"GRIDCAST_LOGIN_RIGHTS: {group}: {error}") from None

    def caller(self, headers: Mapping[str, str], client: str | None) -> Caller:
        """Who is logged in: with the rights of the first group that has some, else their own jobs.

        Args:
            headers: By lower-case name, sent with a token of the scope ``login``.
            client: The address of the proxy.

        Raises:
            HTTPError: The address is no proxy's, or nobody is named (403).
        """
        try:
            is_proxy = any(ip_address(client or "") in network for network in self.networks)
        except ValueError:
            is_proxy = False
        if not is_proxy:
            raise HTTPError(403, "a token of the scope login is valid from a login proxy only")
        user = headers.get(self.user_header, "").strip()
        if not user:
            raise HTTPError(403, f"the login proxy names no user in {self.user_header}")
        groups = split_list(headers.get(GROUPS_HEADER, ""))
        for group, rights in self.rights.items():
            if group in groups:
                return replace(rights, name=user)
        return Caller(user, frozenset(("predict",)), Owners(frozenset((user,))))


def _session(token: Token) -> str:
    return hmac.new(token.digest, b"the page of tasks", hashlib.sha256).hexdigest()
