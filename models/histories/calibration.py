"""Calibration of quantile levels, so that a 90 % range holds nine of ten outcomes.

Each outcome has a place in its predicted distribution (its probability integral transform, PIT).
Decayed histograms of these places tell below which level of the raw distribution a twentieth of the
outcomes lie, and above which. Cold starts have histograms of their own, since the raw distribution
says less of them, and so has each source.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.aliases import Array, Floats, Integers
from infra.compiled import compiled
from models.histories.familiarity import NEW, SEEN, Familiarity
from models.histories.point_levels import PointLevels, count_by_source, source_rows

STEPS = 400
DECAY = np.array([0.9995, 0.995, 0.9995])
"""Of the histograms of each familiarity, an outcome."""
PRIOR = np.array([200.0, 60.0, 60.0])
"""Weight of the prior of each familiarity, in outcomes."""
PRIOR_SHAPE = (1.0, 0.75, 0.75)
"""The prior is a symmetric beta distribution. Below 1 outcomes near the ends are more frequent than
the raw distribution says: on six logs its 90 % ranges held 78 to 89 % of new owners' outcomes."""


def prior() -> Array:
    """Return the histograms of one source without outcomes (float64[1, familiarities, STEPS])."""
    from scipy.special import betainc

    edges = np.linspace(0.0, 1.0, STEPS + 1)
    shares = [np.diff(betainc(shape, shape, edges)) for shape in PRIOR_SHAPE]
    return (PRIOR[:, None] * np.array(shares))[None]


