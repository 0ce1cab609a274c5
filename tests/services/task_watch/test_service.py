"""The task watch service: it survives what breaks an update, says so, and sends any name."""

import json
from datetime import timedelta
from pathlib import Path

import httpx
import pandas as pd
import pytest

from infra.settings import Settings
from jobs.store import add_jobs, add_task_predictions, unnotified_tasks
from jobs.workload import generate
from monitoring.doctor import examine
from monitoring.tasks.latest_tasks import LatestTasks
from services.dashboard import values
from services.dashboard.metrics import metrics
from services.task_watch.service import TaskWatchService
from services.task_watch.task_updates import send_task_updates

NOW = pd.Timestamp("2025-01-09 14:00", tz="UTC").to_pydatetime()
pytestmark = pytest.mark.usefixtures("few_trees")


@pytest.fixture
def service(tmp_path: Path) -> TaskWatchService:
    service = TaskWatchService(Settings(home=tmp_path, _env_file=None), clock=lambda: NOW)
    with service.engine.begin() as connection:
        add_jobs(connection, generate(600, days=6, seed=3).jobs)
    return service


def test_readers_see_the_latest_update_and_its_time(service: TaskWatchService) -> None:
    reader = LatestTasks(service.settings.home / "tasks")
    assert reader.read()[1] == "" and len(reader.read()[0]) == 0
    described = service.watch.update(NOW)
    service.update()
    tasks, updated_at = reader.read()
    assert updated_at == NOW.isoformat()
    assert sorted(tasks["task"]) == sorted(described["task"])
    assert isinstance(tasks["median"].dtype, pd.DatetimeTZDtype)
    assert values.records(tasks)[0]["reasons"] == list(tasks["reasons"].iloc[0])


def test_an_update_that_fails_is_shown_and_tried_again(
    service: TaskWatchService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.update()
    watch, reader = service.threads[0], LatestTasks(service.settings.home / "tasks")
    with monkeypatch.context() as patch:
        patch.setattr(service.watch, "update", lambda now: 1 / 0)
        pauses = [watch.run_step() for _ in range(3)]
    assert pauses == [60.0, 120.0, 240.0]
    status = reader.read_status()
    assert status["task watch"]["failures"] == 3
    assert "ZeroDivisionError" in status["task watch"]["trouble"]
    assert reader.read()[1] == NOW.isoformat(), "the last update goes on being shown"
    assert b'gridcast_background_failing{thread="task watch"} 1' in metrics(reader)
    findings = {finding.subject: finding for finding in examine(service.settings, [], now=NOW)}
    assert findings["tasks"].state == "wrong" and "ZeroDivision" in findings["tasks"].summary
    assert watch.run_step() == 60.0
    assert reader.read_status()["task watch"]["trouble"] == ""
    late = examine(service.settings, [], now=NOW + timedelta(hours=2))
    assert {finding.subject: finding.state for finding in late}["tasks"] == "watch"


def test_a_name_of_any_letters_is_sent_and_a_refused_one_holds_up_no_other(
    service: TaskWatchService,
) -> None:
    settings = service.settings.model_copy(update={"panda_url": "http://panda.example/ttc"})
    names = ["first", "tä\nsk", "refused", "stalled"]
    rows = pd.DataFrame({"task": names}).assign(
        kind="task",
        source="made",
        asked_at=pd.Timestamp(NOW),
        median=[pd.Timestamp(NOW)] * 3 + [pd.NaT],
        state=["normal"] * 3 + ["stalled"],
        reasons=[[]] * 3 + [["nothing has happened since yesterday"]],
    )
    with service.engine.begin() as connection:
        add_task_predictions(connection, rows)
    bodies: dict[str, dict[str, object]] = {}

    def panda(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        bodies[body["taskID"]] = body
        return httpx.Response(422 if body["taskID"] == "refused" else 200)

    client = httpx.Client(transport=httpx.MockTransport(panda))
    assert send_task_updates(service.engine, settings, NOW, client) == 3
    assert set(bodies) == set(names)
    assert bodies["stalled"]["ttcPredicted"] is None and bodies["stalled"]["state"] == "stalled"
    assert bodies["first"]["ttcPredicted"] == pd.Timestamp(NOW).isoformat()
    assert unnotified_tasks(service.engine)["task"].tolist() == ["refused"]
