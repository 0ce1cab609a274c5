"""The state of a site: metrics, doctor and status report the same of what is stored."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from infra.settings import Settings
from infra.site import RULES
from jobs.store import add_measurements, open_store
from jobs.store.measurements import COLLECTED
from monitoring.doctor import examine_site
from monitoring.site_status import (
    COVERAGE_GOAL,
    COVERAGE_TOLERANCE,
    LATE_COLLECTION,
    STALE_MEASUREMENTS,
    SiteStatus,
    read_site_status,
)
from monitoring.tasks.latest_tasks import LatestTasks
from monitoring.tasks.watch import COLUMNS
from services.dashboard.metrics import metrics

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    inbox = tmp_path / "pbs"
    inbox.mkdir()
    return Settings(home=tmp_path / "home", _env_file=None, collect=f"slurm,pbs={inbox}")


def store(settings: Settings, *rows: dict[str, Any]) -> None:
    engine = open_store(settings.store_url)
    with engine.begin() as connection:
        add_measurements(connection, pd.DataFrame(rows).assign(segment="all"))
    engine.dispose()


def measured(kind: str, name: str, value: float, at: datetime = NOW, **details: Any) -> Any:
    return {"kind": kind, "name": name, "value": value, "measured_at": at, "details": details}


def site_status(settings: Settings) -> SiteStatus:
    engine = open_store(settings.store_url)
    try:
        return read_site_status(engine, settings, NOW)
    finally:
        engine.dispose()


def sample(text: str, series: str) -> float:
    (value,) = re.findall(rf"^{re.escape(series)} (\S+)$", text, flags=re.MULTILINE)
    return float(value)


@pytest.fixture
def stored(settings: Settings) -> Settings:
    store(
        settings,
        measured("decay", "walltime mae", 1500.0, NOW - HOUR),
        measured("decay", "walltime mae", 1200.0),
        measured("accuracy", "walltime mae", 9.0),
        measured("decay", "walltime baseline_mae", 1000.0),
        measured("decay", "walltime coverage_90", 0.91),
        measured("accuracy", "peak_memory mae", 2e9),
        measured("accuracy", "peak_memory coverage_90", 0.7),
        measured("decay", "verdict", 2.0, sentence="Decay of gridcast-1."),
        measured("drift", "verdict", 0.0, NOW - 5 * HOUR, sentence="No drift."),
        measured(COLLECTED, "slurm", (NOW - 2 * HOUR).timestamp()),
    )
    return settings


def test_metrics_doctor_and_status_report_the_same(stored: Settings) -> None:
    latest = LatestTasks(stored.folder("tasks"))
    tasks = pd.DataFrame({"kind": ["task"] * 3, "state": ["stalled", "stalled", "late"]})
    latest.write(tasks.reindex(columns=list(COLUMNS)), NOW)
    latest.write_site_status(site_status(stored))
    text = metrics(latest).decode()
    findings = {finding.subject: finding for finding in examine_site(stored, NOW)}
    assert sample(text, 'gridcast_tasks{kind="task",state="stalled"}') == 2
    assert sample(text, 'gridcast_tasks{kind="task",state="failing"}') == 0
    assert findings["tasks"].state == "watch" and "2 stalled" in findings["tasks"].summary
    assert sample(text, 'gridcast_prediction_error{target="walltime"}') == 1200
    assert sample(text, 'gridcast_prediction_baseline_error{target="walltime"}') == 1000
    assert sample(text, 'gridcast_prediction_coverage_ratio{target="walltime"}') == 0.91
    walltime, memory = findings["accuracy of walltime"], findings["accuracy of peak_memory"]
    assert (walltime.state, memory.state) == ("watch", "watch")
    assert "1,200 s, of the best baseline 1,000 s; 90 % ranges held 91%" in walltime.summary
    assert "held 70%" in memory.summary
    assert sample(text, "gridcast_decay_alarms") == 2
    assert (findings["decay"].state, findings["decay"].summary) == ("watch", "Decay of gridcast-1.")
    assert sample(text, "gridcast_drift_columns") == 0
    assert (
        sample(text, 'gridcast_measured_timestamp_seconds{kind="drift"}')
        == (NOW - 5 * HOUR).timestamp()
    )
    assert findings["drift"].summary == "measured 5.0 h ago: No drift."
    name = 'gridcast_collected_until_timestamp_seconds{system="slurm",where="all"}'
    assert sample(text, name) == (NOW - 2 * HOUR).timestamp()
    assert findings["collector slurm"].summary.endswith("UTC, 2.0 h ago")
    (pbs,) = (name for name in findings if name.startswith("collector pbs"))
    assert findings[pbs].summary == "nothing was collected yet"
    environment = {**os.environ, "GRIDCAST_HOME": str(stored.home)}
    environment["GRIDCAST_COLLECT"] = stored.collect.get_secret_value()
    command = [sys.executable, "-m", "gridcast", "status", "--json"]
    run = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = {row["part"]: row["state"] for row in json.loads(run.stdout)["rows"]}
    assert {name: rows[name] for name in findings} == {
        name: finding.state for name, finding in findings.items()
    }


def test_nothing_is_reported_of_what_is_not_there(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, _env_file=None)
    open_store(settings.store_url).dispose()
    assert site_status(settings) == SiteStatus(NOW)
    assert examine_site(settings, NOW) == []
    text = metrics(LatestTasks(settings.folder("tasks"))).decode()
    assert not [line for line in text.splitlines() if not line.startswith("#")]


def test_a_site_whose_numbers_are_good_is_ok(settings: Settings) -> None:
    store(
        settings,
        measured("decay", "walltime mae", 900.0),
        measured("decay", "walltime baseline_mae", 1000.0),
        measured("decay", "walltime coverage_90", 0.89),
        measured("decay", "verdict", 0.0, sentence="No decay."),
        measured("drift", "verdict", 0.0, sentence="No drift."),
        measured(COLLECTED, "slurm", (NOW - timedelta(minutes=10)).timestamp()),
    )
    findings = examine_site(settings, NOW)
    assert {f.subject: f.state for f in findings if "pbs" not in f.subject} == {
        "accuracy of walltime": "ok",
        "decay": "ok",
        "drift": "ok",
        "collector slurm": "ok",
    }


def test_the_rules_and_the_doctor_have_the_same_limits() -> None:
    rules = RULES.read_text()
    for name, seconds in (
        ("measured_timestamp_seconds", STALE_MEASUREMENTS.total_seconds()),
        ("collected_until_timestamp_seconds", LATE_COLLECTION.total_seconds()),
    ):
        assert f"time() - gridcast_{name} > {seconds:.0f}\n" in rules
    limits = f"abs(gridcast_prediction_coverage_ratio - {COVERAGE_GOAL}) > {COVERAGE_TOLERANCE}"
    assert limits in rules
