"""Advice: the price of a failure moves the allocation, and programs that are left alone get what they ask for."""

import numpy as np
import pandas as pd
import pytest

from jobs.coded_jobs import encode_jobs
from jobs.schema import OUTCOMES
from jobs.workload import generate
from models.engine.advice import EXEMPT, Advice
from models.engine.forecaster import Forecaster

TARGETS = ("walltime", "peak_memory")


@pytest.fixture(scope="module")
def jobs() -> pd.DataFrame:
    return generate(900, days=8, seed=2, sites=3, users=6).jobs.sort_values(
        "submitted_at", kind="stable", ignore_index=True
    )


def answers(jobs: pd.DataFrame, advice: Advice) -> pd.DataFrame:
    forecaster = Forecaster(targets=TARGETS, advice=advice)
    forecaster.learn(jobs.head(700))
    return forecaster.predict(jobs.tail(200).drop(columns=list(OUTCOMES)))


def test_programs_that_are_left_alone_get_what_they_ask_for_and_others_what_they_would(
    jobs: pd.DataFrame,
) -> None:
    asked = jobs.tail(200).reset_index(drop=True)
    name = str(asked["program"].mode()[0])
    before, after = (
        answers(jobs, Advice()),
        answers(jobs, Advice.of(1.0, f"{name}, no such program")),
    )
    left = (asked["program"] == name).to_numpy()
    assert 0 < left.sum() < 200
    assert (after.loc[left, "peak_memory_allocation"] == asked.loc[left, "requested_memory"]).all()
    assert (
        after.loc[left, "peak_memory_allocation_3"] == asked.loc[left, "requested_memory"]
    ).all()
    assert (after.loc[left, "walltime_allocation"] == asked.loc[left, "requested_walltime"]).all()
    assert after.loc[left, "peak_memory_risk"].isna().all()
    pd.testing.assert_frame_equal(after[~left], before[~left])
    assert (after["walltime"] == before["walltime"]).all()  # predictions stay
    forecaster = Forecaster(targets=TARGETS, advice=Advice.of(1.0, name))
    why = forecaster.explain(
        encode_jobs(asked[left].head(1), [field for field in asked if field not in OUTCOMES])
    )
    assert why[0]["peak_memory"]["allocation"]["rule"] == EXEMPT


def test_the_dearer_a_failure_the_less_is_risked(jobs: pd.DataFrame) -> None:
    cheap, dear = (answers(jobs, Advice(price)) for price in (0.0, 1000.0))
    assert (dear["peak_memory_allocation"] >= cheap["peak_memory_allocation"] - 1).all()
    assert dear["peak_memory_risk"].mean() < cheap["peak_memory_risk"].mean()
    assert np.isfinite(cheap["peak_memory_allocation"]).all()
