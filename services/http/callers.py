"""Callers: what a token allows, and whose jobs it may ask about.

A token is configured as ``token:scope+scope`` in GRIDCAST_TOKENS, several separated by commas, so
that an old and a new one hold while callers change over; another one is in the token file, which
``gridcast up`` makes. ``user=NAME``, ``group=NAME`` and ``vo=NAME`` among the scopes bind a token
to these owners of jobs; ``name=NAME`` is its name in the audit log.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from urllib.parse import unquote

from infra.setting_values import metrics_token
from infra.settings import Settings, SettingsError, split_list
from jobs.owners import Owners

LOGIN, METRICS = "login", "metrics"
SCOPES = ("predict", "report", "approve", "admin", METRICS, LOGIN)
"""``approve`` promotes and withdraws versions on the page; ``admin`` implies the others. Any token
may read the model's card, metrics and documents.

A token of the scope ``metrics`` alone reads ``/metrics`` and nothing else.

A token of the scope ``login`` is a proxy's, which names to the page whom it has logged in; it
allows nothing else.
"""
OWNER_KINDS = ("user", "group", "vo")
"""What a token may be bound to; a virtual organisation is the group of its jobs."""
LEAST_TOKEN = 16


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Attributes:
        name: Of the token or its subject, as the audit log has it.
        scopes: What the caller may do.
        owners: Whose jobs the caller may ask about and see; None: everybody's.
    """

    name: str
    scopes: frozenset[str]
    owners: Owners | None = None


LOCAL = Caller("this machine", frozenset(("predict", "report")))
"""A caller without a token where GRIDCAST_OPEN_ON_LOOPBACK lets this machine's users in."""


@dataclass(frozen=True)
class Token:
    """The rights of one caller; only the secret's digest is kept, so that no traceback shows it."""

    digest: bytes
    caller: Caller

    def __repr__(self) -> str:
        return f"Token({'+'.join(sorted(self.caller.scopes))})"


def read_rights(text: str, name: str) -> Caller:
    """Parse ``scope+scope+user=NAME+group=NAME``; names are percent-encoded.

    Args:
        text: The scopes and owners.
        name: The caller's name unless the text has ``name=NAME``.

    Raises:
        ValueError: The text is wrong; the message does not repeat it.

    >>> read_rights("predict+vo=cms+name=portal", "a token").owners
    Owners(users=frozenset(), groups=frozenset({'cms'}))
    """
    items = [item.partition("=") for item in text.split("+")]
    scopes = frozenset(kind for kind, equals, _ in items if not equals)
    named: dict[str, set[str]] = {}
    for kind, equals, value in items:
        if equals:
            named.setdefault(kind, set()).add(unquote(value))
    if not scopes or not scopes <= set(SCOPES):
        raise ValueError(f"scopes are among {', '.join(SCOPES)}")
    if not named.keys() <= {*OWNER_KINDS, "name"} or any("" in values for values in named.values()):
        raise ValueError(f"owners are {', '.join(f'{kind}=NAME' for kind in OWNER_KINDS)}")
    if LOGIN in scopes and len(scopes) + len(named.keys() & {*OWNER_KINDS}) > 1:
        raise ValueError("a token with the scope login has no other scope and no owners")
    name = next(iter(named.pop("name", {name})))
    if not named:
        return Caller(name, scopes)
    if scopes & {"admin", "approve"}:
        raise ValueError("a token with the scope admin or approve sees everything: no owners")
    groups = named.get("group", set()) | named.get("vo", set())
    return Caller(name, scopes, Owners(frozenset(named.get("user", ())), frozenset(groups)))


def read_tokens(text: str) -> tuple[Token, ...]:
    """Parse ``token:scope+scope,…``; raises SettingsError, which never shows a token.

    >>> read_tokens("0123456789abcdef:predict+report")
    (Token(predict+report),)
    """
    tokens = []
    for number, entry in enumerate(split_list(text), start=1):
        secret, colon, rights = entry.rpartition(":")
        digest = digest_of(secret)
        try:
            caller = read_rights(rights if colon else "", f"token {digest.hex()[:8]}")
        except ValueError as error:
            raise SettingsError(
                f"GRIDCAST_TOKENS: entry {number} must be token:scope+scope: {error}"
            ) from None
        if len(secret) < LEAST_TOKEN:
            raise SettingsError(
                f"GRIDCAST_TOKENS: the token of entry {number} is shorter than "
                f"{LEAST_TOKEN} characters"
            )
        tokens.append(Token(digest, caller))
    return tuple(tokens)


def settings_tokens(settings: Settings) -> tuple[Token, ...]:
    """The tokens of the settings and that of the token file, by that name; raises SettingsError."""
    tokens, own = read_tokens(settings.all_tokens), digest_of(settings.file_token)
    return tuple(
        Token(token.digest, replace(token.caller, name="the token file"))
        if token.digest == own
        else token
        for token in tokens
    )


def with_metrics_token(tokens: tuple[Token, ...], settings: Settings) -> tuple[Token, ...]:
    """``tokens`` and the one by which Prometheus of ``up --site`` reads metrics."""
    secret = metrics_token(settings.admin_token)
    reader = Token(digest_of(secret), Caller("Prometheus", frozenset((METRICS,))))
    return (*tokens, reader) if secret else tokens


def reads_metrics_only(caller: Caller) -> bool:
    """Whether a caller has the scope ``metrics`` and no other."""
    return caller.scopes == {METRICS}


def allows(scopes: frozenset[str], *needed: str) -> bool:
    """Whether a token with ``scopes`` may do what ``needed`` scopes allow; admin may do all."""
    return "admin" in scopes or scopes.issuperset(needed)


def token_with_scopes(text: str, *needed: str) -> str | None:
    """A token for Gridcast's own calls: of those that allow them, the one with fewest scopes.

    Tokens bound to owners are left out.

    >>> token_with_scopes("0123456789abcdef:report,fedcba9876543210:predict+report", "predict")
    'fedcba9876543210'
    >>> token_with_scopes("0123456789abcdef:admin", "predict", "report")
    '0123456789abcdef'
    """
    fitting = []
    for secret, _, rights in (entry.rpartition(":") for entry in split_list(text)):
        with suppress(ValueError):
            caller = read_rights(rights, "")
            if caller.owners is None and allows(caller.scopes, *needed):
                fitting.append(("admin" in caller.scopes, len(caller.scopes), secret))
    return min(fitting)[2] if fitting else None


def own_token(settings: Settings, *needed: str) -> str | None:
    """The token for Gridcast's own calls to its predictor; None where no token allows them."""
    return token_with_scopes(settings.predictor_tokens, *needed)


def digest_of(secret: str) -> bytes:
    """SHA-256 of a token."""
    return hashlib.sha256(secret.encode()).digest()


def known_token(secret: str, tokens: Iterable[Token]) -> Token | None:
    """The token with this secret, None if there is none.

    Every token is compared, whole: the time taken tells nothing about them.
    """
    digest = digest_of(secret.strip())
    matching = [token for token in tokens if hmac.compare_digest(token.digest, digest)]
    return matching[-1] if matching else None
