"""The prequential replay: no prediction of any caller moves with the future, and ranges are sane."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from jobs.coded_jobs import in_microseconds
from models.engine.backtest import Backtest, backtest, fields_of_replay, predict_in_time
from models.engine.log_rows import LogRows
from models.engine.prequential import (
    AllocationReplay,
    TargetReplay,
)
from models.engine.target_predictor import TargetPredictor, batches
from models.engine.training import train
from models.histories.features import choose_levels
from models.quantities.targets import TARGETS

Jobs = Callable[..., pd.DataFrame]


def scrambled_after(jobs: pd.DataFrame, moment: pd.Timestamp, seed: int = 0) -> pd.DataFrame:
    """The same log as far as it was known at ``moment``: all that had not ended (or begun) by then turns out after_scrambling."""
    draw = np.random.default_rng(seed)
    scrambled = jobs.copy()
    open_then = ~(jobs["ended_at"] <= moment)
    not_begun = open_then & ~(jobs["started_at"] <= moment)
    length = pd.Series(np.floor(draw.exponential(20_000, len(jobs))) + 1, index=jobs.index)
    begun = jobs["started_at"].where(
        ~not_begun, jobs["submitted_at"].clip(lower=moment) + pd.to_timedelta(length / 7, unit="s")
    )
    scrambled["started_at"] = begun.astype(jobs["started_at"].dtype)
    ended = begun.clip(lower=moment) + pd.to_timedelta(length, unit="s")
    scrambled["ended_at"] = jobs["ended_at"].where(~open_then, ended).astype(jobs["ended_at"].dtype)
    seconds = (scrambled["ended_at"] - scrambled["started_at"]).dt.total_seconds()
    scrambled["walltime"] = jobs["walltime"].where(~open_then, seconds)
    scrambled["status"] = jobs["status"].where(~open_then, "failed")
    return scrambled


@pytest.fixture(scope="module")
def log(habits: Jobs) -> pd.DataFrame:
    return habits(rows=2500, seed=11)


@pytest.fixture(scope="module")
def replayed(log: pd.DataFrame) -> Backtest:
    return backtest(log, warm_up=0.2, refit_every=0.2)


@pytest.mark.parametrize("share", [0.45, 0.8])
def test_no_answer_moves_when_the_future_does(
    log: pd.DataFrame, replayed: Backtest, share: float
) -> None:
    moment = log["submitted_at"].quantile(share)
    after_scrambling = backtest(scrambled_after(log, moment), warm_up=0.2, refit_every=0.2)
    before = {
        int(row): position
        for position, row in enumerate(replayed.rows)
        if log["submitted_at"].iloc[row] <= moment
    }
    after = {int(row): position for position, row in enumerate(after_scrambling.rows)}
    both = sorted(before.keys() & after.keys())
    assert len(both) > 300
    mine, theirs = [before[row] for row in both], [after[row] for row in both]
    for name in ("point", "median", "mean", "low", "high", "quantiles"):
        np.testing.assert_array_equal(
            getattr(replayed, name)[mine], getattr(after_scrambling, name)[theirs], err_msg=name
        )


def test_scrambling_does_change_what_comes_later(log: pd.DataFrame, replayed: Backtest) -> None:
    """So the test above would see a leak: the later answers, which may know of it, do move."""
    moment = log["submitted_at"].quantile(0.45)
    after_scrambling = backtest(scrambled_after(log, moment), warm_up=0.2, refit_every=0.2)
    assert not np.array_equal(replayed.point[-300:], after_scrambling.point[-300:])


def test_quantiles_do_not_cross_and_keep_to_the_request(
    log: pd.DataFrame, replayed: Backtest
) -> None:
    assert (np.diff(replayed.quantiles, axis=1) >= 0).all()
    assert (replayed.low <= replayed.high).all()
    assert (replayed.point >= 0).all()
    assert np.isfinite(replayed.quantiles).all()


def test_only_jobs_after_the_warm_up_with_an_outcome_are_judged(
    log: pd.DataFrame, replayed: Backtest
) -> None:
    outcomes = log["walltime"].iloc[replayed.rows]
    np.testing.assert_array_equal(outcomes.to_numpy(), replayed.truth)
    assert len(replayed.rows) == int(log["walltime"].iloc[int(0.2 * len(log)) :].notna().sum())


MEMORY = ("walltime", "peak_memory")


@pytest.fixture(scope="module")
def measured(log: pd.DataFrame) -> pd.DataFrame:
    """The log with the memory of each ended job, which grows with its walltime."""
    return log.assign(peak_memory=2.0**20 * (100 + log["walltime"]))


def unmeasured_after(jobs: pd.DataFrame, moment: pd.Timestamp) -> pd.DataFrame:
    scrambled = scrambled_after(jobs, moment)
    late = ~(jobs["ended_at"] <= moment)
    return scrambled.assign(peak_memory=jobs["peak_memory"].where(~late, 2.0**33))


def test_no_prediction_of_a_served_version_moves_when_the_future_does(
    measured: pd.DataFrame,
) -> None:
    since, moment = (measured["submitted_at"].quantile(share) for share in (0.4, 0.7))
    model_set = train(
        measured[measured["submitted_at"] < since], targets=MEMORY, until=in_microseconds(since)
    )
    later = measured[measured["submitted_at"] >= since]
    now, scrambled = (
        predict_in_time(model_set, history, later, (0.8,))
        for history in (measured, unmeasured_after(measured, moment))
    )
    fields = fields_of_replay(model_set)
    assert fields is not None and len(fields) < 15
    by_fields = predict_in_time(model_set, measured[fields], later, (0.8,))
    pd.testing.assert_frame_equal(by_fields, now)
    before = (later["submitted_at"] <= moment).to_numpy()
    assert before.sum() > 500
    pd.testing.assert_frame_equal(now[before], scrambled[before])
    for column in ("walltime", "peak_memory", "peak_memory_allocation_2", "walltime_q0.8"):
        assert not now.loc[~before, column].equals(scrambled.loc[~before, column]), column


def test_a_training_as_of_a_time_uses_no_outcome_of_later(measured: pd.DataFrame) -> None:
    since = measured["submitted_at"].quantile(0.6)
    earlier = measured[measured["submitted_at"] < since]
    now, scrambled = (
        train(jobs, targets=MEMORY, until=in_microseconds(since))
        for jobs in (earlier, unmeasured_after(earlier, since))
    )
    for name in MEMORY:
        mine, theirs = now.targets[name], scrambled.targets[name]
        np.testing.assert_array_equal(mine.learned.rows, theirs.learned.rows)
        np.testing.assert_array_equal(mine.calibration.upto, theirs.calibration.upto)
        assert mine.refiners.keys() == theirs.refiners.keys()
    assert now.card.metrics == scrambled.card.metrics
    assert now.card.thresholds == scrambled.card.thresholds


def test_no_allocation_moves_when_the_future_does(measured: pd.DataFrame) -> None:
    moment = measured["submitted_at"].quantile(0.5)
    rows, levels = np.arange(1500), choose_levels(measured.iloc[:500])
    now, scrambled = (
        AllocationReplay.of_jobs(jobs, levels).advance(rows)
        for jobs in (measured, unmeasured_after(measured, moment))
    )
    before = (measured["submitted_at"] <= moment).to_numpy()[rows]
    for name, values in now._asdict().items():
        np.testing.assert_array_equal(
            values[before], getattr(scrambled, name)[before], err_msg=name
        )
    assert not np.array_equal(now.mass, scrambled.mass)


def test_queries_between_the_jobs_are_predicted_as_of_their_own_time(log: pd.DataFrame) -> None:
    """As tasks are: a query at a job's submission is predicted as the job itself."""
    target, levels = TARGETS["walltime"], choose_levels(log.iloc[:500])
    rows = LogRows.of(log, target, levels)
    jobs = TargetReplay(TargetPredictor.create(target, levels), rows)
    masses = np.concatenate([jobs.masses(batch)[0].mass for batch in batches(np.arange(900), 64)])
    picked = np.arange(300, 900, 7)
    with_queries = rows.with_queries(rows.contexts.take(picked))
    queries = TargetReplay(TargetPredictor.create(target, levels), with_queries)
    query_rows = len(log) + np.arange(len(picked))
    of_jobs = masses[picked][np.isinf(rows.limits[picked])]
    of_queries = queries.masses(query_rows)[0].mass[np.isinf(rows.limits[picked])]
    assert len(of_jobs) > 5
    np.testing.assert_array_equal(of_jobs, of_queries)


def test_batches_change_no_prediction(log: pd.DataFrame) -> None:
    target, levels = TARGETS["walltime"], choose_levels(log.iloc[:500])
    points = []
    for size in (1, 97):
        replay = TargetReplay(
            TargetPredictor.create(target, levels), LogRows.of(log, target, levels)
        )
        predictions = [replay.advance(rows) for rows in batches(np.arange(600), size)]
        points.append(np.concatenate([replay.points(batch) for batch in predictions]))
    np.testing.assert_array_equal(*points)
