"""Scouting: each task by PanDA's formulas, as a table and as records that know nothing before their last scout has ended."""

import pandas as pd
import pytest

from infra.errors import InputError
from jobs.schema import conform
from jobs.workload.scouts import generate_scouts
from models.quantities.classes import MEGABYTE
from models.quantities.targets import TARGETS
from models.tasks.scouting import TARGETS_OF_TASKS, label_tasks, scout_tasks


@pytest.fixture(scope="module")
def jobs() -> pd.DataFrame:
    return generate_scouts(tasks=60, days=20, seed=5)


def test_a_task_by_hand() -> None:
    """Three jobs of 8 cores (see models/quantities/scout.py): P75 a core plus 10 %; 4,200 s for 1,000 events on cores of 10 HS06."""
    at = pd.Timestamp("2026-01-01", tz="UTC")
    job = {
        "task_id": "7",
        "source": "x",
        "submitted_at": at,
        "status": "completed",
        "cores": 8.0,
        "events": 1000.0,
        "host_power": 10.0,
    }
    rows = [
        job | {"job_id": str(k), "peak_memory": gb * 2.0**30, "walltime": 4200.0, "ended_at": at}
        for k, gb in enumerate((8, 12, 16))
    ]
    task = scout_tasks(conform(pd.DataFrame(rows)))[0]
    assert (task["ram_count"], task["cpu_time"], task["cpu_time_unit"]) == (
        1971,
        389,
        "HS06sPerEvent",
    )
    assert task["io_intensity"] is None and task["exhausted"] == ""
    lost = [
        job | {"job_id": f"l{k}", "status": "out_of_memory", "walltime": 100.0, "ended_at": at}
        for k in range(2)
    ]
    assert (
        scout_tasks(conform(pd.DataFrame(rows + lost)))[0]["ram_count"] == 2000
    )  # two of five raise the task one rung


def test_the_targets_of_a_labelled_task_are_pandas_figures(jobs: pd.DataFrame) -> None:
    tasks, table = (
        label_tasks(jobs).set_index("task_id"),
        {row["task_id"]: row for row in scout_tasks(jobs)},
    )
    assert set(tasks.index) == set(table)
    values = {
        name: dict(zip(tasks.index, TARGETS[name].value(tasks), strict=True))
        for name in TARGETS_OF_TASKS
    }
    for name, row in table.items():
        assert values["memory_per_core"][name] == pytest.approx(row["ram_count"] * MEGABYTE)
        assert values["io_per_core"][name] == pytest.approx(row["io_intensity"] * 1024)
        milli = 1000 if row["cpu_time_unit"].startswith("m") else 1
        assert values["cpu_per_event"][name] == pytest.approx(row["cpu_time"] / milli)
        assert values["walltime"][name] == pytest.approx(row["walltime"])


def test_a_task_is_known_when_its_last_job_has_ended_and_not_before(jobs: pd.DataFrame) -> None:
    tasks = label_tasks(jobs).set_index("task_id")
    assert (tasks["ended_at"] == jobs.groupby("task_id")["ended_at"].max().loc[tasks.index]).all()
    assert (tasks["submitted_at"] < tasks["ended_at"]).all()


def test_nothing_that_is_known_of_a_generated_task_tells_what_its_request_hides(
    jobs: pd.DataFrame,
) -> None:
    """Jobs are cut alike within a kind, whatever their events really cost; only a task of one file may have fewer events."""
    for _, kind in jobs.groupby(["program", "requested_cores"]):
        assert kind.loc[kind["events"] < kind["events"].max(), "input_files"].le(1).all()


def test_jobs_without_tasks_tell_nothing(jobs: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="task_id"):
        scout_tasks(jobs.assign(task_id=None))
