"""Authentication: bearer tokens with scopes, and no foreign Host or Origin.

Tokens are those of the settings (``callers``) and the JSON Web Tokens of configured issuers
(``issuers``). Without a token nothing but OPEN is answered.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from services.http.callers import (
    LOCAL,
    LOGIN,
    Caller,
    Token,
    allows,
    known_token,
    reads_metrics_only,
)
from services.http.errors import HTTPError, send_error
from services.http.issuers import NO_ISSUERS, Issuers

OPEN = ("/livez", "/healthz", "/readyz")
"""Addresses for an orchestrator that holds no secret: whether the process runs, and is ready."""
NO_TOKENS = "no tokens are configured; `gridcast up` makes one, or set GRIDCAST_TOKENS"
NOT_KNOWN = "a known bearer token is needed, as that in the file `token` of the data folder"
FOR_ALL = "a token bound to owners may not read this, which is about everybody's jobs"
METRICS_PATH = "/metrics"
CALLER = "gridcast.caller"
"""Key of the ASGI scope of a request that was let pass: its Caller."""
NOBODY = Caller("nobody", frozenset())
"""The caller of an open address."""
MAX_HEADERS = 100
MAX_HEAD_BYTES = 32 * 2**10
"""Bytes of path, query and headers."""
ONCE = (
    *("host", "origin", "authorization", "content-type", "content-length"),
    *("x-forwarded-user", "x-forwarded-preferred-username", "x-forwarded-groups"),
)
"""Headers that a request may hold once: of two, two readers could believe a different one."""


class ScopeError(HTTPError):
    """A known caller may not do something (403).

    Args:
        message: One sentence.
        caller: Who it is.
    """

    def __init__(self, message: str, caller: Caller) -> None:
        super().__init__(403, message)
        self.caller = caller


Refused = Callable[[Scope, Caller, str], Awaitable[None]]
"""Is called with a request that was refused for its scope, its caller and the reason."""


async def _ignore(scope: Scope, caller: Caller, why: str) -> None: ...


def caller_of_header(
    header: str, tokens: Iterable[Token], issuers: Issuers = NO_ISSUERS
) -> Caller | None:
    """The caller of an Authorization header, None if its token is unknown.

    Args:
        header: The header.
        tokens: The configured tokens.
        issuers: The issuers of other tokens, whose keys have been read (``Issuers.prepare``).

    Raises:
        HTTPError: It is the token of an issuer, and is not valid (401, 403).
    """
    kind, _, secret = header.partition(" ")
    if kind.lower() != "bearer":
        return None
    token = known_token(secret, tokens)
    return token.caller if token else issuers.caller(secret.strip())


def as_bearer(header: str) -> str:
    """Turn the password of a browser's Basic header into a bearer token."""
    kind, _, value = header.partition(" ")
    if kind.lower() != "basic":
        return header
    try:
        return "Bearer " + base64.b64decode(value).decode().partition(":")[2]
    except ValueError:
        return ""


def authorize(
    path: str,
    headers: Mapping[str, str],
    client: str | None,
    tokens: tuple[Token, ...],
    hosts: frozenset[str],
    scope_of_path: Mapping[str, str],
    least_scope: str = "",
    open_paths: Sequence[str] = OPEN,
    open_on_loopback: bool = False,
    issuers: Issuers = NO_ISSUERS,
    owner_paths: Callable[[str], bool] = lambda path: False,
) -> Caller:
    """Let a request pass, or refuse it; returns who sent it.

    Args:
        path: The requested address, as the router compares it.
        headers: By lower-case name.
        client: The caller's IP address, None on a local socket.
        tokens: The configured tokens.
        hosts: The names of this service.
        scope_of_path: The scope that a token needs, where any is not enough.
        least_scope: The scope that a token needs elsewhere; empty for any.
        open_paths: Addresses that need no token.
        open_on_loopback: Whether callers on this machine need no token.
        issuers: The issuers of other tokens.
        owner_paths: Whether an address answers tokens bound to owners, of their jobs only.

    Raises:
        HTTPError: 400, 401 or 403.
    """
    check_host_and_origin(headers, hosts)
    if path in open_paths:
        return NOBODY
    if open_on_loopback and is_direct(client, headers):
        return LOCAL
    if not tokens and not issuers:
        raise HTTPError(403, NO_TOKENS)
    caller = caller_of_header(as_bearer(headers.get("authorization", "")), tokens, issuers)
    if caller is None:
        raise HTTPError(401, NOT_KNOWN)
    needed = scope_of_path.get(path, least_scope)
    if needed and not allows(caller.scopes, needed):
        raise ScopeError(f"the token has not the scope {needed}", caller)
    if LOGIN in caller.scopes:
        raise ScopeError("a token of the scope login is valid at the page only", caller)
    check_metrics_only(caller, path)
    if caller.owners is not None and not owner_paths(path):
        raise ScopeError(FOR_ALL, caller)
    return caller


