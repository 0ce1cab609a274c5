"""JSON Web Tokens: an issuer of our own, as a file and as a server on the loopback."""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import jwt
import jwt.api_jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from infra.settings import Settings, SettingsError
from jobs.owners import Owners
from services.http.authentication import authorize
from services.http.callers import read_tokens
from services.http.errors import HTTPError
from services.http.issuers import (
    CLOCK_SKEW,
    MAX_TOKEN_BYTES,
    TRUST_SECONDS,
    UNKNOWN_KEY_SECONDS,
    Issuer,
    Issuers,
    read_issuers,
    read_keys,
)
from services.http.routes import SCOPE_OF_PATH, answers_owners

URL, AUDIENCE = "https://iam.example.org/", "https://gridcast.example.org"
NOW = 1_800_000_000.0
KEYS = {
    "ec": ec.generate_private_key(ec.SECP256R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
    "later": ec.generate_private_key(ec.SECP256R1()),
    "weak": rsa.generate_private_key(65537, 1024),
}


def jwks(*names: str) -> str:
    members = []
    for name in names:
        key = KEYS[name].public_key()
        is_rsa = isinstance(key, rsa.RSAPublicKey)
        text = RSAAlgorithm.to_jwk(key) if is_rsa else ECAlgorithm.to_jwk(key)
        members.append({**json.loads(text), "kid": name, "use": "sig"})
    return json.dumps({"keys": members})


def token(key: str = "ec", algorithm: str = "ES256", kid: str | None = None, **claims: Any) -> str:
    values = {
        "iss": URL,
        "aud": AUDIENCE,
        "sub": "alice",
        "exp": NOW + 600,
        "iat": NOW,
        "nbf": NOW,
        "scope": "gridcast.predict",
        "wlcg.ver": "1.0",
    }
    values = {name: value for name, value in (values | claims).items() if value is not None}
    return jwt.encode(values, KEYS[key], algorithm, headers={"kid": key if kid is None else kid})


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """One clock for us and for the library that compares the claims with the time."""
    clock = Clock()

    class Moment(jwt.api_jwt.datetime):  # type: ignore[name-defined, misc]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.fromtimestamp(clock.now, tz)

    monkeypatch.setattr(jwt.api_jwt, "datetime", Moment)
    return clock


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Callable[..., Issuers]:
    """Makes issuers whose keys are in a file."""
    file = tmp_path / "jwks.json"
    file.write_text(jwks("ec", "rsa", "weak"))

    def issuers(**values: Any) -> Issuers:
        issuer = Issuer(**{"url": URL, "audience": (AUDIENCE,), "keys": str(file)} | values)
        return Issuers([issuer], clock, clock)

    return issuers


def verdict(issuers: Issuers, secret: str, path: str = "/predict") -> tuple[int, str]:
    """Status and reason of a request, and, where it is let pass, the caller's owners."""
    headers = {"host": "localhost", "authorization": f"Bearer {secret}"}
    asyncio.run(issuers.prepare(headers["authorization"]))
    tokens = read_tokens("0123456789abcdef:predict")
    try:
        caller = authorize(
            path,
            headers,
            "10.0.0.7",
            tokens,
            frozenset(("localhost",)),
            SCOPE_OF_PATH,
            issuers=issuers,
            owner_paths=answers_owners,
        )
    except HTTPError as error:
        return error.status, error.message
    return 200, str(caller.owners)


@pytest.mark.parametrize(
    ("secret", "version"),
    [
        (lambda: token(), "wlcg"),
        (lambda: token("rsa", "RS256"), "wlcg"),
        (lambda: token("rsa", "PS512", aud=["else", AUDIENCE]), "wlcg"),
        (lambda: token(**{"wlcg.ver": None}, ver="scitoken:2.0"), "scitokens"),
        (lambda: token(scope="storage.read:/ gridcast.predict:/"), "scope with a path"),
        (lambda: token(scope="compute.create openid"), "compute"),
        (lambda: token(exp=NOW - CLOCK_SKEW + 2, iat=NOW - 900), "skew"),
        (lambda: token(nbf=NOW + CLOCK_SKEW - 2, iat=NOW + CLOCK_SKEW - 2), "skew"),
    ],
)
def test_a_token_of_the_issuer_predicts_for_its_subject(
    make: Callable[..., Issuers], secret: Callable[[], str], version: str
) -> None:
    issuers, text = make(), secret()
    assert verdict(issuers, text) == (200, "user alice"), version
    assert verdict(issuers, text, "/outcomes")[0] == 403


def signed_with_the_public_key(algorithm: str) -> str:
    """HMAC of which the secret is the key that everybody may read."""
    public = KEYS["rsa"].public_key()
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = jwt.decode(token(), options={"verify_signature": False})
    head = f"{part({'alg': algorithm, 'kid': 'rsa', 'typ': 'JWT'})}.{part(claims)}"
    if algorithm == "none":
        return f"{head}."
    mac = hmac.new(pem, head.encode(), hashlib.sha256).digest()
    return f"{head}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits")
