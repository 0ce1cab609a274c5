"""Learners: what a rehearsal retrains, walked through a log once for every policy.

The mixture of histories learns as jobs end, whatever is retrained; so it is walked once, and only the refiner that bends its
masses differs from policy to policy. The plain CatBoost has no history that learns by itself: all of it is retrained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd

from infra.aliases import Floats, Integers, Progress
from models.baselines.available_history import AvailableHistory
from models.baselines.regressions import catboost, latest_outcomes
from models.engine.training import BATCH_ROWS, MAX_TRAINING_ROWS, new_mixture
from models.histories.calibration import Calibration
from models.histories.features import choose_levels, encode
from models.histories.mixture import PrequentialReplay, outcome_order
from models.quantities.distribution import Distribution
from models.quantities.targets import Target
from models.refiner.clusters import GLOBAL
from models.refiner.refinement import factors, refine
from models.refiner.selection import Selection, select_refiners
from models.refiner.training_rows import TrainingBuffer, make_training_rows

LEVELS = np.array([0.05, 0.95])
NEWEST = 2000
"""The plain regression's range is as wide as its errors on so many jobs whose outcomes became known last."""
ALIKE = 250
"""Jobs that share one such width."""


@dataclass(frozen=True)
class TrainedModel:
    """A model, when it was trained, and how long that took (s); ``line`` are the times of the trainings it follows from."""

    at: int
    model: Any
    seconds: float
    line: tuple[int, ...]


@dataclass(frozen=True)
class AnsweredRows:
    """Rows, in order of submission, that one ``model`` answered, and its ``points`` for them."""

    rows: Integers
    model: TrainedModel
    points: Floats


class RetrainedModel(Protocol):
    """What can be trained anew at any time of a log and asked about any of its jobs as of their submission."""

    name: str

    def train(self, at: int, earlier: TrainedModel | None = None) -> TrainedModel:
        """A model of what was known at ``at`` (microseconds since 1970); what an ``earlier`` one has shown since may help."""
        ...

    def points(self, model: TrainedModel, rows: Integers) -> Floats:
        """The best single values of ``model`` for ``rows``, by the history as it stood at each submission (float64[n])."""
        ...

    def ranges(self, stretches: Sequence[AnsweredRows]) -> tuple[Floats, Floats]:
        """The ends of the 90 % ranges of all rows of ``stretches``, calibrated by those that had ended before (float64[n] each)."""
        ...


