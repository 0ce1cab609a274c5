"""Compiled statistics of rows of masses over a grid, each in one pass a row.

``values`` are what the bins stand for; a bin above a row's limit stands for the limit.
"""

from __future__ import annotations

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled, compiled_in_place

_MARGIN = 1e-12
"""A level is reached by a sum that is less by no more than this."""
_NEGLIGIBLE = 1e-300
_UNLIKELY = 0.02
"""The mixture's floor, which lies on all values of its grid, however large."""


@compiled_in_place
def _cumulate(mass: Array, sums: Array) -> float:
    """Compute the mass up to and with each bin; returns all of it."""
    total = 0.0
    for b in range(len(mass)):
        total += mass[b]
        sums[b] = total
    return max(total, _NEGLIGIBLE)


@compiled_in_place
def _bin_at(sums: Array, level: float) -> int:
    """Return the first bin by which ``level`` is reached, by bisection."""
    low, high = 0, len(sums) - 1
    while low < high:
        middle = (low + high) // 2
        if sums[middle] < level:
            low = middle + 1
        else:
            high = middle
    return low


@compiled_in_place
def cumulate(mass: Array, out: Array) -> None:
    """Compute the share of each row's mass up to and with each bin (float64[n, bins])."""
    for row in range(len(mass)):
        total = _cumulate(mass[row], out[row])
        for b in range(mass.shape[1]):
            out[row, b] /= total


@compiled_in_place
def _ceiling(mass: Array, values: Array, limit: float) -> float:
    """Return the limit, or without one the value above which lies only _UNLIKELY mass.

    That mass would else make up all of the mean.
    """
    if np.isfinite(limit):
        return limit
    above, b = 0.0, len(values) - 1
    allowed = _UNLIKELY * mass.sum()
    while b > 0 and above + mass[b] <= allowed:
        above += mass[b]
        b -= 1
    return np.float64(values[b])


@compiled_in_place
def _moments(mass: Array, values: Array, limit: float, out: Array) -> None:
    mean, second, limit = 0.0, 0.0, _ceiling(mass, values, limit)
    for b in range(len(values)):
        value = min(values[b], limit)
        mean += mass[b] * value
        second += mass[b] * value * value
    out[0], out[1] = mean, np.sqrt(max(second - mean * mean, 0.0))


@compiled_in_place
def _quantiles(
    sums: Array, total: float, values: Array, edges: Array, limit: float, levels: Array, out: Array
) -> None:
    for i in range(len(levels)):
        level = levels[i]
        b = _bin_at(sums, (level - _MARGIN) * total)
        value = edges[b] if level < 0.5 else edges[b + 1] if level > 0.5 else values[b]
        if level > 0.5 and np.isfinite(limit) and sums[b] >= (1.0 - _MARGIN) * total:
            value = limit  # the last bin that holds any mass stands for all up to the limit
        out[i] = min(value, limit)


@compiled_in_place
def _shares(sums: Array, total: float, mass: Array, bins: Array, parts: Array, out: Array) -> None:
    """Compute the mass between cuts; ``parts`` of the cuts' ``bins`` lie below them."""
    before = 0.0
    for cut in range(len(bins)):
        below = (sums[bins[cut]] - mass[bins[cut]] * (1.0 - parts[cut])) / total
        out[cut] = max(below - before, 0.0)
        before = below
    out[len(bins)] = max(1.0 - before, 0.0)


@compiled_in_place
def _best_bins(
    mass: Array,
    values: Array,
    inverses: Array,
    limit: float,
    price: float,
    levels: Array,
    gains: Array,
    sums: Array,
    out: Array,
) -> None:
    """Compute one row of ``best_bins``; ``gains`` is scratch space.

    The first row of ``sums`` (float64[3, bins]) is as from ``_cumulate`` afterwards.
    """
    mass_upto, value_upto, inverse_upto = sums
    smallest_inverse = 1.0 / limit
    total, total_value, total_inverse = 0.0, 0.0, 0.0
    for b in range(len(values)):
        total += mass[b]
        total_value += mass[b] * min(values[b], limit)
        total_inverse += mass[b] * max(inverses[b], smallest_inverse)
        mass_upto[b], value_upto[b], inverse_upto[b] = total, total_value, total_inverse
    # Above the limit every bin stands for the same value: the first of them is as good as any.
    gains[:] = -np.inf
    out[:] = 0
    for b in range(len(values)):
        value, inverse = min(values[b], limit), max(inverses[b], smallest_inverse)
        accuracy = value_upto[b] * inverse + value * (total_inverse - inverse_upto[b])
        over = value * mass_upto[b] - value_upto[b]
        under_less_over = total_value - value * total
        for k in range(len(levels)):
            gain = accuracy - price * 2.0 * (over + levels[k] * under_less_over)
            if gain > gains[k]:
                out[k], gains[k] = b, gain


