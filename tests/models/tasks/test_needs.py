"""Task needs: sums, spans and PanDA's message from one job's distribution."""

import numpy as np
import pandas as pd
import pytest

from jobs.coded_jobs import encode_jobs
from jobs.schema import conform
from models.engine.forecaster import Forecaster
from models.tasks.needs import task_needs

START = pd.Timestamp("2026-01-01", tz="UTC")


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    """It knows 400 jobs of one user: a quarter took 1,000 s, the others 100 s, each on two cores with 1 GiB."""
    at = START + pd.to_timedelta(np.arange(400) * 60.0, unit="s")
    walltime = np.where(np.arange(400) % 4 == 0, 1000.0, 100.0)
    job = {
        "source": "made",
        "user": "ada",
        "requested_cores": 2.0,
        "cores": 2.0,
        "submitted_at": at,
        "started_at": at,
        "walltime": walltime,
    }
    job |= {
        "ended_at": at + pd.to_timedelta(walltime, unit="s"),
        "cpu_time": 2 * walltime,
        "peak_memory": 2.0**30,
        "status": "completed",
    }
    jobs = conform(pd.DataFrame({"job_id": np.arange(400).astype(str)} | job))
    made = Forecaster(targets=("walltime", "cpu_time", "peak_memory"))
    for start in range(
        0, len(jobs), 20
    ):  # as a service hears of them: ranges are learned meanwhile
        made.learn(jobs.iloc[start : start + 20])
    return made


def asked() -> pd.DataFrame:
    return conform(
        pd.DataFrame(
            {
                "job_id": ["t"],
                "source": "made",
                "user": "ada",
                "requested_cores": 2.0,
                "submitted_at": [START + pd.Timedelta("2D")],
            }
        )
    )


def test_a_task_takes_as_long_as_its_slowest_job_and_waves_add_up(forecaster: Forecaster) -> None:
    job = encode_jobs(asked(), asked().columns)
    one, many, waves = (task_needs(forecaster, job, *how) for how in ((1,), (200,), (200, 20)))
    assert (
        one["task"]["span"] < 500 < 900 < many["task"]["span"] < 1500
    )  # one of 200 is sure to be slow
    a_wave = (waves["task"]["span"] - task_needs(forecaster, job, 20)["task"]["span"]) / 9
    assert 100 < a_wave < 400
    assert many["task"]["cpu_time"] == pytest.approx(200 * one["task"]["cpu_time"])
    assert many["task"]["cpu_time_low"] < many["task"]["cpu_time"] < many["task"]["cpu_time_high"]


def test_pandas_message_has_pandas_units(forecaster: Forecaster) -> None:
    message = task_needs(forecaster, encode_jobs(asked(), asked().columns), 5)["scout_prediction"]
    assert (
        message["ramUnit"] == "MBPerCore" and 512 <= message["ramCount"] < 640
    )  # 1 GiB on two cores
    assert message["coreCount"] == 2 and message["walltime"] >= 1000
    assert "classes" not in message  # no model, no thresholds