@dataclass
class Calibration:
    """Decayed histograms of PIT values by source and familiarity.

    Attributes:
        sources: Hashes of the sources (uint64[sources]); the first, 0, stands for all together.
        upto: Of the mass up to and with each outcome's bin
            (float64[sources, familiarities, STEPS]).
        below: Of the mass below it.
        burst: How many outcomes each owner had as a new one: its k-th counts 1/k, or one user's
            burst of jobs would stand for all new users. It is not saved.
        points: The levels of best single values, learned from the same outcomes.
        learned: The weight of the outcomes learned here, not decayed
            (float64[sources, familiarities]). It is not saved.
    """

    sources: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(1, np.uint64))
    upto: Array = field(default_factory=prior)
    below: Array = field(default_factory=prior)
    burst: dict[int, int] = field(default_factory=dict, repr=False)
    points: PointLevels = field(default_factory=PointLevels)
    learned: Array = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Begin to count."""
        self.learned = np.zeros(self.upto.shape[:2])

    def add_sources(self, sources: Iterable[int]) -> None:
        """Add the prior histograms of sources that are not there yet."""
        for source in set(sources) - set(self.sources.tolist()):
            self.sources = np.append(self.sources, np.uint64(source))
            self.upto, self.below = (
                np.concatenate([values, prior()]) for values in (self.upto, self.below)
            )
            self.learned = np.pad(self.learned, ((0, 1), (0, 0)))

    def learn(self, below: Floats, upto: Floats, jobs: Familiarity | None = None) -> None:
        """Learn PIT values in order of availability.

        Args:
            below: The predicted mass below each outcome's bin (float64[n], NaN for unknown).
            upto: The predicted mass up to and with it (float64[n]).
            jobs: Their familiarity; SEEN and of no source by default.
        """
        rows = len(below)
        at = np.zeros(rows, np.int64)
        self.replay(below, upto, np.arange(rows), 0, at, at[:0], np.empty(0), jobs)

    def level(self, wanted: float) -> float:
        """Return the level of the raw distribution whose quantile is calibrated at ``wanted``."""
        return float(self.levels(np.array([wanted]), Familiarity.unknown(1))[0, 0])

    def levels(self, wanted: Floats, jobs: Familiarity) -> Floats:
        """Return the calibrated levels of jobs (float64[n, wanted])."""
        out = np.empty((*self.upto.shape[:2], len(wanted)))
        for row, status in np.ndindex(self.upto.shape[:2]):
            _levels(self.upto[row, status], self.below[row, status], wanted, out[row, status])
        return np.asarray(out[source_rows(self.sources, jobs.source), jobs.status])

    def probabilities(self, raw: Floats, jobs: Familiarity) -> Floats:
        """Return the share of outcomes below a place of the raw distribution: ``levels`` inverted.

        Args:
            raw: The mass of each job's raw distribution up to the place (float64[n]).
            jobs: Their familiarity.
        """
        source, halves = source_rows(self.sources, jobs.source), np.empty((2, len(raw)))
        for half, histograms in zip(halves, (self.upto, self.below), strict=True):
            totals = np.pad(np.cumsum(histograms, axis=-1), ((0, 0), (0, 0), (1, 0)))
            steps = np.clip(raw, 0.0, 1.0) * STEPS
            step = np.minimum(steps.astype(np.int64), STEPS - 1)
            low, high = (totals[source, jobs.status, step + end] for end in (0, 1))
            half[:] = (low + (high - low) * (steps - step)) / totals[source, jobs.status, -1]
        return np.where(raw < 0.5, np.minimum(halves[0], 0.5), np.maximum(halves[1], 0.5))

    def replay(
        self,
        below: Floats,
        upto: Floats,
        order: Integers,
        position: int,
        available_at: Integers,
        at: Integers,
        wanted: Floats,
        jobs: Familiarity | None = None,
        queries: Familiarity | None = None,
    ) -> tuple[Floats, int]:
        """Learn outcomes and answer queries in event order.

        Args:
            below: PIT values of all jobs, as for ``learn``.
            upto: PIT values of all jobs.
            order: The jobs in order of availability.
            position: How many of them were learned before.
            available_at: When each job's outcome became available, microseconds.
            at: The time of each query, ascending.
            wanted: Levels.
            jobs: The familiarity of all jobs; SEEN and of no source by default.
            queries: The familiarity of each query, likewise.

        Returns:
            The calibrated levels at each query (float64[queries, wanted]), and the new position.
            Without queries all outcomes are learned.
        """
        jobs, queries = (
            jobs or Familiarity.unknown(len(below)),
            queries or Familiarity.unknown(len(at)),
        )
        stop = len(order)
        if len(at):
            stop = int(np.searchsorted(available_at[order], at[-1], side="right"))
        rows = order[position:stop]
        rows = rows[np.isfinite(below[rows])]
        learned = jobs.take(rows)
        self.add_sources(np.unique(learned.source).tolist())
        weights = np.ones(len(rows))
        for row in np.flatnonzero(learned.status == NEW):
            owner = int(learned.owner[row])
            self.burst[owner] = self.burst.get(owner, 0) + 1
            weights[row] = 1.0 / self.burst[owner]
        count_by_source(self.learned, source_rows(self.sources, learned.source), learned, weights)
        out = np.empty((len(at), len(wanted)))
        _replay(
            self.upto,
            self.below,
            upto[rows],
            below[rows],
            source_rows(self.sources, learned.source),
            learned.status,
            weights,
            available_at[rows],
            at,
            source_rows(self.sources, queries.source),
            queries.status,
            wanted,
            out,
        )
        return out, stop

    def copy(self) -> Calibration:
        """Return a calibration that learns on its own."""
        return Calibration(
            self.sources.copy(),
            self.upto.copy(),
            self.below.copy(),
            dict(self.burst),
            self.points.copy(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        arrays = {"sources": self.sources, "upto": self.upto, "below": self.below}
        arrays |= {"point_sources": self.points.sources, "point_sums": self.points.sums}
        return {name: values.tolist() for name, values in arrays.items()}

    @staticmethod
    def from_json(text: dict[str, Any]) -> Calibration:
        """Invert ``to_json``; also reads what earlier versions wrote."""
        upto, below = (np.array(text[name], dtype=float) for name in ("upto", "below"))
        points = PointLevels()
        if "point_sources" in text:
            sources = np.array(text["point_sources"], dtype=np.uint64)
            points = PointLevels(sources, np.array(text["point_sums"], dtype=float))
        if "sources" in text:
            sources = np.array(text["sources"], dtype=np.uint64)
            return Calibration(sources, upto, below, points=points)
        calibration = Calibration(points=points)
        calibration.upto[0, SEEN], calibration.below[0, SEEN] = upto, below
        return calibration


@compiled
def _add(histogram: Array, pit: float, decay: float, weight: float) -> None:
    histogram *= decay**weight
    histogram[min(max(int(pit * STEPS), 0), STEPS - 1)] += weight


@compiled
def _level(histogram: Array, wanted: float) -> float:
    """Return the PIT value that ``wanted`` of the histogram's mass lies below.

    A level below a half stays below a half, and one above stays above.
    """
    need = wanted * histogram.sum()
    total = 0.0
    level = 1.0
    for step in range(STEPS):
        if total + histogram[step] >= need:
            level = (step + (need - total) / max(histogram[step], 1e-12)) / STEPS
            break
        total += histogram[step]
    return min(level, 0.499) if wanted < 0.5 else max(level, 0.501)


@compiled
def _levels(upto: Array, below: Array, wanted: Array, out: Array) -> None:
    for i in range(len(wanted)):
        out[i] = 0.5 if wanted[i] == 0.5 else _level(upto if wanted[i] < 0.5 else below, wanted[i])


@compiled
def _replay(
    upto_histogram: Array,
    below_histogram: Array,
    upto: Array,
    below: Array,
    source: Array,
    status: Array,
    weights: Array,
    available_at: Array,
    at: Array,
    query_source: Array,
    query_status: Array,
    wanted: Array,
    out: Array,
) -> None:
    sources, familiarities = upto_histogram.shape[:2]
    levels = np.empty((sources, familiarities, len(wanted)))
    stale = np.ones((sources, familiarities), np.bool_)
    position = 0
    for query in range(len(at) + 1):
        while position < len(upto) and (query == len(at) or available_at[position] <= at[query]):
            s, weight = status[position], weights[position]
            for row in (0, source[position]):
                _add(upto_histogram[row, s], upto[position], DECAY[s], weight)
                _add(below_histogram[row, s], below[position], DECAY[s], weight)
                stale[row, s] = True
                if source[position] == 0:
                    break
            position += 1
        if query < len(at):
            row, s = query_source[query], query_status[query]
            if stale[row, s]:
                _levels(upto_histogram[row, s], below_histogram[row, s], wanted, levels[row, s])
                stale[row, s] = False
            out[query] = levels[row, s]
