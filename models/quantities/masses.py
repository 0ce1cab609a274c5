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
_NEAR = 6
"""Bins that are looked at before a quantile is searched for by bisection."""
SUMS = 4
"""Rows of the sums of one pass: of masses, values, inverses of values, squares of values."""
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
def _bin_after(sums: Array, level: float, b: int) -> int:
    """Return the same as ``_bin_at``, found by few steps where it is soon after bin ``b``."""
    for _ in range(_NEAR):
        if sums[b] >= level:
            return b if b == 0 or sums[b - 1] < level else _bin_at(sums, level)
        b = min(b + 1, len(sums) - 1)
    return _bin_at(sums, level)


@compiled_in_place
def cumulate(mass: Array, out: Array) -> None:
    """Compute the share of each row's mass up to and with each bin (float64[n, bins])."""
    for row in range(len(mass)):
        total = _cumulate(mass[row], out[row])
        for b in range(mass.shape[1]):
            out[row, b] /= total


@compiled_in_place
def _sum_up(
    mass: Array,
    factors: Array,
    width: int,
    values: Array,
    inverses: Array,
    limit: float,
    sums: Array,
) -> float:
    """Sum up the masses, first moments, inverse moments and second moments of one row.

    Args:
        mass: float[bins].
        factors: Of the masses of each group of bins (float64[groups]).
        width: Bins in a group; the last group has all that follow.
        values: float64[bins].
        inverses: float64[bins].
        limit: Infinite for none.
        sums: Receives each sum up to and with each bin (float64[SUMS, bins]).

    Returns:
        The sum of all masses.
    """
    mass_upto, value_upto, inverse_upto, square_upto = sums
    total, total_value, total_inverse, total_square = 0.0, 0.0, 0.0, 0.0
    groups, bins, smallest_inverse = len(factors), len(mass), 1.0 / limit
    for group in range(groups):
        factor = factors[group]
        for b in range(group * width, (group + 1) * width if group < groups - 1 else bins):
            share, value = mass[b] * factor, min(values[b], limit)
            moment = share * value
            total += share
            total_value += moment
            total_inverse += share * max(inverses[b], smallest_inverse)
            total_square += moment * value
            mass_upto[b], value_upto[b] = total, total_value
            inverse_upto[b], square_upto[b] = total_inverse, total_square
    return max(total, _NEGLIGIBLE)


@compiled_in_place
def _moments(sums: Array, unit: float, values: Array, limit: float, out: Array) -> None:
    """Compute mean and standard deviation of one row, in which ``unit`` is a mass of 1.

    Without a limit the largest _UNLIKELY of the mass counts as the value where it begins: it would
    else make up all of the mean.
    """
    mass_upto, value_upto, _, square_upto = sums
    total, b = mass_upto[-1], len(values) - 1
    if not np.isfinite(limit):
        b = _bin_at(mass_upto, (1.0 - _UNLIKELY) * total)
    ceiling, above = min(values[b], limit), total - mass_upto[b]
    mean = (value_upto[b] + above * ceiling) / unit
    second = (square_upto[b] + above * ceiling * ceiling) / unit
    out[0], out[1] = mean, np.sqrt(max(second - mean * mean, 0.0))


@compiled_in_place
def _quantiles(
    sums: Array, total: float, values: Array, edges: Array, limit: float, levels: Array, out: Array
) -> None:
    b = 0
    for i in range(len(levels)):
        level = levels[i]
        b = _bin_after(sums, (level - _MARGIN) * total, b)
        value = edges[b] if level < 0.5 else edges[b + 1] if level > 0.5 else values[b]
        if level > 0.5 and np.isfinite(limit) and sums[b] >= (1.0 - _MARGIN) * total:
            value = limit  # the last bin that holds any mass stands for all up to the limit
        out[i] = min(value, limit)


@compiled_in_place
def _shares(sums: Array, total: float, bins: Array, parts: Array, out: Array) -> None:
    """Compute the mass between cuts; ``parts`` of the cuts' ``bins`` lie below them."""
    before = 0.0
    for cut in range(len(bins)):
        b = bins[cut]
        mass = sums[b] - sums[b - 1] if b > 0 else sums[0]
        below = (sums[b] - mass * (1.0 - parts[cut])) / total
        out[cut] = max(below - before, 0.0)
        before = below
    out[len(bins)] = max(1.0 - before, 0.0)


@compiled_in_place
def _best_bin(
    sums: Array, values: Array, inverses: Array, limit: float, price: float, level: float
) -> int:
    """Find the best bin of one row at one level from what ``_sum_up`` gave; see ``best_bins``."""
    mass_upto, value_upto, inverse_upto, _ = sums
    total, total_value, total_inverse = mass_upto[-1], value_upto[-1], inverse_upto[-1]
    smallest_inverse, best, best_gain = 1.0 / limit, 0, -np.inf
    for b in range(len(values)):
        value, inverse = min(values[b], limit), max(inverses[b], smallest_inverse)
        accuracy = value_upto[b] * inverse + value * (total_inverse - inverse_upto[b])
        over = value * mass_upto[b] - value_upto[b]
        under_less_over = total_value - value * total
        gain = accuracy - price * 2.0 * (over + level * under_less_over)
        if gain > best_gain:
            best, best_gain = b, gain
        if values[b] >= limit:  # so does every later bin: it stands for the same value
            break
    return best


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


@compiled
def moments(mass: Array, values: Array, limit: Array, out: Array) -> None:
    """Compute mean and standard deviation of each row.

    Args:
        mass: float[n, bins].
        values: float64[bins].
        limit: float64[n], infinite for none.
        out: Receives float64[n, 2].
    """
    sums, inverses, unweighted = np.empty((SUMS, len(values))), 1.0 / values, np.ones(1)
    for row in range(len(mass)):
        _sum_up(mass[row], unweighted, len(values), values, inverses, limit[row], sums)
        _moments(sums, 1.0, values, limit[row], out[row])


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
        _shares(sums, _cumulate(mass[row], sums), bins, parts, out[row])


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
    sums, inverses, unweighted = np.empty((SUMS, len(values))), 1.0 / values, np.ones(1)
    for row in range(len(mass)):
        _sum_up(mass[row], unweighted, len(values), values, inverses, limit[row], sums)
        row_levels = levels[min(row, len(levels) - 1)]
        for i in range(len(row_levels)):
            out[row, i] = _best_bin(sums, values, inverses, limit[row], prices[row], row_levels[i])


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

    Everything is read off the sums of one pass over each row's masses, which are not stored.

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
    sums, inverses = np.empty((SUMS, len(values))), 1.0 / values
    for row in range(len(rows)):
        bound = limit[row]
        total = _sum_up(mass[rows[row]], factors[row], width, values, inverses, bound, sums)
        _moments(sums, total, values, bound, numbers[row, :2])
        best[row] = _best_bin(sums, values, inverses, bound, price, point_levels[row])
        row_levels = levels[min(row, len(levels) - 1)]
        _quantiles(sums[0], total, values, edges, bound, row_levels, numbers[row, 2:])
        if len(cut_bins):
            _shares(sums[0], total, cut_bins, cut_parts, classes[row])


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
