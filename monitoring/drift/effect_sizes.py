"""Effect sizes: how far two windows of jobs lie apart, and how far they would lie apart anyway.

A p-value calls every difference real once there are 100,000 rows. An effect size does not grow with the rows, but grid jobs
come in bursts, a task of a thousand alike at once, so that two windows of a steady grid differ far more than as many
independent jobs would. ``largest_block_distance`` and ``largest_permuted_distance`` measure by how much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

Codes = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64] | Codes

BUCKETS = 20
OTHER, NEW = -1, -2
BLOCKS = 8
PERMUTATIONS = 40


@dataclass(frozen=True)
class Sampling:
    """How many rows of a window are looked at, and the seed that chooses them: the same rows for every column."""

    most: int = 5000
    seed: int = 0

    def rows(self, length: int) -> npt.NDArray[np.intp]:
        """Row numbers of a window of ``length`` rows, in their order: all of them, or ``most`` chosen evenly at random."""
        if length <= self.most:
            return np.arange(length)
        return np.sort(np.random.default_rng(self.seed).choice(length, self.most, replace=False))


Distance = Callable[[Values, Values, Sampling], float]


def number_distance(reference: Values, current: Values, sampling: Sampling) -> float:
    """Wasserstein distance in standard deviations of ``reference``, missing values left out; NaN where nothing is left.

    The same formula as Evidently's ``wasserstein``.
    """
    windows = [values[sampling.rows(len(values))] for values in (reference, current)]
    first, second = (values[~np.isnan(values)] for values in windows)
    if not len(first) or not len(second):
        return float("nan")
    return float(wasserstein_distance(first, second)) / max(float(np.std(first)), 0.001)


def category_distance(reference: Values, current: Values, sampling: Sampling) -> float:
    """Jensen-Shannon distance (natural logarithm, 0 to 0.83) of two windows of codes over the reference's buckets.

    The same formula as Evidently's ``jensenshannon``.
    """
    if not len(reference) or not len(current):
        return float("nan")
    windows = [values[sampling.rows(len(values))] for values in buckets(reference, current)]
    names, places = np.unique(np.concatenate(windows), return_inverse=True)
    heights = [
        np.bincount(part, minlength=len(names)) / len(part)
        for part in np.split(places, [len(windows[0])])
    ]
    # Rounding makes the divergence of equal shares a hair below 0, whose root is NaN.
    return float(np.nan_to_num(jensenshannon(heights[0], heights[1])))


def missing_distance(reference: Values, current: Values, sampling: Sampling) -> float:
    """Change of the share of missing values, of the whole windows."""
    return abs(float(np.mean(np.isnan(current))) - float(np.mean(np.isnan(reference))))


def buckets(reference: Values, current: Values, most: int = BUCKETS) -> tuple[Codes, Codes]:
    """Keep the ``most`` commonest codes of ``reference``; its others become OTHER, and those it never showed NEW.

    Codes are integers from 0. Without buckets a column of many values, such as the user, drifts between identical populations.
    """
    codes = [values.astype(np.int64) for values in (reference, current)]
    counts = np.bincount(
        codes[0], minlength=int(max(values.max(initial=0) for values in codes)) + 1
    )
    names = np.where(counts > 0, OTHER, NEW)
    kept = np.argsort(-counts, kind="stable")[:most]
    kept = kept[counts[kept] > 0]
    names[kept] = kept
    return names[codes[0]], names[codes[1]]


def largest_block_distance(
    reference: Values, jobs: int, distance: Distance, sampling: Sampling
) -> float:
    """The largest distance of a stretch of ``jobs`` rows (a third at most) of ``reference`` from all its others.

    ``reference`` is in order of time; STRETCHES stretches are tried. 0 where it cannot be told.
    """
    size = min(jobs, len(reference) // 3)
    if size < 1:
        return 0.0
    starts = np.unique(np.linspace(0, len(reference) - size, BLOCKS).astype(int))
    return _largest(
        [
            distance(
                np.concatenate([reference[:start], reference[start + size :]]),
                reference[start : start + size],
                sampling,
            )
            for start in starts
        ]
    )


def largest_permuted_distance(
    reference: Values,
    current: Values,
    bursts: tuple[Codes, Codes],
    distance: Distance,
    sampling: Sampling,
) -> float:
    """The largest distance when whole bursts of both windows are dealt out anew, DEALS times: a permutation test by bursts.

    ``bursts`` says to which burst each row of a window belongs. Infinite where there are too few to deal out.
    """
    rows = [sampling.rows(len(values)) for values in (reference, current)]
    values = np.concatenate([reference[rows[0]], current[rows[1]]])
    names, burst = np.unique(
        np.concatenate([part[taken] for part, taken in zip(bursts, rows, strict=True)]),
        return_inverse=True,
    )
    sizes = np.bincount(burst)
    random = np.random.default_rng(sampling.seed)
    found = []
    for _ in range(PERMUTATIONS if len(names) > 2 else 0):
        order = random.permutation(len(names))
        dealt = np.isin(
            burst, order[: 1 + int(np.searchsorted(np.cumsum(sizes[order]), len(rows[1])))]
        )
        if not dealt.all():
            found.append(distance(values[~dealt], values[dealt], sampling))
    return _largest(found) if found else float("inf")


def _largest(found: list[float]) -> float:
    return 0.0 if np.all(np.isnan(found)) else float(np.nanmax(found))
