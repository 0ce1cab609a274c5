"""Authentication: tokens, scopes, hosts, and a real predictor with some."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from starlette.routing import Match, Route

from infra.settings import Settings, SettingsError
from jobs.store import open_store, read_audit
from services.http.authentication import (
    Guard,
    authorize,
    caller_of_header,
)
from services.http.callers import read_tokens, token_with_scopes
from services.http.endpoints import Endpoints
from services.http.errors import HTTPError
from services.http.routes import SCOPE_OF_PATH
from tests.services.conftest import Predictor, running, stored

READER, BROKER, OLD, ADMIN = (
    "reader-0123456789",
    "broker-0123456789",
    "broker-9876543210",
    "admin-0123456789",
)
CONFIGURED = f"{READER}:predict,{BROKER}:predict+report, {OLD}:report ,{ADMIN}:admin"
HOSTS = frozenset(Settings().host_names)


def verdict(
    path: str,
    token: str | None = None,
    client: str | None = "10.0.0.7",
    tokens: str = CONFIGURED,
    open_on_loopback: bool = False,
    **headers: str,
) -> int:
    sent = {"host": "localhost:3000", **headers} | (
        {"authorization": f"Bearer {token}"} if token else {}
    )
    try:
        authorize(
            path,
            sent,
            client,
            read_tokens(tokens),
            HOSTS,
            SCOPE_OF_PATH,
            open_on_loopback=open_on_loopback,
        )
    except HTTPError as refused:
        return refused.status
    return 200


@pytest.mark.parametrize(
    ("token", "predict", "outcomes", "model"),
    [
        (None, 401, 401, 401),
        ("wrong-0123456789", 401, 401, 401),
        (READER, 200, 403, 200),
        (BROKER, 200, 200, 200),
        (OLD, 403, 200, 200),
        (ADMIN, 200, 200, 200),
    ],
)
def test_each_scope_opens_its_door(
    token: str | None, predict: int, outcomes: int, model: int
) -> None:
    assert (verdict("/predict", token), verdict("/outcomes", token), verdict("/model", token)) == (
        predict,
        outcomes,
        model,
    )


def test_the_scope_predict_opens_tasks_and_ranks_and_no_endpoint_was_forgotten() -> None:
    endpoints = {
        route.path
        for route in Endpoints().app().routes
        if isinstance(route, Route) and "POST" in (route.methods or ())
    }
    assert endpoints == {"/predict", "/task", "/rank", "/match", "/outlook", "/outcomes"}
    for path in endpoints - {"/outcomes"}:
        assert (verdict(path, BROKER), verdict(path, OLD)) == (200, 403)
    assert (verdict("/outcomes", OLD), verdict("/outcomes", READER)) == (200, 403)


@pytest.mark.parametrize(
    "path",
    [
        "/predict",
        "/outcomes",
        "/model",
        "/metrics",
        "/docs.json",
        "/",
        "/schema.json",
        "/static_content/x.js",
        "/nothing",
        "/LIVEZ",
        "/livez/",
        "//livez",
        "/readyz/",
    ],
)
def test_every_endpoint_but_liveness_and_readiness_needs_a_token(path: str) -> None:
    for client in ("10.0.0.7", "127.0.0.1", None):
        assert verdict(path, client=client) == 401
        assert verdict(path, client=client, tokens="") == 403
        assert verdict("/livez", client=client) == verdict("/readyz", client=client) == 200


@pytest.mark.parametrize(
    ("client", "status"),
    [
        ("127.0.0.1", 200),
        ("127.8.8.8", 200),
        ("::1", 200),
        (None, 200),
        ("10.0.0.7", 403),
        ("nonsense", 403),
    ],
)
def test_where_the_loopback_is_open_only_this_machine_needs_no_token(
    client: str | None, status: int
) -> None:
    assert verdict("/predict", client=client, tokens="", open_on_loopback=True) == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:3000", 200),
        ("[::1]:3000", 200),
        ("evil.example", 400),
        ("", 400),
        ("[", 400),
        ("localhost.evil.example", 400),
    ],
)
def test_a_host_that_is_not_ours_is_refused(host: str, status: int) -> None:
    assert verdict("/model", READER, host=host) == status


def test_a_page_of_another_origin_is_refused_even_with_a_token() -> None:
    assert verdict("/model", READER, origin="https://evil.example") == 403
    assert verdict("/model", READER, origin="null") == 403
    assert verdict("/model", READER, origin="http://localhost:3000") == 200


@pytest.mark.parametrize(
    "header",
    [
        "",
        READER,
        f"Basic {READER}",
        "Bearer",
        "Bearer ",
        f"Bearer {READER}x",
        f"Bearer {READER[:-1]}",
        f"bearer\t{READER}",
    ],
)
def test_anything_but_a_whole_bearer_token_is_unknown(header: str) -> None:
    assert caller_of_header(header, read_tokens(CONFIGURED)) is None


def refusal(*headers: tuple[bytes, bytes], path: str = "/model") -> tuple[int, str]:
    """What the guard answers a request with these headers, 200 where it lets it pass."""
    sent = list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b'{"error": ""}'})

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(app, read_tokens(CONFIGURED), HOSTS, SCOPE_OF_PATH)
    own = [(b"host", b"localhost"), (b"authorization", f"Bearer {READER}".encode())]
    scope = {"type": "http", "path": path, "query_string": b"", "headers": [*own, *headers]}
    asyncio.run(guard(scope | {"client": ("10.0.0.7", 1)}, None, send))  # type: ignore[arg-type]
    return sent[0]["status"], orjson.loads(sent[1]["body"])["error"]


def test_an_origin_that_cannot_be_read_is_a_bad_request() -> None:
    assert refusal() == (200, "")
    assert refusal((b"origin", b"http://[")) == (400, "the Origin header cannot be read")
    assert refusal((b"origin", b"http://[::1")) == (400, "the Origin header cannot be read")
    assert refusal((b"origin", b"http://[evil]"))[0] in (400, 403)
    assert refusal((b"origin", b"\xff\xfe"))[0] == 403


@pytest.mark.parametrize("name", [b"host", b"Authorization", b"content-type"])
def test_a_header_that_two_readers_could_read_in_two_ways_is_given_once(name: bytes) -> None:
    assert refusal((name, b"localhost"), (name, b"localhost")) == (
        400,
        f"the header {name.decode().lower()} is there twice",
    )


def test_headers_are_bounded_in_number_and_size() -> None:
    assert refusal(*[(b"x", b"")] * 90)[0] == 200
    assert refusal(*[(b"x", b"")] * 101)[0] == 431
    assert refusal((b"x", b"x" * 40_000))[0] == 431
    assert refusal(path="/" + "x" * 40_000)[0] == 431


def test_a_line_feed_behind_an_address_reaches_no_endpoint() -> None:
    routes = [route for route in Endpoints().app().routes if isinstance(route, Route)]
    assert {"/outcomes", "/predict", "/model"} <= {route.path for route in routes}
    for route in routes:
        scope = {"type": "http", "method": "POST", "root_path": "", "path": route.path}
        assert route.matches(scope)[0] is Match.FULL
        for path in (f"{route.path}\n", f"{route.path}/", f"/{route.path}", route.path.upper()):
            if path != route.path:
                assert route.matches({**scope, "path": path})[0] is Match.NONE, path


@pytest.mark.parametrize(
    ("text", "token"),
    [
        (f"{ADMIN}:admin", ADMIN),
        (f"{ADMIN}:admin,{BROKER}:predict+report", BROKER),
        (f"{OLD}:report,{ADMIN}:admin,{READER}:predict", ADMIN),
        (f"{OLD}:report", None),
        ("", None),
    ],
)
def test_admin_may_do_what_gridcasts_own_calls_need(text: str, token: str | None) -> None:
    assert token_with_scopes(text, "predict", "report") == token
    if token:
        assert verdict("/predict", token, tokens=text) == 200
        assert verdict("/outcomes", token, tokens=text) == 200


def test_more_names_can_be_allowed() -> None:
    assert {"grid.example", "localhost"} <= set(
        Settings(host="192.168.1.2", allowed_hosts=" Grid.Example ,").host_names
    )


@pytest.mark.parametrize(
    "text",
    [
        "secret-0123456789",
        "secret-0123456789:",
        "secret-0123456789:write",
        "secret-0123456789:predict+",
        "short:predict",
        ":predict",
    ],
)
def test_a_wrong_setting_is_refused_without_showing_the_token(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_tokens(f"{READER}:predict,{text}")
    assert "entry 2" in str(caught.value)
    assert "secret" not in str(caught.value) and READER not in str(caught.value)
    assert READER not in repr(read_tokens(CONFIGURED))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    """A predictor with tokens and, for once, neither model nor jobs."""
    with running(tmp_path_factory.mktemp("guarded"), GRIDCAST_TOKENS=CONFIGURED) as predictor:
        yield predictor


def test_a_predictor_with_tokens_answers_those_who_have_one(guarded: Predictor) -> None:
    ask = {"jobs": [{"job_id": "1", "source": "grid", "user": "alice", "requested_walltime": 3600}]}

    def status(path: str, token: str | None = None) -> int:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return guarded.http.request(
            "POST" if path in ("/predict", "/outcomes") else "GET", path, json=ask, headers=headers
        ).status_code

    for path in (
        "/predict",
        "/outcomes",
        "/model",
        "/metrics",
        "/docs.json",
        "/openapi.json",
        "/",
        "/schema.json",
        "/static_content/index.css",
    ):
        assert status(path) == 401, path
    assert status("/livez") == 200
    assert "www-authenticate" in guarded.http.get("/model").headers
    assert status("/outcomes", READER) == 403
    deadline = time.monotonic() + 120
    while status("/predict", READER) == 503 and time.monotonic() < deadline:
        time.sleep(0.1)
    answer = guarded.http.post(
        "/predict", json=ask, headers={"Authorization": f"Bearer {READER}"}
    ).json()
    assert status("/readyz", ADMIN) == 200
    # Nothing is trained and nothing has ended: the bare histories answer, and say so.
    assert answer["model_version"] == "none"
    assert answer["rows"][0]["cold_start"] is True
    assert answer["rows"][0]["walltime_high"] <= 3600
    # A path is compared as the router compares it: a line feed behind it is no way round a scope.
    ended = {"jobs": [{**ask["jobs"][0], "submitted_at": "2026-01-01", "walltime": 60}]}
    ended["jobs"][0] |= {"started_at": "2026-01-01"}
    for token in (READER, ADMIN):
        response = guarded.http.post(
            "/outcomes%0a", json=ended, headers={"Authorization": f"Bearer {token}"}
        )
        assert response.status_code == 404, response.text
    assert len(stored(guarded)) == 0
    text = guarded.log.read_text()
    assert not any(token in text for token in (READER, BROKER, OLD, ADMIN))


def test_the_address_of_a_caller_is_not_what_a_header_says(guarded: Predictor) -> None:
    headers = {"X-Forwarded-For": "192.0.2.9", "Authorization": f"Bearer {READER}"}
    assert guarded.http.post("/outcomes", json={"jobs": []}, headers=headers).status_code == 403
    engine = open_store(guarded.settings.store_url)
    log = read_audit(engine, action="outcomes")
    engine.dispose()
    assert {*zip(log["address"], log["result"], strict=True)} == {("127.0.0.1", "refused")}
