"""Models that a rehearsal retrains: Gridcast's engine, and a plain CatBoost regression.

The mixture of histories learns as jobs end, whatever is retrained: it is replayed once, and only
the refiners differ from policy to policy. All of the plain CatBoost is retrained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from infra.aliases import Floats, Integers, Progress
from jobs.coded_jobs import in_microseconds
from models.baselines.available_history import AvailableHistory
from models.baselines.regressions import catboost, latest_outcomes
from models.engine.level_selection import select_levels
from models.engine.log_rows import LogRows
from models.engine.prequential import (
    CalibrationReplay,
    Predicted,
    RefinerFit,
    TargetReplay,
)
from models.engine.target_predictor import TargetPredictor, batches, reweight
from models.quantities.distribution import join
from models.quantities.targets import Target
from models.refiner.clusters import GLOBAL
from models.refiner.refinement import factors

LEVELS = np.array([0.05, 0.95])
LATEST_ERRORS = 2000
"""The plain regression's range is as wide as its errors on so many of the latest outcomes."""
ROWS_PER_WIDTH = 250
"""So many jobs share one such width."""


@dataclass(frozen=True)
class TrainedModel:
    """A model and its training.

    Attributes:
        at: When it was trained, µs.
        model: The model.
        seconds: How long the training took.
        line: The times of the trainings that it follows from, its own last.
    """

    at: int
    model: Any
    seconds: float
    line: tuple[int, ...]


@dataclass(frozen=True)
class AnsweredRows:
    """Rows, in order of submission, that one ``model`` predicted, and its ``points`` for them."""

    rows: Integers
    model: TrainedModel
    points: Floats


class RetrainedModel(Protocol):
    """A model that is trained at any time of a log and predicts jobs as of their submission."""

    name: str

    def train(self, at: int, earlier: TrainedModel | None = None) -> TrainedModel:
        """Train by the outcomes available at ``at`` (µs), going on from an ``earlier`` model."""
        ...

    def points(self, model: TrainedModel, rows: Integers) -> Floats:
        """Predict the best single values of ``rows``, each as of its submission (float64[n])."""
        ...

    def ranges(self, answered: Sequence[AnsweredRows]) -> tuple[Floats, Floats]:
        """Compute the ends of the 90 % ranges of all answered rows (float64[n] each).

        They are calibrated by the outcomes available at each submission.
        """
        ...


class RetrainedEngine:
    """Gridcast's engine: the mixture, replayed once, and the refiners selected at each training."""

    name = "gridcast"

    def __init__(
        self, jobs: pd.DataFrame, target: Target, first: int, progress: Progress | None = None
    ) -> None:
        known_at = in_microseconds(jobs["submitted_at"].iloc[min(first, len(jobs) - 1)])
        levels = select_levels(jobs.iloc[:first], [target], known_at).levels
        self._log = LogRows.of(jobs, target, levels)
        self._replay = TargetReplay(TargetPredictor.create(target, levels), self._log)
        self._clusters = np.full(len(jobs), GLOBAL, dtype=object)
        self._trained: dict[tuple[int, ...], TrainedModel] = {}
        mixture_predictions = []
        for rows in batches(np.arange(len(jobs))):
            mixture_predictions.append(self._replay.advance(rows))
            if progress:
                progress("replaying the mixture over the log", (int(rows[-1]) + 1) / len(jobs))
        self._masses = join([batch.distribution for batch in mixture_predictions])
        self._scales = np.concatenate([batch.scales for batch in mixture_predictions])

    def train(self, at: int, earlier: TrainedModel | None = None) -> TrainedModel:
        """See RetrainedModel."""

        def fit() -> RefinerFit:
            return self._replay.fit(at, self._clusters, earlier.model if earlier else None)

        return _train_once(self._trained, (*(earlier.line if earlier else ()), at), fit)

    def _predict(self, model: TrainedModel, rows: Integers) -> Predicted:
        masses, refiners = self._masses.take(rows), model.model.selection.refiners
        if refiners:
            inputs = self._replay.training_rows.take(rows)
            ratio = factors(inputs.inputs, inputs.coarse, refiners, self._clusters[rows])
            masses = reweight(masses, ratio)
        return Predicted(rows, masses, self._scales[rows])

    def points(self, model: TrainedModel, rows: Integers) -> Floats:
        """See RetrainedModel."""
        points = [self._replay.points(self._predict(model, batch)) for batch in batches(rows)]
        return np.concatenate(points) if points else np.empty(0)

    def ranges(self, answered: Sequence[AnsweredRows]) -> tuple[Floats, Floats]:
        """See RetrainedModel."""
        first = answered[0].model
        calibration = CalibrationReplay(
            self._log,
            self._replay.predictor.mixture,
            first.model.calibration.copy(),
            self._log.available(first.at),
        )
        ends = []
        for stretch in answered:
            for rows in batches(stretch.rows):
                prediction = self._predict(stretch.model, rows)
                predicted = prediction.distribution
                calibration.record(rows, predicted, prediction.scales)
                levels = calibration.levels(rows, LEVELS)
                ends.append(calibration.quantiles(rows, predicted, levels, LEVELS))
        low, high = np.concatenate(ends).T
        return low, high


