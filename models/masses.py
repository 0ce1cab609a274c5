"""Masses: what a caller may ask of rows of masses, read off in one pass a row (compiled).

``values`` are what the bins stand for; where a row has a limit, a bin above it stands for the limit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from infra.compiled import compiled

Array = npt.NDArray[Any]

_MARGIN = 1e-12
"""A level is reached by a sum that is less by no more than this."""
_NOTHING = 1e-300


@compiled
def _add_up(mass: Array, reached: Array) -> None:
    """Mass up to and with each bin, exactly 1 from the last bin on that has any."""
    total = 0.0
    for b in range(len(mass)):
        total += mass[b]
        reached[b] = total
    total = max(total, _NOTHING)
    for b in range(len(mass)):
        reached[b] /= total


@compiled
def _bin_at(reached: Array, level: float) -> int:
    """The first bin by which ``level`` of the mass is reached, by bisection."""
    low, high = 0, len(reached) - 1
    while low < high:
        middle = (low + high) // 2
        if reached[middle] < level - _MARGIN:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def reached_by(mass: Array, out: Array) -> None:
    """Mass up to and with each bin of each row, into ``out`` (float64[n, bins])."""
    for row in range(len(mass)):
        _add_up(mass[row], out[row])


@compiled
def moments(mass: Array, values: Array, limit: Array, out: Array) -> None:
    """Mean and standard deviation of each row, into ``out`` (float64[n, 2])."""
    for row in range(len(mass)):
        mean, second = 0.0, 0.0
        for b in range(len(values)):
            value = min(values[b], limit[row])
            mean += mass[row, b] * value
            second += mass[row, b] * value * value
        out[row, 0], out[row, 1] = mean, np.sqrt(max(second - mean * mean, 0.0))


@compiled
def quantiles(mass: Array, values: Array, edges: Array, limit: Array, levels: Array, out: Array) -> None:
    """Quantiles of each row at its ``levels`` (float64[n or 1, m]), into ``out`` (float64[n, m]).

    The outcome lies anywhere in its bin, so a low quantile is the bin's lower edge, a high one its upper edge, the median its value.
    """
    reached = np.empty(len(values))
    for row in range(len(mass)):
        _add_up(mass[row], reached)
        wanted = levels[min(row, len(levels) - 1)]
        for place in range(len(wanted)):
            b = _bin_at(reached, wanted[place])
            value = edges[b] if wanted[place] < 0.5 else edges[b + 1] if wanted[place] > 0.5 else values[b]
            out[row, place] = min(value, limit[row])


@compiled
def best_bins(mass: Array, values: Array, limit: Array, prices: Array, out: Array) -> None:
    """The bin c of each row that maximises E[min(c/a, a/c) − price·|c − a|] over the outcomes a, into ``out`` (int64[n]).

    Sums up to each bin make it linear in the bins; the last bin's sums give what lies above.
    """
    bins = len(values)
    weight, worth, inverse = np.empty(bins), np.empty(bins), np.empty(bins)
    for row in range(len(mass)):
        all_weight, all_worth, all_inverse = 0.0, 0.0, 0.0
        for b in range(bins):
            value = min(values[b], limit[row])
            all_weight += mass[row, b]
            all_worth += mass[row, b] * value
            all_inverse += mass[row, b] / value
            weight[b], worth[b], inverse[b] = all_weight, all_worth, all_inverse
        # Above the limit every bin stands for the same value: the first of them is as good as any.
        best, most, price = 0, -np.inf, prices[row]
        for b in range(bins):
            value = min(values[b], limit[row])
            nearness = worth[b] / value + value * (all_inverse - inverse[b])
            distance = 2.0 * (value * weight[b] - worth[b]) + all_worth - value * all_weight
            aim = nearness - price * distance
            if aim > most:
                best, most = b, aim
        out[row] = best


@compiled
def coarsen(mass: Array, width: int, out: Array) -> None:
    """Mass in each group of ``width`` bins of each row, into ``out`` (float64[n, groups])."""
    bins = mass.shape[1]
    for row in range(len(mass)):
        for k in range(out.shape[1]):
            total = 0.0
            for b in range(k * width, min((k + 1) * width, bins)):
                total += mass[row, b]
            out[row, k] = total


@compiled
def bins_below(mass: Array, levels: Array, out: Array) -> None:
    """How many bins of each row it takes before each of ``levels`` (ascending) is reached, into ``out`` (float32[n, levels])."""
    for row in range(len(mass)):
        total, place = 0.0, 0
        for b in range(mass.shape[1]):
            total += mass[row, b]
            while place < len(levels) and total >= levels[place]:
                out[row, place] = b
                place += 1
        for rest in range(place, len(levels)):
            out[row, rest] = mass.shape[1]


@compiled
def bend(mass: Array, factors: Array, width: int, out: Array) -> None:
    """Multiply each group of ``width`` bins by its factor (float64[n, groups]); rows of ``out`` (float32[n, bins]) sum to 1."""
    bins = mass.shape[1]
    for row in range(len(mass)):
        total = 0.0
        for k in range(factors.shape[1]):
            factor = factors[row, k]
            for b in range(k * width, min((k + 1) * width, bins)):
                out[row, b] = mass[row, b] * factor
                total += mass[row, b] * factor
        for b in range(bins):
            out[row, b] /= total
