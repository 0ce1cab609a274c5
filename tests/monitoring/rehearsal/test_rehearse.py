"""A rehearsal of a log in which everything becomes slower; nothing knows the future."""

import re

import numpy as np
import pandas as pd
import pytest

from jobs.workload import Change, generate
from models.baselines.available_history import read_history
from models.engine.training import TrainingError
from models.quantities.targets import TARGETS
from monitoring.rehearsal import rehearse as rehearsal
from monitoring.rehearsal.page import describe_benefit, write_page
from monitoring.rehearsal.rehearse import Rehearsal, rehearse
from monitoring.rehearsal.retrained_models import PlainCatBoost

WALLTIME = TARGETS["walltime"]
FIRST = 400
"""The warm-up of a tenth."""


@pytest.fixture(scope="module")
def log() -> pd.DataFrame:
    programs = list(generate(10, 1, 5).truth["programs"])
    changes = [Change("slow_program", 14, name, 4.0) for name in programs]
    return generate(4000, 30, 5, changes=changes).jobs.sort_values(
        "submitted_at", kind="stable", ignore_index=True
    )


@pytest.fixture(scope="module")
def lived(log: pd.DataFrame) -> Rehearsal:
    return rehearse(log, WALLTIME, period=5 * 86400, predictors=["catboost"])


def test_one_predictor_lives_under_every_policy_and_is_judged_on_the_same_jobs(
    lived: Rehearsal, log: pd.DataFrame
) -> None:
    assert [(row["predictor"], row["policy"]) for row in lived.rows] == [
        ("catboost", policy) for policy in ("never", "schedule", "decay")
    ]
    known = np.isfinite(WALLTIME.value(log))[FIRST:].sum()
    for row, life in zip(lived.rows, lived.runs, strict=True):
        assert row["jobs"] == known == len(life.point) == len(life.low)
        assert row["mae"] == pytest.approx(np.abs(life.point - lived.truth).mean())
        assert 0.75 < float(str(row["coverage_90"])) < 0.99
        assert (life.low <= life.high).all()


def test_never_trains_never_and_the_schedule_keeps_its_period(lived: Rehearsal) -> None:
    retrainings = {life.policy: life.retrainings for life in lived.runs}
    assert retrainings["never"] == ()
    times = np.array([one.at for one in retrainings["schedule"]])
    assert len(times) == 5
    assert (np.diff(times) >= 5 * 86400e6).all()
    assert 2 * len(retrainings["decay"]) <= len(times)


def test_a_promotion_is_explained_and_changes_only_what_comes_after_it(lived: Rehearsal) -> None:
    never, schedule, _ = lived.runs
    promoted = [one.at for one in schedule.retrainings if one.promoted]
    assert promoted
    assert all(
        "its mean absolute error is" in one.verdict for one in schedule.retrainings if one.promoted
    )
    same = lived.at < promoted[0]
    assert np.array_equal(schedule.point[same], never.point[same])
    assert not np.array_equal(schedule.point, never.point)


def test_the_engine_learns_from_its_histories_under_every_policy(log: pd.DataFrame) -> None:
    lived = rehearse(log.head(2500), WALLTIME, warm_up=0.4, period=1e9, predictors=["gridcast"])
    never, schedule, decay = lived.runs
    assert np.array_equal(never.point, schedule.point)
    assert [len(life.retrainings) for life in (never, schedule)] == [0, 0]
    assert len(never.point) == len(decay.point) == len(lived.truth)
    assert len(np.unique(never.point)) > 100


def test_nothing_is_decided_or_predicted_by_what_ended_later(
    log: pd.DataFrame, lived: Rehearsal
) -> None:
    cut = log["submitted_at"].iloc[0] + pd.Timedelta(days=20)
    other = log.copy()
    late = other["ended_at"] > cut
    other.loc[late, "walltime"] *= np.random.default_rng(0).lognormal(0, 2, int(late.sum()))
    before = lived.runs[-1]
    seen = read_history(other, WALLTIME)
    scrambled = rehearsal.run_policy(
        PlainCatBoost(seen), "decay", rehearsal._read(seen, FIRST), 5 * 86_400_000_000
    )
    until = cut.value // 1000
    told = [
        (one.at, one.why, one.promoted, one.verdict)
        for one in before.retrainings
        if one.at <= until
    ]
    assert told == [
        (one.at, one.why, one.promoted, one.verdict)
        for one in scrambled.retrainings
        if one.at <= until
    ]
    known = np.flatnonzero(np.isfinite(seen.values[FIRST:]))
    early = lived.at <= until
    assert np.array_equal(before.point[early], scrambled.point[known][early])


def test_the_page_tells_what_retraining_is_worth_and_loads_nothing(
    lived: Rehearsal, tmp_path
) -> None:
    html = write_page(lived, "a <log>", tmp_path / "rehearsal.html").read_text()
    assert "Rehearsal of a &lt;log&gt;" in html
    for row in lived.rows:
        if row["policy"] != "never":
            assert describe_benefit(row) in html
    assert html.count("<svg ") == 2 and not re.search(r"https?://", html)
    assert html.count("<tr><td>20") == sum(len(life.retrainings) for life in lived.runs)


def test_a_log_too_short_or_a_share_that_is_none_is_refused(log: pd.DataFrame) -> None:
    with pytest.raises(TrainingError, match="jobs of the warm-up ended within it"):
        rehearse(log.head(500), WALLTIME)
    with pytest.raises(TrainingError, match="between 0 and 1"):
        rehearse(log, WALLTIME, warm_up=1.0)
