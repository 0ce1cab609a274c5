"""The engine lived through a log: nothing of the future moves an answer, and every answer is a sane range."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from models.engine.backtest import Backtest, backtest

Jobs = Callable[..., pd.DataFrame]


def scrambled_after(jobs: pd.DataFrame, moment: pd.Timestamp, seed: int = 0) -> pd.DataFrame:
    """The same log as far as it was known at ``moment``: all that had not ended (or begun) by then turns out otherwise."""
    draw = np.random.default_rng(seed)
    other = jobs.copy()
    open_then = ~(jobs["ended_at"] <= moment)
    not_begun = open_then & ~(jobs["started_at"] <= moment)
    length = pd.Series(np.floor(draw.exponential(20_000, len(jobs))) + 1, index=jobs.index)
    begun = jobs["started_at"].where(
        ~not_begun, jobs["submitted_at"].clip(lower=moment) + pd.to_timedelta(length / 7, unit="s")
    )
    other["started_at"] = begun.astype(jobs["started_at"].dtype)
    ended = begun.clip(lower=moment) + pd.to_timedelta(length, unit="s")
    other["ended_at"] = jobs["ended_at"].where(~open_then, ended).astype(jobs["ended_at"].dtype)
    seconds = (other["ended_at"] - other["started_at"]).dt.total_seconds()
    other["walltime"] = jobs["walltime"].where(~open_then, seconds)
    other["status"] = jobs["status"].where(~open_then, "failed")
    return other


@pytest.fixture(scope="module")
def log(habits: Jobs) -> pd.DataFrame:
    return habits(rows=2500, seed=11)


@pytest.fixture(scope="module")
def lived(log: pd.DataFrame) -> Backtest:
    return backtest(log, warm_up=0.2, refit_every=0.2)


@pytest.mark.parametrize("share", [0.45, 0.8])
def test_no_answer_moves_when_the_future_does(
    log: pd.DataFrame, lived: Backtest, share: float
) -> None:
    moment = log["submitted_at"].quantile(share)
    otherwise = backtest(scrambled_after(log, moment), warm_up=0.2, refit_every=0.2)
    before = {
        int(row): place
        for place, row in enumerate(lived.rows)
        if log["submitted_at"].iloc[row] <= moment
    }
    after = {int(row): place for place, row in enumerate(otherwise.rows)}
    both = sorted(before.keys() & after.keys())
    assert len(both) > 300
    mine, theirs = [before[row] for row in both], [after[row] for row in both]
    for name in ("point", "median", "mean", "low", "high", "quantiles"):
        np.testing.assert_array_equal(
            getattr(lived, name)[mine], getattr(otherwise, name)[theirs], err_msg=name
        )


def test_scrambling_does_change_what_comes_later(log: pd.DataFrame, lived: Backtest) -> None:
    """So the test above would see a leak: the later answers, which may know of it, do move."""
    moment = log["submitted_at"].quantile(0.45)
    otherwise = backtest(scrambled_after(log, moment), warm_up=0.2, refit_every=0.2)
    assert not np.array_equal(lived.point[-300:], otherwise.point[-300:])


def test_quantiles_do_not_cross_and_keep_to_the_request(log: pd.DataFrame, lived: Backtest) -> None:
    assert (np.diff(lived.quantiles, axis=1) >= 0).all()
    assert (lived.low <= lived.high).all()
    assert (lived.point >= 0).all()
    assert np.isfinite(lived.quantiles).all()


def test_only_jobs_after_the_warm_up_with_an_outcome_are_judged(
    log: pd.DataFrame, lived: Backtest
) -> None:
    known = log["walltime"].iloc[lived.rows]
    np.testing.assert_array_equal(known.to_numpy(), lived.truth)
    assert len(lived.rows) == int(log["walltime"].iloc[int(0.2 * len(log)) :].notna().sum())
