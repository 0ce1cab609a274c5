"""The Lua of Slurm's adapter decides as the common rules do; no Slurm is needed for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lupa.lua53 import LuaRuntime

import adapters
from services.request_policy import MIB, RUNGS, JobRequest, RequestPolicy, plan_requests

ADAPTER = Path(adapters.__path__[0]) / "slurm" / "gridcast.lua"
HEAD = ["gridcast-table 2", "1773964800", "2026-03-20T00:00:00Z", "none", "1"]

lua = LuaRuntime()
gridcast: Any = lua.execute(ADAPTER.read_text())

lists = st.sampled_from([(), ("*",), ("ann", "sim", "short"), ("ann", "sim", "short"), ("other",)])
amounts = st.none() | st.floats(0, 1e14) | st.integers(1, 1 << 34)
seconds = st.none() | st.floats(0, 1e14) | st.floats(1, 1e6)
policies = st.builds(
    RequestPolicy,
    st.sampled_from(["off", "observe", "suggest", "act", "act", "act"]),
    lists,
    lists,
    lists,
    least_jobs=st.integers(1, 5),
    least_memory=st.integers(1, 1 << 30),
    least_walltime=st.integers(60, 10**4),
    above_request=st.booleans(),
)


def as_lua(row: dict[str, Any]) -> Any:
    return lua.table_from({name: value for name, value in row.items() if value is not None})


@settings(max_examples=400)
@given(
    policy=policies,
    level=st.sampled_from(["job", "job", "program", "user"]),
    counts=st.tuples(st.sampled_from([0, 0, 1]), st.sampled_from([0, 2, 9, 9, 9])),
    rungs=st.tuples(amounts, amounts, amounts),
    times=st.tuples(seconds, seconds),
    memory=st.none() | st.integers(1, 1 << 15),
    minutes=st.none() | st.integers(1, 20_000),
    can_retry=st.sampled_from([True, True, False]),
    is_fresh=st.sampled_from([True, True, False]),
)
def test_the_adapter_in_lua_decides_as_the_common_rules(
    policy: RequestPolicy,
    level: str,
    counts: tuple[int, int],
    rungs: tuple[Any, ...],
    times: tuple[Any, Any],
    memory: int | None,
    minutes: int | None,
    can_retry: bool,
    is_fresh: bool,
) -> None:
    row = {
        "level": level,
        "new": counts[0],
        "jobs": counts[1],
        **dict(zip(RUNGS, rungs, strict=True)),
    }
    row |= {"walltime_kill_limit": times[0], "longest": times[1]}
    request = JobRequest(
        *("ann", "sim", "short"),
        memory=memory and memory * MIB,
        walltime=minutes and minutes * 60,
        can_retry=can_retry,
    )
    given_row = {name: value for name, value in row.items() if value is not None}
    expected = plan_requests(policy, given_row, request, is_fresh)
    job = {"user": "ann", "program": "sim", "queue": "short", "memory": memory, "minutes": minutes}
    job |= {"can_retry": can_retry, "memory_can_change": True}
    cells = lua.table_from([*HEAD, *policy.cells()])
    plan = gridcast.plan(gridcast.parse_policy(cells), as_lua(row), as_lua(job), is_fresh)
    if expected.mode == "off":
        assert plan is None
        return
    assert (plan.mode, plan.reason) == (expected.mode, expected.reason)
    assert [rung * MIB for rung in plan.memory.values()] == list(expected.memory)
    assert [rung * 60 for rung in plan.minutes.values()] == list(expected.walltime)


@pytest.mark.parametrize("number", range(8))
def test_a_policy_that_lacks_anything_is_off(number: int) -> None:
    cells = RequestPolicy("act", users=("*",)).cells()
    assert gridcast.parse_policy(lua.table_from([*HEAD, *cells])).mode == "act"
    del cells[number]
    assert gridcast.parse_policy(lua.table_from([*HEAD, *cells])).mode == "off"
