"""Silences of tasks: their steps, the inputs of the hazard, and the law of time."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from jobs.workload import generate
from models.tasks.job_curves import JobPredictor
from models.tasks.sets import Tasks, group_tasks
from models.tasks.silence import (
    INPUTS,
    evidence,
    inputs_of,
    silences,
)
from monitoring.tasks.stalls import without_quiet_times

HOUR = 3600.0
DAY = 86400.0


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    jobs = generate(3000, days=8, seed=2).jobs
    return group_tasks(jobs[jobs["started_at"].notna() & jobs["ended_at"].notna()])


def test_a_silence_ends_with_its_task_s_next_event(tasks: Tasks) -> None:
    steps = silences(tasks, np.arange(len(tasks)), np.inf)
    assert len(steps) > 100
    for row in range(0, len(steps), 50):
        own = slice(tasks.first[steps.task[row]], tasks.first[steps.task[row] + 1])
        events = np.concatenate([tasks.submitted[own], tasks.started[own], tasks.ended[own]])
        following = events[events > steps.begun[row]].min()
        assert steps.begun[row] in events and following > steps.start[row]
        assert steps.over[row] == (following <= steps.stop[row])


def test_evidence_grows_until_the_event() -> None:
    steps = silences(group_tasks(_quiet_task()), np.array([0]), np.inf)
    cumulated = evidence(lambda rows: np.full(len(rows), 0.5), np.zeros((len(steps), 1)), steps)
    lengths = np.diff(np.append(np.flatnonzero(steps.is_first), len(steps)))
    expected = np.concatenate([np.arange(1, length + 1) for length in lengths]) * np.log(2)
    assert np.allclose(cumulated, expected)


def _quiet_task() -> pd.DataFrame:
    start = pd.Timestamp("2026-01-01", tz="UTC")
    columns = ("status", "site", "host", "queue", "requested_cores", "requested_walltime")
    jobs = pd.DataFrame({"job_id": [f"j{k}" for k in range(8)], "source": "made", "task_id": "t"})
    jobs = jobs.assign(user="ada", group="atlas", submitted_at=start, started_at=start)
    jobs["ended_at"] = start + pd.to_timedelta(np.arange(1, 9) * 5, unit="h")
    return jobs.assign(**dict.fromkeys(columns))


def test_inputs_of_a_step_do_not_depend_on_later_events(tasks: Tasks) -> None:
    """The law of time: what happens after a step, and how long jobs then run, changes nothing."""
    now = float(np.quantile(tasks.submitted, 0.6))
    rows = np.flatnonzero(tasks.sizes >= 4)
    steps = silences(tasks, rows, now)
    rng = np.random.default_rng(1)

    def later(times: np.ndarray) -> np.ndarray:
        return np.where(times > now, times + rng.uniform(0, 9 * DAY, len(times)), times)

    started = later(tasks.started)
    ended = np.where(tasks.ended > now, np.maximum(later(tasks.ended), started + 1), tasks.ended)
    moved = {
        name: pd.Series(pd.to_datetime(times, unit="s", utc=True)).dt.as_unit("us")
        for name, times in (("started_at", started), ("ended_at", ended))
    }
    jobs = tasks.jobs.assign(**moved)
    changed = tasks.jobs["ended_at"].gt(pd.Timestamp(now, unit="s", tz="UTC"))
    jobs["walltime"] = jobs["walltime"].where(~changed, ended - started)
    scrambled = replace(tasks, jobs=jobs, started=started, ended=ended)
    again = silences(scrambled, rows, now)
    # A step that an event ends within it is cut off where the event now comes later.
    assert np.array_equal(steps.stop, again.stop) and np.array_equal(steps.over, again.over)
    before = inputs_of(tasks, steps, JobPredictor().replay(tasks))
    after = inputs_of(scrambled, again, JobPredictor().replay(scrambled))
    for column, name in enumerate(INPUTS):
        assert np.allclose(before[:, column], after[:, column], equal_nan=True), name


def test_a_machine_that_starts_and_ends_no_job_makes_a_silence_no_evidence(tasks: Tasks) -> None:
    now = float(np.quantile(tasks.submitted, 0.6))
    paused = replace(
        tasks,
        started=np.where(tasks.started > now, tasks.started + DAY, tasks.started),
        ended=np.where(tasks.ended > now, tasks.ended + DAY, tasks.ended),
    )
    hazard = without_quiet_times(lambda rows: np.full(len(rows), 0.5))
    rows, curves = np.flatnonzero(tasks.sizes >= 4), JobPredictor().replay(tasks)
    added = []
    for each in (tasks, paused):
        steps = silences(each, rows, now + DAY)
        steps = steps.take(np.flatnonzero((steps.start > now) & (steps.stop - steps.start > HOUR)))
        added.append(hazard(inputs_of(each, steps, curves)))
    assert added[0].mean() > 0.45 and len(added[1]) and added[1].mean() < 0.05
