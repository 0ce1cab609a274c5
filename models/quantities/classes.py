"""Classes: a quantity cut into few bins, with probabilities from the quantity's distribution.

Brokers' queues and PanDA's classifiers want classes. Their numbers are those of the paper on
PanDA's learned resource prediction (its Table 1). Class 1 is the lowest; a value on a threshold
belongs below it. By default thresholds are quantiles of the outcomes of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.aliases import Floats, Integers
from infra.errors import InputError
from models.quantities.scout import RAM_LADDER
from models.quantities.targets import TARGETS, Grid

MEMORY, CPU, IO, WALLTIME = 4, 5, 2, 5
COUNTS = {
    "peak_memory": MEMORY,
    "memory_per_core": MEMORY,
    "cpu_time": CPU,
    "cpu_per_core": CPU,
    "cpu_per_event": CPU,
    "io": IO,
    "io_per_core": IO,
    "walltime": WALLTIME,
}
"""How many classes the paper cuts each quantity into."""
PAPER = ("peak_memory", "cpu_time", "io", "walltime")
"""The paper's four quantities."""
MEGABYTE = 2.0**20
LADDER = "ladder"
"""The word for PanDA's ladder of memory a core as thresholds."""

Thresholds = tuple[float, ...]


def cut(values: Floats, count: int, grid: Grid) -> Thresholds:
    """Cut values into ``count`` classes of equal size, fewer where values repeat.

    Each threshold is the upper edge of its quantile's bin, so that a bin's mass lies on one side.

    Args:
        values: Outcomes, NaN for unknown.
        count: The number of classes.
        grid: The target's grid.

    Returns:
        At most ``count - 1`` rising thresholds.

    >>> [round(edge) for edge in cut(np.array([1.0, 2.0, 4.0, 8.0]), 2, Grid(1.0, 1, 9))]
    [4]
    """
    outcomes = values[np.isfinite(values)]
    if not len(outcomes):
        return ()
    quantiles = np.quantile(outcomes, np.arange(1, count) / count, method="inverted_cdf")
    bins = np.unique(grid.bin(quantiles))
    return tuple(float(edge) for edge in grid.edges[bins[bins < grid.bin(outcomes).max()] + 1])


def class_of(values: Floats, thresholds: Thresholds) -> Integers:
    """Return the class of each value, from 1 (int64, same shape); 0 for NaN.

    >>> class_of(np.array([0.5, 4.0, 4.1, np.nan]), (4.0,)).tolist()
    [1, 1, 2, 0]
    """
    classes = np.searchsorted(np.array(thresholds), values, side="left") + 1
    return np.where(np.isnan(values), 0, classes).astype(np.int64)


def thresholds_of(
    target: str, values: Floats, thresholds: Mapping[str, Sequence[float]] | None = None
) -> Thresholds:
    """Return the thresholds of a target.

    Args:
        target: The name of the target.
        values: Its outcomes, which are cut into as many classes as the paper has.
        thresholds: By target; used instead where they have it.
    """
    if thresholds and target in thresholds:
        return tuple(float(value) for value in thresholds[target])
    return cut(values, COUNTS[target], TARGETS[target].grid) if target in COUNTS else ()


def parse_thresholds(text: str) -> dict[str, Thresholds]:
    """Parse thresholds by target, in the target's unit; raises InputError.

    ``ladder`` stands for PanDA's ladder of memory a core.

    >>> parse_thresholds("walltime=600,3600; io=1e6")
    {'walltime': (600.0, 3600.0), 'io': (1000000.0,)}
    """
    return dict(_parse_target(entry) for entry in text.split(";") if entry.strip())


def _parse_target(text: str) -> tuple[str, Thresholds]:
    target, _, numbers = text.strip().partition("=")
    if target not in TARGETS:
        raise InputError(f"thresholds {text!r} name no target; there are {', '.join(TARGETS)}")
    if numbers == LADDER:
        return target, tuple(rung * MEGABYTE for rung in RAM_LADDER)
    try:
        thresholds = tuple(float(number) for number in numbers.split(","))
    except ValueError:
        thresholds = ()
    rising = list(thresholds) == sorted(set(thresholds))
    if not thresholds or not all(np.isfinite(thresholds)) or not rising:
        raise InputError(f"thresholds {text!r} are not target=rising,numbers or target={LADDER}")
    return target, thresholds


@dataclass(frozen=True)
class Cuts:
    """Thresholds of one target as compiled code reads them.

    Attributes:
        bins: The bin of each threshold.
        parts: The part of that bin below the threshold.
    """

    bins: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    parts: Floats = field(default_factory=lambda: np.empty(0))

    @staticmethod
    def of(thresholds: Thresholds, grid: Grid) -> Cuts:
        """Return the cuts of ``thresholds`` on a grid."""
        values = np.array(thresholds, dtype=np.float64)
        positions = np.interp(values, grid.edges, np.arange(grid.bins + 1))
        bins = np.minimum(positions.astype(np.int64), grid.bins - 1)
        return Cuts(bins, positions - bins)

    def __len__(self) -> int:
        return len(self.bins)


def likeliest(shares: npt.NDArray[Any]) -> tuple[Integers, Floats]:
    """Return the likeliest class of each row of ``shares``, from 1, and its probability."""
    best = shares.argmax(axis=1)
    return best + 1, shares[np.arange(len(shares)), best]
