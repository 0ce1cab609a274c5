"""Alerts reach a real webhook and a real mail server, once each, and never show where they go."""

import json
import logging
import socketserver
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import Engine

from infra.settings import Settings
from jobs.store import add_measurements
from monitoring.alerts import active_alerts, notify, send_once

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Receiver:
    """A server on a free port that keeps what it was sent."""

    def __init__(self, handler: type, server: type = HTTPServer) -> None:
        self.got: list[Any] = []
        self.server = server(("127.0.0.1", 0), handler)
        self.server.receiver = self
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.receiver.got.append(body)  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Mail(socketserver.StreamRequestHandler):
    """As much of SMTP (RFC 5321) as one message takes."""

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                message = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.receiver.got.append(message.decode())  # type: ignore[attr-defined]
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")
            if word == b"QUIT":
                return


@pytest.fixture
def hook() -> Iterator[Receiver]:
    receiver = Receiver(Hook)
    yield receiver
    receiver.stop()


@pytest.fixture
def mail() -> Iterator[Receiver]:
    receiver = Receiver(Mail, socketserver.ThreadingTCPServer)
    yield receiver
    receiver.stop()


def settings(*addresses: str) -> Settings:
    return Settings(alerts=",".join(addresses), _env_file=None)


def test_what_is_wrong_is_told_once_and_once_more_when_it_is_over(
    sqlite_store: Engine, hook: Receiver
) -> None:
    ours = settings(f"json://127.0.0.1:{hook.port}")
    for hour, sentence in enumerate(
        ["", "It decays.", "It decays.", "It decays more.", "", "", "Again."]
    ):
        notify(sqlite_store, ours, {"decay": sentence}, NOW + timedelta(hours=hour))
    assert [(got["title"], got["type"]) for got in hook.got] == [
        ("Gridcast gridcast: decay", "warning"),
        ("Gridcast gridcast: decay is over", "success"),
        ("Gridcast gridcast: decay", "warning"),
    ]
    assert hook.got[0]["message"] == "It decays."
    assert hook.got[1]["message"] == "decay is over. It began 2026-01-01 01:00 UTC: It decays."


def test_two_things_that_are_wrong_are_two_alerts(sqlite_store: Engine, hook: Receiver) -> None:
    ours = settings(f"json://127.0.0.1:{hook.port}")
    assert notify(sqlite_store, ours, {"decay": "a", "drift": "b"}, NOW) == [
        "Gridcast gridcast: decay",
        "Gridcast gridcast: drift",
    ]
    assert notify(sqlite_store, ours, {"decay": "a", "drift": ""}, NOW + timedelta(hours=1)) == [
        "Gridcast gridcast: drift is over"
    ]


def test_an_alert_comes_by_mail(sqlite_store: Engine, mail: Receiver) -> None:
    address = f"mailto://127.0.0.1:{mail.port}?from=gridcast@example.org&to=operator@example.org&mode=insecure"
    assert notify(sqlite_store, settings(address), {"decay": "What predictions lose rose."}, NOW)
    [message] = mail.got
    assert "Subject: Gridcast gridcast: decay" in message
    assert "What predictions lose rose." in message


def test_what_could_not_be_delivered_is_tried_again_and_shows_no_secret(
    sqlite_store: Engine,
    hook: Receiver,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    port = hook.port
    hook.stop()
    ours = settings(f"json://someone:hunter2@127.0.0.1:{port}")
    with caplog.at_level(logging.DEBUG):
        assert notify(sqlite_store, ours, {"decay": "It decays."}, NOW) == []
    said = caplog.text + repr(ours) + "".join(capfd.readouterr())
    assert "could not be delivered" in said
    assert "hunter2" not in said
    again = Receiver(Hook)
    assert notify(
        sqlite_store,
        settings(f"json://127.0.0.1:{again.port}"),
        {"decay": "It decays."},
        NOW + timedelta(hours=1),
    )
    again.stop()


def test_without_an_address_nothing_is_told_and_nothing_forgotten(
    sqlite_store: Engine, hook: Receiver
) -> None:
    assert notify(sqlite_store, settings(), {"decay": "It decays."}, NOW) == []
    assert notify(
        sqlite_store, settings(f"json://127.0.0.1:{hook.port}"), {"decay": "It decays."}, NOW
    ) == ["Gridcast gridcast: decay"]


def test_a_dead_address_makes_no_other_hear_an_alarm_again(
    sqlite_store: Engine, hook: Receiver
) -> None:
    dead = Receiver(Hook)
    dead.stop()
    both = settings(f"json://127.0.0.1:{hook.port}", f"json://127.0.0.1:{dead.port}")
    for hour, sentence in enumerate(["It decays.", "It decays.", "It decays.", ""]):
        notify(sqlite_store, both, {"decay": sentence}, NOW + timedelta(hours=hour))
        send_once(sqlite_store, both, "week 1", "advice", "text", NOW + timedelta(hours=hour))
    assert [got["title"] for got in hook.got] == [
        "Gridcast gridcast: decay",
        "Gridcast gridcast: advice",
        "Gridcast gridcast: decay is over",
    ]
    assert active_alerts(sqlite_store, both, NOW) == {}


def test_an_address_that_comes_back_hears_what_it_missed(
    sqlite_store: Engine, hook: Receiver
) -> None:
    late = Receiver(Hook)
    port = late.port
    late.stop()
    both = settings(f"json://127.0.0.1:{hook.port}", f"json://127.0.0.1:{port}")
    notify(sqlite_store, both, {"decay": "It decays."}, NOW)
    assert active_alerts(sqlite_store, both, NOW) == {"decay": False}
    heard = HTTPServer(("127.0.0.1", port), Hook)
    late.server, late.thread = heard, threading.Thread(target=heard.serve_forever, daemon=True)
    heard.receiver = late  # type: ignore[attr-defined]
    late.thread.start()
    notify(sqlite_store, both, {"decay": "It decays."}, NOW + timedelta(hours=1))
    assert active_alerts(sqlite_store, both, NOW) == {"decay": True}
    late.stop()
    assert [len(receiver.got) for receiver in (hook, late)] == [1, 1]


def test_alerts_of_an_older_version_are_known_to_every_address(
    sqlite_store: Engine, hook: Receiver
) -> None:
    row = {"measured_at": NOW, "kind": "alert", "name": "decay", "value": 1.0, "details": "x"}
    with sqlite_store.begin() as connection:
        add_measurements(connection, pd.DataFrame([row]))
    ours = settings(f"json://127.0.0.1:{hook.port}")
    assert notify(sqlite_store, ours, {"decay": "x"}, NOW + timedelta(hours=1)) == []
    assert notify(sqlite_store, ours, {"decay": ""}, NOW + timedelta(hours=2)) == [
        "Gridcast gridcast: decay is over"
    ]
