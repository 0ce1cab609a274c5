"""Training rows: a refiner's inputs at submission, the outcome, and the refiner's score."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from infra.aliases import Array
from models.histories.features import Contexts
from models.histories.mixture import Mixture
from models.quantities.distribution import Distribution
from models.quantities.targets import Grid
from models.refiner.refinement import Refiner, coarse_bins, coarse_masses, refiner_inputs


@dataclass
class TrainingRows:
    """What a refiner is trained on, a row a job.

    Attributes:
        inputs: As from ``refiner_inputs`` (float32[n, m]).
        coarse: The mixture's coarse masses (float64[n, coarse bins]).
        truth: The coarse bin of the outcome (int64[n]).
        value: The outcome (float64[n]).
        at: When the job was submitted (int64[n], microseconds).
        available_at: When its outcome became available (int64[n], microseconds).
        categories: How many of the inputs, the last ones, stand for texts.
    """

    inputs: Array
    coarse: Array
    truth: Array
    value: Array
    at: Array
    available_at: Array
    categories: int = 0

    def arrays(self) -> dict[str, Any]:
        """Return the arrays, each with a row a job, by name."""
        names = (field.name for field in fields(self) if field.name != "categories")
        return {name: getattr(self, name) for name in names}

    def take(self, rows: Array) -> TrainingRows:
        """Return some rows."""
        return replace(self, **{name: values[rows] for name, values in self.arrays().items()})

    def split(self, start: int, stop: int | None = None) -> tuple[Array, Array]:
        """Split rows, which are in order of availability, into training and validation.

        Args:
            start: Rows before it are for training.
            stop: Rows from ``start`` to it that were submitted after all training outcomes were
                available are for validation; default: all.
        """
        later = np.arange(start, len(self.truth) if stop is None else stop)
        trained_at = self.available_at[:start].max(initial=0)
        return np.arange(start), later[self.at[later] >= trained_at]


def make_training_rows(
    mixture: Mixture, contexts: Contexts, masses: Distribution, values: Array, categories: int = 0
) -> TrainingRows:
    """Make training rows of jobs.

    Args:
        mixture: The mixture that predicted them.
        contexts: The jobs.
        masses: Its predictions.
        values: Their outcomes (float64[n], NaN for unknown).
        categories: How many of the numbers of ``contexts`` stand for texts.
    """
    coarse, outcomes = coarse_masses(masses), np.nan_to_num(values)
    bins = np.minimum(masses.grid.bin(outcomes), masses.top_bin())
    counts = mixture.ended_counts(contexts)
    return TrainingRows(
        refiner_inputs(masses.mass, coarse, counts, contexts.numbers),
        coarse,
        coarse_bins(masses.grid)[bins],
        outcomes,
        contexts.at,
        contexts.available_at,
        categories,
    )


def score(rows: TrainingRows, refiner: Refiner | None, grid: Grid) -> float:
    """Return the mean continuous ranked probability score over coarse bins; less is better.

    Args:
        rows: The jobs.
        refiner: The refiner; None for the mixture alone.
        grid: The target's grid.
    """
    coarse = rows.coarse
    if refiner:
        coarse = coarse * refiner.ratio(rows.inputs, coarse)
        coarse = coarse / coarse.sum(axis=1, keepdims=True)
    starts = np.flatnonzero(np.diff(coarse_bins(grid), prepend=-1))
    steps = np.diff(np.append(grid.edges[starts], grid.edges[grid.fine_bins]))
    cumulated = np.cumsum(coarse, axis=1)
    below = rows.truth[:, None] <= np.arange(len(starts))[None, :]
    return float((((cumulated - below) ** 2) * steps).sum(axis=1).mean())


class TrainingBuffer:
    """Room for the training rows of ``count`` jobs, filled as they are submitted."""

    def __init__(self, count: int) -> None:
        """Allocate at the first ``put``."""
        self.count = count
        self._rows: TrainingRows | None = None

    def put(self, rows: Array, training: TrainingRows) -> None:
        """Write the training rows of some jobs."""
        arrays = training.arrays()
        if self._rows is None:
            room: dict[str, Any] = {
                name: np.zeros((self.count, *column.shape[1:]), column.dtype)
                for name, column in arrays.items()
            }
            self._rows = replace(training, **room)
        for name, column in self._rows.arrays().items():
            column[rows] = arrays[name]

    def take(self, rows: Array) -> TrainingRows:
        """Return the training rows of some jobs."""
        assert self._rows is not None  # noqa: S101
        return self._rows.take(rows)
