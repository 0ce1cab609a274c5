"""The shifter's page: its API, who may change something, and what a browser shows."""

import asyncio
import json
import os
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from pydantic import SecretStr

from infra.settings import Settings
from jobs.store import (
    add_jobs,
    add_measurements,
    add_predictions,
    latest_task_predictions,
    read_jobs,
    unnotified_tasks,
)
from jobs.workload import generate
from models.engine.model_set import ModelSet
from models.releases import registry
from services.dashboard.app import Dashboard
from services.task_watch.service import TaskWatchService
from services.task_watch.task_updates import send_task_updates
from tests.services.conftest import publish, serving

NOW = pd.Timestamp("2025-01-09 14:00", tz="UTC").to_pydatetime()
TOKEN, APPROVER = "0123456789abcdef", "00112233445566778899"


def chained(jobs: pd.DataFrame) -> pd.DataFrame:
    """``jobs`` in which the two tasks that end last form a chain that one request asked for."""
    known = jobs[jobs["submitted_at"] <= NOW].groupby("task_id")["ended_at"].max().sort_values()
    first, second = known.index[-2:]
    asked = pd.Series("r1", index=jobs.index, dtype="str").where(
        jobs["task_id"].isin([first, second])
    )
    return jobs.assign(
        after_task_id=pd.Series(first, index=jobs.index, dtype="str").where(
            jobs["task_id"] == second
        ),
        request_id=asked,
    )


def measured() -> pd.DataFrame:
    """Ten days of measurements of each kind."""
    values = {
        "walltime mae": 900.0,
        "walltime baseline_mae": 1200.0,
        "walltime coverage_90": 0.9,
        "verdict": 1.0,
    }
    rows = [
        {
            "kind": "decay",
            "name": name,
            "value": value * (1 + day / 50),
            "measured_at": pd.Timestamp(NOW) - pd.Timedelta(days=10 - day),
        }
        for name, value in values.items()
        for day in range(10)
    ]
    return pd.concat([pd.DataFrame(rows), pd.DataFrame(rows[-3:]).assign(kind="drift")])


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, model_set: ModelSet
) -> Iterator[tuple[Dashboard, str]]:
    settings = Settings(
        home=tmp_path_factory.mktemp("page"),
        tokens=SecretStr(f"{TOKEN}:admin,fedcba9876543210:predict,{APPROVER}:approve"),
        open_on_loopback=True,
    )
    dashboard = Dashboard(settings, clock=lambda: NOW)
    with dashboard.engine.begin() as connection:
        add_jobs(connection, chained(generate(1500, days=6, seed=3).jobs))
        add_measurements(connection, measured())
    publish(model_set, settings.home)
    publish(model_set, settings.home, promote=False)
    report = settings.folder("reports") / "2025-01-09T120000Z-data.html"
    report.write_text("<script>document.title = 'drift'</script>")
    service = TaskWatchService(settings, clock=lambda: NOW)
    service.update()
    service.read_site()
    with serving(dashboard) as address:
        yield dashboard, address


def test_tasks_are_filtered_and_paged(served: tuple[Dashboard, str]) -> None:
    _, address = served
    all_of_them = httpx.get(f"{address}/api/tasks?size=200").json()
    done = httpx.get(f"{address}/api/tasks?state=done&size=1&page=1").json()
    assert len(all_of_them["rows"]) == all_of_them["count"] == sum(all_of_them["states"].values())
    assert (
        done["count"] == all_of_them["states"]["done"]
        and len(done["rows"]) == 1
        and done["rows"][0]["state"] == "done"
    )
    assert httpx.get(f"{address}/api/tasks?size=999999").status_code == 422


def test_a_task_has_its_jobs_and_the_history_of_its_end(served: tuple[Dashboard, str]) -> None:
    dashboard, address = served
    row = dashboard.tasks.iloc[0]
    found = httpx.get(f"{address}/api/tasks/{row['task']}").json()
    assert (
        found["task"]["state"] == row["state"]
        and len(found["jobs"]) == min(row["jobs"], 200)
        and len(found["history"]) == 1
    )
    assert httpx.get(f"{address}/api/tasks/nobody").status_code == 404


