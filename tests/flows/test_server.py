"""Prefect's server as Gridcast starts it: only its own name and pages are let in."""

from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect


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


def test_old_runs_and_events_go(prefect_server):
    vacuum = httpx.get(f"{prefect_server}/api/admin/settings").json()["server"]["services"][
        "db_vacuum"
    ]
    assert {"events", "flow_runs"} <= {*vacuum["enabled"]}
