"""Models of the remaining time of tasks: one at the definition, one in progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from infra.aliases import Array
from models.refiner.boosting import fit_hazard
from models.tasks.inputs import NAMES, WALLTIME_LEVELS, Queries
from models.tasks.survival import Curves, fit_curves

PROGRESS_LEVELS = (0.0, 0.25, 0.5, 0.75)
"""The shares of ended jobs at which a task is queried, for training and evaluation."""
FEWEST_JOBS = 4
"""Smaller sets are no tasks: at each quarter of the progress some job must be open."""


@dataclass(frozen=True)
class PastQueries:
    """Earlier queries with outcomes.

    ``inputs`` float32[n, NAMES] as of the query; ``finished`` float64[n], s since 1970, infinite
    for open.
    """

    queries: Queries
    inputs: Array
    finished: Array

    def available_by(self, now: float) -> PastQueries:
        """The queries before ``now``, with the outcomes available by then."""
        rows = np.flatnonzero(self.queries.at < now)
        finished = self.finished[rows]
        return PastQueries(
            self.queries.take(rows),
            self.inputs[rows],
            np.where(finished <= now, finished, np.inf),
        )


@dataclass(frozen=True)
class TaskModel:
    """Fitted functions from inputs to Curves of the remaining time (None: too few outcomes).

    ``trims`` float64[PROGRESS_LEVELS, 5] are the raw levels of the calibrated quantiles 0, 0.05,
    0.5, 0.95 and 1 (see ``ranges``).
    """

    defined: Callable[[Array], Curves] | None = None
    in_progress: Callable[[Array], Curves] | None = None
    trims: Array = field(
        default_factory=lambda: np.tile((0.0, 0.05, 0.5, 0.95, 1.0), (len(PROGRESS_LEVELS), 1))
    )

    def curves(self, inputs: Array) -> list[tuple[Array, Curves]]:
        """Remaining time (s) of rows of ``inputs`` (float32[n, NAMES]), by model.

        Rows without a model are in no element of the list.
        """
        started = inputs[:, NAMES.index("progress")] > 0
        model_rows = (
            (np.flatnonzero(~started), self.defined),
            (np.flatnonzero(started), self.in_progress),
        )
        return [
            (rows, model(inputs[rows]))
            for rows, model in model_rows
            if model is not None and len(rows)
        ]


def from_walltimes(inputs: Array, levels: tuple[float, ...] | Array) -> Array:
    """Remaining time by predicted walltimes alone, where there is no model.

    float64[n, levels], s, linear between WALLTIME_LEVELS.
    """
    by_level = inputs[:, [NAMES.index(f"together_{level:g}") for level in WALLTIME_LEVELS]].astype(
        np.float64
    )
    weights = [np.interp(levels, WALLTIME_LEVELS, unit) for unit in np.eye(len(WALLTIME_LEVELS))]
    return by_level @ np.array(weights)


def fit(past: PastQueries, now: float) -> TaskModel:
    """Fit on the queries and outcomes available at ``now``."""
    available = past.available_by(now)
    over = np.isfinite(available.finished)
    lasted = np.where(over, available.finished, now) - available.queries.at
    started = available.queries.progress > 0
    defined, in_progress = (
        fit_curves(available.inputs[rows], lasted[rows], over[rows], fit_hazard)
        for rows in (~started, started)
    )
    return TaskModel(defined, in_progress)
