"""Replays as stories with exact start times, what must hold of every policy, and the published
figures."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings

from jobs.ingest import read_log
from jobs.readers.swf import read_header
from jobs.schema import conform, derive_fields
from models.baselines.catalogue import BASELINES, predict_baselines
from models.quantities.targets import TARGETS
from scheduling.machine import (
    Machine,
    MachineError,
    Pool,
    find_machine,
    machine_of,
    processors,
)
from scheduling.owners import Owners
from scheduling.policies import POLICIES, Policy, PolicyError
from scheduling.predictors import PREDICTORS
from scheduling.replay import replay
from scheduling.trace import TraceError

START = pd.Timestamp("2026-01-01", tz="UTC")


def log(*rows: tuple[float, float, float, int], **columns: list[Any]) -> pd.DataFrame:
    """Jobs of (submitted, walltime, requested walltime, cores), in s."""
    frame = pd.DataFrame(rows, columns=["submitted", "walltime", "requested_walltime", "cores"])
    frame["job_id"], frame["source"] = [str(n) for n in range(len(rows))], "story"
    frame["submitted_at"] = START + pd.to_timedelta(frame["submitted"], unit="s")
    frame["requested_cores"], frame["user"] = frame["cores"], "ada"
    return derive_fields(conform(frame.assign(**columns)))


def starts(*args: Any, **options: Any) -> list[float]:
    """The start of each job, s since the first submission."""
    return replay(*args, **options).table["started"].tolist()


# Four cores. Job 0 takes 3 for 100 s; job 1 wants all 4; job 2 is short and fits beside job 0; job
# 3 is long and fits too.
STORY = log((0, 100, 100, 3), (1, 50, 50, 4), (2, 90, 90, 1), (3, 200, 200, 1))


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("fcfs", [0, 100, 150, 150]),
        ("easy", [0, 100, 2, 150]),  # job 2 is over before job 1 may start, job 3 is not
        ("easy-sjbf", [0, 100, 2, 150]),
        ("conservative", [0, 100, 2, 150]),
        ("sjf", [0, 100, 2, 150]),
        ("largest-first", [0, 100, 2, 150]),
        (
            "area",
            [0, 100, 2, 150],
        ),  # jobs 1 and 3 are 200 core-seconds each: the earlier goes first
    ],
)
def test_four_jobs_on_four_cores_start_as_written(policy: str, expected: list[float]) -> None:
    assert starts(STORY, processors(4), policy) == expected


def test_a_backfilled_job_may_run_on_beside_the_head_where_cores_are_spare() -> None:
    # Five cores: when job 1 gets its four, one is spare, so the long job 3 may start at once and
    # job 2 must not take the spare one too.
    story = log((0, 100, 100, 3), (1, 50, 50, 4), (2, 200, 200, 1), (3, 200, 200, 1))
    assert starts(story, processors(5), "easy") == [0, 100, 2, 150]


def test_jobs_that_end_free_their_cores_for_one_submitted_at_the_same_moment() -> None:
    assert starts(log((0, 10, 10, 2), (10, 5, 5, 2)), processors(2), "fcfs") == [0, 10]


def test_a_job_that_overruns_its_request_is_killed_or_runs_on_as_asked() -> None:
    story = log((0, 100, 60, 1), (1, 10, 10, 1))
    killed, running_on = replay(story, processors(1)), replay(story, processors(1), kill=False)
    assert killed.table["started"].tolist() == [0, 60]
    assert killed.row()["killed"] == 1
    assert running_on.table["started"].tolist() == [0, 100]


def test_a_job_without_a_request_is_never_killed() -> None:
    story = log((0, 3e6, math.nan, 1), (1, 10, 10, 1))
    assert starts(story, processors(1)) == [0, 3e6]


def test_an_early_end_moves_reservations_forward_and_none_back() -> None:
    # Job 0 requested 100 s and took 20. Job 1 had a reservation at 100; job 2 delays neither.
    story = log((0, 20, 100, 4), (1, 50, 50, 3), (2, 60, 60, 2))
    done = replay(story, processors(4), "conservative")
    assert done.table["first_reservation"][1:].tolist() == [100, 150]
    assert done.table["started"].tolist() == [0, 20, 70]


def test_conservative_backfilling_lets_nobody_delay_the_second_in_line_where_easy_does() -> None:
    # Job 3 fits beside job 0 and leaves the head (job 1) alone, but would delay job 2.
    story = log((0, 100, 100, 2), (1, 100, 100, 3), (2, 100, 100, 4), (3, 250, 250, 1))
    assert starts(story, processors(4), "easy") == [0, 100, 253, 3]
    assert starts(story, processors(4), "conservative") == [0, 100, 200, 300]


def test_the_expansion_factor_serves_a_short_job_that_waits_before_a_long_one_that_waited_longer() -> (
    None
):
    story = log((0, 100, 100, 1), (1, 1000, 1000, 1), (50, 10, 10, 1))
    assert starts(story, processors(1), "fcfs") == [0, 100, 1100]
    assert starts(story, processors(1), "xfactor") == [0, 110, 100]


def test_half_a_day_of_waiting_makes_up_for_twice_the_length() -> None:
    # When job 0 ends, job 1 has waited half a day longer than job 2: it goes first if it is less
    # than twice as long.
    half = 43200.0
    for length, expected in (
        (1990.0, [0, 2 * half, 2 * half + 1990]),
        (2010.0, [0, 2 * half + 1000, 2 * half]),
    ):
        story = log((0, 2 * half, 2 * half, 1), (1, length, length, 1), (half + 1, 1000, 1000, 1))
        assert starts(story, processors(1), "aged") == expected


def test_a_policy_may_ask_again_about_the_waiting_jobs_of_whose_job_ended() -> None:
    # Ada's job 1 was thought to take the 1000 s requested; when her job 0 ends after 10 s it is
    # thought to take 10 s too.
    story = log((0, 10, 1000, 1), (1, 10, 1000, 1), (2, 500, 500, 1), user=["ada", "ada", "bob"])
    assert starts(story, processors(1), "gridcast", "last") == [0, 510, 10]
    assert starts(story, processors(1), replace(POLICIES["gridcast"], refresh=True), "last") == [
        0,
        10,
        20,
    ]


def test_an_overdue_job_goes_first() -> None:
    story = log((0, 100, 100, 1), (1, 1000, 1000, 1), (50, 10, 10, 1))
    assert starts(story, processors(1), "xfactor", bound=90) == [0, 100, 1100]


def test_last_two_learns_a_run_time_when_the_job_ends_in_the_replay() -> None:
    # Job 2 is submitted while job 1 still waits in the replay, though in the log job 1 had ended
    # long before.
    story = log((0, 100, 1000, 1), (1, 20, 1000, 1), (130, 30, 1000, 1), (131, 40, 1000, 1))
    done = replay(story, processors(1), "fcfs", "last-two")
    assert done.table["rank"].tolist() == [
        1000,
        1000,
        60,
        60,
    ]  # at 130 jobs 0 and 1 have ended: at 100 and at 120
    slow = replay(story, processors(1), "fcfs", "last")
    assert slow.table["rank"].tolist() == [1000, 1000, 20, 20]


@pytest.mark.parametrize(
    ("corrector", "corrections"), [("request", 1), ("incremental", 3), ("remaining", 1)]
)
def test_a_job_that_exceeds_its_prediction_is_corrected(corrector: str, corrections: int) -> None:
    # The user's last two took 10 s, so job 2 is thought to take 10 s and takes 400: corrected at
    # 10, 70, 310 s by Tsafrir's steps.
    story = log((0, 10, 1000, 1), (20, 10, 1000, 1), (40, 400, 1000, 1))
    done = replay(story, processors(1), "easy", "last-two", corrector)
    assert done.table["corrections"].tolist() == [0, 0, corrections]


def test_the_row_of_the_table_is_right_to_the_digit() -> None:
    done = replay(log((0, 100, 100, 2), (0, 50, 50, 2), (10, 5, 5, 1)), processors(2), "fcfs")
    row = done.row()
    assert done.waits.tolist() == [0, 100, 140]
    assert row["mean_bounded_slowdown"] == pytest.approx((1 + 3 + 145 / 10) / 3)
    assert (row["max_wait"], row["makespan"]) == (140, 155)
    assert row["utilisation"] == pytest.approx((200 + 100 + 5) / (2 * 155))
    assert row["fairness"] == pytest.approx(1.0)


def test_hosts_hold_jobs_whole_and_memory_counts() -> None:
    hosts = Machine((Pool("farm", cores=2, hosts=2, memory=8.0),))
    # Two free cores on two hosts hold no job of two cores; and a host's memory runs out before its
    # cores.
    cores = log((0, 100, 100, 1), (0, 50, 50, 2), (1, 100, 100, 1), (2, 10, 10, 2))
    assert starts(cores, hosts, "fcfs") == [0, 0, 1, 50]
    memory = log((0, 100, 100, 1), (1, 10, 10, 1), (2, 10, 10, 1), requested_memory=[6.0, 6.0, 6.0])
    assert starts(memory, hosts, "fcfs") == [0, 1, 11]


def test_each_site_has_its_own_queue() -> None:
    story = log((0, 100, 100, 1), (1, 10, 10, 1), (2, 10, 10, 1), site=["CERN", "CERN", "LYON"])
    machine = Machine((Pool("CERN", 1), Pool("LYON", 1)))
    assert starts(story, machine, "fcfs") == [0, 100, 2]


def test_a_quota_holds_an_owner_back_and_lets_others_pass() -> None:
    story = log((0, 100, 100, 1), (1, 100, 100, 1), (2, 100, 100, 1), user=["ada", "ada", "bob"])
    assert starts(story, processors(2), "easy", owners=Owners(("user",), {"user": 1})) == [
        0,
        100,
        2,
    ]


def test_fair_share_serves_whoever_used_less() -> None:
    story = log((0, 100, 100, 1), (1, 100, 100, 1), (2, 100, 100, 1), user=["ada", "ada", "bob"])
    assert starts(story, processors(1), "fair-share") == [0, 200, 100]
    # Both have used 100 core-seconds when job 2 may start, but one of them has a thousand times the
    # share.
    even = log(
        (0, 100, 100, 1),
        (1, 100, 100, 1),
        (2, 100, 100, 1),
        (3, 100, 100, 1),
        user=["ada", "bob", "bob", "ada"],
    )
    assert starts(even, processors(1), "fair-share") == [0, 100, 300, 200]
    assert starts(
        even, processors(1), "fair-share", owners=Owners(("user",), shares={"bob": 1000.0})
    ) == [0, 100, 200, 300]


def test_jobs_that_cannot_be_replayed_are_left_out_and_counted() -> None:
    story = log((0, 100, 100, 1), (1, 0, 100, 1), (2, 10, 10, 9))
    done = replay(story, processors(4))
    assert done.row()["left_out"] == 2
    assert set(done.trace.left_out) == {
        "it never ran: no walltime above 0",
        "it needs more cores than a host has",
    }


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"policy": "magic"}, PolicyError, "no policy 'magic'"),
        ({"predictor": "oracle"}, PolicyError, "no predictor 'oracle'"),
        ({"corrector": "hope"}, PolicyError, "no corrector 'hope'"),
        ({"predictor": "last", "rank": "q7"}, PolicyError, "no quantity"),
        ({"bound": math.nan}, PolicyError, "bound"),
        ({"machine": processors(1)}, TraceError, "no job of the log can be replayed"),
        ({"owners": Owners(("user",), {"user": 1})}, MachineError, "more than the quota"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    story = log((0, 10, 10, 2), (20, 10, 10, 2))
    with pytest.raises(error, match=words):
        replay(story, options.pop("machine", processors(4)), **options)


def test_the_machine_is_what_the_header_says_or_what_the_jobs_held_at_once() -> None:
    story = log((0, 100, 100, 3), (10, 50, 50, 4), (100, 10, 10, 2))
    story["started_at"] = story["submitted_at"]
    story["ended_at"] = story["started_at"] + pd.to_timedelta(story["walltime"], unit="s")
    assert machine_of(story).processors == 7
    assert machine_of(story, 100).processors == 100


@st.composite
def logs(draw: st.DrawFn) -> pd.DataFrame:
    """Up to thirty jobs in a crowd on at most four cores; some overrun their request, some have
    none."""
    moments = st.integers(0, 60)
    row = st.tuples(
        moments,
        st.integers(1, 40),
        st.one_of(st.integers(1, 60), st.just(math.nan)),
        st.integers(1, 4),
    )
    rows = draw(st.lists(row, min_size=1, max_size=30))
    users = draw(st.lists(st.sampled_from("abc"), min_size=len(rows), max_size=len(rows)))
    return log(*rows, user=users)


CROWDS = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("predictor", ["request", "perfect", "template"])
@pytest.mark.parametrize("policy", POLICIES)
@given(jobs=logs())
@CROWDS
def test_every_policy_keeps_the_laws(policy: str, predictor: str, jobs: pd.DataFrame) -> None:
    done = replay(jobs, processors(4), policy, predictor, bound=30)
    table, cores, length = done.table, done.trace.cores, done.trace.length
    assert (table["started"] >= table["submitted"]).all()
    assert np.array_equal(table["ended"], table["started"] + length)
    for moment in table["started"]:
        running = (table["started"] <= moment) & (moment < table["ended"])
        assert cores[running].sum() <= 4
    again = replay(jobs, processors(4), policy, predictor, bound=30)
    assert np.array_equal(again.table["started"], table["started"])


@pytest.mark.parametrize("predictor", ["template", "gridcast"])
@pytest.mark.parametrize("policy", ["gridcast", "xfactor", "sjf"])
@given(jobs=logs())
@CROWDS
def test_who_has_waited_longer_than_the_bound_is_delayed_by_nobody(
    policy: str, predictor: str, jobs: pd.DataFrame
) -> None:
    bound = 15.0
    done = replay(jobs, processors(4), policy, predictor, bound=bound)
    table, cores = done.table, done.trace.cores
    limits = table["started"] + done.trace.request
    moments = np.unique(
        np.concatenate([table["submitted"], table["ended"]])
    )  # when anything is decided at all
    for row in np.flatnonzero(done.waits > bound):
        # From then on the job is seen to be the oldest that is overdue: whoever came before it has
        # started.
        seen = moments[np.searchsorted(moments, table["submitted"][row] + bound, side="right")]
        since = max(seen, table["started"][:row].max(initial=0.0))
        running = (table["started"] <= since) & (since < table["ended"])
        running[row] = False
        order = np.flatnonzero(running)[np.argsort(limits[running], kind="stable")]
        free = 4 - cores[order].sum() + np.concatenate([[0], np.cumsum(cores[order])])
        reserved = max(
            since, np.concatenate([[since], limits[order]])[np.argmax(free >= cores[row])]
        )
        assert table["started"][row] <= reserved


@given(jobs=logs())
@CROWDS
def test_first_come_first_served_keeps_the_order(jobs: pd.DataFrame) -> None:
    assert (np.diff(replay(jobs, processors(4), "fcfs").table["started"]) >= 0).all()


@pytest.mark.parametrize("policy", ["easy", "easy-sjbf", "conservative"])
@pytest.mark.parametrize("predictor", ["request", "perfect"])
@given(jobs=logs())
@CROWDS
def test_a_reservation_by_upper_bounds_is_never_delayed(
    policy: str, predictor: str, jobs: pd.DataFrame
) -> None:
    done = replay(
        jobs.assign(requested_walltime=jobs["requested_walltime"].fillna(100)),
        processors(4),
        policy,
        predictor,
    )
    is_reserved = np.isfinite(done.table["first_reservation"])
    assert (
        done.table["started"][is_reserved] <= done.table["first_reservation"][is_reserved]
    ).all()


@given(jobs=logs())
@CROWDS
def test_with_the_truth_known_conservative_jobs_start_as_reserved_or_before(
    jobs: pd.DataFrame,
) -> None:
    # Nothing ends early then, so nothing moves: each job starts exactly when it was first reserved.
    done = replay(jobs, processors(4), "conservative", "perfect", kill=False)
    request = jobs["requested_walltime"].to_numpy()
    if not (request < jobs["walltime"].to_numpy()).any():
        assert np.array_equal(done.table["started"], done.table["first_reservation"])


def test_every_planned_start_is_met_on_several_hosts_with_the_truth_known() -> None:
    generator = np.random.default_rng(5)
    rows = [
        (float(generator.integers(0, 4000)), float(generator.integers(1, 900)), math.nan, wide)
        for wide in generator.integers(1, 5, 400).tolist()
    ]
    memory = generator.choice([0.0, 1e9, 3e9], 400).tolist()
    jobs = log(*sorted(rows), requested_memory=memory)
    hosts = Machine((Pool("farm", cores=4, hosts=4, memory=6e9),))
    table = replay(jobs, hosts, "conservative", "perfect").table
    assert np.array_equal(table["started"], table["first_reservation"])
    assert (table["started"] > table["submitted"]).mean() > 0.5  # the machine is crowded
    for moment in table["started"]:
        running = (table["started"] <= moment) & (moment < table["ended"])
        for host in range(4):
            on_host = running & (table["host"] == host)
            assert table["cores"][on_host].sum() <= 4
            assert table["memory"][on_host].sum() <= 6e9


def test_no_reservation_on_several_hosts_is_delayed_when_jobs_end_early() -> None:
    generator = np.random.default_rng(6)
    rows = []
    for wide in generator.integers(1, 5, 300).tolist():
        length = float(generator.integers(1, 900))
        rows.append((float(generator.integers(0, 4000)), length, 2 * length, wide))
    hosts = Machine((Pool("farm", cores=4, hosts=4),))
    done = replay(log(*sorted(rows)), hosts, "conservative", "request")
    assert (done.table["started"] <= done.table["first_reservation"]).all()
    assert done.late_heads == 0.0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"walltime": math.nan, "ended_at": pd.NaT}, "none of the 3 jobs of the log has ended"),
        ({"walltime": math.nan}, "none of the 3 jobs of the log reports a run time"),
        ({"walltime": 0.0}, "none of the 3 jobs of the log reports a run time"),
    ],
)
@pytest.mark.parametrize("machine", [None, processors(4)])
def test_a_log_without_run_times_is_refused_in_a_sentence(
    changes: dict[str, Any], sentence: str, machine: Machine | None
) -> None:
    story = log((0, 100, 100, 1), (1, 10, 10, 1), (2, 10, 10, 1))
    ended = story.assign(ended_at=story["submitted_at"])
    with pytest.raises(TraceError, match=sentence):
        replay(ended.assign(**changes), machine)
    with pytest.raises(TraceError, match=sentence):
        find_machine("4" if machine else None, None, ended.assign(**changes))


@pytest.mark.parametrize("policy", ["easy", "conservative", "fair-share"])
def test_a_log_that_names_no_users_is_replayed_as_one_user(policy: str) -> None:
    story = log((0, 100, 100, 1), (1, 10, 10, 1), (2, 10, 10, 1))
    unnamed = story.assign(user=pd.Series([None] * 3, dtype=story["user"].dtype))
    done = replay(unnamed, processors(1), policy)
    assert done.table["started"].tolist() == [0, 100, 110]
    assert done.row()["fairness"] == pytest.approx(1.0)


LEARNERS = [name for name in PREDICTORS if name != "perfect"]


def test_every_baseline_of_the_evaluation_is_a_predictor_of_the_replay() -> None:
    assert {baseline.name for baseline in BASELINES} < set(PREDICTORS)


@pytest.mark.parametrize("name", [baseline.name for baseline in BASELINES])
def test_a_predictor_in_replay_time_is_the_baseline_of_the_evaluation_where_nothing_waits(
    name: str,
) -> None:
    generator = np.random.default_rng(3)
    # With room for all a replay runs as the log did, so that both know the same of each job;
    # nobody's request cuts a job short.
    rows = [
        (100.0 * n, float(generator.integers(2, 150)), 2000.0, int(generator.integers(1, 3)))
        for n in range(400)
    ]
    jobs = log(*rows, user=[str(n % 5) for n in range(400)])
    jobs["ended_at"] = jobs["submitted_at"] + pd.to_timedelta(jobs["walltime"], unit="s")
    result = replay(jobs, processors(100), "easy", name).table["rank"]
    expected = predict_baselines(jobs, TARGETS["walltime"], [name])[name].point
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    fitted = name in ("ridge", "forest", "catboost")
    assert len(np.unique(result)) > (50 if fitted else 0 if name == "request" else 1)


@pytest.mark.parametrize("predictor", LEARNERS)
def test_no_prediction_moves_when_the_future_does(predictor: str) -> None:
    generator = np.random.default_rng(1)
    # A regression is fitted once a hundred jobs have ended.
    rows = [
        (100 * n, float(generator.integers(1, 150)), 200.0, int(generator.integers(1, 3)))
        for n in range(180)
    ]
    jobs = log(*rows, user=[str(n % 5) for n in range(180)])
    scrambled = jobs.copy()
    scrambled.loc[140:, "walltime"] = generator.permutation(scrambled.loc[140:, "walltime"])
    before, after = (
        replay(frame, processors(4), "easy", predictor).table for frame in (jobs, scrambled)
    )
    # What job 140 and the later ones took cannot be known before job 140 is submitted.
    assert np.array_equal(before["rank"][:141], after["rank"][:141])
    if predictor != "request":
        assert not np.array_equal(before["rank"], after["rank"])


@pytest.mark.parametrize("corrector", ["request", "remaining"])
def test_no_decision_of_the_recommended_policy_moves_when_what_has_not_ended_does(
    corrector: str,
) -> None:
    generator = np.random.default_rng(2)
    count = 160
    lengths = generator.choice([20.0, 60.0, 300.0, 900.0], count)
    rows = [
        (40.0 * n, float(lengths[n]), 1000.0, int(generator.integers(1, 4))) for n in range(count)
    ]
    jobs = log(*rows, user=[str(n % 4) for n in range(count)])
    asking = replace(
        POLICIES["gridcast"], finish="mean", refresh=True
    )  # so that jobs exceed their predictions and are predicted again
    before = replay(jobs, processors(4), asking, "gridcast", corrector).table
    moved = 0
    for moment in np.quantile(before["ended"], (0.2, 0.5, 0.8)):
        scrambled = jobs.copy()
        unknown = np.flatnonzero(before["ended"] > moment)
        # What runs at that moment still does, for any time within its request; what waits may take
        # anything.
        ran = np.maximum(moment - before["started"][unknown], 0.0)
        scrambled.loc[unknown, "walltime"] = ran + generator.uniform(0.01, 1.0, len(unknown)) * (
            1000.0 - ran
        )
        after = replay(scrambled, processors(4), asking, "gridcast", corrector).table
        decided = before["started"] <= moment
        assert np.array_equal(before["started"][decided], after["started"][decided])
        assert np.array_equal(before["rank"][decided], after["rank"][decided])
        assert (after["started"][~decided] > moment).all()
        moved += int((before["started"] != after["started"]).sum())
    assert moved > 0


@pytest.mark.parametrize("quantity", ["median", "mean", "log-mean", "q0.9", "mean+1sd", "request"])
@pytest.mark.parametrize("predictor", LEARNERS)
def test_every_predictor_answers_what_a_policy_may_ask(predictor: str, quantity: str) -> None:
    jobs = log(*((50 * n, 10 + n % 7, 100, 1) for n in range(60)))
    done = replay(jobs, processors(2), Policy("asking", "a test", rank=quantity), predictor)
    assert ((done.table["rank"] >= 1) & (done.table["rank"] <= 100)).all()


PUBLISHED = [
    ("KTH-SP2-1996.swf.gz", "easy", "request", "request", 92.6),
    ("KTH-SP2-1996.swf.gz", "easy", "perfect", "request", 71.7),
    ("KTH-SP2-1996.swf.gz", "easy-sjbf", "last-two", "incremental", 63.5),
    ("KTH-SP2-1996.swf.gz", "easy-sjbf", "perfect", "request", 49.8),
    ("CTC-SP2-1996-3.1-cln.swf.gz", "easy", "perfect", "request", 37.2),
    ("CTC-SP2-1996-3.1-cln.swf.gz", "easy-sjbf", "perfect", "request", 17.6),
    ("SDSC-SP2-1998-4.2-cln.swf.gz", "easy", "perfect", "request", 70.5),
    ("SDSC-SP2-1998-4.2-cln.swf.gz", "easy-sjbf", "perfect", "request", 56.8),
]


@pytest.fixture(scope="module")
def real(traces: Path) -> dict[str, tuple[pd.DataFrame, Machine]]:
    result = {}
    for name in {case[0] for case in PUBLISHED}:
        jobs, _ = read_log(traces / name)
        result[name] = (jobs, machine_of(jobs, read_header(traces / name).max_procs))
    return result


@pytest.mark.parametrize(("name", "policy", "predictor", "corrector", "published"), PUBLISHED)
def test_published_slowdowns_come_out_within_five_per_cent(
    real: dict[str, tuple[pd.DataFrame, Machine]],
    name: str,
    policy: str,
    predictor: str,
    corrector: str,
    published: float,
) -> None:
    jobs, machine = real[name]
    result = replay(jobs, machine, policy, predictor, corrector).row()["mean_bounded_slowdown"]
    assert result == pytest.approx(published, rel=0.05)
