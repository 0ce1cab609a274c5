"""JSON Web Tokens of configured issuers: the WLCG token profile, SciTokens and RFC 9068.

A TOML file lists the issuers, with audience, keys (JWKS) and what their tokens may do. Keys are
read outside the event loop: at first use, every REREAD_SECONDS, and, at most once in
UNKNOWN_KEY_SECONDS, when a token names a key that is not among them. A verified token is kept until
it expires or its key is withdrawn.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import httpx
import jwt
import msgspec
from jwt import PyJWK
from jwt.exceptions import InvalidTokenError, PyJWTError
from msgspec import Meta, Struct

from infra.setting_values import is_loopback
from infra.settings import Settings, SettingsError
from jobs.owners import Owners
from services.http.callers import Caller, digest_of
from services.http.errors import HTTPError

log = logging.getLogger("bentoml.gridcast")

ALGORITHMS = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA",),
}
"""Signatures that are accepted, by kind of key: no ``none``, and none with a shared secret."""
LEAST_RSA_BITS = 2048
CLOCK_SKEW = 60.0
"""Seconds by which the clocks of issuer and Gridcast may differ."""
MAX_TOKEN_BYTES = 16 * 2**10
MAX_KEY_BYTES = 2**20
MAX_VERIFIED = 10_000
"""Verified tokens that are kept."""
UNKNOWN_KEY_SECONDS, REREAD_SECONDS, TRUST_SECONDS = 60.0, 3600.0, 24 * 3600.0
"""Least seconds between two readings of keys; seconds after which they are read again; and after
which keys that could not be read again are not trusted any more."""
READING_SECONDS = 5.0
"""How long a request waits for keys to be read; other requests do not."""
OwnScope = Literal["predict", "report", "approve", "admin"]
DEFAULT_SCOPES: dict[str, OwnScope] = {
    "gridcast.predict": "predict",
    "gridcast.report": "report",
    "compute.read": "predict",
    "compute.create": "predict",
    "compute.modify": "report",
}
"""Scopes of tokens, of Gridcast and of WLCG; admin is granted only where the file names it."""

Text = Annotated[str, Meta(min_length=1)]


class Issuer(Struct, frozen=True, forbid_unknown_fields=True):
    """An issuer of tokens, as the file has it.

    Attributes:
        url: The claim ``iss``.
        audience: Values of which the claim ``aud`` must have one.
        keys: URL or file of its public keys (JWKS).
        sees: Whose jobs its tokens see: those of the ``user`` and the ``groups`` that they name,
            those of the ``vo``, or ``all``.
        user_claim: The claim that is the user's name in jobs.
        vo: The group of the virtual organisation's jobs.
        scopes: Gridcast's scope by that of a token.
    """

    url: Text
    audience: Annotated[tuple[Text, ...], Meta(min_length=1)]
    keys: Text
    sees: Annotated[tuple[Literal["user", "groups", "vo", "all"], ...], Meta(min_length=1)] = (
        "user",
    )
    user_claim: Text = "sub"
    vo: str = ""
    scopes: dict[str, OwnScope] = msgspec.field(default_factory=lambda: dict(DEFAULT_SCOPES))


class _File(Struct, forbid_unknown_fields=True):
    issuer: list[Issuer]


class PublicKey(Struct, frozen=True):
    """A key of an issuer, and the signatures that are accepted of it."""

    key: Any
    algorithms: tuple[str, ...]


class KeySet:
    """The public keys of an issuer, by their ids.

    Args:
        source: URL or file of the JWKS.
        clock: Gives seconds, for the age of the keys.
    """

    def __init__(self, source: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.source, self._clock = source, clock
        self.keys: Mapping[str, PublicKey] = {}
        self._tried_at = self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    def get(self, key_id: str) -> PublicKey | None:
        """The key with an id, or the only key for the empty id; None if there is none."""
        if self._clock() - self._read_at > TRUST_SECONDS:
            return None
        if not key_id and len(self.keys) == 1:
            return next(iter(self.keys.values()))
        return self.keys.get(key_id)

    async def prepare(self, key_id: str) -> None:
        """Read the keys where they are old, and wait for it where one is not among them."""
        is_missing = self.get(key_id) is None
        age = self._clock() - self._tried_at
        if self._reading is None or self._reading.done():
            if age < (UNKNOWN_KEY_SECONDS if is_missing else REREAD_SECONDS):
                return
            self._tried_at = self._clock()
            self._reading = asyncio.create_task(self._read())
        if is_missing:
            await asyncio.wait({self._reading}, timeout=READING_SECONDS)

    async def _read(self) -> None:
        try:
            self.keys = await asyncio.to_thread(read_keys, self.source)
            self._read_at = self._clock()
        except (OSError, httpx.HTTPError, ValueError, PyJWTError) as error:
            log.warning("the keys of tokens cannot be read from %s: %s", self.source, error)


def read_keys(source: str) -> dict[str, PublicKey]:
    """Read a JWKS; keys that sign nothing that is accepted are left out.

    Args:
        source: Its URL or file.

    Raises:
        OSError, httpx.HTTPError, ValueError: It cannot be read, or is no JWKS.
    """
    if source.startswith(("https://", "http://")):
        with httpx.stream("GET", source, timeout=READING_SECONDS) as response:
            response.raise_for_status()
            content = b""
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_KEY_BYTES:
                    raise ValueError(f"it has more than {MAX_KEY_BYTES:,} bytes")
    else:
        content = Path(source).read_bytes()
    members = msgspec.json.decode(content, type=dict[str, Any]).get("keys")
    if not isinstance(members, list):
        raise ValueError('it is no JWKS: an object with the member "keys"')
    return {str(member.get("kid", "")): key for member in members if (key := _public_key(member))}


def _public_key(member: dict[str, Any]) -> PublicKey | None:
    """A key of a JWKS; None for a secret, a private or a weak one, or one to encrypt with."""
    if member.get("kty") not in ("RSA", "EC", "OKP") or "d" in member:
        return None
    algorithms = ALGORITHMS.get(member.get("crv", member["kty"]), ())
    if declared := member.get("alg"):
        algorithms = tuple(name for name in algorithms if name == declared)
    if not algorithms or member.get("use", "sig") != "sig":
        return None
    key = PyJWK(member, algorithms[0]).key
    if member["kty"] == "RSA" and key.key_size < LEAST_RSA_BITS:
        return None
    return PublicKey(key, algorithms)


class Verified(Struct, frozen=True):
    """A verified token: whose it is, its key, and when it expires (s since 1970)."""

    caller: Caller
    keys: KeySet
    key_id: str
    key: PublicKey
    until: float

    def holds(self, now: float) -> bool:
        """Whether it has not expired, and its key is trusted."""
        return now < self.until and self.keys.get(self.key_id) is self.key


class Issuers:
    """The configured issuers, and the tokens of theirs that were verified.

    Args:
        issuers: The issuers.
        clock: Gives the present (s since 1970).
        key_clock: Gives seconds, for the age of the keys.
    """

    def __init__(
        self,
        issuers: Sequence[Issuer] = (),
        clock: Callable[[], float] = time.time,
        key_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuers = {issuer.url: (issuer, KeySet(issuer.keys, key_clock)) for issuer in issuers}
        self._clock = clock
        self._verified: dict[bytes, Verified] = {}

    def __bool__(self) -> bool:
        return bool(self._issuers)

    async def prepare(self, header: str) -> None:
        """Read the keys that the token of an Authorization header needs, where they are missing."""
        kind, _, secret = header.partition(" ")
        if not self or kind.lower() != "bearer" or self._verified_token(secret.strip()):
            return
        if parts := self._issuer_of(secret.strip()):
            _, keys, key_id = parts
            await keys.prepare(key_id)

    def caller(self, secret: str) -> Caller | None:
        """The caller of a token, None for one of no configured issuer.

        Raises:
            HTTPError: The token is not valid (401), or has no scope of Gridcast (403).
        """
        if verified := self._verified_token(secret):
            return verified.caller
        parts = self._issuer_of(secret)
        if parts is None:
            return None
        issuer, keys, key_id = parts
        key = keys.get(key_id)
        if key is None:
            raise HTTPError(401, "the token is signed with a key that its issuer does not publish")
        try:
            claims = jwt.decode(
                secret,
                key.key,
                algorithms=list(key.algorithms),
                audience=issuer.audience,
                issuer=issuer.url,
                leeway=CLOCK_SKEW,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            header = jwt.get_unverified_header(secret)
        except (InvalidTokenError, PyJWTError) as error:
            raise HTTPError(401, f"the token is not valid: {str(error)[:200]}") from None
        _check_profile(header, claims)
        caller = caller_of(issuer, claims)
        if len(self._verified) >= MAX_VERIFIED:
            self._verified.pop(next(iter(self._verified)))
        until = float(claims["exp"]) + CLOCK_SKEW
        self._verified[digest_of(secret)] = Verified(caller, keys, key_id, key, until)
        return caller

    def _verified_token(self, secret: str) -> Verified | None:
        """A verified token that still holds."""
        digest = digest_of(secret)
        verified = self._verified.get(digest)
        if verified is None or verified.holds(self._clock()):
            return verified
        del self._verified[digest]
        return None

    def _issuer_of(self, secret: str) -> tuple[Issuer, KeySet, str] | None:
        """The issuer that a token names, its keys, and the id of the token's key."""
        if not self or secret.count(".") != 2 or len(secret) > MAX_TOKEN_BYTES:
            return None
        try:
            token = jwt.decode_complete(secret, options={"verify_signature": False})
        except (PyJWTError, ValueError, RecursionError):
            return None
        url, key_id = token["payload"].get("iss"), token["header"].get("kid", "")
        if not isinstance(url, str) or url not in self._issuers or not isinstance(key_id, str):
            return None
        return *self._issuers[url], key_id


