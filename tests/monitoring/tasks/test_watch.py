"""The task watch: predicted ends, states, what is stored, alerts, and planted stalls."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from infra.settings import Settings
from jobs.schema import conform, derive_fields
from jobs.store import (
    add_jobs,
    open_store,
    read_thresholds,
    set_threshold,
    task_history,
    unnotified_tasks,
)
from jobs.workload import generate
from models.tasks.inputs import Queries, open_jobs
from models.tasks.sets import group_tasks
from monitoring.tasks.stalls import score_stall_detection
from monitoring.tasks.states import Thresholds, delay_reasons, last_end, silence_ratio, states
from monitoring.tasks.watch import TaskWatch
from tests.monitoring.test_alerts import Hook, Receiver

START = pd.Timestamp("2026-01-01", tz="UTC")
HOUR = 3600.0
QUICK = pytest.mark.usefixtures("few_trees")


def test_planted_stalls_are_found_and_little_else() -> None:
    found = score_stall_detection(generate(16_000, days=30, seed=3).jobs)[0]
    assert found["predictor"] == "stalls" and found["planted"] > 8
    # Longer logs, by which more is known, are in docs/benchmarks/tasks.md.
    assert (
        found["recall"] > 0.8 and found["precision"] > 0.6 and 0 < found["median_delay_hours"] < 12
    )


def test_where_starts_are_not_known_no_stall_is_planted() -> None:
    jobs = generate(300, days=2, seed=1).jobs
    assert (
        score_stall_detection(
            jobs.assign(started_at=jobs["started_at"].mask(jobs["started_at"].notna()))
        )
        == []
    )


def _task(jobs: int, hours: float, ended: int, status: str = "completed") -> pd.DataFrame:
    over = np.arange(jobs) < ended
    end = START + pd.to_timedelta(hours, unit="h")
    return conform(
        pd.DataFrame(
            {
                "job_id": [f"j{k}" for k in range(jobs)],
                "task_id": "t",
                "source": "made",
                "user": "ada",
                "group": "atlas",
            }
        ).assign(
            site="cern",
            submitted_at=START,
            started_at=START,
            ended_at=pd.Series(end).repeat(jobs).to_numpy(),
            status=status,
        )
    ).assign(
        ended_at=lambda f: f["ended_at"].where(over),
        status=lambda f: f["status"].where(over, "running"),
    )


@pytest.mark.parametrize(("hours", "quiet"), [(2.0, False), (10.0, True)])
def test_a_task_is_stalled_by_what_its_jobs_should_take_not_by_being_quiet(
    hours: float, quiet: bool
) -> None:
    tasks = group_tasks(_task(8, 1.0, 3))
    questions = Queries(
        np.array([0]), np.array([START.timestamp() + hours * HOUR]), np.array([3 / 8])
    )
    opened = open_jobs(tasks, questions)
    usual = np.full(len(opened.job), 2 * HOUR)
    long = silence_ratio(tasks, questions, opened, usual, last_end(tasks, questions))
    assert (long[0] > Thresholds().stalled) == quiet


def test_states_go_by_what_is_gravest() -> None:
    usual = [Thresholds()] * 5
    ended, bad = np.array([9, 10, 2, 9, 0]), np.array([9, 9, 0, 0, 0])
    found = states(
        np.array([True, False, False, False, False]),
        np.array([9, 9, 9, 0, 0]),
        ended,
        bad,
        np.array([0.5, 0.5, 0.5, 0.99, 0.5]),
        usual,
    )
    assert found == ["done", "failing", "stalled", "late", "normal"]


def test_who_holds_a_task_back_is_named() -> None:
    tasks = group_tasks(_task(6, 1.0, 4, "failed"))
    said = delay_reasons(tasks, 0, START.timestamp() + 30 * HOUR, {4: HOUR, 5: HOUR})
    assert said[0] == "site cern: 4 of 4 jobs failed"
    assert "cern: 2 jobs are overdue there" in said and any(
        "job j4 has run for 30.0 h" in one for one in said
    )


def test_a_site_is_named_only_where_failures_are_out_of_proportion() -> None:
    """Jobs that fail at each of three sites alike are the task's fault, not a site's."""

    def said(at_a: int, elsewhere: int) -> list[str]:
        jobs = _task(42, 1.0, 42).assign(site=["site-a"] * 9 + ["b"] * 18 + ["c"] * 15)
        failed = [*range(at_a), *range(9, 9 + elsewhere // 2), *range(27, 27 + elsewhere // 2)]
        jobs["status"] = ["failed" if k in failed else "completed" for k in range(42)]
        return delay_reasons(group_tasks(jobs), 0, START.timestamp() + 30 * HOUR, {})

    assert said(6, 14) == ["20 of 42 jobs failed, at 3 sites and none stands out"]
    assert said(8, 4) == ["site-a: 8 of 9 jobs failed"]


def test_overdue_jobs_beyond_the_named_ones_are_counted() -> None:
    tasks = group_tasks(_task(12, 1.0, 4))
    now = START.timestamp() + 30 * HOUR
    reasons = delay_reasons(tasks, 0, now, dict.fromkeys(range(4, 12), HOUR))
    assert sum("has run for 30.0 h, more than twice" in reason for reason in reasons) == 5
    assert reasons[-1] == "3 more jobs are overdue"


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = open_store(f"sqlite:///{tmp_path / 'jobs.db'}")
    with engine.begin() as connection:
        add_jobs(connection, generate(1500, days=6, seed=3).jobs)
    return engine


@QUICK
def test_every_look_foresees_the_end_of_each_open_task_and_keeps_what_is_new(
    engine: Engine,
) -> None:
    watch, now = (
        TaskWatch(engine, Settings()),
        pd.Timestamp("2025-01-09 14:00", tz="UTC").to_pydatetime(),
    )
    first = watch.update(now)
    opened = first[first["state"] != "done"]
    assert len(opened) > 1
    assert (
        (opened["low"] <= opened["median"]).all()
        and (opened["median"] <= opened["high"]).all()
        and (opened["low"] >= now).all()
    )
    watch.update(now)
    later = watch.update(now + timedelta(hours=5))
    assert set(opened["task"]) <= set(later["task"])
    history = task_history(engine, opened["task"].iloc[0])
    assert history["asked_at"].is_unique and len(history) == 2
    assert unnotified_tasks(engine)["task"].is_unique


@QUICK
def test_a_threshold_counts_from_the_next_look_on_and_says_who_set_it(engine: Engine) -> None:
    now = pd.Timestamp("2025-01-09 14:00", tz="UTC").to_pydatetime()
    watch = TaskWatch(engine, Settings())
    before = watch.update(now).set_index("task")["state"]
    with engine.begin() as connection:
        set_threshold(connection, "all", "failing", 1.0, "ada", now)
        set_threshold(connection, "all", "stalled", 1e9, "ada", now)
    after = watch.update(now).set_index("task")["state"]
    assert not after.isin(["failing", "stalled"]).any() and set(after.index) == set(before.index)
    assert read_thresholds(engine)["set_by"].tolist() == ["ada", "ada"]


NOW = pd.Timestamp("2025-01-09 14:00", tz="UTC")


def _chained() -> pd.DataFrame:
    """Generated jobs; the three tasks that end last form a chain of one request, two are open."""
    jobs = generate(1500, days=6, seed=3).jobs
    known = jobs[jobs["submitted_at"] <= NOW].groupby("task_id")
    last = known["ended_at"].max().sort_values().index[-3:]
    names = known["submitted_at"].min()[last].sort_values().index.tolist()
    waits = dict(zip(names[1:], names, strict=False))
    asked = pd.Series("r", index=jobs.index, dtype="str").where(jobs["task_id"].isin(names))
    return jobs.assign(after_task_id=jobs["task_id"].map(waits).astype("str"), request_id=asked)


@QUICK
def test_a_chain_and_a_request_end_with_their_last_task_and_know_nothing_of_the_future(
    tmp_path: Path,
) -> None:
    seen = []
    jobs = _chained()
    later = jobs["ended_at"] > NOW
    late = jobs.assign(ended_at=jobs["ended_at"].mask(later, jobs["ended_at"] + timedelta(days=9)))
    late = late.assign(
        walltime=jobs["walltime"].mask(later, 9e5), status=jobs["status"].mask(later, "failed")
    )
    for number, each in enumerate((jobs, late)):
        store = open_store(f"sqlite:///{tmp_path / f'{number}.db'}")
        with store.begin() as connection:
            add_jobs(connection, conform(each))
        seen.append(TaskWatch(store, Settings()).update(NOW.to_pydatetime()))
        assert set(unnotified_tasks(store)["kind"]) == {"task", "chain", "request"}
        store.dispose()
    pd.testing.assert_frame_equal(seen[0], seen[1])
    found = seen[0].set_index("kind")
    chain, request, own = (
        found.loc["chain"],
        found.loc["request"],
        found.loc["task"].set_index("task"),
    )
    members = own.loc[own.index.isin(jobs.loc[jobs["request_id"].notna(), "task_id"])]
    assert chain["tasks"] == request["tasks"] == 3 and chain["jobs"] >= members["jobs"].sum()
    assert (
        chain["low"] <= chain["median"] <= chain["high"]
        and request["median"] == chain["median"] >= members["median"].max()
    )


def _freezing() -> pd.DataFrame:
    """Forty tasks of eight jobs of an hour, and one whose last five jobs end 14 hours later."""
    last = 40
    starts = [START + timedelta(hours=6 * k) for k in range(last + 1)]
    rows = [
        {
            "job_id": f"{k}.{j}",
            "task_id": f"t{k}",
            "source": "made",
            "user": "ada",
            "group": "atlas",
            "site": "cern",
            "submitted_at": at,
        }
        | {
            "started_at": at,
            "ended_at": at + timedelta(hours=14 if k == last and j > 2 else 1, minutes=j),
            "status": "completed",
        }
        for k, at in enumerate(starts)
        for j in range(8)
    ]
    return derive_fields(conform(pd.DataFrame(rows)))


@QUICK
def test_a_task_that_stalls_is_told_once_and_so_is_its_recovery(tmp_path: Path) -> None:
    engine, hook = open_store(f"sqlite:///{tmp_path / 'jobs.db'}"), Receiver(Hook)
    with engine.begin() as connection:
        add_jobs(connection, _freezing())
    watch = TaskWatch(engine, Settings(alerts=SecretStr(f"json://127.0.0.1:{hook.port}")))
    begun = START + timedelta(hours=240)
    seen = []
    for hours in (0.5, 1.2, 11, 12, 13, 14.05, 15):
        found = watch.update((begun + timedelta(hours=hours)).to_pydatetime()).set_index("task")
        seen.append((found.loc["t40", "state"], len(hook.got)))
    hook.stop()
    engine.dispose()
    assert [count for _, count in seen] == [0, 0, 1, 1, 1, 2, 2]
    assert [state for state, _ in seen[2:5]] == ["stalled"] * 3 and seen[-1][0] == "done"
    assert [(got["title"], got["type"]) for got in hook.got] == [
        ("Gridcast gridcast: task t40", "warning"),
        ("Gridcast gridcast: task t40 is over", "success"),
    ]
    assert (
        "t40 of ada is stalled: cern: 5 jobs are overdue there; job 40.3 has run for 11.0 h"
        in hook.got[0]["message"]
    )


@QUICK
def test_an_alert_that_nobody_took_is_told_at_the_next_look(tmp_path: Path) -> None:
    engine, hook = open_store(f"sqlite:///{tmp_path / 'jobs.db'}"), Receiver(Hook)
    hook.stop()
    with engine.begin() as connection:
        add_jobs(connection, _freezing())
    moment = START + timedelta(hours=251)
    TaskWatch(engine, Settings(alerts=SecretStr(f"json://127.0.0.1:{hook.port}"))).update(
        moment.to_pydatetime()
    )
    again = Receiver(Hook)
    TaskWatch(engine, Settings(alerts=SecretStr(f"json://127.0.0.1:{again.port}"))).update(
        (moment + timedelta(minutes=1)).to_pydatetime()
    )
    again.stop()
    engine.dispose()
    assert [got["title"] for got in again.got] == ["Gridcast gridcast: task t40"]


@QUICK
def test_a_stalled_task_has_no_end_says_since_when_and_its_confidence_falls(
    tmp_path: Path,
) -> None:
    engine = open_store(f"sqlite:///{tmp_path / 'jobs.db'}")
    with engine.begin() as connection:
        add_jobs(connection, _freezing())
    watch, begun = TaskWatch(engine, Settings()), START + timedelta(hours=240)
    rows = []
    for hours in (0.5, 11, 12, 13, 14.05):
        found = watch.update((begun + timedelta(hours=hours)).to_pydatetime())
        rows.append(found.set_index("task").loc["t40"])
    engine.dispose()
    before, *stalled, after = rows
    assert pd.notna(before["median"]) and pd.isna(before["stalled_since"])
    last_end = begun + timedelta(hours=1, minutes=2)
    for row in stalled:
        assert row["state"] == "stalled"
        assert pd.isna(row["low"]) and pd.isna(row["median"]) and pd.isna(row["high"])
        assert row["stalled_since"] == last_end
        assert f"nothing has happened since {last_end:%Y-%m-%d %H:%M} UTC" in row["reasons"][-1]
        assert "once it goes on it needs" in row["reasons"][-1]
    confidences = [row["confidence"] for row in stalled]
    assert 1 > confidences[0] > confidences[1] > confidences[2]
    assert pd.notna(after["median"]) and pd.isna(after["stalled_since"])


@QUICK
def test_a_stall_is_stored_once_and_not_at_every_update(tmp_path: Path) -> None:
    engine = open_store(f"sqlite:///{tmp_path / 'jobs.db'}")
    with engine.begin() as connection:
        add_jobs(connection, _freezing())
    watch, begun = TaskWatch(engine, Settings()), START + timedelta(hours=240)
    for hours in (0.5, 11, 12, 13):
        watch.update((begun + timedelta(hours=hours)).to_pydatetime())
    history = task_history(engine, "t40")
    assert history["state"].tolist() == ["normal", "stalled"]
    assert history["median"].notna().tolist() == [True, False]
    engine.dispose()


@QUICK
def test_what_waits_for_a_stalled_task_has_no_end_either(tmp_path: Path) -> None:
    jobs = _freezing()
    waiting = jobs[jobs["task_id"] == "t40"].assign(
        job_id=lambda rows: "w" + rows["job_id"],
        task_id="after",
        after_task_id="t40",
        started_at=pd.NaT,
        ended_at=pd.NaT,
        walltime=np.nan,
        status="waiting",
    )
    engine = open_store(f"sqlite:///{tmp_path / 'jobs.db'}")
    with engine.begin() as connection:
        add_jobs(connection, conform(pd.concat([jobs, waiting])))
    now = START + timedelta(hours=252)
    found = TaskWatch(engine, Settings()).update(now.to_pydatetime())
    engine.dispose()
    row = found[found["task"] == "after"].iloc[0]
    assert pd.isna(row["median"]) and row["confidence"] == 0
    assert row["reasons"] == ["waits for task t40, which stalls"]
    chain = found[found["kind"] == "chain"].iloc[0]
    assert pd.isna(chain["median"]) and chain["confidence"] == 0


@QUICK
def test_two_sources_may_use_one_name_of_a_task(tmp_path: Path) -> None:
    jobs = _freezing()
    other = jobs[jobs["task_id"] == "t40"].assign(source="other", user="bob")
    other = other.assign(ended_at=other["started_at"] + timedelta(hours=1), walltime=3600.0)
    engine, hook = open_store(f"sqlite:///{tmp_path / 'jobs.db'}"), Receiver(Hook)
    with engine.begin() as connection:
        add_jobs(connection, conform(pd.concat([jobs, other])))
    watch = TaskWatch(engine, Settings(alerts=SecretStr(f"json://127.0.0.1:{hook.port}")))
    begun = START + timedelta(hours=240)
    for hours in (0.5, 11, 12, 14.05):
        found = watch.update((begun + timedelta(hours=hours)).to_pydatetime())
        states = found[found["task"] == "t40"].set_index("source")["state"].to_dict()
        assert states["other"] == ("normal" if hours < 1 else "done")
        assert states["made"] == ("stalled" if 10 < hours < 14 else states["made"])
    hook.stop()
    assert [got["title"] for got in hook.got] == [
        "Gridcast gridcast: task t40 of made",
        "Gridcast gridcast: task t40 of made is over",
    ]
    for source, owner in (("made", "ada"), ("other", "bob")):
        assert set(task_history(engine, "t40", source=source)["owner"]) == {owner}
    engine.dispose()


@QUICK
def test_names_of_any_length_neither_break_the_watch_nor_repeat_its_alerts(
    store: Engine,
) -> None:
    """Stored by an older version, when the API still took such names."""
    long = "t" * 3000
    jobs = _freezing()
    jobs = jobs.assign(task_id=jobs["task_id"].where(jobs["task_id"] != "t40", long))
    with store.begin() as connection:
        add_jobs(connection, jobs.assign(user="ä" * 1500))
    hook = Receiver(Hook)
    watch = TaskWatch(store, Settings(alerts=SecretStr(f"json://127.0.0.1:{hook.port}")))
    begun = START + timedelta(hours=240)
    for hours in (0.5, 11, 12, 13, 14.05):
        watch.update((begun + timedelta(hours=hours)).to_pydatetime())
    hook.stop()
    assert [got["type"] for got in hook.got] == ["warning", "success"]
    assert len(task_history(store, long)) == 3
