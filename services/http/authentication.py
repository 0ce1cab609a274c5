"""Who may knock: bearer tokens with scopes, and no foreign Host or Origin.

A token is configured as ``token:scope+scope`` in GRIDCAST_TOKENS, several separated by commas, so that an old and a new one
can both hold while callers change over. Without any token the service answers this machine only.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from infra.settings import SettingsError, split_list
from services.http.errors import HTTPError, send_error

SCOPES = ("predict", "report", "admin")
"""``admin`` may do everything; any token may read the model's card, metrics and documents."""
OPEN = ("/livez", "/healthz")
"""What an orchestrator asks before it holds any secret; it says that the process lives, nothing more."""
NEEDS = {"/predict": "predict", "/task": "predict", "/rank": "predict", "/outcomes": "report"}
LEAST_TOKEN = 16


@dataclass(frozen=True)
class Token:
    """One caller's right: only the digest of the secret is kept, so that no traceback can show it."""

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
    for place, entry in enumerate(split_list(text), start=1):
        secret, colon, scopes = entry.rpartition(":")
        chosen = frozenset(scopes.split("+"))
        if not colon or not chosen <= set(SCOPES):
            raise SettingsError(
                f"GRIDCAST_TOKENS: entry {place} must be token:scope+scope with scopes among {', '.join(SCOPES)}"
            )
        if len(secret) < LEAST_TOKEN:
            raise SettingsError(
                f"GRIDCAST_TOKENS: the token of entry {place} is shorter than {LEAST_TOKEN} characters"
            )
        tokens.append(Token(_digest(secret), chosen))
    return tuple(tokens)


def token_with_scopes(text: str, *wanted: str) -> str | None:
    """The first of the tokens ``text`` that has all scopes ``wanted``, for Gridcast's own calls; None where there is none.

    >>> token_with_scopes("0123456789abcdef:report,fedcba9876543210:predict+report", "predict")
    'fedcba9876543210'
    """
    for entry in split_list(text):
        secret, _, scopes = entry.rpartition(":")
        if {*wanted} <= {*scopes.split("+")}:
            return secret
    return None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def scopes_of_header(header: str, tokens: Iterable[Token]) -> frozenset[str] | None:
    """The scopes of an Authorization header, None if its token is unknown; the time taken tells nothing about the tokens."""
    kind, _, secret = header.partition(" ")
    digest = _digest(secret.strip())
    found: frozenset[str] | None = None
    for token in tokens:  # no early exit: every token is compared, whole
        if hmac.compare_digest(token.digest, digest) and kind.lower() == "bearer":
            found = token.scopes
    return found


def authorize(
    path: str,
    headers: dict[str, str],
    client: str | None,
    tokens: tuple[Token, ...],
    hosts: frozenset[str],
) -> None:
    """Raise HTTPError (400, 401, 403) unless this caller may ask for ``path``; ``client`` is its address, None on a local socket."""
    check_host_and_origin(headers, hosts)
    if path in OPEN:
        return
    if not tokens:
        if not is_local(client):
            raise HTTPError(
                403,
                "no tokens are configured, so only this machine is answered; set GRIDCAST_TOKENS",
            )
        return
    scopes = scopes_of_header(headers.get("authorization", ""), tokens)
    if scopes is None:
        raise HTTPError(401, "a known bearer token is needed")
    needed = NEEDS.get(path)
    if needed and not scopes & {needed, "admin"}:
        raise HTTPError(403, f"the token has not the scope {needed}")


def check_host_and_origin(headers: dict[str, str], hosts: frozenset[str]) -> None:
    """Raise HTTPError (400, 403) for a foreign Host or Origin; ``hosts`` are the names that this service goes by.

    A page on another site, or a name that an attacker points here (DNS rebinding), does not get through.
    """
    if _host_in(headers.get("host", "")) not in hosts:
        raise HTTPError(
            400,
            "this service does not go by the name in the Host header; name it in GRIDCAST_ALLOWED_HOSTS",
        )
    origin = headers.get("origin")
    if origin is not None and _host_in(urlsplit(origin).netloc) not in hosts:
        raise HTTPError(403, "requests from pages of another origin are refused")


def _host_in(netloc: str) -> str:
    """The host of ``host:port``, lower case, brackets kept off an IPv6 address."""
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def is_local(client: str | None) -> bool:
    """Whether a caller's address is this machine's own."""
    try:
        return client is None or ipaddress.ip_address(client).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware before every door, BentoML's own included."""

    def __init__(self, app: ASGIApp, tokens: tuple[Token, ...], hosts: frozenset[str]) -> None:
        self.app = app
        self.tokens = tokens
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer the refusal."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        client = scope["client"][0] if scope.get("client") else None
        try:
            if scope["type"] != "http":
                raise HTTPError(400, "only HTTP is spoken here")
            authorize(scope["path"], headers, client, self.tokens, self.hosts)
        except HTTPError as refusal:
            await send_error(refusal, scope, receive, send)
            return
        await self.app(scope, receive, send)