@compiled_in_place
def _reweight(mass: Array, factors: Array, width: int, out: Array) -> None:
    bins, groups, total = len(mass), len(factors), 0.0
    for k in range(groups):
        factor = factors[k]
        for b in range(k * width, (k + 1) * width if k < groups - 1 else bins):
            out[b] = mass[b] * factor
            total += mass[b] * factor
    for b in range(bins):
        out[b] /= total


@compiled_in_place
def moments(mass: Array, values: Array, limit: Array, out: Array) -> None:
    """Compute mean and standard deviation of each row.

    Args:
        mass: float[n, bins].
        values: float64[bins].
        limit: float64[n], infinite for none.
        out: Receives float64[n, 2].
    """
    for row in range(len(mass)):
        _moments(mass[row], values, limit[row], out[row])


@compiled
def quantiles(
    mass: Array, values: Array, edges: Array, limit: Array, levels: Array, out: Array
) -> None:
    """Compute quantiles of each row.

    An outcome lies anywhere in its bin, so a low quantile is the bin's lower edge, a high one its
    upper edge, and the median its value.

    Args:
        mass: float[n, bins].
        values: float64[bins].
        edges: float64[bins + 1].
        limit: float64[n], infinite for none.
        levels: float64[n or 1, m].
        out: Receives float64[n, m].
    """
    sums = np.empty(len(values))
    for row in range(len(mass)):
        total = _cumulate(mass[row], sums)
        row_levels = levels[min(row, len(levels) - 1)]
        _quantiles(sums, total, values, edges, limit[row], row_levels, out[row])


@compiled
def shares(mass: Array, bins: Array, parts: Array, out: Array) -> None:
    """Compute the mass of each row in each class.

    Args:
        mass: float[n, bins].
        bins: As in ``classes.Cuts``.
        parts: As in ``classes.Cuts``.
        out: Receives float64[n, cuts + 1].
    """
    sums = np.empty(mass.shape[1])
    for row in range(len(mass)):
        _shares(sums, _cumulate(mass[row], sums), mass[row], bins, parts, out[row])


@compiled
def best_bins(
    mass: Array, values: Array, limit: Array, prices: Array, levels: Array, out: Array
) -> None:
    """Find the bins c of each row that maximise E[min(c/a, a/c) − 2·price·pinball(a − c)].

    The pinball loss over outcomes a weighs what is too low by the level, and what is too high by
    1 − level; at .5 twice of it is the absolute error. Sums up to each bin make it linear in the
    bins.

    Args:
        mass: float[n, bins].
        values: float64[bins].
        limit: float64[n], infinite for none.
        prices: float64[n].
        levels: float64[n or 1, m].
        out: Receives int64[n, m].
    """
    sums, inverses, gains = np.empty((3, len(values))), 1.0 / values, np.empty(levels.shape[1])
    for row in range(len(mass)):
        row_levels = levels[min(row, len(levels) - 1)]
        _best_bins(
            mass[row], values, inverses, limit[row], prices[row], row_levels, gains, sums, out[row]
        )


