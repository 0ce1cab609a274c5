"""Masses: what a caller may ask of rows of masses, read off in one pass a row (compiled).

``values`` are what the bins stand for; where a row has a limit, a bin above it stands for the limit.
"""

from __future__ import annotations

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled

_MARGIN = 1e-12
"""A level is reached by a sum that is less by no more than this."""
_NOTHING = 1e-300


@compiled
def _add_up(mass: Array, sums: Array) -> float:
    """Mass up to and with each bin; returns all of it."""
    total = 0.0
    for b in range(len(mass)):
        total += mass[b]
        sums[b] = total
    return max(total, _NOTHING)


@compiled
def _bin_at(sums: Array, wanted: float) -> int:
    """The first bin by which ``wanted`` is reached, by bisection."""
    low, high = 0, len(sums) - 1
    while low < high:
        middle = (low + high) // 2
        if sums[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def reached_by(mass: Array, out: Array) -> None:
    """Share of the mass up to and with each bin of each row, exactly 1 from the last that has any on, into ``out`` (float64[n, bins])."""
    for row in range(len(mass)):
        total = _add_up(mass[row], out[row])
        for b in range(mass.shape[1]):
            out[row, b] /= total


_UNLIKELY = 0.02
"""As much as the mixture's floor lays over all values of its grid, hundreds of terabytes among them."""


@compiled
def _ceiling(mass: Array, values: Array, limit: float) -> float:
    """The limit, or where there is none the value above which lies only what is _UNLIKELY, which would else be all of the mean."""
    if np.isfinite(limit):
        return limit
    above, b = 0.0, len(values) - 1
    allowed = _UNLIKELY * mass.sum()
    while b > 0 and above + mass[b] <= allowed:
        above += mass[b]
        b -= 1
    return np.float64(values[b])


@compiled
def _moments(mass: Array, values: Array, limit: float, out: Array) -> None:
    mean, second, limit = 0.0, 0.0, _ceiling(mass, values, limit)
    for b in range(len(values)):
        value = min(values[b], limit)
        mean += mass[b] * value
        second += mass[b] * value * value
    out[0], out[1] = mean, np.sqrt(max(second - mean * mean, 0.0))


@compiled
def _quantiles(
    sums: Array, total: float, values: Array, edges: Array, limit: float, levels: Array, out: Array
) -> None:
    for place in range(len(levels)):
        b = _bin_at(sums, (levels[place] - _MARGIN) * total)
        value = (
            edges[b] if levels[place] < 0.5 else edges[b + 1] if levels[place] > 0.5 else values[b]
        )
        if levels[place] > 0.5 and np.isfinite(limit) and sums[b] >= (1.0 - _MARGIN) * total:
            value = limit  # the last bin that holds any mass stands for all up to the limit
        out[place] = min(value, limit)


@compiled
def _shares(sums: Array, total: float, mass: Array, bins: Array, parts: Array, out: Array) -> None:
    """Mass between the cuts, which lie in ``bins`` with ``parts`` of these below them (see ``classes.Cuts``)."""
    before = 0.0
    for cut in range(len(bins)):
        below = (sums[bins[cut]] - mass[bins[cut]] * (1.0 - parts[cut])) / total
        out[cut] = max(below - before, 0.0)
        before = below
    out[len(bins)] = max(1.0 - before, 0.0)


@compiled
def _best_bin(
    mass: Array, values: Array, inverses: Array, limit: float, price: float, sums: Array
) -> int:
    """See ``best_bins``; fills ``sums`` (float64[3, bins]), of which the first row is as ``_add_up`` makes it."""
    weight, worth, inverse = sums
    largest = 1.0 / limit
    all_weight, all_worth, all_inverse = 0.0, 0.0, 0.0
    for b in range(len(values)):
        all_weight += mass[b]
        all_worth += mass[b] * min(values[b], limit)
        all_inverse += mass[b] * max(inverses[b], largest)
        weight[b], worth[b], inverse[b] = all_weight, all_worth, all_inverse
    # Above the limit every bin stands for the same value: the first of them is as good as any.
    best, most = 0, -np.inf
    for b in range(len(values)):
        value = min(values[b], limit)
        nearness = worth[b] * max(inverses[b], largest) + value * (all_inverse - inverse[b])
        distance = 2.0 * (value * weight[b] - worth[b]) + all_worth - value * all_weight
        aim = nearness - price * distance
        if aim > most:
            best, most = b, aim
    return best


@compiled
def _bend(mass: Array, factors: Array, width: int, out: Array) -> None:
    bins, total = len(mass), 0.0
    for k in range(len(factors)):
        factor = factors[k]
        for b in range(k * width, min((k + 1) * width, bins)):
            out[b] = mass[b] * factor
            total += mass[b] * factor
    for b in range(bins):
        out[b] /= total


@compiled
def moments(mass: Array, values: Array, limit: Array, out: Array) -> None:
    """Mean and standard deviation of each row, into ``out`` (float64[n, 2])."""
    for row in range(len(mass)):
        _moments(mass[row], values, limit[row], out[row])


@compiled
def quantiles(
    mass: Array, values: Array, edges: Array, limit: Array, levels: Array, out: Array
) -> None:
    """Quantiles of each row at its ``levels`` (float64[n or 1, m]), into ``out`` (float64[n, m]).

    The outcome lies anywhere in its bin, so a low quantile is the bin's lower edge, a high one its upper edge, the median its value.
    """
    sums = np.empty(len(values))
    for row in range(len(mass)):
        total = _add_up(mass[row], sums)
        _quantiles(
            sums, total, values, edges, limit[row], levels[min(row, len(levels) - 1)], out[row]
        )


@compiled
def shares(mass: Array, bins: Array, parts: Array, out: Array) -> None:
    """Mass of each row in each class, into ``out`` (float64[n, cuts + 1]); ``bins`` and ``parts`` are those of ``classes.Cuts``."""
    sums = np.empty(mass.shape[1])
    for row in range(len(mass)):
        _shares(sums, _add_up(mass[row], sums), mass[row], bins, parts, out[row])


@compiled
def best_bins(mass: Array, values: Array, limit: Array, prices: Array, out: Array) -> None:
    """The bin c of each row that maximises E[min(c/a, a/c) − price·|c − a|] over the outcomes a, into ``out`` (int64[n]).

    Sums up to each bin make it linear in the bins; the last bin's sums give what lies above.
    """
    sums, inverses = np.empty((3, len(values))), 1.0 / values
    for row in range(len(mass)):
        out[row] = _best_bin(mass[row], values, inverses, limit[row], prices[row], sums)


@compiled
def read_off(
    mass: Array, which: Array, factors: Array, width: int, values: Array, edges: Array, limit: Array, levels: Array, price: float,
    cut_bins: Array, cut_parts: Array, numbers: Array, best: Array, classes: Array,
) -> None:  # fmt: skip
    """What ``moments``, ``quantiles``, ``best_bins`` and ``shares`` say of each row ``which`` of ``mass``, bent by ``factors`` as by
    ``bend``.

    Into ``numbers`` (float64[n, 2 + levels]), ``best`` (int64[n]) and ``classes`` (float64[n, cuts + 1], left alone without cuts); no
    row of masses leaves the processor's cache.
    """
    bent, sums, inverses = (
        np.empty(len(values), np.float32),
        np.empty((3, len(values))),
        1.0 / values,
    )
    for row in range(len(which)):
        _bend(mass[which[row]], factors[row], width, bent)
        _moments(bent, values, limit[row], numbers[row, :2])
        best[row] = _best_bin(bent, values, inverses, limit[row], price, sums)
        total = max(sums[0, -1], _NOTHING)
        _quantiles(sums[0], total, values, edges, limit[row], levels, numbers[row, 2:])
        if len(cut_bins):
            _shares(sums[0], total, bent, cut_bins, cut_parts, classes[row])


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
    for row in range(len(mass)):
        _bend(mass[row], factors[row], width, out[row])
