"""Dividing work over hosts so that all end together."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from scheduling.studies.time_balancing import SPLITTINGS, balance, run, slowdown, split_and_run


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
    # Half busy for the first 10 s, idle after: 8 units take 10 s for five of them and 3 s for the rest; half busy throughout takes 16.
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
    # On hosts that are idle from then on the part of each is all that is left, and it was decided before.
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
