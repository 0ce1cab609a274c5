"""Connections: heads of requests without end are refused before anything else is read."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.components import local_components
from infra.settings import Settings
from services.http.connection import MAX_HEAD_BYTES, BoundedProtocol
from tests.ports import free_port, served_in_thread
from tests.services.conftest import ROOT, Predictor, wait_for


class Impatient(BoundedProtocol):
    head_seconds = 0.5


async def app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"answered"})


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of a Uvicorn server with such connections."""
    with served_in_thread(app, http=Impatient, lifespan="off", log_level="critical") as address:
        yield int(address.rpartition(":")[2])


def answer(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """All that a server answers to these bytes until it closes the connection, or goes quiet."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as client:
        received = b""
        try:
            for piece in pieces:
                client.sendall(piece)
                time.sleep(pause)
            while data := client.recv(65536):
                received += data
        except ConnectionError:
            pass
        return received


HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


def test_a_request_is_answered_however_long_its_body_is(server: int) -> None:
    body = b"x" * 10 * MAX_HEAD_BYTES
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    assert b"answered" in answer(server, HEAD + length + body)
    assert b"answered" in answer(server, HEAD + length, body[:100], body[100:], pause=0.4)


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"X: " + b"x" * 20 * MAX_HEAD_BYTES,
        HEAD + b"X: x\r\n" * MAX_HEAD_BYTES,
        b"GET /" + b"x" * 20 * MAX_HEAD_BYTES,
    ],
    ids=["one header", "many headers", "address"],
)
def test_a_head_without_end_is_refused(server: int, head: bytes) -> None:
    reply = answer(server, head)
    # The connection may be closed before the reply is read: what was sent then is discarded.
    assert not reply or reply.startswith(b"HTTP/1.1 431 ")
    small = answer(server, HEAD + b"X: " + b"x" * (MAX_HEAD_BYTES + 100))
    assert small.startswith(b"HTTP/1.1 431 ")
    assert "longer than" in json.loads(small.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize("begin", [b"", HEAD], ids=["nothing", "half a head"])
def test_a_head_that_does_not_arrive_is_given_up(server: int, begin: bytes) -> None:
    assert answer(server, begin).startswith(b"HTTP/1.1 408 ")


def test_the_second_request_of_a_connection_has_as_much_time_as_the_first(server: int) -> None:
    keep = HEAD.replace(b"close", b"keep-alive") + b"Content-Length: 0\r\n\r\n"
    reply = answer(server, keep, keep, HEAD + b"Content-Length: 0\r\n\r\n", pause=0.3)
    assert reply.count(b"answered") == 3


def test_a_predictor_refuses_such_heads_before_it_asks_for_a_token(predictor: Predictor) -> None:
    reply = answer(predictor.port, HEAD + b"X: " + b"x" * (MAX_HEAD_BYTES + 100))
    assert reply.startswith(b"HTTP/1.1 431 ")
    assert predictor.http.get("/livez").status_code == 200


@pytest.mark.parametrize("name", ["dashboard", "mlflow", "prefect"])
def test_every_other_server_refuses_such_heads_too(name: str, tmp_path: Path) -> None:
    port = free_port()
    settings = Settings(home=tmp_path, _env_file=None, **{f"{name}_port": port})  # type: ignore[arg-type]
    settings.make_token()
    component = next(c for c in local_components(settings) if c.name == name)
    environment = {**os.environ, **component.environment, component.port_setting: str(port)}
    log = tmp_path / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            component.command, cwd=ROOT, env=environment, stdout=file, stderr=file
        )
    try:

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listens, f"{name} to listen")
        reply = answer(port, HEAD + b"X: " + b"x" * (MAX_HEAD_BYTES + 100))
        assert reply.startswith(b"HTTP/1.1 431 ")
    finally:
        process.terminate()
        process.wait(240)
