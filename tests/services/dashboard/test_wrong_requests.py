"""Requests of the wrong kind at every address of the page are refused, and none is an error."""

import asyncio
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from infra.settings import Settings
from jobs.store import read_thresholds
from services.dashboard.app import Dashboard

ADMIN = "admin-0123456789"
ADDRESSES = (
    *("/api/overview", "/api/tasks", "/api/tasks/x", "/api/sites", "/api/sites/x", "/api/jobs/x"),
    *(
        "/api/users/x",
        "/api/thresholds",
        "/api/audit",
        "/reports/x",
        "/reports/..",
        "/metrics",
        "/task/x",
        "/x",
    ),
)
NAMES = (
    "page",
    "size",
    "hours",
    "sort",
    "kind",
    "state",
    "source",
    "status",
    "group",
    "text",
    "since",
    "who",
)
VALUES = ("-1", "1e9", "9" * 400, "", "nan", "\x00", "'", "%", "²", "٣", "\ud7ff", "x" * 5000, "-")
ANY: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 1e308, 2**63, 10**400, "", "x", "\x00", "x" * 9000),
    *([], [[]], {}, {"a": {}}),
)
THRESHOLD = {"group": "atlas", "name": "late", "value": 0.9, "by": "ada"}
WHOLE = (b"", b"null", b"[]", b"3", b'"x"', b"{", b"\xff", b"{}", b"[" * 9000, b" " * 20_000)


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[Dashboard]:
    tokens = SecretStr(f"{ADMIN}:admin")
    page = Dashboard(Settings(home=tmp_path, tokens=tokens, _env_file=None))
    yield page
    page.engine.dispose()


def statuses(dashboard: Dashboard, requests: list[tuple[str, str, Any, bytes]]) -> dict[Any, int]:
    """The status of each request (method, path, query, body); an error of the app is raised."""

    async def send() -> dict[Any, int]:
        transport = httpx.ASGITransport(dashboard.app())
        headers = {"Authorization": f"Bearer {ADMIN}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers
        ) as client:
            return {
                (method, path, str(query)[:40], body[:60]): (
                    await client.request(method, path, params=query, content=body)
                ).status_code
                for method, path, query, body in requests
            }

    return asyncio.run(send())


def test_a_wrong_query_is_refused(dashboard: Dashboard) -> None:
    queries = [
        ("GET", path, {name: value}, b"") for path, name, value in product(ADDRESSES, NAMES, VALUES)
    ]
    answers = statuses(dashboard, queries)
    assert set(answers.values()) <= {200, 404, 422}
    for value in ("-1", "1e9", "9" * 400, "nan", "²"):
        refused = statuses(dashboard, [("GET", "/api/tasks", {"page": value}, b"")])
        assert set(refused.values()) == {422}, value


def test_a_body_of_the_wrong_kind_is_refused_and_changes_nothing(dashboard: Dashboard) -> None:
    wrong = dict.fromkeys(THRESHOLD, ANY)
    positive = (1.5, 1e308, 2**63)
    wrong["value"] = tuple(value for value in ANY if value not in positive)
    wrong["group"] = wrong["by"] = tuple(value for value in ANY if value != "x")
    bodies = [*WHOLE]
    bodies += [
        json.dumps({**THRESHOLD, name: value}).encode()
        for name, values in wrong.items()
        for value in values
    ]
    versions = [*WHOLE, *(json.dumps({"version": value}).encode() for value in ANY)]
    requests = [("POST", "/api/thresholds", {}, body) for body in bodies]
    requests += [("POST", "/api/promote", {}, body) for body in versions]
    answers = statuses(dashboard, requests)
    assert {key: status for key, status in answers.items() if not 400 <= status < 500} == {}
    assert answers["POST", "/api/promote", "{}", b'{"version": true}'] == 422
    assert read_thresholds(dashboard.engine).empty
