"""Slow hosts of workflows: planted disks and missing cores are called, in time, and little else."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jobs.ingest import ingest_file, read_log
from jobs.readers import ReadError
from jobs.readers.columns import parse_column_map
from jobs.store import open_store
from jobs.workflow_tasks import WORKFLOW_TASK
from models.tasks.delayed_machines import UsualTimes, delays_at, slow_machines
from models.tasks.workflow_backtest import Detector, judge
from models.tasks.workflow_ends import score_ends
from models.tasks.workflow_log import WorkflowLog, workflow_log

START = pd.Timestamp("2026-01-01", tz="UTC")


def runs(count: int = 60, disk: int = 0, cores: int = 0, seed: int = 1) -> pd.DataFrame:
    """Runs of twelve tasks on six containers of two machines, an hour apart.

    From run ``disk`` on machine ``m2`` takes five times as long; from run ``cores`` on the container
    m1-container-1 uses .8 of the CPU time.
    """
    draw = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for run in range(count):
        begin = START + pd.Timedelta(hours=run)
        slots = np.concatenate([draw.permutation(6), draw.permutation(6)])
        for task in range(12):
            machine, container = slots[task] % 2 + 1, slots[task] // 2
            slow = bool(disk) and run >= disk and machine == 2
            lacks = bool(cores) and run >= cores and (machine, container) == (1, 1)
            start = begin + pd.Timedelta(seconds=200 * (task // 6))
            stage_in = draw.normal(20, 1) * (5 if slow else 1)
            compute = draw.normal(60, 2) * (5 if slow else 1.1 if lacks else 1)
            staged = start + pd.Timedelta(seconds=stage_in)
            done = staged + pd.Timedelta(seconds=compute)
            rows.append(
                {
                    "run_id": f"run{run:03}",
                    "task_id": f"task{task}",
                    "source": "test",
                    "program": f"program{task // 6}",
                    "host": f"m{machine}-container-{container}",
                    "submitted_at": begin,
                    "started_at": start,
                    "ended_at": done + pd.Timedelta(seconds=5),
                    "stage_in_started_at": start,
                    "stage_in_ended_at": staged,
                    "stage_out_started_at": done,
                    "cpu_time": draw.normal(40, 1) * (0.8 if lacks else 1),
                    "fault": "hdd_5" if slow and container == 0 else "cpu_2" if lacks else None,
                }
            )
    return pd.DataFrame(rows)


def by_name(rows: list[dict[str, Any]]) -> dict[tuple[str, str, float], dict[str, Any]]:
    return {(row["fault"], row["unit"], row["share_passed"]): row for row in rows}


def test_a_slow_disk_is_called_by_half_of_the_run_with_factor_and_begin() -> None:
    rows, calls = judge(workflow_log(runs(disk=40)))
    row = by_name(rows)["disk", "host", 0.5]
    assert (row["precision"], row["recall"], row["labelled"]) == (1.0, 1.0, 20)
    calls = [call for call in calls if call["fault"] == "disk"]
    assert {call["host"] for call in calls} == {"m2"} and len(calls) == 20
    assert all(4 < call["factor"] < 6 and call["since_s"] == 0 for call in calls)
    assert all(call["called_at_share"] <= 0.5 for call in calls)


def test_missing_cores_are_called_without_labels() -> None:
    table = runs(count=80, cores=30)
    row = by_name(judge(workflow_log(table))[0])["cpu", "host", 1.0]
    assert row["labelled"] == 50
    # Until twenty runs had a faulty host a second class of hosts is not worth its parameters.
    assert row["precision"] > 0.8 and row["recall"] >= 0.6
    blind = by_name(judge(workflow_log(table.assign(fault=None)))[0])["cpu", "host", 1.0]
    assert blind["called"] == row["called"]


def test_where_nothing_is_wrong_nothing_is_called() -> None:
    rows, calls = judge(workflow_log(runs(seed=3)))
    assert calls == [] and all(row["called"] == 0 for row in rows)


def test_a_verdict_does_not_read_the_future() -> None:
    log = workflow_log(runs(disk=40))
    detector = Detector(log, 12)
    for run in range(45):
        detector.learn(log.rows_of(run))
    rows = log.rows_of(45)
    at = float(log.submitted[rows].min()) + 150.0
    draw = np.random.default_rng(0)
    changed = dict(vars(log))
    for name in ("end", "stage_in", "stage_in_end", "between", "cpu", "start"):
        values = changed[name].copy()
        later = log.run > 45
        moment = log.stage_in_end if name.startswith("stage_in") else log.end
        moment = log.start if name == "start" else moment
        later |= (log.run == 45) & (moment > at)
        values[later] = at + draw.uniform(1, 9e5, later.sum())
        changed[name] = values
    scrambled = Detector(
        WorkflowLog(**changed), 12, detector.usual, detector.model, detector.learned, detector.gain
    )
    before, after = detector.verdict(rows, at), scrambled.verdict(rows, at)
    assert before.machines and before.hosts == after.hosts
    assert [(m.machine, m.factor, m.since) for m in before.machines] == [
        (m.machine, m.factor, m.since) for m in after.machines
    ]
    np.testing.assert_array_equal(before.delays.excess, after.delays.excess)


def test_a_running_task_counts_once_it_runs_longer_than_usual() -> None:
    log = workflow_log(runs(count=20))
    usual = UsualTimes()
    for run in range(10):
        usual.learn(log, log.rows_of(run))
    rows = log.rows_of(10)
    late = WorkflowLog(
        **{**vars(log), "end": log.end + 1e4, "stage_in_end": log.stage_in_end + 1e4}
    )
    begin = float(log.start[rows].min())
    assert not delays_at(late, rows, usual, begin + 80).is_delayed.any()
    delays = delays_at(late, rows, usual, begin + 180)
    assert delays.is_delayed.sum() == 6  # those of the second program have not started
    assert {slow.machine for slow in slow_machines(late, delays)} == set(log.machine.tolist())


def test_a_task_of_one_host_only_says_nothing_about_its_cores() -> None:
    table = runs(count=80, cores=30)
    lonely = table.assign(task_id=table["task_id"] + table["host"])
    _, calls = judge(workflow_log(lonely))
    assert not [call for call in calls if call["fault"] == "cpu"]


def test_the_end_of_a_run_is_better_than_by_the_rate() -> None:
    errors = {row["predictor"]: row["mae"] for row in score_ends(workflow_log(runs(disk=40)))}
    assert errors["gridcast"] < 0.8 * errors["rate"]


PEGASUS = (
    "run,task,type,anomaly_type,submit,execute_start,execute_end,runtime,stage_in_start,"
    "stage_in_end,stage_in_bytes,stage_out_start,site,hostname,transformations,cpu_time\n"
    "r1,a,compute,hdd_5,1700000000.0,1700000005.0,1700000065.0,60.0,1700000006.0,"
    "1700000026.0,1e9,1700000060.0,pool,m1-container-0-3,prog,1.5\n"
)


def test_a_pegasus_table_is_read_by_its_header_and_another_by_a_map(tmp_path: Path) -> None:
    path = tmp_path / "workflow.csv"
    path.write_text(PEGASUS)
    tasks, _ = read_log(path, record=WORKFLOW_TASK)
    (row,) = tasks.to_dict("records")
    assert (row["run_id"], row["task_id"], row["program"], row["fault"]) == (
        "r1", "a", "prog", "hdd_5",
    )  # fmt: skip
    assert (row["stage_in_ended_at"] - row["stage_in_started_at"]).total_seconds() == 20
    assert (row["stage_out_started_at"] - row["stage_in_ended_at"]).total_seconds() == 34
    other = tmp_path / "other.csv"
    other.write_text("w,t,s,b,e,node\nr1,a,1700000000,1700000005,1700000065,n1\n")
    entries = ["w=run_id", "t=task_id", "s=submitted_at:epoch", "b=started_at:epoch"]
    columns = parse_column_map([*entries, "e=ended_at:epoch", "node=host"])
    (mapped,) = read_log(other, columns=columns, record=WORKFLOW_TASK)[0].to_dict("records")
    assert mapped["host"] == "n1" and mapped["walltime"] == 60


def test_workflow_tasks_are_not_stored(tmp_path: Path) -> None:
    path = tmp_path / "workflow.csv"
    path.write_text(PEGASUS)
    engine = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    with pytest.raises(ReadError, match="evaluate-stalls reads it"):
        list(ingest_file(engine, path))


def test_faults_of_a_real_workflow(traces: Path) -> None:
    tasks, read = read_log(traces / "workflow-pycbc_inference.csv.gz", record=WORKFLOW_TASK)
    assert (len(tasks), read.rejected) == (8534, 0)
    rows = by_name(judge(workflow_log(tasks))[0])
    disk, both = rows["disk", "task", 0.5], rows["all", "task", 1.0]
    assert disk["precision"] > 0.95 and disk["recall"] > 0.95
    assert both["precision"] > 0.8 and both["recall"] > 0.8
