"""The latest outcomes of a key that were available when a job was submitted.

One replay in event order serves every heuristic: an outcome counts from the time it became
available, never before. A key groups jobs (by user, template, group), one integer a job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.aliases import Floats, Integers
from infra.compiled import compiled
from models.past.ranked import count_row, rank_values, smallest

NEWEST = 0.3
"""Weight of the newest outcome in the moving average."""


@dataclass(frozen=True)
class Recent:
    """The latest outcomes of each job's key.

    ``values`` is float64[n, size], newest first, then NaN; ``average`` float64[n] is the
    exponential of the moving average of the logarithms.
    """

    values: Floats
    average: Floats


def recent(
    keys: npt.NDArray[Any], at: Integers, available_at: Integers, values: Floats, size: int = 10
) -> Recent:
    """The last outcomes of each job's key and their exponentially weighted average in logarithms.

    Args:
        keys: Key of each job, rows in order of submission.
        at: Submission.
        available_at: When the outcome became available, in the unit of ``at``.
        values: Outcomes, NaN for never measured.
        size: Number of outcomes.

    >>> at, available_at = np.array([0, 5, 9]), np.array([4, 8, 20])
    >>> recent(np.zeros(3), at, available_at, np.array([4.0, 3.0, 11.0]), size=2).values.tolist()
    [[nan, nan], [4.0, nan], [3.0, 4.0]]
    """
    codes, count = _codes(keys)
    return Recent(
        *_recent(
            codes,
            at,
            available_at,
            values,
            order_by_availability(available_at, values),
            size,
            NEWEST,
            count,
        )
    )


def running_quantiles(
    keys: npt.NDArray[Any],
    at: Integers,
    available_at: Integers,
    values: Floats,
    shares: tuple[float, ...],
    span: int | None = None,
) -> Floats:
    """Exact quantiles of the outcomes of each job's key that were available at its submission.

    A quantile is the smallest outcome that at least that share of outcomes does not exceed.

    Args:
        keys: Key of each job, rows in order of submission.
        at: Submission.
        available_at: When the outcome became available, in the unit of ``at``.
        values: Outcomes, NaN for never measured.
        shares: The quantiles, 0 to 1.
        span: Use only outcomes that became available so long before; None for all.

    Returns:
        float64[n, shares], NaN without an outcome.

    >>> at, available_at = np.array([0, 5, 9]), np.array([4, 8, 20])
    >>> outcomes = np.array([4.0, 3.0, 11.0])
    >>> running_quantiles(np.zeros(3), at, available_at, outcomes, (0.5, 0.95)).tolist()
    [[nan, nan], [4.0, 4.0], [3.0, 4.0]]
    """
    codes, count = _codes(keys)
    order = order_by_availability(available_at, values)
    since = at - (
        int(at.max(initial=0)) - int(available_at.min(initial=0)) + 1 if span is None else span
    )
    return _running_quantiles(
        codes,
        at,
        since,
        available_at,
        order,
        rank_values(codes, count, order, values),
        np.array(shares),
    )


def last(level: Recent) -> Floats:
    """The last outcome."""
    return level.values[:, 0]


def mean_of_two(level: Recent) -> Floats:
    """The mean of the last two outcomes, or the only one."""
    return np.where(
        np.isnan(level.values[:, 1]),
        level.values[:, 0],
        (level.values[:, 0] + level.values[:, 1]) / 2,
    )


def median_of(count: int) -> Callable[[Recent], Floats]:
    """The median of the last ``count`` outcomes, or of fewer."""
    return lambda level: row_quantiles(level.values[:, :count], (0.5,))[:, 0]


def row_quantiles(values: Floats, shares: Sequence[float]) -> Floats:
    """Quantiles of each row's finite values with linear interpolation, float64[n, shares].

    NaN where a row has none.

    >>> row_quantiles(np.array([[4.0, 2.0, np.nan], [np.nan, np.nan, np.nan]]), (0.5,)).tolist()
    [[3.0], [nan]]
    """
    ordered = np.sort(values, axis=1)  # NaN last
    position = np.multiply.outer(np.maximum(np.isfinite(values).sum(axis=1) - 1, 0), shares)
    below = np.floor(position).astype(int)
    above = np.ceil(position).astype(int)
    lower, upper = (np.take_along_axis(ordered, index, axis=1) for index in (below, above))
    return lower + (position - below) * (upper - lower)


def _codes(keys: npt.NDArray[Any]) -> tuple[Integers, int]:
    distinct, codes = np.unique(keys, return_inverse=True)
    return codes.astype(np.int64), len(distinct)


def order_by_availability(available_at: Integers, values: Floats) -> Integers:
    """The rows with an outcome, in the order in which it became available (int64)."""
    measured = np.flatnonzero(np.isfinite(values))
    return measured[np.argsort(available_at[measured], kind="stable")]


@compiled
def _recent(  # type: ignore[no-untyped-def]
    codes, at, available_at, values, order, size, newest, count
):
    ring = np.full((count, size), np.nan)
    counts = np.zeros(count, np.int64)
    logs = np.zeros(count)
    last = np.full((len(codes), size), np.nan)
    average = np.full(len(codes), np.nan)
    position = 0
    for row in range(len(codes)):
        while position < len(order) and available_at[order[position]] <= at[row]:
            outcome = order[position]
            position += 1
            key = codes[outcome]
            ring[key, counts[key] % size] = values[outcome]
            log = np.log(max(values[outcome], 1.0))
            logs[key] = log if counts[key] == 0 else logs[key] + newest * (log - logs[key])
            counts[key] += 1
        key = codes[row]
        if counts[key] > 0:
            average[row] = np.exp(logs[key])
            for back in range(min(size, counts[key])):
                last[row, back] = ring[key, (counts[key] - 1 - back) % size]
    return last, average


@compiled
def _running_quantiles(  # type: ignore[no-untyped-def]
    codes, at, since, available_at, order, ranked, shares
):
    tree, counts = np.zeros(len(ranked.values), np.int64), np.zeros(len(ranked.sizes), np.int64)
    out = np.full((len(codes), len(shares)), np.nan)
    position, expired = 0, 0
    for row in range(len(codes)):
        while position < len(order) and available_at[order[position]] <= at[row]:
            key = codes[order[position]]
            count_row(tree, ranked, key, order[position], 1)
            counts[key] += 1
            position += 1
        while expired < position and available_at[order[expired]] < since[row]:
            key = codes[order[expired]]
            count_row(tree, ranked, key, order[expired], -1)
            counts[key] -= 1
            expired += 1
        key = codes[row]
        if counts[key] > 0:
            for column in range(len(shares)):
                out[row, column] = smallest(
                    tree, ranked, key, max(1, int(np.ceil(shares[column] * counts[key])))
                )
    return out
