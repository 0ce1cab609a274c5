"""What the latest jobs of a key were like, as it stood when a job was submitted.

One replay in the order of events serves every heuristic: an outcome counts from the moment it is known, never before. A key
is whatever groups jobs (a user, a template, a group), one integer a job.
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
"""What the newest outcome weighs in the moving average."""


@dataclass(frozen=True)
class Recent:
    """The latest outcomes of each job's key: ``values`` n × size, newest first, then NaN; ``average`` float64[n], of logs, as a value."""

    values: Floats
    average: Floats


def recent(
    keys: npt.NDArray[Any], at: Integers, known: Integers, values: Floats, size: int = 10
) -> Recent:
    """The last ``size`` outcomes of each job's key and their exponentially weighted average in logs (weight ``NEWEST``).

    Rows are in order of submission ``at``; ``values`` (NaN: never measured) become known at ``known``, in the same unit of time.

    >>> story = recent(np.zeros(3), np.array([0, 5, 9]), np.array([4, 8, 20]), np.array([4.0, 3.0, 11.0]), size=2)
    >>> story.values.tolist()
    [[nan, nan], [4.0, nan], [3.0, 4.0]]
    """
    codes, count = _codes(keys)
    return Recent(
        *_recent(codes, at, known, values, order_of_news(known, values), size, NEWEST, count)
    )


def running_quantiles(
    keys: npt.NDArray[Any],
    at: Integers,
    known: Integers,
    values: Floats,
    shares: tuple[float, ...],
    span: int | None = None,
) -> Floats:
    """Exact quantiles of all that each job's key had shown by its submission, n × shares, NaN while there is nothing.

    A quantile is the smallest outcome that at least that share does not exceed. Rows as for ``recent``. With ``span`` only what became
    known so long before counts, in the unit of ``at``.

    >>> running_quantiles(np.zeros(3), np.array([0, 5, 9]), np.array([4, 8, 20]), np.array([4.0, 3.0, 11.0]), (0.5, 0.95)).tolist()
    [[nan, nan], [4.0, 4.0], [3.0, 4.0]]
    """
    codes, count = _codes(keys)
    order = order_of_news(known, values)
    since = at - (int(at.max(initial=0)) - int(known.min(initial=0)) + 1 if span is None else span)
    return _running_quantiles(
        codes, at, since, known, order, rank_values(codes, count, order, values), np.array(shares)
    )


def last(level: Recent) -> Floats:
    """The last outcome."""
    return level.values[:, 0]


def mean_of_two(level: Recent) -> Floats:
    """The mean of the last two outcomes, or the one there is."""
    return np.where(
        np.isnan(level.values[:, 1]),
        level.values[:, 0],
        (level.values[:, 0] + level.values[:, 1]) / 2,
    )


def median_of(count: int) -> Callable[[Recent], Floats]:
    """The median of the last ``count`` outcomes, or of those there are."""
    return lambda level: quantiles_of_known(level.values[:, :count], (0.5,))[:, 0]


def quantiles_of_known(values: Floats, shares: Sequence[float]) -> Floats:
    """Quantiles of each row's known values, linear between them, n × shares; NaN where a row has none.

    >>> quantiles_of_known(np.array([[4.0, 2.0, np.nan], [np.nan, np.nan, np.nan]]), (0.5,)).tolist()
    [[3.0], [nan]]
    """
    ordered = np.sort(values, axis=1)  # NaN last
    place = np.multiply.outer(np.maximum(np.isfinite(values).sum(axis=1) - 1, 0), shares)
    below = np.floor(place).astype(int)
    above = np.ceil(place).astype(int)
    lower, upper = (np.take_along_axis(ordered, index, axis=1) for index in (below, above))
    return lower + (place - below) * (upper - lower)


def _codes(keys: npt.NDArray[Any]) -> tuple[Integers, int]:
    distinct, codes = np.unique(keys, return_inverse=True)
    return codes.astype(np.int64), len(distinct)


def order_of_news(known: Integers, values: Floats) -> Integers:
    """The rows with an outcome, in the order in which it became known."""
    measured = np.flatnonzero(np.isfinite(values))
    return measured[np.argsort(known[measured], kind="stable")]


@compiled
def _recent(codes, at, known, values, order, size, newest, count):  # type: ignore[no-untyped-def]
    ring = np.full((count, size), np.nan)
    seen = np.zeros(count, np.int64)
    logs = np.zeros(count)
    last = np.full((len(codes), size), np.nan)
    average = np.full(len(codes), np.nan)
    position = 0
    for row in range(len(codes)):
        while position < len(order) and known[order[position]] <= at[row]:
            done = order[position]
            position += 1
            key = codes[done]
            ring[key, seen[key] % size] = values[done]
            log = np.log(max(values[done], 1.0))
            logs[key] = log if seen[key] == 0 else logs[key] + newest * (log - logs[key])
            seen[key] += 1
        key = codes[row]
        if seen[key] > 0:
            average[row] = np.exp(logs[key])
            for back in range(min(size, seen[key])):
                last[row, back] = ring[key, (seen[key] - 1 - back) % size]
    return last, average


@compiled
def _running_quantiles(codes, at, since, known, order, ranked, shares):  # type: ignore[no-untyped-def]
    tree, seen = np.zeros(len(ranked.values), np.int64), np.zeros(len(ranked.sizes), np.int64)
    found = np.full((len(codes), len(shares)), np.nan)
    position, gone = 0, 0
    for row in range(len(codes)):
        while position < len(order) and known[order[position]] <= at[row]:
            key = codes[order[position]]
            count_row(tree, ranked, key, order[position], 1)
            seen[key] += 1
            position += 1
        while gone < position and known[order[gone]] < since[row]:
            key = codes[order[gone]]
            count_row(tree, ranked, key, order[gone], -1)
            seen[key] -= 1
            gone += 1
        key = codes[row]
        if seen[key] > 0:
            for column in range(len(shares)):
                found[row, column] = smallest(
                    tree, ranked, key, max(1, int(np.ceil(shares[column] * seen[key])))
                )
    return found
