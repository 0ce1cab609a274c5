"""Waits predicted while jobs wait: once, before the start, and compared with it afterwards."""

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine

from jobs.store import add_jobs, read_predictions
from jobs.workload import generate
from monitoring.drift.check import answers
from monitoring.tasks.waits import WaitWatch, remaining_quantiles

NOW = pd.Timestamp("2025-01-08 12:00", tz="UTC")


def test_the_wait_of_each_waiting_job_is_logged_once_and_before_it_starts(
    sqlite_store: Engine,
) -> None:
    jobs = generate(900, days=9, seed=3).jobs
    with sqlite_store.begin() as connection:
        add_jobs(connection, jobs)
    watch = WaitWatch(sqlite_store)
    times = [(NOW + pd.Timedelta(minutes=30 * step)).to_pydatetime() for step in range(5)]
    logged = sum(watch.update(moment) for moment in times)
    predictions = read_predictions(
        sqlite_store, target="wait", columns=("submitted_at", "started_at")
    )
    assert logged == len(predictions) > 0
    assert not predictions.duplicated(["source", "job_id"]).any()
    assert (predictions["asked_at"] < predictions["started_at"]).all()
    assert (predictions["low"] <= predictions["median"]).all()
    assert (predictions["median"] <= predictions["high"]).all()
    waiting = jobs[(jobs["submitted_at"] <= times[-1]) & (jobs["started_at"] > times[-1])]
    assert set(waiting["job_id"]) <= set(predictions["job_id"])


@pytest.mark.usefixtures("few_trees")
def test_the_regression_of_evaluate_waits_answers_once_enough_jobs_have_started(
    sqlite_store: Engine,
) -> None:
    jobs = generate(4000, days=40, seed=3).jobs
    with sqlite_store.begin() as connection:
        add_jobs(connection, jobs)
    watch = WaitWatch(sqlite_store)
    late = jobs[jobs["submitted_at"] > NOW + pd.Timedelta(days=30)]
    longest = late.loc[(late["started_at"] - late["submitted_at"]).idxmax()]
    now = longest["submitted_at"] + pd.Timedelta(seconds=1)
    assert watch.update(now.to_pydatetime()) > 0
    assert watch.regression is not None
    assert watch.fitted_at == now
    later = now + pd.Timedelta(hours=1)
    regression = watch.regression
    watch.update(later.to_pydatetime())
    assert watch.regression is regression  # fitted once a day
    predictions = read_predictions(sqlite_store, target="wait", columns=("job_id",))
    assert (predictions["low"] <= predictions["median"]).all()
    assert (predictions["median"] <= predictions["high"]).all()
    assert (predictions["asked_at"] <= later).all()


def test_a_store_without_a_start_predicts_nothing(sqlite_store: Engine) -> None:
    jobs = generate(100, days=2, seed=3).jobs
    with sqlite_store.begin() as connection:
        add_jobs(connection, jobs.assign(started_at=jobs["started_at"].mask(jobs["walltime"] > 0)))
    assert WaitWatch(sqlite_store).update(NOW.to_pydatetime()) == 0


def test_monitoring_takes_logged_waits_as_it_takes_walltimes(sqlite_store: Engine) -> None:
    with sqlite_store.begin() as connection:
        add_jobs(connection, generate(600, days=9, seed=3).jobs)
    assert WaitWatch(sqlite_store).update(NOW.to_pydatetime()) > 0
    found = answers(sqlite_store, pd.Timestamp("2025-01-01", tz="UTC"))
    waited = (found["started_at"] - found["submitted_at"]).dt.total_seconds()
    assert set(found["target"]) == {"wait"} and waited.notna().any()
    np.testing.assert_allclose(found["actual"], waited)


def test_a_job_that_has_waited_waits_longer_than_it_has() -> None:
    points = np.tile(np.arange(1.0, 65.0), (3, 1))
    low, median, high = remaining_quantiles(points, np.array([0.0, 32.0, 100.0]))
    assert median[0] == pytest.approx(32.5) and median[1] == pytest.approx(48.5)
    assert low[1] > 32 and high[1] <= 64
    assert low[2] == median[2] == high[2] == 200.0