@pytest.mark.parametrize("kind", ["chain", "request"])
def test_a_chain_and_a_request_have_their_tasks_and_the_history_of_their_end(
    served: tuple[Dashboard, str], kind: str
) -> None:
    _, address = served
    row = httpx.get(f"{address}/api/tasks?kind={kind}").json()["rows"][0]
    found = httpx.get(f"{address}/api/tasks/{row['task']}?kind={kind}").json()
    assert len(found["tasks"]) == row["tasks"] == 2 and len(found["history"]) == 1
    assert row["median"] >= max(task["median"] for task in found["tasks"])
    assert httpx.get(f"{address}/api/tasks?kind=herd").status_code == 422


def test_models_are_shown_with_what_was_measured_of_them_and_evidentlys_page_reaches_nothing_here(
    served: tuple[Dashboard, str],
) -> None:
    _, address = served
    found = httpx.get(f"{address}/api/models").json()
    titles = {
        chart["title"]: {line["name"]: len(line["points"]) for line in chart["lines"]}
        for chart in found["charts"]
    }
    assert titles["walltime: mean absolute error"] == {"the champion": 10, "the best baseline": 10}
    assert len(titles) == 4 and [one["label"] for one in found["promotions"]] == ["gridcast-1"]
    report = httpx.get(address + found["links"][-1][1])
    assert report.status_code == 200 and report.headers["content-security-policy"].startswith(
        "sandbox allow-scripts; default-src 'none'"
    )
    assert httpx.get(f"{address}/reports/..%2f..%2fstore%2fjobs.db").status_code == 404


@pytest.mark.parametrize(
    ("header", "status"), [("", 401), ("Bearer fedcba9876543210", 403), (f"Bearer {TOKEN}", 200)]
)
def test_only_an_admin_sets_a_threshold(
    served: tuple[Dashboard, str], header: str, status: int
) -> None:
    _, address = served
    body = {"group": "atlas", "name": "late", "value": 0.9, "by": "ada"}
    answer = httpx.post(
        f"{address}/api/thresholds", json=body, headers={"authorization": header} if header else {}
    )
    assert answer.status_code == status
    rows = httpx.get(f"{address}/api/thresholds").json()["rows"]
    assert any(row["set_by"] == "ada" for row in rows) == (status == 200)


def test_pages_of_other_origins_are_refused_and_nothing_is_loaded_from_elsewhere(
    served: tuple[Dashboard, str],
) -> None:
    _, address = served
    assert (
        httpx.get(f"{address}/api/tasks", headers={"origin": "https://evil.example"}).status_code
        == 403
    )
    assert httpx.get(f"{address}/api/tasks", headers={"host": "evil.example"}).status_code == 400
    assert "default-src 'none'" in httpx.get(address).headers["content-security-policy"]


def test_from_elsewhere_nothing_is_shown_without_a_token(served: tuple[Dashboard, str]) -> None:
    dashboard, _ = served
    paths = [
        *views(dashboard).values(),
        *("/api/overview", "/api/problems", "/api/tasks", "/api/sites", "/api/events"),
        *("/api/sites/cern", "/api/users/ada", "/api/advice/ada", "/api/jobs/1?source=made"),
    ]
    transport = httpx.ASGITransport(dashboard.app(), client=("192.0.2.7", 4711))

    async def statuses(token: str, asked: list[str]) -> list[int]:
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [(await client.get(path, headers=headers)).status_code for path in asked]

    assert set(asyncio.run(statuses("wrong", paths))) == {401}
    assert set(asyncio.run(statuses("fedcba9876543210", ["/", "/api/tasks"]))) == {200}