@compiled
def summarise(
    mass: Array,
    rows: Array,
    factors: Array,
    width: int,
    values: Array,
    edges: Array,
    limit: Array,
    levels: Array,
    price: float,
    point_levels: Array,
    cut_bins: Array,
    cut_parts: Array,
    numbers: Array,
    best: Array,
    classes: Array,
) -> None:
    """Reweight rows and compute moments, quantiles, best bins and class shares of each.

    No row of masses leaves the processor's cache.

    Args:
        mass: float32[m, bins].
        rows: The row of ``mass`` of each result (int64[n]).
        factors: As for ``reweight`` (float64[n, groups]).
        width: Bins in a group.
        values: float64[bins].
        edges: float64[bins + 1].
        limit: float64[n], infinite for none.
        levels: float64[n or 1, levels].
        price: As for ``best_bins``.
        point_levels: The level of each row's best bin (float64[n]).
        cut_bins: As in ``classes.Cuts``.
        cut_parts: As in ``classes.Cuts``.
        numbers: Receives mean, standard deviation and quantiles (float64[n, 2 + levels]).
        best: Receives best bins (int64[n]).
        classes: Receives class shares (float64[n, cuts + 1]), untouched without cuts.
    """
    reweighted, gains = np.empty(len(values), np.float32), np.empty(1)
    sums, inverses = np.empty((3, len(values))), 1.0 / values
    for row in range(len(rows)):
        _reweight(mass[rows[row]], factors[row], width, reweighted)
        _moments(reweighted, values, limit[row], numbers[row, :2])
        _best_bins(
            reweighted,
            values,
            inverses,
            limit[row],
            price,
            point_levels[row : row + 1],
            gains,
            sums,
            best[row : row + 1],
        )
        total = max(sums[0, -1], _NEGLIGIBLE)
        row_levels = levels[min(row, len(levels) - 1)]
        _quantiles(sums[0], total, values, edges, limit[row], row_levels, numbers[row, 2:])
        if len(cut_bins):
            _shares(sums[0], total, reweighted, cut_bins, cut_parts, classes[row])


@compiled_in_place
def partial_moments(
    mass: Array, rows: Array, positions: Array, values: Array, limit: Array, out: Array
) -> None:
    """Compute the share of a row's mass up to a place in its bins, and its sum of values there.

    A bin that the place cuts counts in proportion.

    Args:
        mass: float[m, bins].
        rows: The row of ``mass`` of each result (int64[n]).
        positions: Where each result ends, in bins (float64[n]).
        values: float64[bins].
        limit: Of each result, infinite for none (float64[n]).
        out: Receives share and sum (float64[n, 2]).
    """
    for i in range(len(rows)):
        row, total, share, moment = mass[rows[i]], 0.0, 0.0, 0.0
        for b in range(len(values)):
            total += row[b]
            below = min(max(positions[i] - b, 0.0), 1.0) * row[b]
            share += below
            moment += below * min(values[b], limit[i])
        out[i, 0] = share / max(total, _NEGLIGIBLE)
        out[i, 1] = moment / max(total, _NEGLIGIBLE)


@compiled_in_place
def coarsen(mass: Array, width: int, out: Array) -> None:
    """Sum each row in groups of ``width`` bins (float64[n, groups]); the last has the rest.

    Args:
        mass: The masses, float64[n, bins].
        width: Bins of a group.
        out: Where the result is written.
    """
    bins, groups = mass.shape[1], out.shape[1]
    for row in range(len(mass)):
        for k in range(groups):
            total = 0.0
            for b in range(k * width, (k + 1) * width if k < groups - 1 else bins):
                total += mass[row, b]
            out[row, k] = total


@compiled_in_place
def bins_below(mass: Array, levels: Array, out: Array) -> None:
    """Count the bins of each row before each ascending level is reached (float32[n, levels]).

    Args:
        mass: The masses, float64[n, bins].
        levels: The levels, ascending, in (0, 1).
        out: Where the result is written.
    """
    for row in range(len(mass)):
        total, reached = 0.0, 0
        for b in range(mass.shape[1]):
            total += mass[row, b]
            while reached < len(levels) and total >= levels[reached]:
                out[row, reached] = b
                reached += 1
        out[row, reached:] = mass.shape[1]


@compiled_in_place
def reweight(mass: Array, factors: Array, width: int, out: Array) -> None:
    """Multiply groups of bins by factors, so that each row sums to 1.

    Args:
        mass: float[n, bins].
        factors: float64[n, groups].
        width: Bins in a group; the last group has all that follow.
        out: Receives float32[n, bins].
    """
    for row in range(len(mass)):
        _reweight(mass[row], factors[row], width, out[row])