class Engine:
    """Gridcast's engine: the mixture, walked once, and the refiners chosen by what was known."""

    name = "gridcast"

    def __init__(
        self, jobs: pd.DataFrame, target: Target, first: int, progress: Progress | None = None
    ) -> None:
        levels = choose_levels(jobs.iloc[:first], target.subject)
        self._contexts, self._values = encode(jobs, levels), target.value(jobs)
        self._mixture = new_mixture(target, levels)
        self._target, self._labels = target, np.full(len(jobs), GLOBAL, dtype=object)
        self._order = outcome_order(self._contexts, self._values)
        self._lessons = TrainingBuffer(len(jobs))
        walk = PrequentialReplay(self._mixture, self._contexts, self._values, target.limit(jobs))
        parts = []
        for start in range(0, len(jobs), BATCH_ROWS):
            rows = np.arange(start, min(start + BATCH_ROWS, len(jobs)))
            parts.append(walk.advance(rows))
            self._lessons.put(
                rows,
                make_training_rows(
                    self._mixture, self._contexts.take(rows), parts[-1][0].mass, self._values[rows]
                ),
            )
            if progress:
                progress("walking the mixture through the log", (int(rows[-1]) + 1) / len(jobs))
        self._masses = Distribution(
            target.grid,
            np.concatenate([part.mass for part, _ in parts]),
            np.concatenate([part.limit for part, _ in parts]),
        )
        self._scales = np.concatenate([scales for _, scales in parts])
        self._trained: dict[tuple[int, ...], TrainedModel] = {}

    def train(self, at: int, earlier: TrainedModel | None = None) -> TrainedModel:
        """See Learner."""

        def fit() -> Selection:
            counts = np.searchsorted(
                self._contexts.available_at[self._order],
                [at, earlier.at if earlier else 0],
                side="right",
            )
            ended = self._order[: counts[0]][-MAX_TRAINING_ROWS:]
            unseen = min(int(counts[0] - counts[1]), len(ended) // 2) if earlier else 0
            standing: Selection | None = earlier.model if earlier else None
            return select_refiners(
                self._lessons.take(ended), self._labels[ended], self._target.grid, standing, unseen
            )

        return _once(self._trained, (*(earlier.line if earlier else ()), at), fit)

    def _answer(self, model: TrainedModel, rows: Integers) -> Distribution:
        answer, refiners = self._masses.take(rows), model.model.refiners
        if not refiners:
            return answer
        lessons = self._lessons.take(rows)
        return replace(
            answer,
            mass=refine(
                answer.mass, factors(lessons.inputs, lessons.coarse, refiners, self._labels[rows])
            ),
        )

    def points(self, model: TrainedModel, rows: Integers) -> Floats:
        """See Learner."""
        found = [
            self._points(model, rows[start : start + BATCH_ROWS])
            for start in range(0, len(rows), BATCH_ROWS)
        ]
        return np.concatenate(found) if found else np.empty(0)

    def _points(self, model: TrainedModel, rows: Integers) -> Floats:
        answer, scales = self._answer(model, rows), self._scales[rows]
        best = answer.best_bin(scales)
        return np.asarray(
            answer.point_in(best, self._mixture.last_in_bin(self._contexts.take(rows), best))
        )

    def ranges(self, stretches: Sequence[AnsweredRows]) -> tuple[Floats, Floats]:
        """See Learner."""
        calibration, place = Calibration(), 0
        below, upto = (np.full(len(self._values), np.nan) for _ in range(2))
        ends = []
        for stretch in stretches:
            for start in range(0, len(stretch.rows), BATCH_ROWS):
                rows = stretch.rows[start : start + BATCH_ROWS]
                answer, truth = self._answer(stretch.model, rows), self._values[rows]
                told = np.isfinite(truth)
                places = answer.probability_integral(np.nan_to_num(truth))
                below[rows[told]], upto[rows[told]] = places[0][told], places[1][told]
                levels, place = calibration.replay(
                    below,
                    upto,
                    self._order,
                    place,
                    self._contexts.available_at,
                    self._contexts.at[rows],
                    LEVELS,
                )
                ends.append(np.column_stack([answer.quantile(levels[:, end]) for end in (0, 1)]))
        low, high = np.concatenate(ends).T
        return low, high


class PlainCatBoost:
    """The plain CatBoost regression of the baselines, with a range as wide as its latest errors."""

    name = "catboost"

    def __init__(self, seen: AvailableHistory) -> None:
        self._seen, self._inputs = seen, catboost.inputs(seen)
        highest = np.where(np.isfinite(seen.request), seen.request, np.inf)
        self._lowest, self._highest = (
            seen.target.grid.lowest,
            np.maximum(highest, seen.target.grid.lowest),
        )
        self._trained: dict[tuple[int, ...], TrainedModel] = {}

    def train(self, at: int, earlier: TrainedModel | None = None) -> TrainedModel:
        """See Learner."""

        def fit() -> Callable[[pd.DataFrame], Floats]:
            rows = latest_outcomes(self._seen, at)
            return catboost.fit(self._inputs.iloc[rows], self._seen.values[rows], self._seen.target)

        return _once(self._trained, (at,), fit)

    def points(self, model: TrainedModel, rows: Integers) -> Floats:
        """See Learner."""
        if not len(rows):
            return np.empty(0)
        return np.clip(model.model(self._inputs.iloc[rows]), self._lowest, self._highest[rows])

    def ranges(self, stretches: Sequence[AnsweredRows]) -> tuple[Floats, Floats]:
        """See Learner."""
        rows = np.concatenate([stretch.rows for stretch in stretches])
        points = np.maximum(np.concatenate([stretch.points for stretch in stretches]), self._lowest)
        known, at = self._seen.available_at[rows], self._seen.submitted_at[rows]
        off = np.log(np.maximum(self._seen.values[rows], self._lowest) / points)
        order = np.argsort(known, kind="stable")
        order = order[np.isfinite(off[order])]
        low, high = np.full(len(rows), self._lowest), self._highest[rows].copy()
        for start in range(0, len(rows), ALIKE):
            some = slice(start, start + ALIKE)
            newest = order[: np.searchsorted(known[order], at[start], side="right")][-NEWEST:]
            if len(newest) >= 1 / LEVELS[0]:
                down, up = np.exp(np.quantile(off[newest], LEVELS))
                low[some] = np.clip(points[some] * down, self._lowest, self._highest[rows[some]])
                high[some] = np.clip(points[some] * up, self._lowest, self._highest[rows[some]])
        return low, high


def _once(
    trained: dict[tuple[int, ...], TrainedModel], line: tuple[int, ...], fit: Callable[[], Any]
) -> TrainedModel:
    """What was trained along ``line``, trained if it was not: policies that train at the same time share the model, not its cost."""
    if line not in trained:
        started = time.perf_counter()
        model = fit()
        trained[line] = TrainedModel(line[-1], model, time.perf_counter() - started, line)
    return trained[line]
