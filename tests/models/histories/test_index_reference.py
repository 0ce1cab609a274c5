"""The index of outcomes holds what plain lists hold, and its blocks and rows are never shared."""

from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict

import numpy as np
import pytest

from models.histories.components import limit_positions
from models.histories.familiarity import first_outcomes_key
from models.histories.features import Contexts
from models.histories.mixture import Mixture, outcome_order
from models.histories.outcome_index import (
    CAP,
    MAX_ROOM,
    POOL,
    ROWS,
    WINDOW,
    OutcomeIndex,
    available_end,
    count_available,
    count_outcomes,
    end_position,
    find_slot,
    first_in_window,
    first_position,
    has_outcome,
    sampling_stride,
)
from models.quantities.targets import TARGETS

WALLTIME = TARGETS["walltime"]
RELATIVE = (False, False, True, False)
Outcome = tuple[int, int, float, float]


class PlainIndex:
    """Sorted lists of the latest CAP outcomes by key, and how many there ever were."""

    def __init__(self) -> None:
        self.outcomes: dict[int, list[Outcome]] = defaultdict(list)
        self.total: Counter[int] = Counter()

    def insert(self, key: int, outcome: Outcome) -> None:
        insort(self.outcomes[key], outcome)
        del self.outcomes[key][:-CAP]
        self.total[key] += 1

    def learn(
        self, mixture: Mixture, jobs: Contexts, values: np.ndarray, bounds: np.ndarray
    ) -> None:
        positions = mixture.grid.log_bin_positions(values)
        limits = limit_positions(mixture.grid, bounds)
        for row in outcome_order(jobs, values):
            keys, limit = jobs.keys[row].tolist(), limits[row]
            job = int(jobs.available_at[row]), int(jobs.ids[row])
            finest = next(key for key in keys if key)
            later = bisect_left(self.outcomes[finest], job)
            if job in [outcome[:2] for outcome in self.outcomes[finest][later : later + 1]]:
                continue
            outcome = (*job, float(values[row]))
            owner = keys[mixture.shape.owner]
            if owner and not self.total[owner]:
                key = int(first_outcomes_key(jobs.sources[row], limit, mixture.shape.steps))
                self.insert(key, (*outcome, float(np.float32(positions[row]))))
            for key, relative in zip(keys, RELATIVE, strict=True):
                if key and (np.isfinite(limit) or not relative):
                    shift = limit if relative else 0.0
                    self.insert(key, (*outcome, float(np.float32(positions[row] - shift))))


def outcomes_of(index: OutcomeIndex, first: int, end: int) -> list[Outcome]:
    """The outcomes between two pool positions."""
    rows = index.outcome_row[first:end]
    columns = index.available_at[rows], index.outcome_id[rows], index.value[rows]
    return list(
        zip(
            *(values.tolist() for values in (*columns, index.log_bin_position[first:end])),
            strict=True,
        )
    )


