"""Advice calibrated on later jobs: within its risk, monotone in it, and blind to the future."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jobs.store import add_jobs
from monitoring.advice_calibration import (
    MIN_KINDS,
    Kinds,
    Margin,
    advised_amounts,
    amounts,
    later_needs,
    least_jobs,
    margins,
)
from monitoring.advising import _ask_for, _time, advise, sentences
from tests.monitoring.test_advising import NOW, SINCE, jobs, site

RISKS = (0.001, 0.01, 0.02, 0.05, 0.1, 0.3, 0.5)
END = int(pd.Timestamp(NOW).timestamp() * 1e6)


def site_jobs(users: int, count: int, seed: int = 7) -> pd.DataFrame:
    """Jobs of a program a user whose walltimes vary more or less, all with a request of 10 h."""
    random = np.random.default_rng(seed)
    parts = [
        jobs(f"u{user}", "reco", np.exp(random.normal(6.0, 0.1 + 0.1 * user, count)))
        for user in range(users)
    ]
    frame = pd.concat(parts, ignore_index=True)
    frame["walltime"] = frame["walltime"].clip(upper=36_000.0)
    return frame.sort_values("submitted_at", kind="stable", ignore_index=True)


def advice(frame: pd.DataFrame, risk: float, now: int = END) -> pd.DataFrame:
    coded = Kinds.of(frame, "walltime", by_user=True)
    past = Kinds.of(
        frame[frame["ended_at"] <= pd.Timestamp(now * 1000, tz="UTC")], "walltime", True
    )
    needs, kinds = later_needs(past, 60.0), coded.at(now)[1]
    return advised_amounts(kinds, needs, needs, np.zeros(len(kinds)), risk, 60.0)


def test_less_risk_never_asks_for_less() -> None:
    frame = site_jobs(12, 40)
    asked = [advice(frame, risk)["amount"].to_numpy() for risk in RISKS]
    assert all((tight >= loose).all() for tight, loose in pairwise(asked))
    assert (asked[1] > asked[-1]).any(), "the risk is used"


def test_few_jobs_never_have_less_margin_than_many() -> None:
    """Later jobs of kinds of 300 needed half the way to the limit, those of ten to 99 nothing."""
    rows = [
        {"kind": kind, "job": 100 * kind + job, "cell": cell, "margin": margin}
        for cell, margin in ((1, 0.0), (3, 0.0), (5, 0.5))
        for kind in range(10 * cell, 10 * cell + MIN_KINDS)
        for job in range(20)
    ]
    kinds = pd.DataFrame({"cell": [0, 1, 3, 5, 7]}, index=[900, 901, 903, 905, 907])
    needs = pd.DataFrame(rows)
    chosen = margins(kinds, needs, needs, 0.05)
    assert chosen["margin"].tolist() == [-np.inf, 0.5, 0.5, 0.5, -np.inf]
    assert chosen["enough"].tolist() == [False, True, True, True, False]
    assert not margins(kinds, needs, needs[needs["kind"] % 10 > 0], 0.05)["enough"].any(), "9 kinds"


def test_outcomes_after_the_advice_change_nothing_in_it() -> None:
    frame = site_jobs(12, 60)
    now = int(frame["ended_at"].quantile(0.5, interpolation="lower").timestamp() * 1e6)
    scrambled = frame.copy()
    future = frame["ended_at"] > pd.Timestamp(now * 1000, tz="UTC")
    assert 0.4 < future.mean() < 0.6
    scrambled.loc[future, "walltime"] = 30_000.0
    scrambled.loc[future, "ended_at"] += pd.Timedelta(hours=3)
    pd.testing.assert_frame_equal(advice(frame, 0.05, now), advice(scrambled, 0.05, now))


def test_a_month_of_later_jobs_keeps_to_the_advice_at_its_risk_where_jobs_alike_drift() -> None:
    """Kinds of which a third become longer halfway: what past jobs kept to is exceeded by many."""
    random = np.random.default_rng(3)
    parts = []
    for user in range(40):
        factor = np.where(np.arange(60) < 30, 1.0, 4.0 if user % 3 == 0 else 1.0)
        walltimes = 600.0 * factor * random.uniform(0.9, 1.1, 60)
        late = pd.Timedelta(hours=float(random.uniform(0, 400)))
        part = jobs(f"u{user}", "reco", walltimes)
        for name in ("submitted_at", "started_at", "ended_at"):
            part[name] += late
        parts.append(part)
    frame = pd.concat(parts, ignore_index=True).sort_values("submitted_at", kind="stable")
    now = int(pd.Timestamp(SINCE + timedelta(hours=300)).timestamp() * 1e6)
    coded = Kinds.of(frame, "walltime", by_user=True)
    of_jobs, kinds = coded.at(now)
    table = advice(frame, 0.05, now)
    later = (coded.submitted > now) & np.isin(of_jobs, kinds.index)
    needs = coded.needs[later]
    longest = kinds["longest"].reindex(of_jobs[later]).to_numpy()
    advised = table["amount"].reindex(of_jobs[later]).to_numpy()
    assert (needs > longest).mean() > 0.15, "the longest of the past is no advice"
    assert (needs > advised).mean() <= 0.05
    assert advised.max() < 36_000.0


def test_a_margin_counts_one_more_job_as_exceeding_it() -> None:
    needs = pd.DataFrame({"job": range(99), "margin": np.linspace(0.0, 0.98, 99)})
    assert Margin.of(needs, 0.01) == Margin(pytest.approx(0.98), 99)
    assert Margin.of(needs, 0.05).value == pytest.approx(0.94)
    assert (least_jobs(0.01), least_jobs(0.05), least_jobs(0.3)) == (99, 19, 3)
    twice = pd.concat([needs, needs])
    assert Margin.of(twice, 0.05) == Margin.of(needs, 0.05), "a job seen twice is one job"
    assert Margin.of(needs.head(0), 0.5).value == -np.inf


def test_too_few_jobs_are_said_with_their_number_and_keep_their_request(sqlite_store: Any) -> None:
    ask = site(
        sqlite_store,
        jobs("ann", "reco", [600.0] * 15),
        jobs("bob", "free", [60.0] * 15, None),
    )
    (row,) = advise(sqlite_store, ask, "ann", SINCE, NOW, risk=0.01).rows
    assert (row["walltime_ask_for"], row["walltime_enough"]) == (36_000.0, False)
    assert 5 <= row["walltime_later_jobs"] < 15
    words = " ".join(sentences(advise(sqlite_store, ask, "ann", SINCE, NOW, risk=0.01), "UTC"))
    assert "Keep to what you request: not enough jobs to advise at a risk of 1 %" in words
    assert (
        f"it takes 99 that ran after past advice on such jobs, and there are {row['walltime_later_jobs']}"
        in words
    )
    (row,) = advise(sqlite_store, ask, "ann", SINCE, NOW, risk=0.2).rows
    assert row["walltime_enough"] and row["walltime_ask_for"] <= 900
    (row,) = advise(sqlite_store, ask, "bob", SINCE, NOW, risk=0.01).rows
    assert np.isnan(row["walltime_ask_for"]) and not row["walltime_enough"]
    words = " ".join(sentences(advise(sqlite_store, ask, "bob", SINCE, NOW, risk=0.01), "UTC"))
    assert " Not enough jobs to advise" in words


def test_jobs_of_other_users_tell_what_the_few_of_one_may_need(sqlite_store: Any) -> None:
    """Ten jobs of ann's are too few; a hundred of other users of as few jobs are not."""
    others = [jobs(f"u{user}", "reco", [600.0] * 15) for user in range(MIN_KINDS + 2)]
    ask = site(sqlite_store, jobs("ann", "reco", [600.0] * 12), *others)
    (row,) = advise(sqlite_store, ask, "ann", SINCE, NOW, by="user", risk=0.02).rows
    assert row["walltime_enough"] and row["walltime_later_jobs"] >= 49
    assert row["walltime_ask_for"] <= 900


