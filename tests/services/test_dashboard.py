"""The shifter's page: its API, who may change something, and what a browser shows."""

import shutil
import socket
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import uvicorn
from pydantic import SecretStr

from infra.settings import Settings
from jobs.store import add_jobs, latest_tasks
from jobs.workload import generate
from services.dashboard import Dashboard
from services.distribution import distribute

NOW = pd.Timestamp("2025-01-09 14:00", tz="UTC").to_pydatetime()
TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dashboard, str]]:
    settings = Settings(home=tmp_path_factory.mktemp("page"), tokens=SecretStr(f"{TOKEN}:admin,fedcba9876543210:predict"))
    dashboard = Dashboard(settings, clock=lambda: NOW)
    with dashboard.engine.begin() as connection:
        add_jobs(connection, generate(1500, days=6, seed=3).jobs)
    dashboard.look()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(dashboard.app(watching=False), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
    yield dashboard, f"http://127.0.0.1:{port}"
    dashboard.ended.set()
    server.should_exit = True
    thread.join(10)
    dashboard.engine.dispose()


def test_tasks_are_filtered_and_paged(served: tuple[Dashboard, str]) -> None:
    _, address = served
    all_of_them = httpx.get(f"{address}/api/tasks?size=200").json()
    done = httpx.get(f"{address}/api/tasks?state=done&size=1&page=1").json()
    assert len(all_of_them["rows"]) == all_of_them["count"] == sum(all_of_them["states"].values())
    assert done["count"] == all_of_them["states"]["done"] and len(done["rows"]) == 1 and done["rows"][0]["state"] == "done"
    assert httpx.get(f"{address}/api/tasks?size=999999").status_code == 422


def test_a_task_has_its_jobs_and_the_history_of_its_end(served: tuple[Dashboard, str]) -> None:
    dashboard, address = served
    row = dashboard.tasks.iloc[0]
    found = httpx.get(f"{address}/api/tasks/{row['task']}").json()
    assert found["task"]["state"] == row["state"] and len(found["jobs"]) == min(row["jobs"], 200) and len(found["history"]) == 1
    assert httpx.get(f"{address}/api/tasks/nobody").status_code == 404


@pytest.mark.parametrize(("header", "status"), [("", 401), ("Bearer fedcba9876543210", 403), (f"Bearer {TOKEN}", 200)])
def test_only_an_admin_sets_a_threshold(served: tuple[Dashboard, str], header: str, status: int) -> None:
    _, address = served
    body = {"group": "atlas", "name": "late", "value": 0.9, "by": "ada"}
    answer = httpx.post(f"{address}/api/thresholds", json=body, headers={"authorization": header} if header else {})
    assert answer.status_code == status
    rows = httpx.get(f"{address}/api/thresholds").json()["rows"]
    assert any(row["set_by"] == "ada" for row in rows) == (status == 200)


def test_pages_of_other_origins_are_refused_and_nothing_is_loaded_from_elsewhere(served: tuple[Dashboard, str]) -> None:
    _, address = served
    assert httpx.get(f"{address}/api/tasks", headers={"origin": "https://evil.example"}).status_code == 403
    assert httpx.get(f"{address}/api/tasks", headers={"host": "evil.example"}).status_code == 400
    assert "default-src 'none'" in httpx.get(address).headers["content-security-policy"]


def test_predictions_are_sent_until_taken_and_never_twice(served: tuple[Dashboard, str]) -> None:
    dashboard, _ = served
    settings = dashboard.settings.model_copy(update={"panda_url": "http://panda.example/ttc"})
    keys: list[str] = []

    def panda(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        return httpx.Response(503 if len(keys) == 3 else 200)

    def send() -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(panda))

    tasks = len(latest_tasks(dashboard.engine))
    assert distribute(dashboard.engine, settings, NOW, send()) == 2
    assert distribute(dashboard.engine, settings, NOW, send()) == tasks - 2
    assert distribute(dashboard.engine, settings, NOW, send()) == 0
    assert len(keys) == tasks + 1 and len(set(keys)) == tasks


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no browser: neither chromium nor google-chrome is on the path")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


def test_a_browser_shows_each_page_and_news_without_reloading(served: tuple[Dashboard, str], browser: Any) -> None:
    dashboard, address = served
    page = browser.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address, wait_until="domcontentloaded")
    page.wait_for_selector("table")
    assert page.locator("tbody tr").count() == min(len(dashboard.tasks), 50)
    dashboard.seen_at = datetime(2025, 1, 9, 15, 30).isoformat()
    page.wait_for_selector("#updated:has-text('15:30')")
    page.locator("tbody a").first.click()
    page.wait_for_selector("h2")
    assert page.locator("h1").inner_text() == dashboard.tasks["task"].iloc[0]
    for name in ("Sites", "Models", "Thresholds"):
        page.get_by_role("link", name=name).click()
        page.wait_for_selector(f"h1:has-text('{name}')")
    assert not wrong
    page.close()


def test_a_threshold_is_set_in_the_browser_with_a_token(served: tuple[Dashboard, str], browser: Any) -> None:
    _, address = served
    page = browser.new_page()
    page.on("dialog", lambda dialog: dialog.accept(TOKEN))
    page.goto(f"{address}/#thresholds", wait_until="domcontentloaded")
    page.get_by_label("Value").fill("2.5")
    page.get_by_label("Your name").fill("grace")
    page.get_by_role("button", name="Set").click()
    page.wait_for_selector("td:has-text('grace')")
    page.close()


def test_a_phone_shows_all_without_scrolling_sideways(served: tuple[Dashboard, str], browser: Any) -> None:
    _, address = served
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(address, wait_until="domcontentloaded")
    page.wait_for_selector("table")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.close()


def test_the_page_is_small_and_its_own() -> None:
    files = list((Path(__file__).parents[2] / "services" / "page").iterdir())
    assert {file.name for file in files} == {"index.html", "page.css", "page.js"}
    assert all("http" not in file.read_text().replace("http://www.w3.org/", "") for file in files)