def assert_equal(index: OutcomeIndex, plain: PlainIndex, times: list[int]) -> None:
    """Compare every key's outcomes and all that is read of them at several times."""
    used = int((index.slots["total"] > 0).sum())
    assert used == len([key for key, total in plain.total.items() if total])
    for key, expected in plain.outcomes.items():
        slot = find_slot(index, np.uint64(key))
        if not expected:
            assert slot < 0 or count_outcomes(index, slot) == 0
            continue
        first, end = first_position(index, slot), end_position(index, slot)
        assert outcomes_of(index, first, end) == expected
        assert count_outcomes(index, slot) == plain.total[key]
        for at in times:
            by_then = bisect_right([outcome[0] for outcome in expected], at)
            assert available_end(index, slot, at) - first == by_then
            stop = first + by_then
            later = len(expected) - by_then
            assert count_available(index, slot, stop) == plain.total[key] - later
            assert first_in_window(index, slot, stop) == first + max(0, by_then - WINDOW)
            assert sampling_stride(index, slot, stop) == max(1, by_then // WINDOW)
        at, outcome_id = expected[len(expected) // 2][:2]
        assert has_outcome(index, slot, at, np.uint32(outcome_id))
        assert not has_outcome(index, slot, at, np.uint32(outcome_id + 1))


def assert_consistent(index: OutcomeIndex) -> None:
    """Every pool entry belongs to one block, used or free; rows count their references."""
    blocks = [(int(slot["start"]), int(slot["room"])) for slot in index.slots if slot["room"]]
    referred = Counter[int]()
    for slot in index.slots:
        start, size = int(slot["start"]), int(slot["size"])
        assert size <= slot["room"] <= MAX_ROOM
        referred.update(index.outcome_row[start : start + size].tolist())
    for size_class, head in enumerate(index.free.tolist()):
        while head:
            blocks.append((head - 1, (2 + size_class % 2 << size_class // 2) // 2))
            head = int(index.outcome_row[head - 1])
    end = 0
    for start, room in sorted(blocks):
        assert start == end
        end = start + room
    assert end == index.used[POOL]
    free_rows, head = set[int](), int(index.used[ROWS + 1])
    while head:
        assert head - 1 not in free_rows
        free_rows.add(head - 1)
        head = int(index.available_at[head - 1])
    for row in range(int(index.used[ROWS])):
        assert index.references[row] == referred[row]
        assert (row in free_rows) == (referred[row] == 0)


def draw_jobs(
    draw: np.random.Generator, rows: int, users: int, span: int
) -> tuple[Contexts, np.ndarray, np.ndarray]:
    """Jobs of some users, an eighth of which report none, with values and limits; some unknown."""
    user = draw.integers(1, users + 1, rows).astype(np.uint64)
    program = draw.integers(1, 4, rows).astype(np.uint64)
    user[draw.random(rows) < 0.125] = 0
    keys = np.stack(
        [(user << np.uint64(8) | program) * (user > 0), user, user << np.uint64(20), user * 0 + 7],
        axis=1,
    ).astype(np.uint64)
    at = draw.integers(0, span, rows)
    jobs = Contexts(
        keys,
        at,
        at + draw.integers(1, span // 4 + 2, rows),
        draw.integers(0, 1 << 20, rows).astype(np.uint32),
        np.zeros((rows, 2), np.float32),
        draw.integers(0, 2, rows).astype(np.uint64),
    )
    values = np.where(draw.random(rows) < 0.1, np.nan, draw.lognormal(7, 2, rows))
    return jobs, values, np.where(draw.random(rows) < 0.3, np.inf, draw.lognormal(9, 1, rows))


def learned(seed: int, rows: int, users: int, span: int) -> tuple[OutcomeIndex, PlainIndex]:
    """Both indices after the same batches, in random order with repeated jobs."""
    draw = np.random.default_rng(seed)
    jobs, values, limits = draw_jobs(draw, rows, users, span)
    mixture, plain = Mixture(WALLTIME, RELATIVE, owner=1), PlainIndex()
    order = draw.permutation(rows)
    batches = np.array_split(order, draw.integers(1, 6))
    for batch in (*batches, batches[0][::3]):
        batch_jobs = jobs.take(batch)
        mixture.learn(batch_jobs, values[batch], limits[batch], weigh=False)
        plain.learn(mixture, batch_jobs, values[batch], limits[batch])
    return mixture.state.outcomes, plain


@pytest.mark.parametrize("seed", range(40))
def test_the_index_holds_what_plain_lists_hold(seed: int) -> None:
    span = (3, 60, 10_000)[seed % 3]
    index, plain = learned(seed, rows=40 + 10 * seed, users=1 + seed % 7, span=span)
    assert_equal(index, plain, [-1, 0, span // 3, span // 2, 2 * span])
    assert_consistent(index)


def test_full_histories_hold_what_plain_lists_hold_and_rows_are_used_again() -> None:
    index, plain = learned(1, rows=3 * CAP, users=2, span=10 * CAP)
    assert max(map(len, plain.outcomes.values())) == CAP
    assert_equal(index, plain, [0, 5 * CAP, 9 * CAP])
    assert_consistent(index)
    # Jobs without a user are only in the history of all, which dropped most of them.
    assert index.used[ROWS] < plain.total[7]