NO_ISSUERS = Issuers()


def _check_profile(header: Mapping[str, Any], claims: Mapping[str, Any]) -> None:
    """Refuse what is no access token of a known profile, as a token that tells who logged in."""
    is_access_token = (
        str(claims.get("wlcg.ver", "")).partition(".")[0] == "1"
        or str(claims.get("ver", "")).startswith("scitoken:")
        or str(header.get("typ", "")).lower() in ("at+jwt", "application/at+jwt")
    )
    if not is_access_token or "scope" not in claims:
        raise HTTPError(401, "the token is no access token of WLCG, SciTokens or RFC 9068")


def caller_of(issuer: Issuer, claims: Mapping[str, Any]) -> Caller:
    """What a verified token may do, and whose jobs it sees.

    Args:
        issuer: Its issuer.
        claims: Its claims.

    Raises:
        HTTPError: It has no scope of Gridcast, or names nobody whose jobs it may see (403).
    """
    # A capability of SciTokens may name a path, of which only the root is everything.
    granted = [name.removesuffix(":/") for name in str(claims["scope"]).split()]
    scopes = frozenset(issuer.scopes[name] for name in granted if name in issuer.scopes)
    if not scopes:
        names = ", ".join(sorted(issuer.scopes))
        raise HTTPError(403, f"the token has no scope of Gridcast; there are {names}")
    name = f"{claims['sub']} of {issuer.url}"
    if scopes & {"admin", "approve"} or "all" in issuer.sees:
        return Caller(name, scopes)
    users, groups = list[Any](), list[Any]()
    if "user" in issuer.sees:
        users.append(claims.get(issuer.user_claim))
    if "groups" in issuer.sees:
        named = claims.get("wlcg.groups", claims.get("groups"))
        for group in _names(named if isinstance(named, list) else ()):
            groups += [group, group.removeprefix("/")]
    if "vo" in issuer.sees:
        groups.append(issuer.vo)
    owners = Owners(_names(users), _names(groups))
    if not owners.users and not owners.groups:
        raise HTTPError(403, "the token names nobody whose jobs it may see")
    return Caller(name, scopes, owners)


def _names(values: Iterable[Any]) -> frozenset[str]:
    return frozenset(text for text in values if isinstance(text, str) and text)


def read_issuers(settings: Settings) -> Issuers:
    """The issuers of the settings; raises SettingsError where their file is wrong."""
    path = settings.issuers
    if path is None:
        return NO_ISSUERS
    try:
        issuers = msgspec.toml.decode(path.read_bytes(), type=_File).issuer
    except OSError as error:
        raise SettingsError(f"GRIDCAST_ISSUERS: {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise SettingsError(f"GRIDCAST_ISSUERS: {path}: {error}") from None
    for issuer in issuers:
        if "vo" in issuer.sees and not issuer.vo:
            raise SettingsError(f"GRIDCAST_ISSUERS: {path}: {issuer.url} has no vo to see")
        address = urlsplit(issuer.keys)
        if address.scheme not in ("", "https") and not is_loopback(address.hostname or ""):
            raise SettingsError(
                f"GRIDCAST_ISSUERS: {path}: keys of {issuer.url} must be read by https"
            )
    return Issuers(issuers)
