"""Waits that follow from the state of the queue are learned, with ranges that hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from jobs.schema import JOB, conform
from models.engine.wait_regression import MIN_TRAINING_ROWS, WaitRegression, backtest_waits
from models.evaluation.backtest import WAIT_POINTS, evaluate
from models.past.queue_inputs import queue_inputs
from models.past.queues import waits
from models.quantities.metrics import wait_shares
from models.quantities.targets import TARGETS
from models.refiner import boosting

COUNT = 1600


def some_jobs() -> pd.DataFrame:
    """Jobs whose wait depends on their priority, with bursts and noise."""
    rng = np.random.default_rng(0)
    start = pd.Timestamp("2026-01-05", tz="UTC")
    at = np.sort(rng.integers(0, 60 * 86400, COUNT))
    priority = rng.integers(1, 6, COUNT).astype(float)
    wait = 20_000 / priority**2 * rng.lognormal(0, 0.4, COUNT)
    submitted = start + pd.to_timedelta(at, unit="s")
    started = submitted + pd.to_timedelta(np.round(wait), unit="s")
    frame = {
        "job_id": np.arange(COUNT).astype(str),
        "source": "s",
        "user": rng.choice(list("abcdefgh"), COUNT),
        "queue": rng.choice(["x", "y"], COUNT),
        "priority": priority,
        "requested_walltime": 3600.0,
        "requested_cores": rng.integers(1, 9, COUNT).astype(float),
        "submitted_at": submitted,
        "started_at": started,
        "ended_at": started + pd.to_timedelta(rng.integers(60, 3600, COUNT), unit="s"),
    }
    return conform(pd.DataFrame(frame), JOB)


JOBS = some_jobs()


@pytest.mark.usefixtures("few_trees")
def test_predictions_ignore_the_future() -> None:
    now = JOBS["submitted_at"].iloc[1300]
    changed = JOBS.copy()
    for name in ("started_at", "ended_at"):
        later = changed[name] > now
        changed.loc[later, name] = now + pd.to_timedelta(
            np.random.default_rng(1).integers(1, 10**6, int(later.sum())), unit="s"
        )
    before, after = (backtest_waits(jobs, queue_inputs(jobs), 0.6, 0.1) for jobs in (JOBS, changed))
    assert before is not None
    assert after is not None
    until = 1301 - int(COUNT * 0.6)
    for name in ("centre", "ratio", "low", "quantiles"):
        mine, theirs = getattr(before, name), getattr(after, name)
        assert np.array_equal(mine[:until], theirs[:until]), name
        assert not np.array_equal(mine, theirs), name


def test_each_point_is_the_best_by_its_own_loss_and_ranges_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(boosting.TREES, "baseline", 15)  # nothing is asserted of its errors
    predictors = [*WAIT_POINTS, "median-25", "catboost"]
    evaluation = evaluate(JOBS, TARGETS["wait"], 0.6, predictors, refit_every=0.2)
    for sample, rows in (("all", evaluation.rows), ("burst", evaluation.burst_rows)):
        by_name = {row["predictor"]: row for row in rows}
        ours = by_name["gridcast"]
        assert {row["sample"] for row in rows} == {sample}
        assert ours["mae"] < 0.7 * by_name["median-25"]["mae"]
        assert ours["within_2_7"] > 0.9 > by_name["median-25"]["within_2_7"]
        assert by_name["gridcast-ratio"]["within_2_7"] > 0.9
        assert 0.85 <= ours["coverage_90"] <= 0.95
        assert ours["upper_95_holds"] > 0.9
        assert by_name["gridcast-low"]["under"] > ours["under"]
    assert evaluation.burst_rows[0]["jobs"] < evaluation.rows[0]["jobs"]


def test_quantiles_follow_the_errors_of_waits_predicted_alike() -> None:
    rng = np.random.default_rng(0)
    centres = np.repeat([2.0, 8.0], 400)
    logs = centres + np.where(centres < 5, 1.0, 0.1) * rng.normal(size=800)
    nothing = np.empty(0)
    regression = WaitRegression(lambda rows: nothing, nothing, nothing).learn(centres, logs)
    predicted = regression.predict(np.array([2.0, 8.0]))
    widths = np.log(predicted.quantiles[:, -1] / predicted.quantiles[:, 0])
    assert widths[0] == pytest.approx(2 * 1.645, rel=0.15)
    assert widths[1] == pytest.approx(0.2 * 1.645, rel=0.15)
    assert predicted.centre == pytest.approx(np.exp([2.0, 8.0]))


def test_the_ratio_point_is_amid_most_of_the_waits() -> None:
    errors = np.concatenate([np.zeros(60), np.linspace(3, 9, 40)])
    nothing = np.empty(0)
    regression = WaitRegression(lambda rows: nothing, nothing, nothing)
    predicted = regression.learn(np.full(100, 5.0), 5.0 + errors).predict(np.array([5.0]))
    shares = [
        wait_shares(np.exp(5.0 + errors), np.repeat(point, 100))["within_2_7"]
        for point in (predicted.ratio, predicted.quantiles[:, 13])
    ]
    assert shares == [0.6, pytest.approx(0.13, abs=0.05)]


def test_a_range_may_begin_with_no_wait_at_all() -> None:
    logs = np.concatenate([np.zeros(50), np.full(50, 6.0)])
    nothing = np.empty(0)
    regression = WaitRegression(lambda rows: nothing, nothing, nothing)
    predicted = regression.learn(np.full(100, 3.0), logs).predict(np.array([3.0]))
    assert predicted.quantiles[0, 0] == predicted.low[0] == 0.0
    assert predicted.quantiles[0, -1] == pytest.approx(np.exp(6.0))


def test_too_few_waits_fit_nothing() -> None:
    few = JOBS.head(MIN_TRAINING_ROWS)
    assert backtest_waits(few, queue_inputs(few), 0.6, 0.1) is None
    assert np.isfinite(waits(few)).all()
    rows = evaluate(few, TARGETS["wait"], 0.6, ["gridcast"]).rows
    assert [row["predictor"] for row in rows] == ["gridcast"]
