"""Comparison on later jobs: the future moves nothing, and the interval covers as it should."""

import numpy as np
import pandas as pd
import pytest

from jobs.workload import START, generate
from models.engine.backtest import predict_in_time
from models.engine.training import train
from models.releases.comparison import comparison_table, difference, outcomes

SINCE = START + pd.Timedelta(days=8)


@pytest.fixture(scope="module")
def jobs() -> pd.DataFrame:
    return generate(1200, 10, 3).jobs


@pytest.fixture(scope="module")
def model_set(jobs):
    return train(jobs[jobs["ended_at"] <= SINCE])


def later(jobs: pd.DataFrame) -> pd.DataFrame:
    return jobs[jobs["submitted_at"] >= SINCE]


def test_what_has_not_ended_at_a_submission_does_not_move_its_prediction(jobs, model_set):
    answers = predict_in_time(model_set, jobs, later(jobs))
    middle = later(jobs)["submitted_at"].sort_values().iloc[len(later(jobs)) // 2]
    scrambled = jobs.copy()
    future = scrambled["ended_at"] > middle
    shuffled = np.random.default_rng(0).permutation(np.flatnonzero(future))
    scrambled.loc[future, "walltime"] = jobs["walltime"].to_numpy()[shuffled] * 100
    again = predict_in_time(model_set, scrambled, later(jobs))
    queries = later(jobs).sort_values("submitted_at", kind="stable")
    before = (queries["submitted_at"] <= middle).to_numpy()
    pd.testing.assert_frame_equal(again[before], answers[before])
    assert not again[~before].equals(answers[~before])


def test_jobs_are_asked_about_without_their_outcomes_mattering(jobs, model_set):
    queries = later(jobs).assign(walltime=1.0, status="failed")
    pd.testing.assert_frame_equal(
        predict_in_time(model_set, jobs, queries), predict_in_time(model_set, jobs, later(jobs))
    )


def test_the_table_has_a_row_for_each_predictor_on_the_same_jobs_by_error(jobs, model_set):
    answers = {"candidate": predict_in_time(model_set, jobs, later(jobs))}
    rows = comparison_table(jobs, later(jobs), answers, ("walltime",))
    assert set(rows["predictor"]) == {"candidate", "request", "last-two", "median-10"}
    assert rows["jobs"].unique().tolist() == [len(outcomes(later(jobs), "walltime"))]
    assert rows["mae"].is_monotonic_increasing
    assert rows.set_index("predictor")["coverage_90"].notna().to_dict() == {
        "candidate": True,
        "request": False,
        "last-two": False,
        "median-10": False,
    }


def test_the_difference_of_errors_is_relative_and_its_sign_says_who_is_better():
    truth = pd.Series(np.arange(1.0, 401.0))
    result = difference(truth, truth + 9.0, truth + 10.0)
    assert (result.share, result.low, result.high) == pytest.approx((-0.1, -0.1, -0.1))
    assert str(result) == "10.0% lower (95 %: 10.0% to 10.0%)"
    assert difference(truth, truth + 10.0, truth + 10.0).share == 0


def test_the_interval_covers_no_difference_for_two_that_err_alike():
    random = np.random.default_rng(1)
    truth = pd.Series(np.zeros(2000))
    covered = 0
    for _ in range(40):
        mine, theirs = (pd.Series(random.exponential(1.0, 2000)) for _ in range(2))
        result = difference(truth, mine, theirs)
        covered += result.low <= 0 <= result.high
    assert 34 <= covered <= 40


def test_neighbouring_jobs_that_err_together_widen_the_interval():
    random = np.random.default_rng(2)
    truth = pd.Series(np.zeros(2000))
    theirs = pd.Series(np.ones(2000))
    alone = difference(truth, pd.Series(random.exponential(1.0, 2000)), theirs)
    together = difference(truth, pd.Series(np.repeat(random.exponential(1.0, 40), 50)), theirs)
    assert together.high - together.low > 3 * (alone.high - alone.low)


def test_each_source_of_several_has_rows_of_its_own_beside_those_of_all(jobs, model_set):
    mixed = pd.concat([jobs, jobs.assign(source="other", job_id="o" + jobs["job_id"])])
    mixed = mixed.reset_index(drop=True)
    answers = {"candidate": predict_in_time(model_set, mixed, later(mixed))}
    rows = comparison_table(mixed, later(mixed), answers, ("walltime",))
    assert rows["source"].unique().tolist() == ["all", "generated", "other"]
    counts = rows.groupby("source")["jobs"].first()
    assert counts["all"] == counts["generated"] + counts["other"]
    baselines = rows[rows["predictor"] == "last-two"].set_index("source")["mae"]
    # A baseline of one source is not moved by the same users' jobs of another.
    assert baselines["generated"] == baselines["other"]


def test_a_source_of_long_jobs_does_not_decide_for_one_of_short_jobs():
    truth = pd.Series(np.zeros(800))
    sources = pd.Series(["long", "short"] * 400)
    theirs = sources.map({"long": 1000.0, "short": 1.0})
    mine = sources.map({"long": 900.0, "short": 1.5})
    assert difference(truth, mine, theirs).share == pytest.approx(-0.0994, abs=1e-3)
    assert difference(truth, mine, theirs, sources=sources).share == pytest.approx(0.2)
