"""The level of the best single value, chosen by the absolute errors of later outcomes.

The best single value weighs what is too low as much as what is too high (level .5). Where outcomes
lie mostly below it, a lower level has the smaller mean absolute error. Another level is used only
while its excess over the error at .5, summed with decay over past outcomes, is negative by more
than MARGIN standard deviations of that sum: it cannot lose much, and noise changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from infra.aliases import Array, Floats, Integers
from infra.compiled import compiled
from models.histories.familiarity import UNREPORTED, Familiarity
from models.histories.mixture import Mixture
from models.quantities.distribution import Distribution

POINT_LEVELS = np.array([0.3, 0.4, 0.5, 0.6, 0.7])
MIDDLE = 2
"""The position of .5 in POINT_LEVELS."""
MARGIN = 2.5
DECAY = np.array([0.9995, 0.995, 0.9995])
"""Of the sums of each familiarity, an outcome."""
EXCESS, SQUARE = 0, 1
"""Positions in ``PointLevels.sums``."""


def learns_point_levels(mixture: Mixture) -> bool:
    """Whether another level than .5 may be used: as for sampled outcomes, not where jobs report
    users, whose bursts mislead it (LCG-2005: MAE 2 % higher)."""
    return bool(mixture.shape.sampled)


def errors_at_levels(predicted: Distribution, truth: Floats, scales: Floats) -> Floats:
    """Compute the absolute errors at POINT_LEVELS over the error scales (float64[n, levels]).

    Args:
        predicted: The distributions of n jobs.
        truth: Their outcomes, NaN for unknown.
        scales: Their error scales; the errors are NaN where one is NaN or 0.
    """
    bins = predicted.best_bins(scales, POINT_LEVELS)
    values = np.minimum(predicted.grid.centres[bins], predicted.limit[:, None])
    scales = np.where(scales > 0, scales, np.nan)
    return np.asarray(np.abs(values - truth[:, None]) / scales[:, None])


def source_rows(known_sources: npt.NDArray[np.uint64], sources: npt.NDArray[np.uint64]) -> Integers:
    """Return the position of each source among ``known_sources``, 0 for others (int64[n])."""
    order = np.argsort(known_sources)
    position = np.minimum(np.searchsorted(known_sources[order], sources), len(order) - 1)
    rows = order[position]
    return np.where(known_sources[rows] == sources, rows, 0)


def count_by_source(counts: Array, source: Integers, jobs: Familiarity, weights: Floats) -> None:
    """Count outcomes by familiarity under their source and, row 0, under all together.

    Args:
        counts: Added to (float64[sources, familiarities]).
        source: The row of each outcome's source (int64[n]).
        jobs: The familiarity of each.
        weights: As what each counts (float64[n]).
    """
    np.add.at(counts, (source, jobs.status), weights)
    rest = source > 0
    np.add.at(counts[0], jobs.status[rest], weights[rest])


def _no_sums() -> Array:
    """Return the sums of one source without outcomes."""
    return np.zeros((1, UNREPORTED + 1, 2, len(POINT_LEVELS)))


@dataclass
class PointLevels:
    """Decayed sums of the errors at POINT_LEVELS, by source and familiarity.

    Attributes:
        sources: Hashes of the sources (uint64[sources]); the first, 0, stands for all together.
        sums: Of the excess over the error at .5, and of its square
            (float64[sources, familiarities, 2, levels]).
        learned: The number of errors learned here, not decayed
            (float64[sources, familiarities]). It is not saved.
    """

    sources: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(1, np.uint64))
    sums: Array = field(default_factory=_no_sums)
    learned: Array = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Begin to count."""
        self.learned = np.zeros(self.sums.shape[:2])

    def add_sources(self, sources: Iterable[int]) -> None:
        """Add empty sums of sources that are not there yet."""
        for source in set(sources) - set(self.sources.tolist()):
            self.sources = np.append(self.sources, np.uint64(source))
            self.sums = np.concatenate([self.sums, _no_sums()])
            self.learned = np.pad(self.learned, ((0, 1), (0, 0)))

    def learn(self, errors: Floats, jobs: Familiarity) -> None:
        """Learn errors in order of availability.

        Args:
            errors: As from ``errors_at_levels``.
            jobs: The familiarity of the same jobs.
        """
        rows = len(errors)
        at = np.zeros(rows, np.int64)
        self.replay(errors, np.arange(rows), 0, at, at[:0], jobs, jobs.take(at[:0]))

    def levels(self, jobs: Familiarity) -> Floats:
        """Return the level of each job (float64[n])."""
        best = np.empty(self.sums.shape[:2])
        for row, status in np.ndindex(best.shape):
            best[row, status] = POINT_LEVELS[_best_level(self.sums[row, status])]
        return np.asarray(best[source_rows(self.sources, jobs.source), jobs.status])

    def replay(
        self,
        errors: Floats,
        order: Integers,
        position: int,
        available_at: Integers,
        at: Integers,
        jobs: Familiarity,
        queries: Familiarity,
    ) -> tuple[Floats, int]:
        """Learn errors and answer queries in event order, as ``Calibration.replay``.

        Args:
            errors: The errors of all jobs, as for ``learn``; rows of NaN are skipped.
            order: The jobs in order of availability.
            position: How many of them were learned before.
            available_at: When each job's outcome became available, microseconds.
            at: The time of each query, ascending.
            jobs: The familiarity of all jobs.
            queries: The familiarity of each query.

        Returns:
            The level at each query (float64[queries]), and the new position. Without queries all
            errors are learned.
        """
        stop = len(order)
        if len(at):
            stop = int(np.searchsorted(available_at[order], at[-1], side="right"))
        rows = order[position:stop]
        rows = rows[np.isfinite(errors[rows, MIDDLE])]
        learned = jobs.take(rows)
        self.add_sources(np.unique(learned.source).tolist())
        source = source_rows(self.sources, learned.source)
        count_by_source(self.learned, source, learned, np.ones(len(rows)))
        out = np.empty(len(at), np.int64)
        _replay(
            self.sums,
            errors[rows],
            source,
            learned.status,
            available_at[rows],
            at,
            source_rows(self.sources, queries.source),
            queries.status,
            out,
        )
        return POINT_LEVELS[out], stop

    def copy(self) -> PointLevels:
        """Return levels that learn on their own."""
        return PointLevels(self.sources.copy(), self.sums.copy())


@compiled
def _best_level(sums: Array) -> int:
    """Return the position of the level whose excess is surely the most negative, else MIDDLE."""
    best, least = MIDDLE, 0.0
    for k in range(sums.shape[1]):
        bound = sums[EXCESS, k] + MARGIN * np.sqrt(sums[SQUARE, k])
        if bound < least:
            best, least = k, bound
    return best


@compiled
def _replay(
    sums: Array,
    errors: Array,
    source: Array,
    status: Array,
    available_at: Array,
    at: Array,
    query_source: Array,
    query_status: Array,
    out: Array,
) -> None:
    position = 0
    for query in range(len(at) + 1):
        while position < len(errors) and (query == len(at) or available_at[position] <= at[query]):
            s = status[position]
            for row in (0, source[position]):
                for k in range(errors.shape[1]):
                    excess = errors[position, k] - errors[position, MIDDLE]
                    total = sums[row, s]
                    total[EXCESS, k] = total[EXCESS, k] * DECAY[s] + excess
                    total[SQUARE, k] = total[SQUARE, k] * DECAY[s] + excess * excess
                if source[position] == 0:
                    break
            position += 1
        if query < len(at):
            out[query] = _best_level(sums[query_source[query], query_status[query]])
