"""CPU time carries over to a host that nobody has seen, once its power is told."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from jobs.coded_jobs import encode_jobs
from jobs.schema import OUTCOMES, conform
from models.engine.backtest import predict_in_time
from models.engine.forecaster import Forecaster
from models.engine.training import train

TARGETS = ("cpu_time", "cpu_work")
POWERS = np.array([9.0, 12.0, 17.0])
NEW = 40.0
"""The power of a core of the host that is never seen."""


def made(count: int, seed: int, power: np.ndarray) -> pd.DataFrame:
    """Jobs of twelve users, each of whom always does much the same work, on hosts of ``power`` (float64[count])."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 12, count)
    work = 3000.0 * 2.0 ** (user / 2) * rng.lognormal(0, 0.15, count)
    submitted = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(
        np.sort(rng.random(count)) * 20, unit="D"
    )
    ran = work / power / 0.9
    return conform(
        pd.DataFrame(
            {
                "job_id": [f"{seed}-{row}" for row in range(count)], "source": "made", "user": [f"user-{one}" for one in user],
                "host": [f"node-{each:.0f}" for each in power], "host_power": power, "requested_walltime": 86_400.0, "requested_cores": 1.0,
                "submitted_at": submitted, "started_at": submitted, "ended_at": submitted + pd.to_timedelta(ran, unit="s"),
                "status": "completed", "walltime": ran, "cpu_time": work / power,
            }
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def past() -> pd.DataFrame:
    return made(3000, 1, POWERS[np.random.default_rng(0).integers(0, 3, 3000)])


@pytest.fixture(scope="module")
def forecaster(past: pd.DataFrame) -> Forecaster:
    found = Forecaster(train(past, targets=TARGETS))
    found.learn(past)
    return found


@pytest.fixture(scope="module")
def later() -> pd.DataFrame:
    """Jobs that ran on the new host after all others had ended."""
    jobs = made(400, 2, np.full(400, NEW))
    shift = pd.Timedelta(days=30)
    return jobs.assign(
        submitted_at=jobs["submitted_at"] + shift,
        started_at=jobs["started_at"] + shift,
        ended_at=jobs["ended_at"] + shift,
    )


def asked(jobs: pd.DataFrame) -> pd.DataFrame:
    return jobs.drop(columns=list(OUTCOMES))


def test_cpu_time_carries_over_to_a_host_never_seen(
    forecaster: Forecaster, later: pd.DataFrame
) -> None:
    took = later["cpu_time"].to_numpy(float)
    unknown, known = (
        forecaster.predict(asked(later)),
        forecaster.predict(asked(later).assign(host_power=NEW)),
    )
    assert np.median(np.abs(unknown["cpu_time"] - took) / took) > 1.0, (
        "without the power the time on slower hosts is all that is known"
    )
    assert np.median(np.abs(known["cpu_time"] - took) / took) < 0.15
    inside = known["cpu_time_low"].le(took) & known["cpu_time_high"].ge(took)
    assert 0.85 <= inside.mean() <= 0.99
    assert (known["cpu_time_allocation"] <= later["requested_walltime"].to_numpy()).all()
    pd.testing.assert_series_equal(
        known["cpu_work"], unknown["cpu_work"]
    )  # work does not depend on who does it


def test_classes_follow_the_host(forecaster: Forecaster, later: pd.DataFrame) -> None:
    thresholds = forecaster.model_set.card.thresholds["cpu_time"]
    known = forecaster.predict(asked(later).assign(host_power=NEW), classes=True)
    true = 1 + np.searchsorted(thresholds, later["cpu_time"])
    assert (known["cpu_time_class"].to_numpy() == true).mean() > 0.85


def test_each_job_of_a_call_is_told_of_its_own_host_and_one_without_of_any(
    forecaster: Forecaster, later: pd.DataFrame
) -> None:
    few = asked(later.head(6)).assign(host_power=[NEW, np.nan, 10.0, NEW, np.nan, -1.0])
    together = forecaster.predict(few)
    for row in range(6):
        alone = forecaster.predict(few.iloc[[row]])
        pd.testing.assert_frame_equal(together.iloc[[row]].reset_index(drop=True), alone)
    plain = forecaster.predict(few.drop(columns="host_power"))
    pd.testing.assert_frame_equal(together.iloc[[1, 4, 5]], plain.iloc[[1, 4, 5]])


def test_of_whom_no_work_is_known_the_time_on_any_host_is_told(past: pd.DataFrame) -> None:
    untold = past.assign(host_power=past["host_power"].where(past["user"] != "user-3"))
    found = Forecaster(train(untold, targets=TARGETS))
    found.learn(untold)
    question = past[past["user"] == "user-3"].tail(3).drop(columns=list(OUTCOMES))
    assert (
        found.predict(question.assign(host_power=NEW))["cpu_time"].tolist()
        == found.predict(question)["cpu_time"].tolist()
    )


def test_evaluation_never_reads_the_power_of_the_host_that_a_job_came_to(
    past: pd.DataFrame,
) -> None:
    early, late = past.iloc[:2000], past.iloc[2000:2200]
    model_set = train(early, targets=TARGETS)
    there, elsewhere = (
        predict_in_time(model_set, early, late),
        predict_in_time(model_set, early, late.assign(host_power=NEW)),
    )
    pd.testing.assert_frame_equal(there, elsewhere)


def test_without_the_target_of_work_a_host_changes_nothing(
    past: pd.DataFrame, later: pd.DataFrame
) -> None:
    plain = Forecaster(train(past, targets=("cpu_time",)))
    plain.learn(past)
    assert "host_power" not in plain.fields
    question = asked(later.head(3))
    assert (
        len(
            plain.predict_encoded(
                encode_jobs(
                    question.assign(host_power=NEW),
                    ("submitted_at", "source", "job_id", *plain.fields),
                )
            )
        )
        == 3
    )
