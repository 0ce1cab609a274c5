"""The common rules by which adapters write requests; tests/adapters has their users."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.settings import Settings, SettingsError, read_settings
from services.local_table import request_policy
from services.request_policy import (
    MIB,
    RUNGS,
    JobRequest,
    RequestPlan,
    RequestPolicy,
    plan_requests,
)

POLICY = RequestPolicy("act", users=("ann",))
ROW = {
    "level": "job",
    "jobs": 40.0,
    "new": 0.0,
    "longest": 900.0,
    "walltime_kill_limit": 1400.0,
    "peak_memory_allocation": 500.0 * MIB,
    "peak_memory_allocation_2": 900.5 * MIB,
    "peak_memory_allocation_3": 900.5 * MIB,
}
JOB = JobRequest("ann", "sim", "short", memory=4096 * MIB, walltime=7200)


def mebibytes(plan: RequestPlan) -> list[float]:
    return [rung / MIB for rung in plan.memory]


def test_the_ladder_ends_with_the_jobs_own_request() -> None:
    plan = plan_requests(POLICY, ROW, JOB)
    assert mebibytes(plan) == [500, 901, 4096] and plan.walltime == (1800, 7200)
    assert plan.reason == "requests memory 500, 901, 4096 MiB, time 30, 120 min after 40 jobs"
    tight = plan_requests(POLICY, ROW, replace(JOB, memory=800 * MIB, walltime=1700))
    assert mebibytes(tight) == [500, 800] and tight.walltime == ()
    longer = plan_requests(POLICY, ROW | {"longest": 2000.0}, JOB)
    assert longer.walltime[0] == 2520, "the longest recent job, with the margin, in whole minutes"


def test_modes_change_what_is_said_and_only_act_says_that_it_writes() -> None:
    for mode in ("observe", "suggest"):
        plan = plan_requests(replace(POLICY, mode=mode), ROW, JOB)
        assert plan.mode == mode and plan.reason.startswith("would request memory 500,")
    assert plan_requests(replace(POLICY, mode="off"), ROW, JOB) == RequestPlan()
    assert RequestPolicy().mode == "off"


@pytest.mark.parametrize(
    ("row", "job", "is_fresh", "reason"),
    [
        (None, JOB, True, "no prediction"),
        (ROW, JOB, False, "stale prediction"),
        (ROW | {"level": "user"}, JOB, True, "predicted by user only"),
        (ROW | {"new": 1.0}, JOB, True, "new user"),
        (ROW | {"jobs": 4.0}, JOB, True, "4 such jobs, 5 needed"),
        (ROW, replace(JOB, can_retry=False), True, "may not run again"),
        (ROW, replace(JOB, memory=500 * MIB, walltime=1800), True, "less than 10 % would be saved"),
        (ROW, replace(JOB, memory=None, walltime=None), True, "it requests nothing"),
        ({"level": "job"}, JOB, True, "new user"),
        ({"level": "job"}, replace(JOB, user=None, program="sim"), True, "no history"),
        (ROW, replace(JOB, memory=555 * MIB, walltime=1980), True, "less than 10 % would be saved"),
        ({**ROW, "jobs": float("nan")}, JOB, True, "0 such jobs, 5 needed"),
        (
            {name: ROW[name] for name in ("level", "jobs", "new")},
            JOB,
            True,
            "less than 10 % would be saved",
        ),
    ],
)
def test_requests_stay_with_a_reason_wherever_anything_is_missing_or_stale(
    row: dict[str, object] | None, job: JobRequest, is_fresh: bool, reason: str
) -> None:
    policy = replace(POLICY, users=("*",))
    plan = plan_requests(policy, row, job, is_fresh)
    assert (plan.memory, plan.walltime) == ((), ())
    assert plan.reason == f"requests unchanged: {reason}"


@pytest.mark.parametrize(
    ("lists", "is_covered"),
    [
        ({}, False),
        ({"users": ("ann",)}, True),
        ({"users": ("bob",)}, False),
        ({"users": ("ann",), "queues": ("long",)}, False),
        ({"users": ("ann",), "queues": ("long", "short")}, True),
        ({"programs": ("sim",)}, True),
        ({"programs": ("*",), "users": ("bob",)}, False),
        ({"queues": ("*",)}, True),
    ],
)
def test_a_job_is_covered_by_every_list_that_is_given(
    lists: dict[str, tuple[str, ...]], is_covered: bool
) -> None:
    plan = plan_requests(RequestPolicy("act", **lists), ROW, JOB)  # type: ignore[arg-type]
    assert bool(plan.memory) == is_covered and bool(plan.reason) == is_covered


def test_more_than_the_request_is_written_only_where_the_site_says_so() -> None:
    less, bare = replace(JOB, memory=600 * MIB), replace(JOB, memory=None, walltime=None)
    assert mebibytes(plan_requests(POLICY, ROW, less)) == [500, 600]
    above = replace(POLICY, above_request=True)
    assert mebibytes(plan_requests(above, ROW, less)) == [500, 901]
    plan = plan_requests(above, ROW, bare)
    assert mebibytes(plan) == [500, 901] and plan.walltime == (1800,)


def test_the_floor_lifts_no_request_above_what_the_job_requested() -> None:
    high = replace(POLICY, least_memory=64_000 * MIB, least_walltime=10**6)
    for policy in (high, replace(high, above_request=True)):
        plan = plan_requests(policy, ROW, JOB)
        assert (plan.memory, plan.walltime) == ((), ())
    above = replace(high, above_request=True)
    assert mebibytes(plan_requests(above, ROW, replace(JOB, memory=600 * MIB))) == [600, 901]


def test_a_request_is_replaced_for_a_tenth_of_it_or_more() -> None:
    plan = plan_requests(POLICY, ROW, replace(JOB, memory=556 * MIB, walltime=2000))
    assert mebibytes(plan) == [500, 556] and plan.walltime == (1800, 2000)


amounts = st.none() | st.floats(1, 1e14) | st.sampled_from([float("nan"), float("inf"), -1.0])


@given(
    rungs=st.lists(amounts, min_size=3, max_size=3),
    limit=amounts,
    longest=amounts,
    memory=st.none() | st.integers(1, 1 << 44),
    walltime=st.none() | st.integers(1, 10**8),
    least=st.integers(1, 1 << 40),
)
def test_whatever_is_predicted_a_ladder_rises_from_the_floor_to_the_request(
    rungs: list[float | None],
    limit: float | None,
    longest: float | None,
    memory: int | None,
    walltime: int | None,
    least: int,
) -> None:
    predicted = dict(zip(RUNGS, rungs, strict=True))
    numbers = {**predicted, "walltime_kill_limit": limit, "longest": longest}
    row = {"level": "job", "jobs": 9, "new": 0} | {
        name: value for name, value in numbers.items() if value is not None
    }
    policy = replace(POLICY, least_memory=least)
    plan = plan_requests(policy, row, replace(JOB, memory=memory, walltime=walltime))
    for ladder, request, floor in (
        (plan.memory, memory, least),
        (plan.walltime, walltime, policy.least_walltime),
    ):
        if ladder:
            assert ladder[-1] == request and len(ladder) >= 2
            assert list(ladder) == sorted(set(ladder)) and ladder[0] >= floor


def test_the_table_carries_the_policy_and_anything_unreadable_is_off() -> None:
    policy = RequestPolicy("suggest", ("ann", "bob"), ("*",), (), 7, 100 * MIB, 1200, True)
    cells = policy.cells()
    assert RequestPolicy.parse(cells) == policy
    for number, cell in enumerate(cells):
        name = cell.partition("=")[0]
        assert RequestPolicy.parse(cells[:number] + cells[number + 1 :]).mode == "off"
        if name not in ("users", "programs", "queues"):
            assert RequestPolicy.parse([*cells, f"{name}=much"]).mode == "off"


def test_settings_give_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert request_policy(Settings()) == RequestPolicy()
    monkeypatch.setenv("GRIDCAST_REQUEST_MODE", "act")
    monkeypatch.setenv("GRIDCAST_REQUEST_USERS", "ann, bob")
    monkeypatch.setenv("GRIDCAST_REQUEST_LEAST_MEMORY", "100")
    policy = request_policy(read_settings())
    assert policy == RequestPolicy("act", ("ann", "bob"), least_memory=100 * MIB)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("REQUEST_MODE", "act", "act needs GRIDCAST_REQUEST_USERS, _PROGRAMS or _QUEUES"),
        ("REQUEST_MODE", "always", "GRIDCAST_REQUEST_MODE is wrong: input should be 'off', "),
        ("REQUEST_USERS", "ann bob", "GRIDCAST_REQUEST_USERS is wrong: names are separated by"),
        (
            "REQUEST_PROGRAM",
            "align",
            "no setting GRIDCAST_REQUEST_PROGRAM .near: GRIDCAST_REQUEST_P",
        ),
        ("REQUEST_LEAST_MEMORY", "4G", r"LEAST_MEMORY is wrong: .* \(a number of MiB, as 256\)$"),
        ("REQUEST_LEAST_WALLTIME", "1h", r"is wrong: .* \(a number of seconds, as 600\)$"),
        ("REQUEST_ABOVE", "much", r"REQUEST_ABOVE is wrong: .* \(true or false\)$"),
        ("CANARY", "5%", r"GRIDCAST_CANARY is wrong: .* \(a share, as 0.05\)$"),
        ("REQUEST_LEAST_JOBS", "0", "GRIDCAST_REQUEST_LEAST_JOBS is wrong: input should be great"),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"GRIDCAST_{name}", value)
    with pytest.raises(SettingsError, match=message) as refused:
        read_settings()
    assert refused.value.exit_code == 2 and "\n" not in str(refused.value)


def test_a_misspelt_line_of_the_env_file_is_refused_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("GRIDCAST_REQUEST_USER=ann\n")
    with pytest.raises(SettingsError, match="near: GRIDCAST_REQUEST_USERS"):
        read_settings()
    Path(".env").write_text("GRIDCAST_REQUEST_USERS=ann\n")
    assert read_settings().request_users == "ann"
