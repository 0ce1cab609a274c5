"""The index of outcomes: those of each key at any time, in whatever order they were inserted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from models.histories.outcome_index import (
    CAP,
    WINDOW,
    OutcomeIndex,
    add_row,
    available_end,
    count_available,
    ensure_capacity,
    ensure_slot,
    find_slot,
    first_in_window,
    has_capacity,
    has_outcome,
    insert,
    new_outcome_index,
)

outcomes = some.lists(some.tuples(some.integers(0, 4), some.integers(0, 30)), max_size=120)


def tell(lists: OutcomeIndex, key: int, known: int, ident: int, value: float) -> OutcomeIndex:
    """What the engine does with an outcome: told twice it counts once."""
    while not has_capacity(lists, np.array([key], np.uint64)):
        lists = ensure_capacity(lists, 2)
    slot = ensure_slot(lists, np.uint64(key))
    if not has_outcome(lists, slot, known, np.uint32(ident)):
        insert(lists, slot, add_row(lists, known, np.uint32(ident), value), np.float32(value))
    return lists


def seen(lists: OutcomeIndex, key: int, at: int) -> tuple[list[float], int]:
    """The values of a key's window at a time, oldest first, and its count of outcomes by then."""
    slot = find_slot(lists, np.uint64(key))
    if slot < 0:
        return [], 0
    end = available_end(lists, slot, at)
    rows = lists.outcome_row[first_in_window(lists, slot, end) : end]
    return lists.value[rows].tolist(), count_available(lists, slot, end)


@given(outcomes, some.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_a_history_is_what_was_known_by_then_in_whatever_order_it_was_told(
    told: list[tuple[int, int]], chance: object
) -> None:
    jobs = [(key, known, ident, float(ident)) for ident, (key, known) in enumerate(told)]
    shuffled = [*jobs, *jobs[::3]]
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    lists = new_outcome_index(slots=2, pool=64)
    for job in shuffled:
        lists = tell(lists, *job)
    for key in range(5):
        for at in (-1, 0, 7, 15, 30):
            expected = [
                job[3]
                for job in sorted(jobs, key=lambda job: (job[1], job[2]))
                if job[0] == key and job[1] <= at
            ]
            assert seen(lists, key, at) == (expected[-WINDOW:], len(expected))


@pytest.fixture(scope="module")
def long() -> OutcomeIndex:
    """One key with more than twice as many outcomes as are kept, each pair in reverse order."""
    lists = new_outcome_index()
    for instant in np.arange(2 * CAP + 500) ^ 1:
        lists = tell(lists, 1, int(instant), int(instant), float(instant))
    return lists


def test_a_long_history_keeps_its_latest_and_counts_all(long: OutcomeIndex) -> None:
    newest = 2 * CAP + 499
    assert seen(long, 1, newest) == (list(range(newest - WINDOW + 1, newest + 1)), newest + 1)
    assert seen(long, 1, newest - CAP // 2)[0][-1] == newest - CAP // 2
    assert long.slots["size"][find_slot(long, np.uint64(1))] <= 2 * CAP


def test_what_is_older_than_all_that_is_kept_is_only_counted(long: OutcomeIndex) -> None:
    values, count = seen(long, 1, 2 * CAP + 499)
    tell(long, 1, 3, 999_999, 7.0)
    assert seen(long, 1, 2 * CAP + 499) == (values, count + 1)
    assert seen(long, 1, 10)[0] == []


def test_keys_that_meet_in_the_table_keep_apart() -> None:
    lists = new_outcome_index(slots=2, pool=64)
    keys = [7 + 64 * step for step in range(40)]
    for ident, key in enumerate(keys):
        lists = tell(lists, key, ident, ident, float(key))
    assert [seen(lists, key, 100)[0] for key in keys] == [[float(key)] for key in keys]
