"""Dividing work over hosts so that all end together."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given

from infra.errors import InputError
from scheduling.studies.time_balancing import (
    SPLITTINGS,
    balance,
    compare_policies,
    divide_by_host,
    read_loads,
    run,
    slowdown,
    split_and_run,
)


def test_a_host_half_as_fast_gets_half_as_much() -> None:
    assert balance(30.0, np.array([1.0, 2.0])).tolist() == [20.0, 10.0]


def test_a_host_that_takes_long_to_reach_gets_less_or_nothing() -> None:
    assert balance(10.0, np.array([1.0, 1.0]), np.array([0.0, 4.0])).tolist() == [7.0, 3.0]
    assert balance(10.0, np.array([1.0, 1.0]), np.array([0.0, 40.0])).tolist() == [10.0, 0.0]


@given(
    st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 100)), min_size=1, max_size=8),
    st.floats(0.1, 1000),
)
def test_all_hosts_that_work_end_together_and_the_parts_make_the_whole(
    hosts: list[tuple[float, float]], total: float
) -> None:
    seconds, fixed = np.array(hosts).T
    parts = balance(total, seconds, fixed)
    assert parts.sum() == pytest.approx(total)
    assert (parts >= 0).all()
    ends = (parts * seconds + fixed)[parts > 0]
    assert np.ptp(ends) <= 1e-6 * ends.max()
    assert (fixed[parts == 0] >= ends.min() - 1e-6 * ends.max()).all()


def test_work_meets_the_loads_that_come() -> None:
    # Half busy for the first 10 s, idle after: 8 units take 10 s for five of them and 3 s for the
    # rest; half busy throughout takes 16.
    loads = np.array([[0.5, 0.5], [0.0, 0.5]])
    assert run(np.array([8.0, 8.0]), loads, step=10.0).tolist() == [13.0, 16.0]


def test_a_busy_host_takes_longer_but_never_forever() -> None:
    assert slowdown(np.array([0.0, 0.5, 1.0])).tolist() == pytest.approx([1.0, 2.0, 50.0])


@pytest.mark.parametrize("policy", SPLITTINGS)
def test_dividing_looks_only_at_the_loads_before(policy: str) -> None:
    generator = np.random.default_rng(3)
    loads = generator.uniform(0, 0.9, (60, 4))
    after = loads.copy()
    after[30:] = 0.0
    assert split_and_run(after, 30, 600.0, policy) < split_and_run(loads, 30, 600.0, policy)
    # On hosts that are idle from then on the part of each is all that is left, and it was decided
    # before.
    parts = [
        split_and_run(np.where(np.arange(60)[:, None] < 30, loads, busy), 30, 600.0, policy)
        for busy in (0.0, 0.5)
    ]
    assert parts[1] == pytest.approx(2 * parts[0])


def test_conservative_gives_a_wild_host_less_as_the_tuning_factor_grows() -> None:
    wild = np.tile([[0.1, 0.4], [0.7, 0.4]], (30, 1))  # the same mean, another spread
    shares = []
    for tuning in (0.0, 1.0, 2.0):
        load = SPLITTINGS["history-conservative"].load(wild, 4, tuning)
        shares.append(balance(1.0, slowdown(load))[0])
    assert shares[0] == pytest.approx(0.5)
    assert shares[0] > shares[1] > shares[2]


def test_loads_are_read_as_shares_and_what_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "loads.csv"
    file.write_text("a,b\n10,20\n30,0\n", encoding="utf-8")
    assert read_loads(file).to_dict("list") == {"a": [0.1, 0.3], "b": [0.2, 0.0]}
    assert list(read_loads(file, ["b"])) == ["b"]
    for text, sentence in (
        ("a,b\n10,x\n", "row 1 of loads.csv holds no load of host 'b': 'x'"),
        ("a,b\n10,20\n10,\n", "row 2 of loads.csv holds no load of host 'b'"),
        ("a,b\n10,-1\n", "holds no load"),
        ("a,b\n", "has no row of loads"),
        ("", "cannot be read"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=sentence):
            read_loads(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_loads(tmp_path / "nowhere.csv")
    file.write_text("a\n1\n", encoding="utf-8")
    with pytest.raises(InputError, match="has no host 'c'"):
        read_loads(file, ["c"])


@pytest.mark.parametrize("policy", SPLITTINGS)
def test_the_parts_of_the_hosts_make_the_whole_and_the_idle_host_gets_most(policy: str) -> None:
    loads = pd.DataFrame({"busy": [0.8] * 20, "idle": [0.1] * 20, "half": [0.5] * 20})
    rows = divide_by_host(loads, 600.0, policy, 300.0, 1.0)
    assert [row["host"] for row in rows] == ["idle", "half", "busy"]
    assert sum(row["work_s"] for row in rows) == pytest.approx(600.0)
    assert rows[0]["work_s"] == pytest.approx(600.0 * 0.9 / 1.6)


def test_policies_are_compared_by_when_all_is_done_best_first() -> None:
    generator = np.random.default_rng(4)
    loads = pd.DataFrame(generator.uniform(0, 0.9, (60, 4)), columns=list("abcd"))
    rows = compare_policies(loads, 1200.0, 300.0, 1.0)
    assert {row["policy"] for row in rows} == set(SPLITTINGS)
    assert [row["mean_s"] for row in rows] == sorted(row["mean_s"] for row in rows)
    at = np.unique(np.linspace(30, 59, 100).astype(int))
    first = rows[0]
    took = [split_and_run(loads.to_numpy(), step, 1200.0, first["policy"]) for step in at]
    assert first["mean_s"] == pytest.approx(np.mean(took))
    with pytest.raises(InputError, match="at least 12 rows"):
        compare_policies(loads.iloc[:8], 1200.0, 300.0, 1.0)
    with pytest.raises(InputError, match="no policy 'magic'"):
        divide_by_host(loads, 1.0, "magic", 300.0, 1.0)
