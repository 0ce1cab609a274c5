"""Replays on pilots: stories with exact numbers, and what must hold of every rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from infra.errors import InputError
from jobs.schema import conform, derive_fields
from jobs.workload import generate
from scheduling.machine import processors
from scheduling.pilots.replay import RULES, Pilots, replay_pilots, run
from scheduling.pilots.state import DONE_JOBS, KILLS
from scheduling.trace import Trace, trace_of

START = pd.Timestamp("2026-01-01", tz="UTC")
HOUR = 3600.0


def log(*rows: tuple[float, float, float, int], group: str = "g") -> Trace:
    """Jobs of (submitted, walltime, requested walltime or NaN, cores), in s."""
    frame = pd.DataFrame(rows, columns=["submitted", "walltime", "requested_walltime", "cores"])
    frame["job_id"], frame["source"] = [str(n) for n in range(len(rows))], "story"
    frame["submitted_at"] = START + pd.to_timedelta(frame["submitted"], unit="s")
    frame["requested_cores"], frame["user"], frame["group"] = frame["cores"], "ada", group
    return trace_of(derive_fields(conform(frame)), processors(64))


def replayed(trace: Trace, pilots: Pilots, rule: str = "static") -> tuple[dict[str, Any], Any]:
    state, count = run(trace, pilots, rule)
    assert count == 1
    return replay_pilots(trace, pilots, rule), state


def test_a_slot_drains_unless_a_later_job_fits_into_its_end() -> None:
    # Job 1 needs 50 s of the 40 that are left, job 2 takes them; the slot ends at 100.
    trace = log((0, 60, 60, 1), (1, 50, 50, 1), (2, 30, 30, 1), (300, 1, 1, 1))
    row, state = replayed(trace, Pilots(slot=100.0, cores=1))
    assert state.started[:3].tolist() == [0.0, 100.0, 60.0]
    assert row["core_hours"] == pytest.approx(140 / HOUR)
    assert (row["killed_share"], row["jobs_completed"]) == (0.0, 3)
    assert row["used_share"] == pytest.approx(140 / 300)
    assert row["idle_share"] == pytest.approx(160 / 300)


def test_a_request_above_the_slot_starts_in_a_fresh_slot_only() -> None:
    trace = log((0, 10, 10, 1), (1, 20, 500, 1), (300, 1, 1, 1))
    _, state = replayed(trace, Pilots(slot=100.0, cores=1))
    assert state.started[1] == 100.0


def test_a_job_killed_with_its_slot_is_lost_and_tried_again() -> None:
    # Without requests: after 25 jobs of 360 s the group's 99th percentile is 360 s.
    short = [(0.0, 360.0, np.nan, 1)] * 25
    trace = log(*short, (4.5 * HOUR, 2 * HOUR, np.nan, 1), (20 * HOUR, 1, np.nan, 1))
    row, state = replayed(trace, Pilots(slot=5 * HOUR, cores=32))
    assert state.started[25] == pytest.approx(5 * HOUR)  # killed, then in the next slot
    assert state.attempts[25] == 2
    assert row["lost_share"] == pytest.approx(0.5 / (32 * 20), rel=1e-6)
    assert row["killed_share"] == pytest.approx(1 / 27)
    assert row["core_hours"] == pytest.approx(2.5 + 2)


def test_a_pilot_of_several_cores_is_never_overbooked() -> None:
    trace = log((0, 50, 50, 3), (0, 50, 50, 2), (0, 50, 50, 1), (200, 1, 1, 1))
    _, state = replayed(trace, Pilots(slot=100.0, cores=4, supply=0.5))
    assert state.started[:3].tolist() == [0.0, 50.0, 0.0]


@pytest.fixture(scope="module")
def trace() -> Trace:
    jobs = generate(jobs=1500, days=6, seed=5, sites=1, users=8).jobs
    return trace_of(jobs, processors(8))


@pytest.mark.parametrize("rule", RULES)
def test_what_pilots_offer_is_used_lost_or_idle(rule: str, trace: Trace) -> None:
    row = replay_pilots(trace, Pilots(slot=12 * HOUR, cores=8), rule)
    assert 0 < row["core_hours"] <= (trace.length * trace.cores).sum() / HOUR
    shares = [row[f"{name}_share"] for name in ("used", "lost", "idle")]
    assert min(shares) >= 0 and sum(shares) <= 1 + 1e-9
    assert 0 <= row["killed_share"] < 0.2
    assert row["jobs_completed"] <= len(trace)


def test_the_future_changes_nothing_before(trace: Trace) -> None:
    later = np.flatnonzero(trace.submitted > trace.submitted[-1] / 2)
    moment, length = trace.submitted[later[0]], trace.length.copy()
    for cores in np.unique(trace.cores):  # the demand, and so the number of pilots, stays
        rows = later[trace.cores[later] == cores]
        length[rows] = length[rows[::-1]]
    other = Trace(**{**trace.__dict__, "length": length})
    first, second = (run(each, Pilots(12 * HOUR), "gridcast")[0] for each in (trace, other))
    before = (first.started > 0) & (first.started < moment) & (first.attempts == 1)
    assert before.sum() > 300
    # A job that was killed after the moment may be tried again in one of the two alone.
    retried = before & (second.attempts > 1)
    assert retried.sum() < 5 and (second.started[retried] >= moment).all()
    once = before & ~retried
    np.testing.assert_array_equal(first.started[once], second.started[once])


def test_few_jobs_of_a_new_owner_run_until_some_have_ended() -> None:
    # Jobs of 2 to 18 h by three users, then 40 of ada at one moment, when half a slot is left.
    users = ("bob", "eve", "joe")
    earlier = [(600.0 * n, 2 * HOUR * (1 + n % 9), 30 * HOUR, 1) for n in range(400)]
    burst = [(90 * HOUR, 3 * HOUR, np.nan, 1)] * 40
    trace = log(*earlier, *burst, (400 * HOUR, 1, np.nan, 1))
    trace.jobs["user"] = [*(users[n % 3] for n in range(400)), *["ada"] * 41]
    state, _ = run(trace, Pilots(slot=100 * HOUR, cores=128), "gridcast")
    started = state.started[400:440]
    for moment in np.unique(started[started < 100 * HOUR]):
        ended = int((started + 3 * HOUR <= moment).sum())
        assert (started <= moment).sum() - ended <= 3 + 3 * ended
    assert len(np.unique(started)) > 1
    assert (state.counts[DONE_JOBS], state.counts[KILLS]) == (440, 0)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(InputError, match="there is no rule 'oracle'"):
        replay_pilots(log((0, 1, 1, 1), (9, 1, 1, 1)), Pilots(100.0), "oracle")