def test_advice_ends_at_the_limit_of_the_queue_and_says_so() -> None:
    kind = {"longest": 600.0, "limit": 3600.0, "request": 0.0, "queue_limit": 3600.0}
    kinds = pd.DataFrame([kind | {"margin": margin, "enough": True} for margin in (0.5, 1.5)])
    table = amounts(kinds, np.zeros(2), 60.0)
    assert table["capped"].tolist() == [False, True]
    assert table["amount"].tolist() == [1500.0, 3600.0]
    row = {"walltime_ask_for": 3600.0, "walltime_asked": np.nan, "walltime_risk": 0.01}
    row |= {"walltime_beyond": False, "walltime_enough": True, "walltime_capped": True}
    row |= {"walltime_low": 60.0, "walltime_high": 900.0, "walltime_more": 0.0}
    words = _ask_for(row, "walltime", _time)
    assert "this risk takes more: no job of the queue has requested or used so much" in words


def test_the_limit_of_a_queue_is_told_by_the_jobs_of_all_its_users(sqlite_store: Any) -> None:
    """Ann's jobs outgrow each other, but not eve's of the same queue."""
    growing = 600.0 * 1.05 ** np.arange(60)
    parts = [
        jobs("ann", "", growing, None).assign(queue="long", program=None),
        jobs("eve", "sim", [30.0 * growing[-1]] * 3, None).assign(queue="long"),
    ]
    ask = site(sqlite_store, *parts)
    (row,) = advise(sqlite_store, ask, "ann", SINCE, NOW, risk=0.05).rows
    assert row["program"] == "jobs without a program"
    assert row["walltime_ask_for"] > growing[-1] * 1.1, "ann's own jobs are no limit"


def test_programs_of_a_few_jobs_each_are_advised_together(sqlite_store: Any) -> None:
    """Many users give each job a name of its own."""
    parts = [jobs("ann", f"run{number}", [600.0]) for number in range(60)]
    frame = pd.concat(parts, ignore_index=True)
    hours = pd.to_timedelta(np.arange(60), unit="h")
    for name in ("submitted_at", "started_at", "ended_at"):
        frame[name] += hours
    ask = site(sqlite_store, frame)
    (row,) = advise(sqlite_store, ask, "ann", SINCE, NOW, risk=0.05).rows
    assert (row["program"], row["jobs"], row["walltime_enough"]) == ("other programs", 60, True)
    assert row["walltime_ask_for"] <= 900


def test_what_ends_after_the_moment_of_advice_is_not_read(sqlite_store: Any) -> None:
    frame = site_jobs(3, 120)
    ask = site(sqlite_store, frame)
    moment = pd.Timestamp(SINCE + timedelta(hours=80)).to_pydatetime()
    before = advise(sqlite_store, ask, "u1", SINCE, moment, risk=0.05)
    late = jobs("u1", "reco", [35_000.0] * 4).assign(job_id=[f"late-{n}" for n in range(4)])
    for name in ("started_at", "ended_at"):
        late[name] += pd.Timedelta(hours=100)
    with sqlite_store.begin() as connection:
        add_jobs(connection, late)
    assert advise(sqlite_store, ask, "u1", SINCE, moment, risk=0.05).rows == before.rows
