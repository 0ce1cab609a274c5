"""Familiarity: what is known of a job's owner, and how new owners' first jobs really spread.

A job whose owner has no outcome is a cold start. Nothing but other owners' jobs says how long it
takes, so its range is never narrower than the first jobs of new owners of its source at its request
were.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from infra.aliases import Array, Flags, Floats, Integers
from infra.compiled import compiled
from models.histories.hash_table import mix
from models.histories.outcome_index import (
    OutcomeIndex,
    available_end,
    count_available,
    find_slot,
    first_in_window,
)

SEEN, NEW, UNREPORTED = 0, 1, 2
"""An owner with outcomes, one without any, and a job that does not report its owner."""
LOW, HIGH = 0.05, 0.95
"""The levels of the quantiles of first outcomes."""
MIN_FIRST_OUTCOMES = 20
"""A range of first outcomes is computed from so many at least."""


class Familiarity(NamedTuple):
    """What is known of the owners of n jobs."""

    source: npt.NDArray[np.uint64]  # hash of the source, 0 for unreported
    owner: npt.NDArray[np.uint64]  # key of the owner, 0 for unreported
    status: Integers  # SEEN, NEW or UNREPORTED
    first_low: Floats  # quantiles of new owners' first outcomes; NaN for other jobs, or too few
    first_high: Floats

    @staticmethod
    def unknown(rows: int) -> Familiarity:
        """Return ``rows`` jobs of seen owners, of no source."""
        zero, nan = np.zeros(rows, np.uint64), np.full(rows, np.nan)
        return Familiarity(zero, zero.copy(), np.full(rows, SEEN), nan, nan.copy())

    @property
    def cold(self) -> Flags:
        """Whether each job is a cold start (bool[n])."""
        return np.asarray(self.status != SEEN)

    def take(self, rows: Array) -> Familiarity:
        """Return some rows."""
        return self._replace(**{name: values[rows] for name, values in self._asdict().items()})

    def without_covered(self, truth: Floats, below: Floats, upto: Floats) -> tuple[Floats, Floats]:
        """Return PIT values for calibration: outcomes within ``first_low`` to ``first_high`` are
        in any range, whatever the calibration, so they count as the middle.

        Args:
            truth: The outcomes (float64[n]).
            below: The predicted mass below each outcome's bin.
            upto: The predicted mass up to and with it.
        """
        covered = (self.first_low <= truth) & (truth <= self.first_high)
        return np.where(covered, 0.5, below), np.where(covered, 0.5, upto)

    def put(self, rows: Array, familiarity: Familiarity) -> None:
        """Overwrite some rows."""
        for values, new in zip(self, familiarity, strict=True):
            values[rows] = new

    def widen(self, quantiles: Floats, wanted: Floats, limits: Floats) -> Floats:
        """Widen quantiles to those of new owners' first outcomes.

        Args:
            quantiles: float64[n, m].
            wanted: Their levels (float64[m]).
            limits: Upper bounds of the jobs (float64[n]).

        Returns:
            float64[n, m], in which levels of at most LOW are no higher than ``first_low`` and
            levels of at least HIGH no lower than ``first_high``.
        """
        low, high = self.first_low[:, None], np.minimum(self.first_high, limits)[:, None]
        widened = np.where(wanted <= LOW, np.fmin(quantiles, low), quantiles)
        return np.where(wanted >= HIGH, np.fmax(widened, high), widened)

    def widen_probabilities(self, probabilities: Floats, bounds: Floats) -> Floats:
        """Keep P(T ≤ bound) of new owners within what ``widen`` leaves of their quantiles.

        Args:
            probabilities: float64[n].
            bounds: float64[n].
        """
        least = np.where(bounds >= self.first_low, LOW, 0.0)
        most = np.where(bounds < self.first_high, HIGH, 1.0)
        return np.clip(probabilities, least, most)


@compiled
def first_outcomes_key(source: np.uint64, limit: float, steps: float) -> np.uint64:
    """Return the key of new owners' first outcomes at a source and an octave of the limit.

    Args:
        source: Hash of the source.
        limit: Position of the limit on the axis, infinite for none.
        steps: Bins an octave.
    """
    octave = 1 + np.int64(max(limit, 0.0) / steps) if np.isfinite(limit) else np.int64(0)
    return mix(mix(source ^ np.uint64(0x5851F42D4C957F2D)) + np.uint64(octave)) | np.uint64(1)


@compiled
def find_familiarity(
    index: OutcomeIndex,
    owners: Array,
    sources: Array,
    at: Array,
    limits: Array,
    steps: float,
    status: Array,
    first: Array,
) -> None:
    """Compute the fields of ``Familiarity``.

    Args:
        index: The outcomes.
        owners: Keys of the owners (uint64[n], 0 for unreported).
        sources: Hashes of the sources (uint64[n]).
        at: Time of each prediction, microseconds (int64[n]).
        limits: Positions of the limits on the axis (float64[n], infinite for none).
        steps: Bins an octave.
        status: Receives SEEN, NEW or UNREPORTED (int64[n]).
        first: Receives both quantiles of first outcomes (float64[n, 2]).
    """
    for row in range(len(owners)):
        first[row] = np.nan
        if owners[row] == 0:
            status[row] = UNREPORTED
            continue
        slot = find_slot(index, owners[row])
        if slot >= 0 and count_available(index, slot, available_end(index, slot, at[row])) > 0:
            status[row] = SEEN
            continue
        status[row] = NEW
        slot = find_slot(index, first_outcomes_key(sources[row], limits[row], steps))
        if slot < 0:
            continue
        end = available_end(index, slot, at[row])
        values = index.value[index.outcome_row[first_in_window(index, slot, end) : end]]
        if len(values) >= MIN_FIRST_OUTCOMES:
            ordered, last = np.sort(values), len(values) - 1
            first[row, 0] = ordered[np.int64(LOW * last)]
            first[row, 1] = ordered[np.int64(np.ceil(HIGH * last))]
