"""Who may read the page and change something: tokens, and logins of browsers and by proxies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

from starlette.requests import Request

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
    check_metrics_only,
    client_address,
    is_direct,
    is_local,
    read_head,
)
from services.http.callers import (
    LOCAL,
    LOGIN,
    Caller,
    allows,
    read_rights,
    settings_tokens,
    with_metrics_token,
)
from services.http.errors import HTTPError
from services.http.issuers import read_issuers
from services.http.logins import Logins

FOREIGN = "changes from pages of another origin are refused"
GROUPS_HEADER = "x-forwarded-groups"


class Access:
    """The callers of the page.

    Args:
        settings: The tokens, the names of this machine and the page's port.
    """

    def __init__(self, settings: Settings) -> None:
        self.tokens = with_metrics_token(settings_tokens(settings), settings)
        self.issuers = read_issuers(settings)
        self.logins = Logins(settings, settings.dashboard_port)
        self.proxy_logins = ProxyLogins(settings)
        self.hosts = frozenset(settings.host_names)
        self.open_on_loopback = settings.open_on_loopback
        self.has_proxy = settings.tls_in_front

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
        # A page on another port of this host: its requests carry the cookie too.
        is_foreign = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        client = request.client.host if request.client else None
        if not scope and self.open_on_loopback and is_direct(client, headers):
            return LOCAL
        if not self.tokens and not self.issuers:
            raise HTTPError(403, FOREIGN if scope and is_foreign else NO_TOKENS)
        if "authorization" in headers:
            bearer = as_bearer(headers["authorization"])
            await self.issuers.prepare(bearer)
            caller = caller_of_header(bearer, self.tokens, self.issuers)
        else:
            caller = self.logins.caller(request.cookies)
        if scope and is_foreign:
            raise ScopeError(FOREIGN, caller) if caller else HTTPError(403, FOREIGN)
        if caller is None:
            raise HTTPError(401, NOT_KNOWN)
        check_metrics_only(caller, request.url.path)
        if LOGIN in caller.scopes:
            caller = self.proxy_logins.caller(headers, client)
        if scope and not allows(caller.scopes, scope):
            raise ScopeError(f"the token has not the scope {scope}", caller)
        if caller.owners is not None and not for_owners:
            raise ScopeError(FOR_ALL, caller)
        return caller

    def address(self, request: Request) -> str | None:
        """The address of a client: the one that a proxy of ours was called from, if there is one.

        A proxy of ours is one that logs people in or, where TLS ends in front, of this machine.
        """
        return client_address(
            request,
            lambda client: (
                self.proxy_logins.is_proxy(client) or (self.has_proxy and is_local(client))
            ),
        )


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

    def is_proxy(self, client: str | None) -> bool:
        """Whether a connection is from an address of such a proxy."""
        try:
            return any(ip_address(client or "") in network for network in self.networks)
        except ValueError:
            return False

    def caller(self, headers: Mapping[str, str], client: str | None) -> Caller:
        """Who is logged in: with the rights of the first group that has some, else their own jobs.

        Args:
            headers: By lower-case name, sent with a token of the scope ``login``.
            client: The address of the proxy.

        Raises:
            HTTPError: The address is no proxy's, or nobody is named (403).
        """
        if not self.is_proxy(client):
            raise HTTPError(403, "a token of the scope login is valid from a login proxy only")
        user = headers.get(self.user_header, "").strip()
        if not user:
            raise HTTPError(403, f"the login proxy names no user in {self.user_header}")
        groups = split_list(headers.get(GROUPS_HEADER, ""))
        for group, rights in self.rights.items():
            if group in groups:
                return replace(rights, name=user)
        return Caller(user, frozenset(("predict",)), Owners(frozenset((user,))))
