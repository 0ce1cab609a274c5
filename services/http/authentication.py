"""Authentication: bearer tokens with scopes, and no foreign Host or Origin.

A token is configured as ``token:scope+scope`` in GRIDCAST_TOKENS, several separated by commas, so
that an old and a new one hold while callers change over; another one is in the token file, which
``gridcast up`` makes. Without a token nothing but OPEN is answered.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from infra.settings import Settings, SettingsError, split_list
from services.http.errors import HTTPError, send_error

SCOPES = ("predict", "report", "approve", "admin")
"""``approve`` promotes and withdraws versions on the page; ``admin`` implies the others. Any token
may read the model's card, metrics and documents."""
OPEN = ("/livez", "/healthz", "/readyz")
"""Addresses for an orchestrator that holds no secret: whether the process runs, and is ready."""
NO_TOKENS = "no tokens are configured; `gridcast up` makes one, or set GRIDCAST_TOKENS"
NOT_KNOWN = "a known bearer token is needed, as that in the file `token` of the data folder"
LEAST_TOKEN = 16
MAX_HEADERS = 100
MAX_HEAD_BYTES = 32 * 2**10
"""Bytes of path, query and headers."""
ONCE = ("host", "origin", "authorization", "content-type", "content-length")
"""Headers that a request may hold once: of two, two readers could believe a different one."""


@dataclass(frozen=True)
class Token:
    """The rights of one caller; only the secret's digest is kept, so that no traceback shows it."""

    digest: bytes
    scopes: frozenset[str]

    def __repr__(self) -> str:
        return f"Token({'+'.join(sorted(self.scopes))})"


def read_tokens(text: str) -> tuple[Token, ...]:
    """Parse ``token:scope+scope,…``; raises SettingsError, which never shows a token.

    >>> read_tokens("0123456789abcdef:predict+report")
    (Token(predict+report),)
    """
    tokens = []
    for number, entry in enumerate(split_list(text), start=1):
        secret, colon, names = entry.rpartition(":")
        scopes = frozenset(names.split("+"))
        if not colon or not scopes <= set(SCOPES):
            raise SettingsError(
                f"GRIDCAST_TOKENS: entry {number} must be token:scope+scope "
                f"with scopes among {', '.join(SCOPES)}"
            )
        if len(secret) < LEAST_TOKEN:
            raise SettingsError(
                f"GRIDCAST_TOKENS: the token of entry {number} is shorter than "
                f"{LEAST_TOKEN} characters"
            )
        tokens.append(Token(_digest(secret), scopes))
    return tuple(tokens)


def allows(scopes: frozenset[str], *needed: str) -> bool:
    """Whether a token with ``scopes`` may do what ``needed`` scopes allow; admin may do all."""
    return "admin" in scopes or scopes.issuperset(needed)


def token_with_scopes(text: str, *needed: str) -> str | None:
    """A token for Gridcast's own calls: of those that allow them, the one with fewest scopes.

    >>> token_with_scopes("0123456789abcdef:report,fedcba9876543210:predict+report", "predict")
    'fedcba9876543210'
    >>> token_with_scopes("0123456789abcdef:admin", "predict", "report")
    '0123456789abcdef'
    """
    entries = [entry.rpartition(":") for entry in split_list(text)]
    fitting = [
        ("admin" in scopes, len(scopes), secret)
        for secret, scopes in (
            (secret, frozenset(names.split("+"))) for secret, _, names in entries
        )
        if allows(scopes, *needed)
    ]
    return min(fitting)[2] if fitting else None


def own_token(settings: Settings, *needed: str) -> str | None:
    """The token for Gridcast's own calls to its predictor; None where no token allows them."""
    return token_with_scopes(settings.predictor_tokens, *needed)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def known_token(secret: str, tokens: Iterable[Token]) -> Token | None:
    """The token with this secret, None if there is none.

    Every token is compared, whole: the time taken tells nothing about them.
    """
    digest = _digest(secret.strip())
    matching = [token for token in tokens if hmac.compare_digest(token.digest, digest)]
    return matching[-1] if matching else None


def scopes_of_header(header: str, tokens: Iterable[Token]) -> frozenset[str] | None:
    """The scopes of an Authorization header, None if its token is unknown."""
    kind, _, secret = header.partition(" ")
    token = known_token(secret, tokens)
    return token.scopes if token and kind.lower() == "bearer" else None


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
) -> None:
    """Let a request pass, or refuse it.

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

    Raises:
        HTTPError: 400, 401 or 403.
    """
    check_host_and_origin(headers, hosts)
    if path in open_paths or (open_on_loopback and is_local(client)):
        return
    if not tokens:
        raise HTTPError(403, NO_TOKENS)
    scopes = scopes_of_header(as_bearer(headers.get("authorization", "")), tokens)
    if scopes is None:
        raise HTTPError(401, NOT_KNOWN)
    needed = scope_of_path.get(path, least_scope)
    if needed and not allows(scopes, needed):
        raise HTTPError(403, f"the token has not the scope {needed}")


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
    ) -> None:
        self.app = app
        self.tokens = tokens
        self.hosts = hosts
        self.scope_of_path = scope_of_path
        self.least_scope, self.open_paths = least_scope, open_paths
        self.open_on_loopback = open_on_loopback

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
            authorize(
                scope["path"],
                headers,
                client,
                self.tokens,
                self.hosts,
                self.scope_of_path,
                self.least_scope,
                self.open_paths,
                self.open_on_loopback,
            )
        except HTTPError as refusal:
            await send_error(refusal, scope, receive, send)
            return
        await self.app(scope, receive, send)