def test_predictions_are_sent_until_taken_and_never_twice(served: tuple[Dashboard, str]) -> None:
    dashboard, _ = served
    settings = dashboard.settings.model_copy(update={"panda_url": "http://panda.example/ttc"})
    keys: list[str] = []
    named: list[str] = []

    def panda(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        named.append(next(iter(json.loads(request.content))))
        return httpx.Response(503 if len(keys) == 3 else 200)

    def send() -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(panda))

    tasks = len(unnotified_tasks(dashboard.engine))
    assert tasks == len(latest_task_predictions(dashboard.engine)) + 2
    assert send_task_updates(dashboard.engine, settings, NOW, send()) == 2
    assert send_task_updates(dashboard.engine, settings, NOW, send()) == tasks - 2
    assert send_task_updates(dashboard.engine, settings, NOW, send()) == 0
    assert len(keys) == tasks + 1 and len(set(keys)) == tasks
    assert set(named) == {"taskID", "chainID", "reqID"}


def test_a_browser_shows_each_page_and_news_without_reloading(
    served: tuple[Dashboard, str], browser: Any
) -> None:
    dashboard, address = served
    page = browser.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(f"{address}/tasks", wait_until="domcontentloaded")
    page.wait_for_selector("table")
    assert page.locator("tbody tr").count() == min((dashboard.tasks["kind"] == "task").sum(), 50)
    dashboard.latest.write(dashboard.tasks, datetime(2025, 1, 9, 15, 30))
    page.wait_for_selector("#updated:has-text('15:30')")
    page.locator("tbody a").first.click()
    page.wait_for_selector("h2")
    assert page.locator("h1").inner_text() == dashboard.tasks["task"].iloc[0]
    for name in ("Sites", "Models", "Thresholds"):
        page.get_by_role("link", name=name).click()
        page.wait_for_selector(f"h1:has-text('{name}')")
    assert not wrong
    page.close()


def test_a_threshold_is_set_in_the_browser_with_a_token(
    served: tuple[Dashboard, str], browser: Any
) -> None:
    _, address = served
    page = browser.new_page()
    page.on("dialog", lambda dialog: dialog.accept(TOKEN))
    page.goto(f"{address}/#thresholds", wait_until="domcontentloaded")
    page.get_by_label("Value").fill("2.5")
    page.get_by_label("Your name").fill("grace")
    page.get_by_role("button", name="Set").click()
    page.wait_for_selector("td:has-text('grace')")
    page.close()


def test_a_version_is_promoted_by_a_button_and_kept_by_another(
    served: tuple[Dashboard, str], browser: Any
) -> None:
    dashboard, address = served
    page = browser.new_page()
    page.on("dialog", lambda dialog: dialog.accept(TOKEN))
    page.goto(f"{address}/#models", wait_until="domcontentloaded")
    page.get_by_role("button", name="Promote gridcast-2").click()
    page.wait_for_selector("tr:has-text('gridcast-2'):has-text('answers now')", timeout=240_000)
    assert getattr(registry.champion(dashboard.settings), "version", None) == 2
    page.get_by_role("button", name="Pin the champion").click()
    page.wait_for_selector("p:has-text('pinned')")
    page.get_by_role("button", name="Unpin").click()
    page.wait_for_selector("p:not(:has-text('pinned')):has-text('answers.')")
    page.close()


def canary_answers(jobs: pd.DataFrame, canary: str, champion: str) -> pd.DataFrame:
    """The canary's answers about some jobs and the champion's, the canary's half as good."""
    actual = jobs["walltime"].to_numpy()
    error = np.random.default_rng(0).normal(0, 600, len(jobs))
    shared = {
        "source": jobs["source"].to_numpy(),
        "job_id": jobs["job_id"].to_numpy(),
        "target": "walltime",
        "asked_at": pd.Timestamp.now("UTC") + pd.to_timedelta(np.arange(len(jobs)), unit="s"),
        "known_revision": 0,
    }
    return pd.concat(
        [
            pd.DataFrame(shared | {"model_version": canary, "point": actual + 2 * error}),
            pd.DataFrame(
                shared | {"model_version": champion, "point": actual + error, "shadow": True}
            ),
        ]
    )


