"""The models of tasks: when a task will be done, foreseen at its definition and while it is under way, with ranges that are kept true.

Two models, as the tasks' own outcomes ask for them: one for tasks that are just defined, one for those of which jobs have ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from infra.aliases import Array
from models.refiner.boosting import fit_hazard
from models.tasks.inputs import NAMES, WALLTIME_LEVELS, Queries
from models.tasks.survival import Curves, fit_curves

PROGRESS_LEVELS = (0.0, 0.25, 0.5, 0.75)
"""The shares of a task's jobs at whose end it is looked at, to learn from and to be judged by."""
FEWEST_JOBS = 4
"""Sets of fewer jobs are no tasks: each quarter of the way shall be an instant at which something is still to come."""


@dataclass(frozen=True)
class PastQueries:
    """Queries asked before, and what came of them: ``inputs`` float32[n, NAMES] as they were then, ``finished`` float64[n] s, or inf."""

    questions: Queries
    inputs: Array
    finished: Array

    def known_at(self, now: float) -> PastQueries:
        """The questions that had been asked by ``now``; what was not finished by then is not known to have finished."""
        rows = np.flatnonzero(self.questions.at < now)
        finished = self.finished[rows]
        return PastQueries(
            self.questions.take(rows),
            self.inputs[rows],
            np.where(finished <= now, finished, np.inf),
        )


@dataclass(frozen=True)
class TaskModel:
    """What answers: learned functions from inputs to Curves of the time left, for either kind of question (None: too little known).

    ``trims`` float64[PROGRESS_LEVELS, 5] are the levels to ask for where 0, 0.05, 0.5, 0.95 and 1 are wanted (see ``ranges``).
    """

    defined: Callable[[Array], Curves] | None = None
    in_progress: Callable[[Array], Curves] | None = None
    trims: Array = field(
        default_factory=lambda: np.tile((0.0, 0.05, 0.5, 0.95, 1.0), (len(PROGRESS_LEVELS), 1))
    )

    def curves(self, inputs: Array) -> list[tuple[Array, Curves]]:
        """The time left (s) by rows of ``inputs`` (float32[n, NAMES]); rows for which too little is known are in no part."""
        started = inputs[:, NAMES.index("progress")] > 0
        asked = (
            (np.flatnonzero(~started), self.defined),
            (np.flatnonzero(started), self.in_progress),
        )
        return [
            (rows, model(inputs[rows])) for rows, model in asked if model is not None and len(rows)
        ]


def from_walltimes(inputs: Array, levels: tuple[float, ...] | Array) -> Array:
    """The time left as the jobs alone promise it, for where nothing was learned: float64[n, levels], s, linear between WALLTIME_LEVELS."""
    known = inputs[:, [NAMES.index(f"together_{level:g}") for level in WALLTIME_LEVELS]].astype(
        np.float64
    )
    return known @ np.array(
        [np.interp(levels, WALLTIME_LEVELS, one) for one in np.eye(len(WALLTIME_LEVELS))]
    )


def fit(past: PastQueries, now: float) -> TaskModel:
    """Learn from what was known of ``past`` questions at ``now``."""
    known = past.known_at(now)
    over = np.isfinite(known.finished)
    lasted = np.where(over, known.finished, now) - known.questions.at
    started = known.questions.progress > 0
    defined, in_progress = (
        fit_curves(known.inputs[rows], lasted[rows], over[rows], fit_hazard)
        for rows in (~started, started)
    )
    return TaskModel(defined, in_progress)