@pytest.mark.parametrize(
    ("secret", "status"),
    [
        (lambda: token(exp=NOW - CLOCK_SKEW - 1), 401),
        (lambda: token(nbf=NOW + CLOCK_SKEW + 5), 401),
        (lambda: token(aud="https://other.example.org"), 401),
        (lambda: token(aud="https://wlcg.cern.ch/jwt/v1/any"), 401),
        (lambda: token(aud=None), 401),
        (lambda: token(exp=None), 401),
        (lambda: token(sub=None), 401),
        (lambda: token(iss="https://iam.example.org"), 401),
        (lambda: token(iss="https://evil.example.org/"), 401),
        (lambda: token("later", kid="ec"), 401),
        (lambda: token("later"), 401),
        (lambda: token("weak", "RS256"), 401),
        (lambda: token("rsa", "RS256", kid="ec"), 401),
        (lambda: token()[:-4] + "AAAA", 401),
        (lambda: signed_with_the_public_key("HS256"), 401),
        (lambda: signed_with_the_public_key("none"), 401),
        (lambda: token(**{"wlcg.ver": None}), 401),
        (lambda: token(scope=None), 401),
        (lambda: token(scope="storage.read:/ compute.cancel"), 403),
        (lambda: token(scope="gridcast.predict:/some/path"), 403),
        (lambda: token(scope="gridcast.admin"), 403),
        (lambda: "[" * 5000 + ".e30.e30", 401),
        (lambda: "W1tb" * 2000 + "." + "W1tb" * 2000 + ".e30", 401),
        (lambda: "a" * MAX_TOKEN_BYTES + ".e30.e30", 401),
        (lambda: "..", 401),
    ],
)
def test_another_token_is_refused(
    make: Callable[..., Issuers], secret: Callable[[], str], status: int
) -> None:
    assert verdict(make(), secret())[0] == status


def test_whose_jobs_a_token_sees_follows_from_its_issuer(make: Callable[..., Issuers]) -> None:
    groups = {"wlcg.groups": ["/atlas", "/atlas/production", 7, {"x": 1}]}
    sees_groups = make(sees=("groups",))
    assert verdict(sees_groups, token(**groups)) == (
        200,
        "group /atlas, group /atlas/production, group atlas, group atlas/production",
    )
    assert verdict(sees_groups, token())[0] == 403
    assert verdict(make(sees=("vo", "user"), vo="cms"), token()) == (200, "user alice, group cms")
    named = make(user_claim="preferred_username")
    assert verdict(named, token(preferred_username="al")) == (200, "user al")
    assert verdict(named, token(preferred_username=["al"]))[0] == 403
    assert verdict(make(sees=("all",)), token()) == (200, "None")
    granted = make(scopes={"condor:/READ": "predict", "ops": "admin"})
    assert verdict(granted, token(scope="condor:/READ")) == (200, "user alice")
    assert verdict(granted, token(scope="ops"), "/outcomes") == (200, "None")
    assert verdict(granted, token(scope="gridcast.predict"))[0] == 403


