"""Cold starts: missing fields match nothing, and ranges are as wide as new owners' jobs were."""

import numpy as np
import pandas as pd
import pytest

from jobs.schema import conform, derive_fields
from models.engine.backtest import backtest
from models.engine.forecaster import Forecaster
from models.evaluation.backtest import is_unseen
from models.histories.familiarity import HIGH, LOW, NEW, SEEN, UNREPORTED, Familiarity
from models.histories.features import choose_levels, encode
from models.quantities.targets import TARGETS

START = pd.Timestamp("2026-01-01", tz="UTC")
WALLTIME = TARGETS["walltime"]


def made(**columns: object) -> pd.DataFrame:
    """Jobs an hour apart that ended."""
    jobs = pd.DataFrame({"source": "site"} | columns)
    at = START + pd.to_timedelta(np.arange(len(jobs)), unit="h")
    jobs = jobs.assign(
        job_id=[str(row) for row in range(len(jobs))], submitted_at=at, started_at=at
    )
    return derive_fields(conform(jobs))


@pytest.fixture(scope="module")
def strangers() -> pd.DataFrame:
    """Three jobs each of many users at one request, widely spread, among jobs that report no more.

    The jobs of robots report neither user nor program, and all take the request but five seconds.
    """
    draw, rows = np.random.default_rng(3), 1200
    robot = np.arange(rows) % 2 == 0
    spread = np.exp(draw.uniform(np.log(40.0), np.log(7000.0), rows))
    return made(
        user=np.where(robot, None, [f"u{row // 6}" for row in range(rows)]),
        program=np.where(robot, None, [f"p{row % 7}" for row in range(rows)]),
        requested_walltime=7200.0,
        walltime=np.where(robot, 7195.0, np.floor(spread)),
    )


def test_jobs_that_do_not_report_a_field_have_no_history_by_it(strangers: pd.DataFrame) -> None:
    levels = choose_levels(strangers)
    keys = encode(strangers, levels).keys
    with_user = [number for number, level in enumerate(levels.levels) if "user" in level.fields]
    assert with_user
    assert (keys[::2, with_user] == 0).all()
    assert (keys[1::2, with_user] != 0).all()
    everyone = [level.fields for level in levels.levels].index(())
    assert len(np.unique(keys[:, everyone])) == 1


def test_the_range_of_a_cold_start_is_no_narrower_than_first_jobs_of_strangers(
    strangers: pd.DataFrame,
) -> None:
    forecaster = Forecaster()
    forecaster.learn(strangers)
    query = made(user=["alice"], requested_walltime=7200.0, walltime=np.nan).assign(
        submitted_at=strangers["ended_at"].max()
    )
    prediction = forecaster.predict(query).iloc[0]
    latest = strangers["walltime"].to_numpy()[1::6][-64:]
    assert prediction["cold_start"]
    assert prediction["walltime_low"] <= np.quantile(latest, 0.05, method="lower")
    assert prediction["walltime_high"] >= np.quantile(latest, 0.95, method="higher")
    assert prediction["walltime_low"] <= prediction["walltime"] <= prediction["walltime_high"]


def test_nine_of_ten_jobs_of_new_users_lie_in_their_range(strangers: pd.DataFrame) -> None:
    result = backtest(strangers, refined=False)
    new = is_unseen(strangers, "user", WALLTIME.subject)[result.rows]
    inside = (result.truth >= result.low) & (result.truth <= result.high)
    assert new.sum() == 180
    assert 0.87 < inside[new].mean() < 0.97
    assert ((result.point >= result.low) & (result.point <= result.high)).all()


def test_owners_are_seen_new_or_unreported(strangers: pd.DataFrame) -> None:
    forecaster = Forecaster()
    forecaster.learn(strangers)
    mixture = forecaster.mixtures["walltime"]
    queries = made(user=["u1", "alice", None, "u199"], walltime=1.0).assign(
        submitted_at=strangers["submitted_at"].iloc[800]
    )
    contexts = encode(queries, forecaster.levels)
    found = mixture.familiarity(contexts, np.array([7200.0, 7200.0, 7200.0, 90.0]))
    assert found.status.tolist() == [SEEN, NEW, UNREPORTED, NEW]
    assert found.cold.tolist() == [False, True, True, True]
    known = strangers.iloc[1:800:6]
    known = known[known["ended_at"] <= strangers["submitted_at"].iloc[800]]["walltime"].iloc[-64:]
    assert found.first_low[1] == np.sort(known)[int(LOW * 63)]
    assert found.first_high[1] == np.sort(known)[int(np.ceil(HIGH * 63))]
    # Too few at that request.
    assert np.isnan(found.first_low[[0, 2, 3]]).all()


def test_outcomes_in_the_range_of_first_jobs_count_as_covered_in_calibration() -> None:
    nan = np.full(3, np.nan)
    first_low, first_high = np.array([10.0, 10.0, np.nan]), np.array([90.0, 90.0, np.nan])
    jobs = Familiarity.unknown(3)._replace(first_low=first_low, first_high=first_high)
    below, upto = np.array([0.01, 0.99, 0.99]), np.array([0.02, 1.0, 1.0])
    covered = jobs.without_covered(np.array([50.0, 95.0, 50.0]), below, upto)
    assert covered[0].tolist() == [0.5, 0.99, 0.99]
    assert covered[1].tolist() == [0.5, 1.0, 1.0]
    assert np.isnan(jobs.without_covered(nan, nan, nan)).all()
