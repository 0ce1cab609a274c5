"""TrainingRows: what a refiner is shown of each job at its submission, and how well it did."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from infra.aliases import Array
from models.histories.features import Contexts
from models.histories.mixture import Mixture
from models.quantities.targets import Grid
from models.refiner.refinement import Refiner, coarse_bins, coarse_masses, refiner_inputs


@dataclass
class TrainingRows:
    """What each job's refiner was shown at its submission, a row a job; ``truth`` is the coarse bin of its outcome ``value``.

    ``at`` and ``known`` are when it was submitted and when its outcome became known (int64, microseconds).
    """

    inputs: Array
    coarse: Array
    truth: Array
    value: Array
    at: Array
    available_at: Array

    def take(self, rows: Array) -> TrainingRows:
        """The lessons of some rows."""
        return TrainingRows(*(getattr(self, part.name)[rows] for part in fields(self)))

    def split(self, later: int, until: int | None = None) -> tuple[Array, Array]:
        """The rows before ``later``, in the order in which outcomes became known, and those up to ``until`` submitted when these were."""
        after = np.arange(later, len(self.truth) if until is None else until)
        return np.arange(later), after[self.at[after] >= self.available_at[:later].max(initial=0)]


def make_training_rows(
    mixture: Mixture, contexts: Contexts, mass: Array, values: Array
) -> TrainingRows:
    """TrainingRows from the masses (float32[n, bins]) foreseen for jobs and their outcomes (float64[n], NaN unknown)."""
    coarse = coarse_masses(mass)
    top = mass.shape[1] - 1 - np.argmax(mass[:, ::-1] > 0, axis=1)
    truth = coarse_bins(mass.shape[1])[np.minimum(mixture.grid.bin(np.nan_to_num(values)), top)]
    return TrainingRows(
        refiner_inputs(mass, coarse, mixture.ended_counts(contexts), contexts.numbers),
        coarse,
        truth,
        np.nan_to_num(values),
        contexts.at,
        contexts.available_at,
    )


def score(lessons: TrainingRows, refiner: Refiner | None, grid: Grid) -> float:
    """Mean continuous ranked probability score over the coarse bins, in the target's unit; less is better."""
    coarse = lessons.coarse
    if refiner:
        coarse = coarse * refiner.ratio(lessons.inputs, coarse)
        coarse = coarse / coarse.sum(axis=1, keepdims=True)
    starts = np.flatnonzero(np.diff(coarse_bins(grid.bins), prepend=-1))
    steps = np.diff(np.append(grid.edges[starts], grid.edges[-1]))
    reached = np.cumsum(coarse, axis=1)
    below = lessons.truth[:, None] <= np.arange(len(starts))[None, :]
    return float((((reached - below) ** 2) * steps).sum(axis=1).mean())


class TrainingBuffer:
    """Room for the lessons of ``count`` jobs, filled in as they are submitted."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._all: TrainingRows | None = None

    def put(self, rows: Array, lessons: TrainingRows) -> None:
        """Write the lessons of some rows."""
        if self._all is None:
            parts = (getattr(lessons, part.name) for part in fields(lessons))
            self._all = TrainingRows(
                *(np.zeros((self.count, *part.shape[1:]), part.dtype) for part in parts)
            )
        for part in fields(lessons):
            getattr(self._all, part.name)[rows] = getattr(lessons, part.name)

    def take(self, rows: Array) -> TrainingRows:
        """The lessons of some rows."""
        assert self._all is not None  # noqa: S101
        return self._all.take(rows)
