"""Predicted walltimes and waits of the jobs of tasks, as distributions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from infra.aliases import Array
from models.engine.log_rows import LogRows
from models.engine.prequential import TargetReplay
from models.engine.target_predictor import TargetPredictor, batches
from models.engine.training import find_target
from models.histories.features import Levels, choose_levels, encode
from models.tasks.sets import Tasks

COARSENING = 4
"""Bins of a predicted distribution that are taken together."""


@dataclass(frozen=True)
class Curves:
    """Predicted distributions of a duration of jobs.

    ``reached`` float32[d, bins] is the share that is over by the end of each bin, bins being
    ``steps`` to an octave from ``lowest`` (s); ``row`` int64[jobs] is the distribution of each job.
    """

    reached: Array
    row: Array
    lowest: float
    steps: float


@dataclass(frozen=True)
class JobCurves:
    """The predicted walltimes and waits of all jobs of some tasks."""

    walltime: Curves
    wait: Curves


class JobPredictor:
    """Predicts the walltimes and waits of jobs, first by a prequential replay of a log.

    Attributes:
        predictors: With their levels, by target; after ``replay`` they have learned the log.
    """

    TARGETS = ("walltime", "wait")

    def __init__(self) -> None:
        self.predictors: dict[str, tuple[TargetPredictor, Levels]] = {}

    def replay(self, tasks: Tasks) -> JobCurves:
        """Predict every job as of its submission, then learn it."""
        return JobCurves(*(self._replay(tasks, name) for name in self.TARGETS))

    def now(self, tasks: Tasks, at: float) -> JobCurves:
        """Predict every job that is open ``at`` a time (s since 1970) by what was learned last."""
        return JobCurves(*(self._now(tasks, name, at) for name in self.TARGETS))

    def _replay(self, tasks: Tasks, name: str) -> Curves:
        target, jobs = find_target(name), _with_surroundings(tasks, name)
        earliest = jobs.sort_values("submitted_at", kind="stable").iloc[: max(len(jobs) // 10, 1)]
        levels = choose_levels(earliest, target.subject)
        predictor = TargetPredictor.create(target, levels)
        self.predictors[name] = predictor, levels
        log = LogRows.of_contexts(encode(jobs, levels), target.value(jobs), target.limit(jobs))
        replay = TargetReplay(predictor, log)
        rows = np.argsort(log.contexts.at, kind="stable")
        reached = [_reached(replay.masses(batch)[0].mass) for batch in batches(rows)]
        order = np.argsort(rows, kind="stable")
        return _curves(np.concatenate(reached), order, predictor)

    def _now(self, tasks: Tasks, name: str, at: float) -> Curves:
        predictor, levels = self.predictors[name]
        started_or_ended = tasks.started if name == "wait" else tasks.ended
        is_open = np.flatnonzero((tasks.submitted <= at) & (started_or_ended > at))
        row = np.zeros(len(tasks.task), np.int64)
        if not len(is_open):
            return _curves(np.ones((1, 1), np.float32), row, predictor)
        jobs = _with_surroundings(tasks, name).iloc[is_open]
        contexts = encode(jobs, levels).predicted_at(pd.Timestamp(at, unit="s", tz="UTC"))
        limit = predictor.target.limit(jobs)
        row[is_open] = np.arange(len(is_open))
        mass = predictor.mixture.distributions(contexts, limit).mass
        return _curves(_reached(mass), row, predictor)


def _with_surroundings(tasks: Tasks, name: str) -> pd.DataFrame:
    """The jobs of ``tasks`` in their order, with what else was under way if the target needs it."""
    add = find_target(name).subject.add_surroundings
    if add is None:
        return tasks.jobs
    row = np.argsort(np.argsort(tasks.jobs["submitted_at"].to_numpy(), kind="stable"))
    return add(tasks.jobs).iloc[row].reset_index(drop=True)


def _reached(mass: Array) -> Array:
    reached = np.cumsum(mass, axis=1, dtype=np.float64)
    reached /= reached[:, -1:]
    return np.column_stack([reached[:, COARSENING - 1 :: COARSENING], reached[:, -1]]).astype("f4")


def _curves(reached: Array, row: Array, predictor: TargetPredictor) -> Curves:
    grid = predictor.mixture.grid
    return Curves(reached, row, grid.lowest, grid.steps / COARSENING)
