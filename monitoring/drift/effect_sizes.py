"""Effect sizes: the distance of two windows of jobs, and the distance that is ordinary.

A p-value calls every difference real once there are 100,000 rows. An effect size does not grow
with the rows, but grid jobs come in bursts, a task of a thousand similar ones at once, so that two
windows of a steady grid differ far more than as many independent jobs would.
``largest_block_distance`` and ``largest_permuted_distance`` measure by how much.
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
OTHER_CODE, NEW = -1, -2
BLOCKS = 8
PERMUTATIONS = 40


@dataclass(frozen=True)
class Sampling:
    """At most ``most`` rows of a window, chosen by ``seed``: the same for every column."""

    most: int = 5000
    seed: int = 0

    def rows(self, length: int) -> npt.NDArray[np.intp]:
        """The chosen rows of a window of ``length`` rows, in their order."""
        if length <= self.most:
            return np.arange(length)
        return np.sort(np.random.default_rng(self.seed).choice(length, self.most, replace=False))


Distance = Callable[[Values, Values, Sampling], float]


def number_distance(reference: Values, current: Values, sampling: Sampling) -> float:
    """The Wasserstein distance in standard deviations of ``reference``, as in Evidently.

    Args:
        reference: Numbers; missing ones are left out.
        current: The same of the other window.
        sampling: The rows that are compared.

    Returns:
        The distance, NaN where nothing is left.
    """
    windows = [values[sampling.rows(len(values))] for values in (reference, current)]
    first, second = (values[~np.isnan(values)] for values in windows)
    if not len(first) or not len(second):
        return float("nan")
    return float(wasserstein_distance(first, second)) / max(float(np.std(first)), 0.001)


def category_distance(reference: Values, current: Values, sampling: Sampling) -> float:
    """The Jensen-Shannon distance over the reference's ``buckets``, as in Evidently.

    Args:
        reference: Codes of categories.
        current: The same of the other window.
        sampling: The rows that are compared.

    Returns:
        The distance by natural logarithms (0 to 0.83), NaN where a window is empty.
    """
    if not len(reference) or not len(current):
        return float("nan")
    windows = [values[sampling.rows(len(values))] for values in buckets(reference, current)]
    names, index = np.unique(np.concatenate(windows), return_inverse=True)
    heights = [
        np.bincount(codes, minlength=len(names)) / len(codes)
        for codes in np.split(index, [len(windows[0])])
    ]
    # Rounding makes the divergence of equal shares a hair below 0, whose root is NaN.
    return float(np.nan_to_num(jensenshannon(heights[0], heights[1])))


def missing_distance(reference: Values, current: Values, sampling: Sampling) -> float:
    """The change of the share of missing values; ``sampling`` is not used.

    Args:
        reference: Values of the training window.
        current: Values of recent jobs.
        sampling: Not used.
    """
    return abs(float(np.mean(np.isnan(current))) - float(np.mean(np.isnan(reference))))


def buckets(reference: Values, current: Values, most: int = BUCKETS) -> tuple[Codes, Codes]:
    """Merge all but the commonest codes; else many-valued columns drift between equal populations.

    Args:
        reference: Codes, integers from 0.
        current: The same of the other window.
        most: How many codes of ``reference`` stay as they are.

    Returns:
        Both windows; other codes of ``reference`` are OTHER_CODE, those that it never has NEW.
    """
    codes = [values.astype(np.int64) for values in (reference, current)]
    counts = np.bincount(
        codes[0], minlength=int(max(values.max(initial=0) for values in codes)) + 1
    )
    names = np.where(counts > 0, OTHER_CODE, NEW)
    common = np.argsort(-counts, kind="stable")[:most]
    common = common[counts[common] > 0]
    names[common] = common
    return names[codes[0]], names[codes[1]]


def largest_block_distance(
    reference: Values, jobs: int, distance: Distance, sampling: Sampling
) -> float:
    """The largest distance of a block of ``reference`` from the rest of it, of BLOCKS tried.

    Args:
        reference: Values in order of time.
        jobs: Rows of a block, a third of ``reference`` at most.
        distance: Measures it.
        sampling: The rows that are compared.

    Returns:
        The distance, 0 where ``reference`` is too short.
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
    """The largest distance in a permutation test that deals out whole bursts PERMUTATIONS times.

    Args:
        reference: Values of one window.
        current: Values of the other.
        bursts: To which burst each row of either window belongs.
        distance: Measures it.
        sampling: The rows that are compared.

    Returns:
        The distance, infinite where there are too few bursts.
    """
    rows = [sampling.rows(len(values)) for values in (reference, current)]
    values = np.concatenate([reference[rows[0]], current[rows[1]]])
    names, burst = np.unique(
        np.concatenate([codes[chosen] for codes, chosen in zip(bursts, rows, strict=True)]),
        return_inverse=True,
    )
    sizes = np.bincount(burst)
    random = np.random.default_rng(sampling.seed)
    distances = []
    for _ in range(PERMUTATIONS if len(names) > 2 else 0):
        order = random.permutation(len(names))
        dealt = np.isin(
            burst, order[: 1 + int(np.searchsorted(np.cumsum(sizes[order]), len(rows[1])))]
        )
        if not dealt.all():
            distances.append(distance(values[~dealt], values[dealt], sampling))
    return _largest(distances) if distances else float("inf")


def _largest(distances: list[float]) -> float:
    return 0.0 if np.all(np.isnan(distances)) else float(np.nanmax(distances))
