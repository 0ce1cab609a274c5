"""Classes: a quantity cut into few bins, as a broker's queues and PanDA's classifiers want it, read off the quantity's distribution.

The numbers of classes are those of the paper on PanDA's learned resource prediction (its Table 1). Class 1 is the lowest; a value on a
threshold belongs below it. Where thresholds are not given they are quantiles of the outcomes that training saw.
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
    "peak_memory": MEMORY, "memory_per_core": MEMORY, "cpu_time": CPU, "cpu_per_core": CPU, "cpu_per_event": CPU,
    "io": IO, "io_per_core": IO, "walltime": WALLTIME,
}  # fmt: skip
"""How many classes the paper cuts each quantity into."""
PAPER = ("peak_memory", "cpu_time", "io", "walltime")
"""The paper's four quantities."""
MEGABYTE = 2.0**20
LADDER = "ladder"
"""The word for PanDA's ladder of memory a core as thresholds."""

Thresholds = tuple[float, ...]


def cut(values: Floats, count: int, grid: Grid) -> Thresholds:
    """At most ``count - 1`` rising thresholds that cut ``values`` into classes of equal size as far as repeated values allow.

    Each is the upper edge of the bin that its quantile falls into, so that a distribution's mass lies on one side of it.

    >>> [round(edge) for edge in cut(np.array([1.0, 2.0, 4.0, 8.0]), 2, Grid(1.0, 1, 9))]
    [4]
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return ()
    bins = np.unique(
        grid.bin(np.quantile(known, np.arange(1, count) / count, method="inverted_cdf"))
    )
    return tuple(float(edge) for edge in grid.edges[bins[bins < grid.bin(known).max()] + 1])


def class_of(values: Floats, thresholds: Thresholds) -> Integers:
    """The class of each value, from 1 (int64, same shape); 0 for NaN.

    >>> class_of(np.array([0.5, 4.0, 4.1, np.nan]), (4.0,)).tolist()
    [1, 1, 2, 0]
    """
    return np.where(
        np.isnan(values), 0, np.searchsorted(np.array(thresholds), values, side="left") + 1
    ).astype(np.int64)


def thresholds_of(
    target: str, values: Floats, given: Mapping[str, Sequence[float]] | None = None
) -> Thresholds:
    """The thresholds of a target: those ``given`` for it, else ``cut`` from outcomes ``values`` into as many classes as the paper has."""
    if given and target in given:
        return tuple(float(value) for value in given[target])
    return cut(values, COUNTS[target], TARGETS[target].grid) if target in COUNTS else ()


def parse_thresholds(text: str) -> dict[str, Thresholds]:
    """Thresholds by target as a person writes them, in the target's unit; ``ladder`` is PanDA's of memory a core. Raises InputError.

    >>> parse_thresholds("walltime=600,3600; io=1e6")
    {'walltime': (600.0, 3600.0), 'io': (1000000.0,)}
    """
    return dict(_one(part) for part in text.split(";") if part.strip())


def _one(text: str) -> tuple[str, Thresholds]:
    target, _, rest = text.strip().partition("=")
    if target not in TARGETS:
        raise InputError(f"thresholds {text!r} name no target; there are {', '.join(TARGETS)}")
    if rest == LADDER:
        return target, tuple(rung * MEGABYTE for rung in RAM_LADDER)
    try:
        found = tuple(float(part) for part in rest.split(","))
    except ValueError:
        found = ()
    if not found or not all(np.isfinite(found)) or list(found) != sorted(set(found)):
        raise InputError(f"thresholds {text!r} are not target=rising,numbers or target={LADDER}")
    return target, found


@dataclass(frozen=True)
class Cuts:
    """Thresholds of one target as compiled code reads them: the bin that each falls into, and the part of the bin that lies below it."""

    bins: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    parts: Floats = field(default_factory=lambda: np.empty(0))

    @staticmethod
    def of(thresholds: Thresholds, grid: Grid) -> Cuts:
        """The cuts of ``thresholds`` on a grid."""
        marks = np.interp(
            np.array(thresholds, dtype=np.float64), grid.edges, np.arange(grid.bins + 1)
        )
        bins = np.minimum(marks.astype(np.int64), grid.bins - 1)
        return Cuts(bins, marks - bins)

    def __len__(self) -> int:
        return len(self.bins)


def likeliest(shares: npt.NDArray[Any]) -> tuple[Integers, Floats]:
    """The likeliest class of each row of ``shares`` (float64[n, classes]), from 1, and its probability."""
    best = shares.argmax(axis=1)
    return best + 1, shares[np.arange(len(shares)), best]