class PlainCatBoost:
    """The plain CatBoost regression of the baselines, with a range as wide as its latest errors."""

    name = "catboost"

    def __init__(self, history: AvailableHistory) -> None:
        self._history, self._inputs = history, catboost.inputs(history)
        self._lowest = history.target.grid.lowest
        request = np.where(np.isfinite(history.request), history.request, np.inf)
        self._highest = np.maximum(request, self._lowest)
        self._trained: dict[tuple[int, ...], TrainedModel] = {}

    def train(self, at: int, earlier: TrainedModel | None = None) -> TrainedModel:
        """See RetrainedModel."""
        history = self._history

        def fit() -> Callable[[pd.DataFrame], Floats]:
            rows = latest_outcomes(history, at)
            return catboost.fit(self._inputs.iloc[rows], history.values[rows], history.target)

        return _train_once(self._trained, (at,), fit)

    def points(self, model: TrainedModel, rows: Integers) -> Floats:
        """See RetrainedModel."""
        if not len(rows):
            return np.empty(0)
        return np.clip(model.model(self._inputs.iloc[rows]), self._lowest, self._highest[rows])

    def ranges(self, answered: Sequence[AnsweredRows]) -> tuple[Floats, Floats]:
        """See RetrainedModel."""
        rows = np.concatenate([stretch.rows for stretch in answered])
        points = np.maximum(np.concatenate([stretch.points for stretch in answered]), self._lowest)
        available_at = self._history.available_at[rows]
        at = self._history.submitted_at[rows]
        errors = np.log(np.maximum(self._history.values[rows], self._lowest) / points)
        order = np.argsort(available_at, kind="stable")
        order = order[np.isfinite(errors[order])]
        low, high = np.full(len(rows), self._lowest), self._highest[rows].copy()
        for start in range(0, len(rows), ROWS_PER_WIDTH):
            run = slice(start, start + ROWS_PER_WIDTH)
            available = np.searchsorted(available_at[order], at[start], side="right")
            latest = order[:available][-LATEST_ERRORS:]
            if len(latest) >= 1 / LEVELS[0]:
                down, up = np.exp(np.quantile(errors[latest], LEVELS))
                low[run] = np.clip(points[run] * down, self._lowest, self._highest[rows[run]])
                high[run] = np.clip(points[run] * up, self._lowest, self._highest[rows[run]])
        return low, high


def _train_once(
    trained: dict[tuple[int, ...], TrainedModel], line: tuple[int, ...], fit: Callable[[], Any]
) -> TrainedModel:
    """Train along ``line`` unless that was done: policies share models of the same trainings."""
    if line not in trained:
        started = time.perf_counter()
        model = fit()
        trained[line] = TrainedModel(line[-1], model, time.perf_counter() - started, line)
    return trained[line]
