"""Choosing jobs for a slot: what holds of every choice, and the broker's order."""

from __future__ import annotations

from itertools import product

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from models.quantities.distribution import Distribution
from models.quantities.targets import TARGETS
from models.quantities.within import Within
from models.ranking.slots import Order, Outlook, Slot, SlotError, choose

JOBS = st.lists(
    st.tuples(
        st.integers(1, 9),  # cores
        st.sampled_from([0.0, 0.5, 1.0, 2.5]),  # memory
        st.integers(1, 4),  # waiting
        st.integers(-20, 100),  # gain
        st.booleans(),  # eligible
    ),
    min_size=1,
    max_size=8,
)


@given(JOBS, st.integers(1, 8), st.sampled_from([0.4, 2.0, 5.0, np.inf]), st.booleans())
@settings(deadline=None, max_examples=150)
def test_a_choice_is_within_the_slot_and_never_gains_more_than_the_bound(
    jobs: list[tuple[int, float, int, int, bool]], cores: int, memory: float, by_gain: bool
) -> None:
    width, need, waiting, gain, eligible = (np.array(column) for column in zip(*jobs, strict=True))
    gain = gain.astype(float)
    order = np.argsort(-gain / width, kind="stable") if by_gain else np.arange(len(jobs))
    choice = choose(Slot(cores, 60.0, memory), order, width, need, waiting, gain, eligible)
    assert (choice.count * width).sum() <= cores
    assert (choice.count * need).sum() <= memory
    assert (choice.count <= waiting).all()
    assert (choice.count[~eligible] == 0).all()
    assert choice.gain == pytest.approx((choice.count * gain).sum())
    assert choice.gain <= choice.bound + 1e-9
    if by_gain and memory == np.inf and (gain > 0).all():
        assert choice.gain == pytest.approx(_best(width, waiting, gain, eligible, cores))


def _best(width: np.ndarray, waiting: np.ndarray, gain: np.ndarray, may: np.ndarray, cores: int):
    """The most that any choice gains, by trying all."""
    options = [
        range(min(number, cores // wide) + 1 if allowed else 1)
        for number, wide, allowed in zip(waiting, width, may, strict=True)
    ]
    if np.prod([len(option) for option in options]) > 20_000:
        pytest.skip("too many choices to try all")
    return max(
        float((np.array(counts) * gain).sum())
        for counts in product(*options)
        if (np.array(counts) * width).sum() <= cores
    )


def test_jobs_start_in_the_brokers_order_and_a_later_one_fills_what_is_left() -> None:
    # 5 of 8 cores, then 4 do not fit, 3 do: better by gain would be 4 + 4.
    width, gain = np.array([5, 4, 4, 3]), np.array([1.0, 50.0, 50.0, 1.0])
    ones, nothing = np.ones(4, np.int64), np.zeros(4)
    may = np.ones(4, bool)
    first = choose(Slot(8, 60.0), np.arange(4), width, nothing, ones, gain, may)
    assert first.count.tolist() == [1, 0, 0, 1]
    assert (first.gain, first.bound) == (2.0, 100.0)
    by_gain = np.argsort(-gain / width, kind="stable")
    best = choose(Slot(8, 60.0), by_gain, width, nothing, ones, gain, may)
    assert best.count.tolist() == [0, 1, 1, 0]


def test_the_order_of_alien_prefers_unused_quota_then_priority_then_the_longest_wait() -> None:
    waited, priority = np.array([10.0, 20.0, 5.0, 90.0]), np.array([1.0, 1.0, 2.0, 1.0])
    load, gain = np.array([0.1, 0.1, 0.1, 1.0]), np.zeros(4)
    order = np.argsort(-Order().scores(waited, priority, load, gain), kind="stable")
    assert order.tolist() == [2, 1, 0, 3]
    assert Order().scores(waited, priority, load, gain)[2] == pytest.approx(50 * 1.9 * 2 - 3 / 4)
    waits = Order("wait").scores(waited, priority, load, gain)
    assert np.argsort(-waits).tolist() == [3, 1, 0, 2]
    with pytest.raises(SlotError, match="there is no policy 'fair'"):
        Order("fair")


@given(st.integers(0, 2**32 - 1), st.floats(1, 1e6), st.floats(1.0, 3.0), st.floats(0, 1e6))
@settings(deadline=None, max_examples=100)
def test_the_probability_of_ending_grows_with_the_seconds_left(
    seed: int, seconds: float, factor: float, ran: float
) -> None:
    grid = TARGETS["walltime"].grid
    mass = np.random.default_rng(seed).random((3, grid.bins)) ** 8
    limit = np.array([np.inf, 3e5, 50.0])
    predicted = Distribution(grid, mass / mass.sum(axis=1, keepdims=True), limit)
    rows = np.arange(3)

    def within(bound: float) -> Within:
        places = [predicted.partial_moments(np.full(3, place), rows) for place in (ran, bound)]
        return Within.between(*((share, share, moment) for share, moment in places))

    sooner, later = within(seconds), within(seconds * factor)
    assert (later.probability >= sooner.probability - 1e-12).all()
    assert ((sooner.probability >= 0) & (later.probability <= 1)).all()
    expected = Outlook.of(later, np.ones(3), seconds * factor)
    assert (expected.used + expected.lost <= seconds * factor * (1 + 1e-9)).all()
    assert within(np.inf).probability[0] in (0.0, pytest.approx(1.0))


def test_partial_moments_add_up_to_the_mean() -> None:
    grid = TARGETS["walltime"].grid
    mass = np.zeros((1, grid.bins))
    mass[0, grid.bin(np.array([100.0, 1000.0]))] = 0.5
    predicted = Distribution(grid, mass, np.array([np.inf]))
    share, moment = predicted.partial_moments(np.array([500.0]), np.array([0]))
    assert share[0] == pytest.approx(0.5)
    assert moment[0] == pytest.approx(50.0, rel=0.03)
    everything = predicted.partial_moments(np.array([np.inf]), np.array([0]))
    assert everything[0][0] == pytest.approx(1.0)
    assert everything[1][0] == pytest.approx(550.0, rel=0.03)
