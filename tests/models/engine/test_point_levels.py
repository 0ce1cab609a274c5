"""The best single value follows what later jobs bear out, in a backtest as live."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs.ingest import read_log
from jobs.schema import conform, derive_fields
from models.baselines.catalogue import predict_baselines
from models.engine.backtest import backtest
from models.engine.forecaster import Forecaster
from models.quantities.targets import TARGETS

START = pd.Timestamp("2026-01-01", tz="UTC")
NEW_PROGRAMS = 150


@pytest.fixture(scope="module")
def tried_first() -> pd.DataFrame:
    """Programs that run three short jobs when they are new and four long ones later.

    The histories of a new program's jobs are all jobs before, most of which were long.
    """
    draw, rows = np.random.default_rng(5), []
    for number in range(NEW_PROGRAMS):
        begin = START + pd.Timedelta(hours=6 * number)
        for first, count, typical in ((0, 3, 90.0), (2, 4, 7200.0)):
            for job in range(count):
                at = begin + pd.Timedelta(hours=first, seconds=job)
                rows.append((f"p{number}", at, np.ceil(typical * 2 ** draw.normal(0, 0.7))))
    jobs = pd.DataFrame(rows, columns=["program", "submitted_at", "walltime"])
    jobs["job_id"] = [str(row) for row in range(len(jobs))]
    jobs["requested_cores"] = draw.choice([1.0, 2.0, 4.0], len(jobs))
    jobs["source"], jobs["started_at"] = "site", jobs["submitted_at"]
    return derive_fields(conform(jobs))


def error(jobs: pd.DataFrame, points: np.ndarray, rows: np.ndarray) -> float:
    return float(np.abs(points - jobs["walltime"].to_numpy()[rows]).mean())


def test_jobs_of_new_programs_are_predicted_lower_once_their_like_were_short(
    tried_first: pd.DataFrame,
) -> None:
    result = backtest(tried_first, refined=False, warm_up=0.3)
    new = (result.rows % 7 < 3) & (result.rows > 0.6 * len(tried_first))
    lower, median = (
        error(tried_first, p[new], result.rows[new]) for p in (result.point, result.median)
    )
    assert lower < 0.7 * median
    assert ((result.point >= result.low) & (result.point <= result.high)).all()


def test_a_live_forecaster_learns_the_level_that_the_backtest_learns(
    tried_first: pd.DataFrame,
) -> None:
    forecaster = Forecaster()
    for _, day in tried_first.groupby(tried_first["ended_at"].dt.floor("D")):
        forecaster.learn(day)
    query = tried_first.iloc[[-1]].assign(
        job_id="next", program="never seen", submitted_at=tried_first["ended_at"].max()
    )
    prediction = forecaster.predict(query.drop(columns=["started_at", "ended_at", "walltime"]))
    assert prediction["walltime"].iloc[0] < 0.5 * prediction["walltime_median"].iloc[0]


def test_where_jobs_report_users_the_level_stays_a_half(tried_first: pd.DataFrame) -> None:
    user = (np.arange(len(tried_first)) // 21).astype(str)
    of_users = tried_first.assign(user=user)
    for jobs, learns in ((tried_first, True), (of_users, False)):
        forecaster = Forecaster()
        for _, day in jobs.groupby(jobs["ended_at"].dt.floor("D")):
            forecaster.learn(day)
        assert forecaster.predictors["walltime"].calibration.points.sums.any() == learns


def test_the_median_of_all_jobs_does_not_beat_the_backtest_of_a_real_trace(traces: Path) -> None:
    jobs, _ = read_log(traces / "nextflow-rnaseq.csv.gz")
    result = backtest(jobs)
    baseline = predict_baselines(jobs, TARGETS["walltime"], ["group-median"])["group-median"]
    ours, theirs = (
        error(jobs, points, result.rows) for points in (result.point, baseline.point[result.rows])
    )
    assert ours < 0.97 * theirs
