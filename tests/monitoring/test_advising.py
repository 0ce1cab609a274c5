"""Advice: requests and use, what to request, and what is left out, on known numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from infra.errors import InputError
from infra.settings import Settings
from jobs.schema import conform, derive_fields
from jobs.store import add_jobs
from models.engine.forecaster import Forecaster
from monitoring.advising import (
    UsageAdvice,
    advise,
    larger,
    most_wasteful_users,
    plausible_jobs,
    sentences,
    with_needs,
)
from monitoring.alerts import send_once
from tests.monitoring.test_alerts import Hook, Receiver

NOW = datetime(2026, 3, 29, tzinfo=UTC)
SINCE = NOW - timedelta(days=28)


def jobs(
    user: str, program: str, walltimes: Any, requested: float | None = 36_000.0, **fields: Any
) -> pd.DataFrame:
    rows = [
        {
            "job_id": f"{user}-{program}-{number}",
            "source": "site",
            "user": user,
            "group": "atlas",
            "program": program,
            "walltime": walltime,
        }
        | {
            "requested_walltime": requested,
            "requested_cores": 4.0,
            "requested_memory": 8e9,
            "peak_memory": 2e9,
            "status": "completed",
        }
        | {"submitted_at": pd.Timestamp(SINCE) + pd.Timedelta(hours=number)}
        | fields
        for number, walltime in enumerate(walltimes)
    ]
    frame = conform(pd.DataFrame(rows))
    frame["started_at"] = frame["submitted_at"] + pd.Timedelta(minutes=5)
    return derive_fields(frame)


def site(engine: Any, *parts: pd.DataFrame) -> Any:
    """The store with these jobs, and a forecaster that learned them, to be asked."""
    everything = pd.concat(parts, ignore_index=True)
    with engine.begin() as connection:
        add_jobs(connection, everything)
    forecaster = Forecaster(targets=("walltime", "peak_memory"))
    forecaster.learn(everything)

    def ask(rows: list[dict[str, Any]], quantiles: Any) -> list[dict[str, Any]]:
        thought_of = conform(pd.DataFrame(rows)).assign(
            submitted_at=pd.Timestamp(NOW), job_id=[str(place) for place in range(len(rows))]
        )
        return forecaster.predict(thought_of, tuple(quantiles)).to_dict("records")

    return ask


def test_asked_against_used_and_what_to_ask_for_instead(sqlite_store: Any) -> None:
    hours = 3600 * np.random.default_rng(1).uniform(0.9, 1.1, 200)
    ask = site(
        sqlite_store,
        jobs("ann", "reco", hours),
        jobs("ann", "once", [60.0] * 4),
        jobs("bob", "sim", hours * 2),
    )
    advised = advise(sqlite_store, ask, "ann", SINCE, NOW, risk=0.05)
    assert (advised.having, advised.jobs, advised.left_out) == ({"user": "ann"}, 204, {})
    (row,) = advised.rows  # four jobs say nothing
    assert (row["program"], row["jobs"], row["walltime_asked"]) == ("reco", 200, 36_000)
    assert row["unused_core_hours"] == pytest.approx(4 * (10 * 200 - hours.sum() / 3600), rel=1e-3)
    assert (
        3600 * 1.05 <= row["walltime_ask_for"] <= 3600 * 1.3 and row["walltime_ask_for"] % 60 == 0
    )
    assert row["walltime_low"] < 3600 < row["walltime_high"] and row["walltime_risk"] == 0.05
    assert row["walltime_more"] == pytest.approx(float((hours > row["walltime_ask_for"]).mean()))
    assert 2e9 <= row["peak_memory_ask_for"] <= 3e9
    said = sentences(advised, "Europe/Zurich")
    assert (
        said[0]
        == "user ann: 204 jobs submitted from 2026-03-01 01:00 to 2026-03-29 01:00 (Europe/Zurich)."
    )
    assert (
        said[1].startswith("reco on 4 cores, 200 jobs: requested 10 h 00 min, used 1 h 00 min")
        and "Request 1 h" in said[1]
    )


def test_what_is_advised_is_the_larger_of_what_is_foreseen_and_of_what_the_jobs_kept_to() -> None:
    used = pd.Series(np.arange(1.0, 101.0))
    assert larger(50.0, used, risk=0.05) == 96.0 and larger(500.0, used, risk=0.05) == 500.0
    assert larger(1.0, used.head(5), risk=0.05) == 5.0, "of few jobs the longest"


def test_jobs_that_asked_for_different_times_are_advised_apart_and_by_what_they_kept_to(
    sqlite_store: Any,
) -> None:
    """The latest jobs are short: a prediction for the next one would kill the longer ones."""
    many = jobs("ann", "reco", [600.0] * 30)
    few = jobs("ann", "reco", [20_000.0] * 10, requested=72_000.0).assign(
        job_id=[f"long-{number}" for number in range(10)]
    )
    turned = jobs("bob", "sim", [*[9_000.0] * 20, *[60.0] * 60])
    ask = site(sqlite_store, many, few, turned)
    advised = {
        row["walltime_asked"]: row["walltime_ask_for"]
        for row in advise(sqlite_store, ask, "ann", SINCE, NOW, risk=0.05).rows
    }
    assert set(advised) == {36_000.0, 72_000.0}
    assert advised[36_000.0] < 2 * 600 and advised[72_000.0] >= 20_000
    (row,) = advise(sqlite_store, ask, "bob", SINCE, NOW, risk=0.05).rows
    (foreseen,) = ask(
        [
            {
                "source": "site",
                "user": "bob",
                "group": "atlas",
                "program": "sim",
                "requested_walltime": 36_000.0,
            }
        ],
        (0.95,),
    )
    assert foreseen["walltime_q0.95"] < 9_000 <= row["walltime_ask_for"]


def test_a_group_and_a_program_are_advised_as_a_user_is_and_a_stranger_is_named(
    sqlite_store: Any,
) -> None:
    ask = site(sqlite_store, jobs("ann", "reco", [600.0] * 10), jobs("bob", "reco", [600.0] * 10))
    assert advise(sqlite_store, ask, "atlas", SINCE, NOW).jobs == 20
    assert advise(sqlite_store, ask, "reco", SINCE, NOW).having == {"program": "reco"}
    with pytest.raises(InputError, match="no job of a group called ann"):
        advise(sqlite_store, ask, "ann", SINCE, NOW, by="group")
    with pytest.raises(InputError, match="no job of a user, group, project or program called zoe"):
        advise(sqlite_store, ask, "zoe", SINCE, NOW)


def test_records_that_cannot_be_right_are_counted_once_and_left_out() -> None:
    good = jobs("ann", "reco", [600.0] * 40)
    wrong = jobs("ann", "wrong", [600.0] * 4)
    wrong["walltime"] = [np.nan, 600.0, 90_000.0, 600.0]
    wrong["cpu_time"] = [1e9, 1e9, np.nan, np.nan]
    wrong.loc[3, "peak_memory"] = 0.0
    kept, left_out = plausible_jobs(pd.concat([good, wrong], ignore_index=True))
    assert len(kept) == 40 and set(kept["program"]) == {"reco"}
    assert left_out == {
        "without a run time": 1,
        "with more CPU time than their cores have": 1,
        "that ran twice as long as they might": 1,
        "with no memory in use": 1,
    }
    loose, left_out = plausible_jobs(jobs("ann", "reco", [90_000.0] * 40))
    assert len(loose) == 40 and left_out == {}, "where nobody keeps to a limit it is none"


def test_jobs_killed_at_their_limit_are_told_and_nothing_asked_for_is_said(
    sqlite_store: Any,
) -> None:
    ask = site(
        sqlite_store,
        jobs("ann", "reco", [36_000.0] * 10, status="timeout"),
        jobs("bob", "free", [60.0] * 10, None, requested_memory=None),
    )
    (row,) = advise(sqlite_store, ask, "ann", SINCE, NOW).rows
    assert row["killed_at_limit"] == 10 and row["walltime_beyond"]
    said = sentences(advise(sqlite_store, ask, "ann", SINCE, NOW), "UTC")[1]
    assert said.endswith(
        "10 killed at the limit. Request more than 10 h 00 min: how much those that were killed would have needed, nobody knows."
    )
    assert "requested nothing" in sentences(advise(sqlite_store, ask, "bob", SINCE, NOW), "UTC")[1]


def test_the_most_wasteful_come_first_and_their_letter_goes_out_once_a_week(
    sqlite_store: Any,
) -> None:
    site(
        sqlite_store,
        jobs("ann", "reco", [600.0] * 10),
        jobs("bob", "reco", [600.0] * 30),
        jobs("eve", "reco", [60.0] * 9, None),
    )
    assert most_wasteful_users(sqlite_store, SINCE, NOW) == ["bob", "ann"]
    hook = Receiver(Hook)
    settings = Settings(alerts=f"json://127.0.0.1:{hook.port}/")
    try:
        assert send_once(
            sqlite_store, settings, "advice 2026-13", "week 13", "bob should ask for less", NOW
        )
        assert not send_once(
            sqlite_store,
            settings,
            "advice 2026-13",
            "week 13",
            "bob should ask for less",
            NOW + timedelta(hours=1),
        )
        assert send_once(
            sqlite_store,
            settings,
            "advice 2026-14",
            "week 14",
            "ann should",
            NOW + timedelta(days=7),
        )
    finally:
        hook.stop()
    assert [(one["title"], one["message"]) for one in hook.got] == [
        ("Gridcast gridcast: week 13", "bob should ask for less"),
        ("Gridcast gridcast: week 14", "ann should"),
    ]


def attempt(job: pd.Series, status: str, **fields: Any) -> dict[str, Any]:
    """A run of a job that was killed half an hour before the job was queued again."""
    start = job["submitted_at"] - pd.Timedelta(minutes=40)
    times = {"submitted_at": start, "started_at": start, "ended_at": start + timedelta(minutes=10)}
    return {"source": "site", "job_id": job["job_id"], "status": status, "walltime": 600.0} | (
        times | fields
    )


def test_attempts_that_were_killed_say_that_their_request_was_too_small(
    sqlite_store: Any,
) -> None:
    gib = 2.0**30
    ran = jobs("ann", "reco", [3600.0] * 40)
    ask = site(sqlite_store, ran)
    plain = advise(sqlite_store, ask, "ann", SINCE, NOW, risk=0.05).rows[0]
    assert (plain["several_attempts"], plain["earlier_attempts"]) == (0.0, 0)
    assert not any(
        "attempts:" in line
        for line in sentences(UsageAdvice({"user": "ann"}, SINCE, NOW, 40, {}, [plain]), "UTC")
    )

    # Ten jobs were killed with 6 GiB, five after three hours, one was preempted: all ran again.
    killed = [
        *(attempt(ran.iloc[i], "out_of_memory", requested_memory=6 * gib) for i in range(10)),
        *(
            attempt(
                ran.iloc[i], "timeout", requested_walltime=10_800.0, walltime=10_800.0,
                submitted_at=ran["submitted_at"].iloc[i] - pd.Timedelta(hours=4),
                started_at=ran["submitted_at"].iloc[i] - pd.Timedelta(hours=4),
                ended_at=ran["submitted_at"].iloc[i] - pd.Timedelta(hours=1),
            )
            for i in range(5)
        ),
        attempt(ran.iloc[20], "preempted"),
    ]  # fmt: skip
    with sqlite_store.begin() as connection:
        add_jobs(connection, conform(pd.DataFrame(killed)))
    advised = advise(sqlite_store, ask, "ann", SINCE, NOW, risk=0.05)
    (row,) = advised.rows
    assert row["several_attempts"] == 11 / 40
    assert row["earlier_attempts"] == 16
    assert (row["attempts_killed_at_limit"], row["attempts_killed_for_memory"]) == (5, 10)
    assert row["peak_memory_ask_for"] > 6 * gib > plain["peak_memory_ask_for"]
    assert row["walltime_ask_for"] > 10_800 > plain["walltime_ask_for"]
    assert (row["walltime_used"], row["unused_core_hours"]) == (
        plain["walltime_used"],
        plain["unused_core_hours"],
    )
    assert sentences(advised, "UTC")[-1] == (
        "  attempts: 27.5 % of these jobs needed more than one; 16 earlier attempts: 5 killed at "
        "the limit, 10 for memory."
    )


def test_memory_is_advised_at_the_chosen_risk_and_not_as_the_first_rung_of_a_ladder(
    sqlite_store: Any,
) -> None:
    """Slurm kills a job beyond its memory and does not try again: one job in four needs 6 GB."""
    ran = jobs("ann", "reco", [3600.0] * 200)
    ran["peak_memory"] = np.where(np.arange(200) % 4 == 1, 6e9, 1e9)
    ask = site(sqlite_store, ran)
    for risk in (0.01, 0.4):
        advised = advise(sqlite_store, ask, "ann", SINCE, NOW, risk=risk)
        (row,) = advised.rows
        assert row["peak_memory_risk"] == risk and row["peak_memory_more"] <= risk
        assert (row["peak_memory_ask_for"] >= 6e9) == (risk == 0.01)
        assert f"the risk of too little is {100 * risk:g} %" in sentences(advised, "UTC")[2]


def test_one_job_and_one_core_are_written_as_one(sqlite_store: Any) -> None:
    ran = jobs("ann", "reco", [3600.0] * 5).assign(requested_cores=1.0)
    advised = advise(sqlite_store, site(sqlite_store, ran), "ann", SINCE, NOW)
    assert "reco on 1 core, 5 jobs: requested" in sentences(advised, "UTC")[1]
    advised = advise(sqlite_store, site(sqlite_store, jobs("bob", "sim", [9.0])), "bob", SINCE, NOW)
    assert sentences(advised, "UTC")[0].startswith("user bob: 1 job submitted")


def test_a_job_with_a_killed_attempt_needed_more_than_its_request() -> None:
    ran = jobs("ann", "reco", [60.0, 60.0, 60.0]).assign(peak_memory=[1e9, 5e9, np.nan])
    rows = [
        attempt(ran.iloc[i], "out_of_memory", requested_memory=4e9, peak_memory=3e9)
        for i in range(3)
    ]
    needs = with_needs(ran, conform(pd.DataFrame(rows)))["peak_memory_need"].tolist()
    assert needs[0] > 4e9 and needs[0] == pytest.approx(4e9) and needs[2] == needs[0]
    assert needs[1] == 5e9
