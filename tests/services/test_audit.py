"""The audit log of a site: every address and command that changes something, or why it is not."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import pandas as pd
import pytest
import yaml
from pydantic import SecretStr
from starlette.routing import Route
from typer.testing import CliRunner

import gridcast
from infra.actor import Actor, local_account
from infra.settings import Settings, use_home
from jobs.store import StoreError, audit, open_store, read_audit
from models.engine.forecaster import Forecaster
from models.engine.model_set import ModelSet
from models.releases import registry
from services.dashboard import models_overview
from services.dashboard.app import CHANGES, Dashboard
from services.http.authentication import Guard
from services.http.callers import settings_tokens
from services.http.endpoints import Endpoints
from services.http.examples import EXAMPLES
from services.http.metrics import Metrics
from services.http.refusals import MAX_KEYS, REMAINING_CALLERS, WRITE_SECONDS, Refusals
from services.http.routes import SCOPE_OF_PATH, answers_owners
from services.http.tracing import Traces
from services.live.active_model import ActiveModel
from services.live.live_predictor import LivePredictor
from tests.services.conftest import publish

ROOT = Path(__file__).parents[2]
CLIENT = "192.0.2.7"
ADMIN, READER, PORTAL = "admin-0123456789", "reader-0123456789", "portal-0123456789"
TOKENS = f"{ADMIN}:admin+name=ada,{READER}:predict+name=eve,{PORTAL}:report+vo=atlas+name=portal"


def documented(heading: str) -> list[str]:
    """The addresses, commands and flows of a table of the page about the audit log."""
    page = (ROOT / "docs/reference/audit.md").read_text().partition(f"## {heading}\n")[2]
    rows = [line for line in page.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    cell = 2 if heading == "Recorded" else 1
    text = " ".join(row.split(" | ")[cell - 1].removeprefix("| ") for row in rows)
    flows = re.findall(r"\bflow `(\w+)`", text)
    return [*re.findall(r"`(POST [^`]+|gridcast [\w-]+)`", text), *(f"flow {f}" for f in flows)]


def test_every_address_command_and_flow_is_recorded_or_it_is_said_why_not(tmp_path: Path) -> None:
    page = Dashboard(Settings(home=tmp_path, _env_file=None))
    routes = [*Endpoints().app().routes, *page.app().routes]
    page.engine.dispose()
    changing = {
        f"{method} {route.path}"
        for route in routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"GET", "HEAD"}
    }
    commands = {f"gridcast {name}" for group in gridcast.GROUPS.values() for name in group}
    deployments = yaml.safe_load((ROOT / "infra/prefect.yaml").read_text())["deployments"]
    flows = {f"flow {deployment['entrypoint'].rpartition('.')[2]}" for deployment in deployments}
    recorded, others = documented("Recorded"), documented("Not recorded")
    assert {*recorded, *others} == changing | commands | flows
    # What changes the model is recorded, and measures besides.
    assert {*recorded} & {*others} == {"flow monitor"}
    assert {path for path in changing if path.startswith("POST /api/")} <= {*recorded}
    assert {f"POST {path}" for path in CHANGES} <= {*recorded}


@pytest.fixture
def site(tmp_path: Path, model_set: ModelSet) -> Iterator[Dashboard]:
    settings = Settings(home=tmp_path, tokens=SecretStr(TOKENS), _env_file=None)
    for is_first in (True, False):
        publish(model_set, tmp_path, promote=is_first)
    page = Dashboard(settings)
    yield page
    page.engine.dispose()


def rows(page: Dashboard, **filters: Any) -> list[dict[str, Any]]:
    """The rows of the audit log, the oldest first, with None for what is missing."""
    records = read_audit(page.engine, **filters).to_dict("records")
    return [
        {name: None if pd.isna(value) else value for name, value in row.items()}
        for row in reversed(records)
    ]


def ask(
    app: Any, requests: list[tuple[str, str, str, Any]], **headers: str
) -> list[httpx.Response]:
    """The answers to requests (method, address, token, body) from CLIENT."""

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, client=(CLIENT, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return [
                await http.request(
                    method, path, json=body, headers=headers | {"Authorization": f"Bearer {token}"}
                )
                for method, path, token, body in requests
            ]

    return asyncio.run(send())


def test_what_the_page_changes_is_recorded_with_who_and_from_where(
    site: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = site.settings
    monkeypatch.setattr(models_overview, "TRAINING", ("-c", "pass"))
    registry.set_challenger(registry.get(2, settings), settings)
    threshold = {"group": "all", "name": "late", "value": 0.9, "by": "grace"}
    bodies: dict[str, Any] = {
        "/api/thresholds": threshold,
        "/api/withdraw": {"version": 2},
        "/api/promote": {"version": 2},
        "/api/pin": {},
        "/api/unpin": {},
        "/api/retrain": {},
    }
    assert bodies.keys() == CHANGES.keys()
    app = site.app()
    answers = ask(app, [("POST", path, ADMIN, body) for path, body in bodies.items()])
    assert [answer.status_code for answer in answers] == [200] * len(bodies)
    by_ada = rows(site, actor="ada")
    assert [row["action"] for row in by_ada] == [CHANGES[path] for path in bodies]
    assert {(row["origin"], row["address"], row["result"]) for row in by_ada} == {
        ("page", CLIENT, "done")
    }
    promoted = by_ada[2]
    assert (promoted["before"], promoted["after"]) == ("gridcast-1", "gridcast-2")
    champion = registry.champion(settings)
    assert champion is not None and champion.tags["promoted_by"] == "the page, ada"
    if isinstance(site.training, Popen):
        site.training.wait(60)

    # Who has not the scope changes nothing, and is seen to have tried: a row for each, counted.
    tries = [("POST", path, READER, body) for path, body in bodies.items()]
    assert {answer.status_code for answer in ask(app, tries * 3)} == {403}
    by_eve = rows(site, actor="eve")
    assert sorted(row["action"] for row in by_eve) == sorted(CHANGES.values())
    assert {(row["result"], row["address"]) for row in by_eve} == {("refused", CLIENT)}
    assert "scope" in by_eve[0]["why"]

    # The log is for the scope admin, in pages, and holds no token.
    listed, second, wrong, refused = ask(
        app,
        [
            ("GET", "/api/audit?size=200", ADMIN, None),
            ("GET", "/api/audit?size=2&page=1&who=ada", ADMIN, None),
            ("GET", "/api/audit?since=yesterday", ADMIN, None),
            ("GET", "/api/audit", READER, None),
        ],
    )
    assert (wrong.status_code, refused.status_code) == (422, 403)
    assert not any(secret in listed.text for secret in (ADMIN, READER, PORTAL))
    actions = [row["action"] for row in second.json()["rows"]]
    assert actions == ["pin", "promote"] and second.json()["more"]

    # What a page of another origin tries in the name of who is logged in is recorded too.
    [crossed] = ask(app, [("POST", "/api/pin", ADMIN, {})], **{"Sec-Fetch-Site": "same-site"})
    assert (crossed.status_code, "another origin" in crossed.text) == (403, True)
    [row] = rows(site, actor="ada", result="refused")
    assert (row["action"], row["address"], "another origin" in row["why"]) == ("pin", CLIENT, True)


def test_rights_are_recorded_as_the_page_starts_without_a_secret(site: Dashboard) -> None:
    def start(**changes: Any) -> None:
        app = Dashboard(site.settings.model_copy(update=changes)).app()

        async def begin() -> None:
            async with app.router.lifespan_context(app):
                pass

        asyncio.run(begin())

    start()
    start(canary=0.05, tokens=SecretStr(TOKENS.replace(READER, "other-0123456789")))
    changed = {row["object"]: row for row in rows(site, action=audit.SETTING)}
    assert changed.keys() == {"token ada", "token eve", "token portal", "GRIDCAST_CANARY"}
    assert changed["token ada"]["after"].startswith("admin, SHA-256 ")
    assert "of group atlas" in changed["token portal"]["after"]
    before, after = (changed["token eve"][name] for name in ("before", "after"))
    assert before != after and before.startswith("predict, SHA-256 ")
    assert changed["GRIDCAST_CANARY"]["after"] == "0.05"
    assert not any("0123456789" in str(row) for row in changed.values())


def test_reports_are_counted_by_token_and_those_without_the_right_too(
    site: Dashboard, model_set: ModelSet, metrics: Metrics
) -> None:
    live = LivePredictor(site.settings, metrics)
    live.state.rebuild(ActiveModel(Forecaster(model_set)))
    endpoints = Endpoints()
    endpoints.attach(live, Traces(""))
    guard = Guard(
        endpoints.app(),
        settings_tokens(site.settings),
        frozenset(site.settings.host_names),
        SCOPE_OF_PATH,
        owner_paths=answers_owners,
        when_refused=endpoints.note_refused,
    )
    job = {"source": "grid", "submitted_at": "2025-01-01T00:00:00", "status": "completed"}
    ended = job | {"started_at": "2025-01-01T00:00:00", "ended_at": "2025-01-01T01:00:00"}

    def report(token: str, names: list[str], group: str) -> tuple[str, str, str, Any]:
        jobs = [ended | {"job_id": name, "group": group} for name in names]
        return "POST", "/outcomes", token, {"jobs": jobs}

    answers = ask(
        guard,
        [
            report(PORTAL, ["1", "2"], "atlas"),
            report(PORTAL, ["1", "2"], "atlas"),
            report(PORTAL, ["3"], "atlas"),
            report(PORTAL, ["4"], "cms"),
            report(READER, ["5"], "atlas"),
            ("POST", "/predict", ADMIN, next(iter(EXAMPLES["predict"].values()))["value"]),
        ],
    )
    live.engine.dispose()
    assert [answer.status_code for answer in answers] == [200, 200, 200, 403, 403, 200]
    of_reports = rows(site, action="outcomes")
    by_result: dict[tuple[str, str], int] = {}
    for row in of_reports:
        assert (row["origin"], row["address"]) == ("predictor", CLIENT)
        key = row["who"], row["result"]
        by_result[key] = by_result.get(key, 0) + int(row["records"] or 0)
    assert by_result == {("portal", "done"): 3, ("portal", "refused"): 0, ("eve", "refused"): 0}
    assert sum(row["calls"] for row in of_reports if row["result"] == "done") == 2


def test_refused_attempts_are_bounded_in_rows_and_writes(sqlite_store: Any) -> None:
    moment, opened = [0.0], []

    def store() -> Any:
        opened.append(1)
        return sqlite_store

    refusals = Refusals(store, lambda: moment[0])
    eve = Actor("eve", "page", CLIENT)
    for _ in range(50):
        refusals.add(eve, "promote", "/api/promote", "no scope")
    assert len(opened) == 6, "at 1, 2, 4, 8, 16 and 32"
    assert read_audit(sqlite_store)["calls"].sum() == 32
    moment[0] += WRITE_SECONDS
    refusals.add(eve, "promote", "/api/promote", "no scope")
    assert len(opened) == 7
    assert read_audit(sqlite_store)["calls"].sum() == 51
    for number in range(MAX_KEYS):  # told apart without a write each
        refusals.attempts.setdefault((Actor(f"{number}", "page"), "pin", ""), refusals.attempts[eve, "promote", "/api/promote"])  # fmt: skip
    refusals.add(Actor("mallory", "page", CLIENT), "pin", "/api/pin", "no scope")
    assert REMAINING_CALLERS in set(read_audit(sqlite_store)["who"])


def test_an_attempt_that_cannot_be_recorded_is_refused_all_the_same(sqlite_store: Any) -> None:
    def broken() -> Any:
        raise StoreError("the disk is full")

    refusals = Refusals(broken, lambda: 0.0)
    refusals.add(Actor("eve", "page"), "promote", "/api/promote", "no scope")
    [attempts] = refusals.attempts.values()
    assert attempts.waiting == 1


@pytest.fixture
def own_home(tmp_path: Path, data_folder: Path) -> Iterator[Path]:
    before = Settings().home
    yield tmp_path
    use_home(before)


def test_the_command_shows_names_without_their_escapes_and_signs_with_the_account(
    own_home: Path,
) -> None:
    call = CliRunner().invoke
    use_home(own_home)
    engine = open_store(Settings(home=own_home).store_url)
    with engine.begin() as connection:
        audit.record(
            connection, "threshold", "late of \x1b[2Jall", before=1, after=2, by="\x1b]0;x"
        )
    engine.dispose()
    (own_home / "log.csv").write_text("id,started,ended\n1,2025-01-01,2025-01-02\n")
    mapping = ("id=job_id", "started=submitted_at", "ended=ended_at")
    options = [word for entry in mapping for word in ("--map", entry)]
    ingested = call(gridcast.app, ["ingest", str(own_home / "log.csv"), *options])
    assert ingested.exit_code == 0, ingested.output
    shown = call(gridcast.app, ["audit"]).stdout
    assert "\x1b" not in shown and "\\x1b" in shown
    [row] = read_rows(call(gridcast.app, ["audit", "--action", "ingest", "--json"]).stdout)
    assert (row["who"], row["origin"], row["records"]) == (local_account(), "gridcast ingest", 1)


@pytest.mark.parametrize(
    ("words", "action", "reason"),
    [
        ("promote abc", "promote", "abc names no version"),
        ("promote 99", "promote", "there is no version 99"),
        ("pin abc", "promote", "abc names no version"),
        ("challenge abc", "challenger", "abc names no version"),
        ("drop-source nowhere --yes", "drop-source", "no source called nowhere is stored"),
    ],
)
def test_a_command_that_is_refused_is_in_the_audit_log(
    own_home: Path, words: str, action: str, reason: str
) -> None:
    call = CliRunner().invoke
    use_home(own_home)
    refused = call(gridcast.app, words.split())
    assert refused.exit_code != 0
    [row] = read_rows(call(gridcast.app, ["audit", "--json"]).stdout)
    assert (row["action"], row["result"], row["who"]) == (action, "refused", local_account())
    assert row["origin"] == f"gridcast {words.split()[0]}"
    assert reason in row["why"]


def read_rows(text: str) -> list[dict[str, Any]]:
    return json.loads(text)["rows"]  # type: ignore[no-any-return]
