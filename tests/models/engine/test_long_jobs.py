"""Jobs of many days are predicted as such: range, point, median and kill limit."""

import numpy as np
import pandas as pd
import pytest

from jobs.schema import conform, derive_fields
from models.engine.forecaster import Forecaster

DAY = 86400.0
START = pd.Timestamp("2026-01-01", tz="UTC")


@pytest.mark.parametrize("request_days", [None, 45.0])
@pytest.mark.parametrize("days", [20.0, 40.0])
def test_jobs_of_many_days_are_predicted(days: float, request_days: float | None) -> None:
    draw, rows = np.random.default_rng(1), 240
    long = np.arange(rows) % 2 == 0
    at = START + pd.to_timedelta(np.arange(rows), unit="h")
    length = np.where(long, days * DAY, 600.0) * draw.uniform(0.9, 1.1, rows)
    jobs = pd.DataFrame({"job_id": np.arange(rows).astype(str), "source": "site"}).assign(
        user=np.where(long, "marathon", "sprint"),
        submitted_at=at,
        started_at=at,
        walltime=np.floor(length),
        requested_walltime=request_days and request_days * DAY,
    )
    jobs = derive_fields(conform(jobs))
    forecaster = Forecaster()
    forecaster.learn(jobs)
    later = jobs.tail(2).assign(submitted_at=jobs["ended_at"].max())
    long_job, short_job = forecaster.predict(later).to_dict("records")
    assert long_job["walltime_low"] <= long_job["walltime"] <= long_job["walltime_high"]
    assert long_job["walltime_low"] > 0.6 * days * DAY
    assert 0.8 * days * DAY < long_job["walltime_median"] < 1.25 * days * DAY
    assert long_job["walltime_kill_limit"] >= length[long].max()
    assert long_job["walltime_allocation"] >= 1.05 * days * DAY
    assert short_job["walltime"] < 3600.0
