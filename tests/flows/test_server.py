"""Prefect's server as Gridcast starts it: only its own name and pages are let in."""

import os
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from flows.bounded_sockets import BoundedSockets
from infra.components import Component, environment, prefect
from infra.settings import Settings
from monitoring import doctor
from tests.ports import free_port, served_in_thread


def test_it_answers_under_its_own_name_with_api_and_page(prefect_server):
    assert httpx.get(f"{prefect_server}/api/health").json() is True
    assert "<html" in httpx.get(prefect_server, follow_redirects=True).text


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},  # not a URL
        {"Origin": "http://[::1"},
    ],
)
def test_a_foreign_host_or_origin_is_refused(prefect_server, headers):
    assert httpx.get(f"{prefect_server}/api/health", headers=headers).status_code == 403
    assert (
        httpx.post(f"{prefect_server}/api/flows/filter", json={}, headers=headers).status_code
        == 403
    )


def test_a_foreign_page_cannot_open_the_event_stream(prefect_server):
    door = f"ws://{urlsplit(prefect_server).netloc}/api/events/in"
    with connect(door, origin=prefect_server, subprotocols=["prefect"]) as socket:
        socket.ping()
    with pytest.raises(InvalidStatus, match="403"):
        connect(door, origin="http://evil.example", subprotocols=["prefect"])


def test_a_socket_that_does_not_log_in_is_closed(prefect_server: str) -> None:
    address = f"ws://{urlsplit(prefect_server).netloc}/api/events/in"
    with (
        connect(address, subprotocols=["prefect"]) as silent,
        connect(address, subprotocols=["prefect"]) as client,
    ):
        client.send('{"type": "auth", "token": null}')
        assert "auth_success" in client.recv(timeout=120)
        with pytest.raises(ConnectionClosed, match="no login in time"):
            silent.recv(timeout=120)
        assert client.ping().wait(120), "the connection that logged in stays"


def test_of_too_many_sockets_that_do_not_log_in_the_last_is_refused() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": "welcome"})

    sockets = BoundedSockets(app, login_seconds=600, max_waiting=2)
    with served_in_thread(sockets, lifespan="off") as http_address:
        address = http_address.replace("http", "ws")
        with connect(address) as first, connect(address):
            with pytest.raises(InvalidStatus, match="403"):
                connect(address)
            first.send("login")
            assert first.recv(timeout=120) == "welcome"
            with connect(address) as third:
                third.send("login")
                assert third.recv(timeout=120) == "welcome"


def test_old_runs_and_events_go(prefect_server):
    vacuum = httpx.get(f"{prefect_server}/api/admin/settings").json()["server"]["services"][
        "db_vacuum"
    ]
    assert {"events", "flow_runs"} <= {*vacuum["enabled"]}


def test_prefects_own_setting_of_its_login_holds_for_the_server_and_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "someone:se:cret")
    settings = Settings(home=tmp_path, prefect_port=free_port(), _env_file=None)
    settings.make_token()
    component = prefect(settings, environment(settings, settings.tracking_url))
    log = tmp_path / "prefect.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            component.command,
            env={
                **os.environ,
                **component.environment,
                component.port_setting: str(settings.prefect_port),
                "PREFECT_HOME": str(tmp_path / "prefect"),
            },
            stdout=file,
            stderr=file,
        )
    try:
        deadline = time.monotonic() + 400
        while not is_ready(component):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        flows = f"{component.address}/api/flows/filter"
        for auth, status in {
            None: 401,
            ("gridcast", settings.admin_token): 401,
            ("someone", "se:cret"): 200,
        }.items():
            answer = httpx.post(flows, json={}, auth=auth) if auth else httpx.post(flows, json={})
            assert answer.status_code == status, auth
        check_logins_that_prefect_fails_on(component.address, log)
        rows = {"prefect": {"state": "up"}}
        (finding,) = doctor._prefect(settings, [component], rows)
        assert finding.state == "ok", finding
        other = settings.model_copy(update={"prefect_auth_string": type(settings.tokens)("a:b")})
        (finding,) = doctor._prefect(other, [component], rows)
        assert "401" in finding.summary
    finally:
        server.terminate()
        server.wait(240)


def check_logins_that_prefect_fails_on(address: str, log: Path) -> None:
    """Logins that are not ASCII, the documents of the API, and web sockets with a wrong login."""
    flows, before = f"{address}/api/flows/filter", log.stat().st_size
    for header in ("Basic 4pyT", "Basic é", "Basic", "Bearer x", "Basic c29tZW9uZTpzZTpjcmV0Cg=="):
        headers = {"Authorization": header.encode()}
        assert httpx.post(flows, json={}, headers=headers, timeout=60).status_code == 401, header
    for path in ("/docs", "/openapi.json"):
        for auth, status in {None: 401, ("someone", "se:cret"): 200}.items():
            answer = httpx.get(f"{address}{path}", auth=auth, timeout=240)
            assert answer.status_code == status, (path, auth)
    events = f"ws://{urlsplit(address).netloc}/api/events/in"
    for message in (
        '{"type": "auth", "token": "é"}',
        '{"type": "auth", "token": 5}',
        "[]",
        "{",
        b"\xff",
    ):
        with connect(events, subprotocols=["prefect"]) as socket:
            socket.send(message)
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(timeout=100)
            assert closed.value.rcvd and closed.value.rcvd.code == 1008, message
    with connect(events, subprotocols=["prefect"]) as socket:
        socket.send('{"type": "auth", "token": "someone:se:cret"}')
        assert "auth_success" in str(socket.recv(timeout=100))
    assert b"Traceback" not in log.read_bytes()[before:]


def is_ready(component: Component) -> bool:
    try:
        return httpx.get(component.address + component.ready_path).status_code == 200
    except httpx.TransportError:
        return False