def check_metrics_only(caller: Caller, path: str) -> None:
    """Raise ScopeError where a token of the scope metrics alone asks for another address."""
    if reads_metrics_only(caller) and path != METRICS_PATH:
        raise ScopeError("a token of the scope metrics reads metrics only", caller)


def check_host_and_origin(headers: Mapping[str, str], hosts: frozenset[str]) -> None:
    """Refuse a foreign Host or Origin, of a page elsewhere or of a name that points here.

    Args:
        headers: By lower-case name.
        hosts: The names of this service.

    Raises:
        HTTPError: 400 or 403.
    """
    if _host_of(f"//{headers.get('host', '')}") not in hosts:
        raise HTTPError(
            400,
            "this service does not have the name in the Host header; "
            "name it in GRIDCAST_ALLOWED_HOSTS",
        )
    origin = headers.get("origin")
    if origin is not None:
        host = _host_of(origin)
        if host is None:
            raise HTTPError(400, "the Origin header cannot be read")
        if host not in hosts:
            raise HTTPError(403, "requests from pages of another origin are refused")


def _host_of(url: str) -> str | None:
    """The host of a URL, lower case, without an IPv6 address's brackets; None if unreadable."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return None


def is_local(client: str | None) -> bool:
    """Whether a caller's address is this machine's own."""
    try:
        return client is None or ipaddress.ip_address(client).is_loopback
    except ValueError:
        return False


def is_direct(client: str | None, headers: Mapping[str, str]) -> bool:
    """Whether a request is this machine's own, and not one that a proxy here passed on.

    Args:
        client: The address of the connection.
        headers: By lower-case name.
    """
    return is_local(client) and "x-forwarded-for" not in headers and "forwarded" not in headers


def client_address(request: HTTPConnection, is_proxy: Callable[[str | None], bool]) -> str | None:
    """The address of a client: of the connection or, where it is a proxy's, what that one saw.

    Args:
        request: The request.
        is_proxy: Whether an address is that of a proxy, which writes the last X-Forwarded-For.
    """
    client = request.client.host if request.client else None
    forwarded = request.headers.getlist("x-forwarded-for") if is_proxy(client) else []
    try:
        return str(ipaddress.ip_address(forwarded[-1].rpartition(",")[2].strip()))
    except (IndexError, ValueError):
        return client


def read_head(scope: Scope) -> dict[str, str]:
    """The headers of a request by lower-case name; raises HTTPError (400, 431)."""
    pairs = scope["headers"]
    size = sum(len(name) + len(value) for name, value in pairs)
    size += len(scope["path"]) + len(scope["query_string"])
    if len(pairs) > MAX_HEADERS or size > MAX_HEAD_BYTES:
        raise HTTPError(
            431, f"at most {MAX_HEADERS} headers, and {MAX_HEAD_BYTES} bytes with the address"
        )
    headers: dict[str, str] = {}
    for name, value in pairs:
        key = name.decode("latin-1").lower()
        if key in headers and key in ONCE:
            raise HTTPError(400, f"the header {key} is there twice")
        headers[key] = value.decode("latin-1")
    return headers


class Guard:
    """ASGI middleware before every endpoint, BentoML's own included.

    Args:
        app: What it guards.
        tokens: The configured tokens.
        hosts: The names of this service.
        scope_of_path: The scope that a token needs, where any is not enough.
        least_scope: The scope that a token needs elsewhere; empty for any.
        open_paths: Addresses that need no token.
        open_on_loopback: Whether callers on this machine need no token.
        issuers: The issuers of other tokens.
        owner_paths: Whether an address answers tokens bound to owners, of their jobs only.
        when_refused: Called where a known caller has not the scope.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: tuple[Token, ...],
        hosts: frozenset[str],
        scope_of_path: Mapping[str, str],
        least_scope: str = "",
        open_paths: Sequence[str] = OPEN,
        open_on_loopback: bool = False,
        issuers: Issuers = NO_ISSUERS,
        owner_paths: Callable[[str], bool] = lambda path: False,
        when_refused: Refused = _ignore,
    ) -> None:
        self.app = app
        self.tokens = tokens
        self.hosts = hosts
        self.scope_of_path = scope_of_path
        self.least_scope, self.open_paths = least_scope, open_paths
        self.open_on_loopback = open_on_loopback
        self.issuers, self.owner_paths = issuers, owner_paths
        self.when_refused = when_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer the refusal."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        client = scope["client"][0] if scope.get("client") else None
        try:
            if scope["type"] != "http":
                raise HTTPError(400, "only HTTP is served here")
            headers = read_head(scope)
            await self.issuers.prepare(as_bearer(headers.get("authorization", "")))
            caller = authorize(
                scope["path"],
                headers,
                client,
                self.tokens,
                self.hosts,
                self.scope_of_path,
                self.least_scope,
                self.open_paths,
                self.open_on_loopback,
                self.issuers,
                self.owner_paths,
            )
        except HTTPError as refusal:
            if isinstance(refusal, ScopeError):
                await self.when_refused(scope, refusal.caller, refusal.message)
            await send_error(refusal, scope, receive, send)
            return
        await self.app({**scope, CALLER: caller}, receive, send)