def test_the_evidence_about_a_challenger_is_shown_and_who_may_approve_withdraws_it(
    served: tuple[Dashboard, str], browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard, address = served
    settings = dashboard.settings.model_copy(update={"canary": 0.05})
    monkeypatch.setattr(dashboard, "settings", settings)
    champion = registry.champion(settings)
    assert champion is not None
    rival = registry.get(3 - champion.version, settings)
    registry.set_challenger(rival, settings)
    jobs = read_jobs(dashboard.engine, ended=True, limit=120)
    with dashboard.engine.begin() as connection:
        add_predictions(connection, canary_answers(jobs, rival.label, champion.label))

    context = browser.new_context()
    page = context.new_page()
    page.on("dialog", lambda dialog: dialog.accept(APPROVER))
    for width in (1366, 390):
        page.set_viewport_size({"width": width, "height": 900})
        open_view(page, f"{address}/models")
        shown = page.locator("#challenger").inner_text()
        assert f"Challenger: {rival.label}" in shown and "5 %" in shown
        assert "answered 120 jobs as the canary, of which 120 have ended" in shown
        assert "+100.0\u00a0%" in shown and "200 outcomes" in shown and "scope approve" in shown
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if folder := os.environ.get("GRIDCAST_TEST_PICTURES"):
            page.screenshot(path=Path(folder) / f"challenger-{width}.png", full_page=True)

    header = {"Authorization": f"Bearer {APPROVER}"}
    assert httpx.post(f"{address}/api/retrain", json={}, headers=header).status_code == 403
    body = {"version": champion.version}  # which is no challenger
    refused = httpx.post(f"{address}/api/withdraw", json=body, headers=header)
    assert refused.status_code == 409 and "nothing is withdrawn" in refused.json()["error"]
    page.get_by_role("button", name=f"Withdraw {rival.label}").click()
    page.wait_for_selector("h1:has-text('Models')")
    page.wait_for_function("() => !document.getElementById('challenger')")
    assert registry.challenger(settings) is None
    assert registry.get(rival.version, settings).tags["refused_why"] == "withdrawn on the page"
    context.close()


def test_a_training_is_started_by_a_button(
    served: tuple[Dashboard, str], browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training is tested elsewhere: of the command of the same name only the help runs."""
    from services.dashboard import models_overview

    dashboard, address = served
    log = dashboard.settings.folder("logs") / "train.log"
    monkeypatch.setattr(models_overview, "TRAINING", ("-m", "gridcast", "train", "--help"))
    page = browser.new_page()
    page.on("dialog", lambda dialog: dialog.accept(TOKEN))
    page.goto(f"{address}/#models", wait_until="domcontentloaded")
    page.get_by_role("button", name="Train a new version").click()
    page.wait_for_selector("#updated:has-text('a training has been started')")
    for _ in range(1200):
        if "Usage" in log.read_text():
            break
        page.wait_for_timeout(50)
    page.close()
    assert "Usage" in log.read_text()


def views(dashboard: Dashboard) -> dict[str, str]:
    """The address of each view, with names that the store has."""
    tasks = dashboard.tasks.set_index("kind")
    row = tasks.loc[["task"]].iloc[0]
    job = read_jobs(dashboard.engine, having={"task_id": row["task"]}, limit=1).iloc[0]
    return {
        "overview": "/",
        "tasks": "/tasks?sort=-jobs",
        "task": f"/task/{row['task']}",
        "chain": f"/chain/{tasks.loc[['chain']].iloc[0]['task']}",
        "sites": "/sites",
        "site": f"/site/{job['site']}?hours=24",
        "models": "/models",
        "user": f"/user/{row['owner']}",
        "job": f"/job/{job['job_id']}?source={job['source']}",
        "thresholds": "/thresholds",
    }


def open_view(page: Any, address: str) -> None:
    """Open a view, and wait until it and what it draws are there."""
    page.goto(address, wait_until="domcontentloaded")
    page.wait_for_selector("h1")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('canvas'))"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault_on_any_page(
    served: tuple[Dashboard, str], browser: Any, scheme: str
) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
    ).Axe()
    dashboard, address = served
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    faults: dict[str, str] = {}
    for name, path in views(dashboard).items():
        open_view(page, address + path)
        found = axe.run(page).response["violations"]
        faults |= {
            f"{name}: {one['help']}": one["nodes"][0]["html"]
            for one in found
            if one["impact"] in ("serious", "critical")
        }
    assert not faults
    context.close()


def test_the_keyboard_alone_reaches_a_task(served: tuple[Dashboard, str], browser: Any) -> None:
    dashboard, address = served
    page = browser.new_page()
    page.goto(f"{address}/tasks", wait_until="domcontentloaded")
    page.wait_for_selector("table")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.locator("tbody a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("h2")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.locator("h1").inner_text() == dashboard.tasks["task"].iloc[0]
    page.close()


def test_a_phone_shows_all_without_scrolling_sideways(
    served: tuple[Dashboard, str], browser: Any
) -> None:
    dashboard, address = served
    page = browser.new_page(viewport={"width": 390, "height": 800})
    for name, path in views(dashboard).items():
        open_view(page, address + path)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
    page.close()


def test_every_view_loads_only_from_here_and_breaks_no_rule_of_the_policy(
    served: tuple[Dashboard, str], browser: Any
) -> None:
    dashboard, address = served
    page = browser.new_page()
    requested: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda said: wrong.append(said.text) if "Security Policy" in said.text else None,
    )
    for path in views(dashboard).values():
        open_view(page, address + path)
    page.close()
    assert not wrong
    assert len(requested) > 50 and not [url for url in requested if not url.startswith(address)]


def test_a_browser_asks_whether_a_module_has_changed(served: tuple[Dashboard, str]) -> None:
    _, address = served
    first = httpx.get(f"{address}/page/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = httpx.get(f"{address}/page/main.js", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304 and not again.content


def test_order_filter_and_range_are_in_the_address(
    served: tuple[Dashboard, str], browser: Any
) -> None:
    dashboard, address = served
    page = browser.new_page()
    page.goto(f"{address}/tasks", wait_until="domcontentloaded")
    page.locator("#sort-jobs").click()
    page.wait_for_url("**/tasks?sort=jobs")
    page.wait_for_selector("th[aria-sort=ascending]")
    page.locator("#sort-jobs").click()
    page.wait_for_selector("th[aria-sort=descending]")
    tasks = dashboard.tasks[dashboard.tasks["kind"] == "task"]
    largest = tasks["jobs"].max()
    page.reload(wait_until="domcontentloaded")
    page.wait_for_selector("th[aria-sort=descending]")
    assert page.locator("tbody tr td[data-name=Jobs]").first.inner_text() == f"{largest:g}"
    page.locator("#state-done").click()
    page.wait_for_url("**/tasks?sort=-jobs&state=done")
    page.wait_for_function(
        "count => document.querySelectorAll('tbody tr').length === count",
        arg=int((tasks["state"] == "done").sum()),
    )
    page.go_back()
    page.wait_for_url("**/tasks?sort=-jobs")
    page.goto(address, wait_until="domcontentloaded")
    page.get_by_label("Time range").select_option("24")
    page.wait_for_url("**/?hours=24")
    page.reload(wait_until="domcontentloaded")
    page.wait_for_selector("h1")
    assert page.get_by_label("Time range").input_value() == "24"
    page.close()


def test_an_address_without_a_view_says_so_below_the_menu(
    served: tuple[Dashboard, str], browser: Any
) -> None:
    _, address = served
    assert httpx.get(f"{address}/nowhere").status_code == 404
    unknown = httpx.get(f"{address}/api/nowhere")
    assert unknown.status_code == 404 and unknown.json()["error"]
    page = browser.new_page()
    page.goto(f"{address}/nowhere", wait_until="domcontentloaded")
    page.wait_for_selector("[role=alert]:has-text('There is no page /nowhere')")
    page.get_by_role("link", name="Sites").click()
    page.wait_for_selector("#sort-failed_share")
    page.locator("#sort-failed_share").click()
    page.wait_for_url("**/sites?sort=-failed_share")
    page.close()


@pytest.mark.parametrize("hours", [24, 336])
def test_the_times_of_the_heat_map_do_not_overlap_and_the_newest_is_seen(
    served: tuple[Dashboard, str], browser: Any, hours: int
) -> None:
    for width in (390, 1280):
        page = browser.new_page(viewport={"width": width, "height": 900})
        open_view(page, f"{served[1]}/?hours={hours}")
        labels = page.locator(".heatmap > text").all()
        boxes = [label.bounding_box() for label in labels]
        assert len(boxes) > 3
        for left, right in pairwise(boxes):
            assert left["x"] + left["width"] < right["x"]
        drawing = page.locator(".heatmap").bounding_box()
        assert boxes[-1]["x"] + boxes[-1]["width"] <= drawing["x"] + drawing["width"]
        page.wait_for_function(
            "() => { const r = document.querySelector('.heatmap').parentElement;"
            " return r.scrollLeft + r.clientWidth >= r.scrollWidth - 1; }"
        )
        page.close()


def test_an_address_of_an_earlier_version_leads_to_its_view(
    served: tuple[Dashboard, str], browser: Any
) -> None:
    dashboard, address = served
    row = dashboard.tasks.iloc[0]
    page = browser.new_page()
    page.goto(f"{address}/#task/{row['task']}/{row['source']}", wait_until="domcontentloaded")
    page.wait_for_url(f"**/task/{row['task']}?source={row['source']}")
    page.wait_for_selector(f"h1:has-text('{row['task']}')")
    page.close()


def test_times_are_in_utc_and_beside_it_local_and_relative(
    served: tuple[Dashboard, str], browser: Any
) -> None:
    dashboard, address = served
    tasks = dashboard.tasks[dashboard.tasks["kind"] == "task"]
    row = tasks[tasks["median"].notna() & (tasks["state"] != "done")].iloc[0]
    context = browser.new_context(timezone_id="Asia/Kolkata", locale="en-GB")
    page = context.new_page()
    page.clock.set_fixed_time(NOW)
    page.goto(f"{address}/task/{row['task']}", wait_until="domcontentloaded")
    page.wait_for_selector("dd time")
    end = page.locator("dt:has-text('Will be done') + dd").inner_text()
    local = row["median"].tz_convert("Asia/Kolkata")
    assert f"{row['median']:%Y-%m-%d %H:%M} UTC" in end and f"{local:%a %H:%M} GMT+5:30" in end
    assert ", in " in end
    context.close()


def test_a_wide_task_is_drawn_with_its_jobs_its_fan_and_its_ceiling(
    served: tuple[Dashboard, str], browser: Any
) -> None:
    dashboard, address = served
    tasks = dashboard.tasks[(dashboard.tasks["kind"] == "task") & dashboard.tasks["median"].notna()]
    row = tasks[tasks["state"] != "done"].sort_values("jobs").iloc[-1]
    page = browser.new_page()
    open_view(page, f"{address}/task/{row['task']}")
    legend = page.locator("figure:has-text('Ended jobs') .u-legend").inner_text()
    assert all(name in legend for name in ("ended", "failed", "early", "median", "late"))
    drawn = page.evaluate(
        """() => {
            const canvas = document.querySelector('figure canvas');
            const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            return new Set(new Uint32Array(pixels.data.buffer)).size;
        }"""
    )
    assert drawn > 10, "an empty canvas has one colour"
    found = httpx.get(f"{address}/api/tasks/{row['task']}").json()
    assert page.locator(".gantt rect.job").count() == len(found["bars"]) > 0
    page.close()


def test_ones_own_jobs_are_found_by_a_name(served: tuple[Dashboard, str], browser: Any) -> None:
    dashboard, address = served
    owner = dashboard.tasks[dashboard.tasks["state"] != "done"]["owner"].iloc[0]
    found = httpx.get(f"{address}/api/users/{owner}").json()
    page = browser.new_page()
    page.goto(f"{address}/user", wait_until="domcontentloaded")
    page.get_by_label("User").fill(owner)
    page.get_by_role("button", name="Show").click()
    page.wait_for_url(f"**/user/{owner}")
    page.wait_for_selector(f"h1:has-text('Jobs of {owner}')")
    assert page.locator("table tbody tr").count() == len(found["jobs"])
    page.close()


def test_the_page_is_small_and_its_own() -> None:
    folder = Path(__file__).parents[3] / "services" / "dashboard" / "page"
    own = [file for file in folder.iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in own) < 80_000
    assert all("http" not in file.read_text().replace("http://www.w3.org/", "") for file in own)
    vendored = {file.name: file.read_text() for file in (folder / "vendor").iterdir()}
    assert set(vendored) == {"uPlot.iife.min.js", "uPlot.min.css", "uPlot.LICENSE.txt"}
    assert "(v1.6.32)" in vendored["uPlot.iife.min.js"][:100]
    assert "The MIT License" in vendored["uPlot.LICENSE.txt"]


def test_the_models_page_shows_what_was_measured_while_the_registry_is_away(
    served: tuple[Dashboard, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address = served

    def away(*_: Any, **__: Any) -> Any:
        raise registry.RegistryError("the registry is away")

    monkeypatch.setattr(registry, "versions", away)
    found = httpx.get(f"{address}/api/models").json()
    assert found["sentence"] == "the registry is away" and found["versions"] == []
    assert len(found["charts"]) == 4 and found["measurements"]


def test_the_api_names_the_sources_where_two_use_one_name(served: tuple[Dashboard, str]) -> None:
    dashboard, address = served
    tasks, moment = dashboard.latest.read()
    row = tasks[tasks["kind"] == "task"].head(1)
    twin = row.assign(source="other", owner="grace")
    try:
        both = pd.concat([tasks, twin], ignore_index=True)
        dashboard.latest.write(both, datetime.fromisoformat(moment))
        path, source = f"{address}/api/tasks/{row['task'].iloc[0]}", row["source"].iloc[0]
        refused = httpx.get(path)
        assert refused.status_code == 422 and f"one of {source}, other" in refused.json()["error"]
        own = httpx.get(path, params={"source": source}).json()
        others = httpx.get(path, params={"source": "other"}).json()
        assert own["jobs"] and own["task"]["owner"] == row["owner"].iloc[0]
        assert others["jobs"] == [] and others["task"]["owner"] == "grace"
    finally:
        dashboard.latest.write(tasks, datetime.fromisoformat(moment))


def test_a_stalled_task_is_shown_without_an_end_and_with_its_beginning(
    served: tuple[Dashboard, str], browser: Any
) -> None:
    dashboard, address = served
    tasks, moment = dashboard.latest.read()
    since = pd.Timestamp("2025-01-09 02:30", tz="UTC")
    stalled = tasks.head(1).assign(task="t-stalled", state="stalled", stalled_since=since)
    for name in ("low", "median", "high"):
        stalled[name] = tasks[name].head(1).mask([True])
    page = browser.new_page()
    try:
        both = pd.concat([stalled, tasks], ignore_index=True)
        dashboard.latest.write(both, datetime.fromisoformat(moment))
        row = httpx.get(f"{address}/api/tasks?text=t-stalled").json()["rows"][0]
        assert row["median"] is None and row["stalled_since"] == since.isoformat()
        page.goto(f"{address}/#task/t-stalled", wait_until="domcontentloaded")
        page.wait_for_selector("dd:has-text('2025-01-09 02:30 UTC')")
        assert page.locator("dd:has-text('unknown until it goes on')").count() == 1
    finally:
        dashboard.latest.write(tasks, datetime.fromisoformat(moment))
        page.close()