def test_a_verified_token_is_kept_until_it_expires_or_its_key_is_withdrawn(
    make: Callable[..., Issuers], clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuers, secret, verified = make(), token(), list[str]()
    decode = jwt.decode
    monkeypatch.setattr(jwt, "decode", lambda *a, **k: verified.append("") or decode(*a, **k))
    assert [verdict(issuers, secret)[0] for _ in range(5)] == [200] * 5
    assert len(verified) == 1
    clock.now += 600 + CLOCK_SKEW + 1
    assert verdict(issuers, secret)[0] == 401
    secret = token(exp=clock.now + 2 * TRUST_SECONDS, iat=clock.now)
    assert verdict(issuers, secret)[0] == 200
    (tmp_path / "jwks.json").write_text(jwks("rsa"))
    clock.now += 3601
    verdict(issuers, secret)  # the keys are read again beside it
    asyncio.run(issuers._issuers[URL][1]._read())
    assert verdict(issuers, secret)[0] == 401


class Keys(BaseHTTPRequestHandler):
    """Serves a JWKS, and counts how often."""

    content, status = "", 200
    requests = 0

    def do_GET(self) -> None:
        type(self).requests += 1
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.content.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(clock: Clock) -> Any:
    """Issuers whose keys are at a server on the loopback, and its handler."""

    class Handler(Keys):
        content = jwks("ec")

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    issuer = Issuer(URL, (AUDIENCE,), f"http://127.0.0.1:{server.server_port}/jwks")
    yield Issuers([issuer], clock, clock), Handler
    server.shutdown()
    server.server_close()


def test_keys_are_rotated_and_unknown_ones_asked_for_once_a_minute(
    served: tuple[Issuers, Any], clock: Clock
) -> None:
    issuers, handler = served
    assert verdict(issuers, token())[0] == 200 and handler.requests == 1
    handler.content = jwks("ec", "later")
    for name in ("later", "rsa", "ec"):  # within the minute: not read again
        verdict(issuers, token(name, "RS256" if name == "rsa" else "ES256"))
    assert handler.requests == 1
    clock.now += UNKNOWN_KEY_SECONDS
    assert verdict(issuers, token("later"))[0] == 200 and handler.requests == 2
    assert verdict(issuers, token(sub="another"))[0] == 200
    for number in range(50):
        assert verdict(issuers, token("rsa", "RS256", kid=f"unknown-{number}"))[0] == 401
    assert handler.requests == 2


def test_keys_outlive_an_issuer_that_is_away_for_a_day(
    served: tuple[Issuers, Any], clock: Clock
) -> None:
    issuers, handler = served
    assert verdict(issuers, token())[0] == 200
    handler.status, handler.content = 500, "broken"
    clock.now += TRUST_SECONDS - 1
    assert verdict(issuers, token(exp=clock.now + 600))[0] == 200
    clock.now += 2
    assert verdict(issuers, token(exp=clock.now + 600))[0] == 401
    handler.status, handler.content = 200, jwks("ec")
    clock.now += UNKNOWN_KEY_SECONDS
    assert verdict(issuers, token(exp=clock.now + 600))[0] == 200


def test_other_requests_go_on_while_keys_are_read(clock: Clock) -> None:
    """The server of the keys answers nothing; a caller with another token does not wait for it."""
    silent = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{silent.getsockname()[1]}/jwks"
    issuers = Issuers([Issuer(URL, (AUDIENCE,), url)], clock, clock)

    async def both() -> bool:
        waiting = asyncio.create_task(issuers.prepare(f"Bearer {token()}"))
        await asyncio.sleep(0.05)
        await issuers.prepare("Bearer 0123456789abcdef")
        is_waiting = not waiting.done()
        silent.close()
        waiting.cancel()
        return is_waiting

    assert asyncio.run(both())


def test_secrets_and_keys_to_encrypt_with_are_no_keys(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    private = json.loads(ECAlgorithm.to_jwk(KEYS["ec"]))
    [public] = json.loads(jwks("ec"))["keys"]
    members = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "1"},
        {**private, "kid": "2"},
        {**public, "kid": "3", "use": "enc"},
        {**public, "kid": "4", "alg": "HS256"},
        {"kty": "EC", "crv": "secp256k1", "kid": "5"},
        {**public, "kid": "6"},
    ]
    file.write_text(json.dumps({"keys": members}))
    assert list(read_keys(str(file))) == ["6"]
    file.write_text('{"jwks": 1}')
    with pytest.raises(ValueError, match="no JWKS"):
        read_keys(str(file))


GOOD = f"""
[[issuer]]
url = "{URL}"
audience = ["{AUDIENCE}"]
keys = "jwks.json"
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[issuer]]\nurl = 'x'", "audience"),
        (f"{GOOD}seees = ['user']", "seees"),
        (f"{GOOD}sees = ['everything']", "everything"),
        (f"{GOOD}sees = ['vo']", "no vo"),
        (GOOD.replace("jwks.json", "http://127.0.0.1.evil.example/jwks"), "https"),
        (GOOD.replace(f'["{AUDIENCE}"]', "[]"), "audience"),
        ("not toml", "toml|TOML|line"),
    ],
)
def test_a_wrong_file_of_issuers_is_named(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "issuers.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=reason):
        read_issuers(Settings(issuers=file))
    with pytest.raises(SettingsError, match="No such file"):
        read_issuers(Settings(issuers=tmp_path / "missing.toml"))
    file.write_text(f'{GOOD}sees = ["groups", "vo"]\nvo = "cms"\n[issuer.scopes]\nx = "report"\n')
    assert read_issuers(Settings(issuers=file))
    assert not read_issuers(Settings())


def test_owners_are_told_in_words() -> None:
    assert str(Owners(frozenset(("bob", "al")), frozenset(("cms",)))) == (
        "user al, user bob, group cms"
    )
