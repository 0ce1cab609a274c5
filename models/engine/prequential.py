"""Prequential replay of one target: predict each job from what was available, then learn.

Every evaluation, the training, the rehearsal and the task models go through ``TargetReplay``; the
live forecaster learns and predicts by the same ``TargetPredictor``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from infra.aliases import Array, Flags, Floats, Integers
from models.engine.log_rows import MAX_TRAINING_ROWS, LogRows
from models.engine.model_set import ModelSet
from models.engine.target_predictor import TargetPredictor, reweight
from models.histories.calibration import Calibration
from models.histories.familiarity import Familiarity
from models.histories.features import Contexts, Levels, encode
from models.histories.mixture import Mixture, PrequentialReplay
from models.histories.occupancy import Occupancy, OccupancyReplay
from models.histories.point_levels import (
    MIDDLE,
    POINT_LEVELS,
    errors_at_levels,
    learns_point_levels,
)
from models.quantities.distribution import Distribution
from models.quantities.targets import TARGETS
from models.refiner.clusters import GLOBAL
from models.refiner.refinement import factors
from models.refiner.selection import (
    WINDOWS,
    Fits,
    Selection,
    fit_here,
    select_refiners,
)
from models.refiner.training_rows import TrainingBuffer, TrainingRows, make_training_rows


@dataclass(frozen=True)
class RefinerFit:
    """The refiners selected by the outcomes available at a time.

    ``at`` is that time (µs), ``rows`` are the rows trained on, in order of availability, and
    ``calibration`` is by these same rows.
    """

    at: int
    rows: Integers
    selection: Selection
    calibration: Calibration


@dataclass(frozen=True)
class Predicted:
    """The predictions of ``rows`` by what was available at each one's submission.

    ``distribution`` is refined; ``scales`` float64[n] are the error scales at the submissions.
    """

    rows: Integers
    distribution: Distribution
    scales: Floats

    def take(self, positions: Integers) -> Predicted:
        """Return the predictions at some positions."""
        return Predicted(
            self.rows[positions], self.distribution.take(positions), self.scales[positions]
        )


class CalibrationReplay:
    """A calibration that learns outcomes as they become available, each by its own prediction.

    ``below`` and ``upto`` (float64[n], NaN without a prediction or an outcome) are the probability
    integral transform of each row: its predicted mass below the outcome's bin, and up to it.
    ``familiarity`` has what was known of each row's owner when it was predicted, ``point_levels``
    the levels of the best single values (float64[n]), ``errors`` the errors at POINT_LEVELS.
    """

    def __init__(
        self,
        log: LogRows,
        mixture: Mixture,
        calibration: Calibration | None = None,
        position: int = 0,
    ) -> None:
        self.familiarity, self._mixture = Familiarity.unknown(len(log)), mixture
        self.calibration = calibration or Calibration()
        self.below, self.upto = np.full(len(log), np.nan), np.full(len(log), np.nan)
        self._below, self._upto = self.below.copy(), self.upto.copy()
        self.errors = np.full((len(log), len(POINT_LEVELS)), np.nan)
        self.point_levels = np.full(len(log), POINT_LEVELS[MIDDLE])
        self._log, self._position, self._point_position = log, position, position

    def record(self, rows: Integers, predicted: Distribution, scales: Floats) -> None:
        """Note where the outcomes of ``rows`` lie in their predicted distributions.

        Args:
            rows: Rows in order of submission, none before those recorded earlier.
            predicted: Their predictions.
            scales: Their error scales.
        """
        truth = self._log.values[rows]
        observed = np.isfinite(truth)
        below, upto = predicted.probability_integral(np.nan_to_num(truth))
        self.below[rows] = np.where(observed, below, np.nan)
        self.upto[rows] = np.where(observed, upto, np.nan)
        contexts, limits = self._log.contexts.take(rows), self._log.limits[rows]
        familiarity = self._mixture.familiarity(contexts, limits)
        self.familiarity.put(rows, familiarity)
        self._below[rows], self._upto[rows] = familiarity.without_covered(
            truth, self.below[rows], self.upto[rows]
        )
        if not learns_point_levels(self._mixture):
            return
        self.errors[rows] = errors_at_levels(predicted, truth, scales)
        self.point_levels[rows], self._point_position = self.calibration.points.replay(
            self.errors,
            self._log.outcome_order,
            self._point_position,
            self._log.contexts.available_at,
            contexts.at,
            self.familiarity,
            familiarity,
        )

    def levels(self, rows: Integers, wanted: Array) -> Floats:
        """Return the calibrated levels at each row's submission (float64[n, wanted]).

        Args:
            rows: Rows in order of submission, recorded before; none may lie before earlier ones.
            wanted: The levels whose calibrated ones are wanted, 0 to 1.
        """
        contexts = self._log.contexts
        levels, self._position = self.calibration.replay(
            self._below,
            self._upto,
            self._log.outcome_order,
            self._position,
            contexts.available_at,
            contexts.at[rows],
            np.asarray(wanted),
            self.familiarity,
            self.familiarity.take(rows),
        )
        return levels

    def quantiles(
        self, rows: Integers, predicted: Distribution, levels: Floats, wanted: Array
    ) -> Floats:
        """Return calibrated quantiles (float64[n, wanted]), wide enough for cold starts.

        Args:
            rows: Rows recorded before.
            predicted: Their predictions.
            levels: As from ``levels``.
            wanted: As for ``levels``.
        """
        familiarity = self.familiarity.take(rows)
        return familiarity.widen(predicted.quantiles(levels), wanted, predicted.limit)


class TargetReplay:
    """The prequential replay of one target over the rows of a log.

    ``advance`` predicts rows in order of submission, each after all outcomes that had become
    available by then were learned, and keeps what a refiner would train on; ``fit`` selects
    refiners by the outcomes available at a time, and ``deploy`` lets them answer from then on.
    """

    def __init__(self, predictor: TargetPredictor, log: LogRows) -> None:
        self.predictor, self.log = predictor, log
        self.clusters = np.full(len(log), GLOBAL, dtype=object)
        self.calibration = CalibrationReplay(log, predictor.mixture)
        self.training_rows = TrainingBuffer(len(log))
        self.served_since = int(np.iinfo(np.int64).min)
        """Jobs submitted from then on (µs) are predicted by the version, where one is replayed."""
        self._deployed = False
        self._replay = PrequentialReplay(predictor.mixture, log.contexts, log.values, log.limits)

    @staticmethod
    def of_version(
        model_set: ModelSet, name: str, jobs: pd.DataFrame, contexts: Contexts | None = None
    ) -> TargetReplay:
        """Replay the jobs that a trained version serves, those submitted since its training.

        Args:
            model_set: The version; its weights have learned what was available by its window's end.
            name: The target.
            jobs: The jobs in any order, those of the training among them.
            contexts: The jobs encoded, where they are already.
        """
        until = model_set.card.window.until_us
        target, model = TARGETS[name], model_set.targets[name]
        if contexts is None:
            contexts = encode(jobs, model_set.levels)
        log = LogRows.of_contexts(contexts, target.value(jobs), target.limit(jobs))
        predictor = TargetPredictor.create(target, model_set.levels, model=model)
        trained = log.outcome_order[: log.available(until)]
        predictor.load_histories(
            log.contexts.take(trained), log.values[trained], log.limits[trained]
        )
        replay = TargetReplay(predictor, log)
        replay.clusters, replay.served_since = model_set.clusters.assign(jobs), until
        replay.calibration = CalibrationReplay(
            log, predictor.mixture, predictor.calibration, len(trained)
        )
        return replay

    def masses(self, rows: Integers) -> tuple[Distribution, Floats]:
        """Predict ``rows`` by the mixture alone: distributions and error scales (float64[n])."""
        return self._replay.advance(rows)

    def advance(self, rows: Integers) -> Predicted:
        """Predict ``rows``, which follow those predicted before in order of submission."""
        log, refiners = self.log, self.predictor.refiners
        masses, scales = self.masses(rows)
        contexts = log.contexts.take(rows)
        inputs = make_training_rows(
            self.predictor.mixture, contexts, masses, log.values[rows], self.predictor.categories
        )
        self.training_rows.put(rows, inputs)
        if refiners:
            ratio = factors(inputs.inputs, inputs.coarse, refiners, self.clusters[rows])
            masses = reweight(masses, ratio)
        self.calibration.record(rows, masses, scales)
        return Predicted(rows, masses, scales)

    def points(self, predicted: Predicted) -> Floats:
        """Compute the best single value of each predicted row (float64[n]), without its range."""
        contexts = self.log.contexts.take(predicted.rows)
        levels = self.calibration.point_levels[predicted.rows]
        return self.predictor.points(predicted.distribution, contexts, predicted.scales, levels)

    def cold_starts(self, predicted: Predicted) -> Flags:
        """Return which predicted rows had no outcome of their owner available (bool[n])."""
        return self.calibration.familiarity.take(predicted.rows).cold

    def learn_rest(self) -> None:
        """Learn all outcomes that are left."""
        self._replay.advance(np.empty(0, np.int64))

    def fit(
        self, at: int, clusters: Array, earlier: RefinerFit | None = None, fits: Fits = fit_here
    ) -> RefinerFit:
        """Select refiners by the outcomes available at ``at``.

        Args:
            at: The time of the training, µs.
            clusters: The cluster of each row of the log (object[n]).
            earlier: The fit before, which has not seen the outcomes since; its calibration goes on.
            fits: Where refiners are fitted.
        """
        available = self.log.available(at)
        rows = self.log.outcome_order[:available][-MAX_TRAINING_ROWS:]
        training = self.training_rows.take(rows)
        unseen = min(available - self.log.available(earlier.at), len(rows) // 2) if earlier else 0
        selection = select_refiners(
            training,
            clusters[rows],
            self.predictor.target.grid,
            earlier.selection if earlier else None,
            unseen,
            fits,
        )
        if earlier:
            return RefinerFit(at, rows, selection, earlier.calibration)
        calibration = Calibration()
        below, upto = self.calibration.below[rows], self.calibration.upto[rows]
        if selection.validation_refiners:
            later = validation_rows(training)
            ratio = factors(
                training.inputs[later],
                training.coarse[later],
                selection.validation_refiners,
                clusters[rows[later]],
            )
            below[later], upto[later] = reweight_transform(
                below[later], upto[later], training.take(later), ratio
            )
        familiarity = self.calibration.familiarity.take(rows)
        truth = self.log.values[rows]
        calibration.learn(*familiarity.without_covered(truth, below, upto), familiarity)
        calibration.points.learn(self.calibration.errors[rows], familiarity)
        return RefinerFit(at, rows, selection, calibration)

    def deploy(self, fit: RefinerFit, clusters: Array) -> None:
        """Let the refiners of ``fit`` answer the rows from now on.

        A first fit brings its calibration, which goes on with the rows that it answers itself.
        """
        if not self._deployed:
            available = self.log.available(fit.at)
            self.calibration = CalibrationReplay(
                self.log, self.predictor.mixture, fit.calibration.copy(), available
            )
            self._deployed = True
        self.predictor.refiners, self.clusters = fit.selection.refiners, clusters


class AllocationReplay:
    """The prequential replay of peak memory beside the walltimes of the same jobs."""

    def __init__(
        self, memory: TargetPredictor, walltime: TargetPredictor, log: LogRows, seconds: Floats
    ) -> None:
        self.log, self.grid = log, memory.target.grid
        self._replay = OccupancyReplay(
            memory.mixture, walltime.mixture, log.contexts, log.values, log.limits, seconds
        )

    @staticmethod
    def of_jobs(jobs: pd.DataFrame, levels: Levels) -> AllocationReplay:
        """Replay ``jobs`` from nothing."""
        memory, walltime = (TARGETS[name] for name in ("peak_memory", "walltime"))
        return AllocationReplay(
            TargetPredictor.create(memory, levels),
            TargetPredictor.create(walltime, levels),
            LogRows.of(jobs, memory, levels),
            walltime.value(jobs),
        )

    @staticmethod
    def of_version(model_set: ModelSet, jobs: pd.DataFrame, contexts: Contexts) -> AllocationReplay:
        """Replay ``jobs``, encoded as ``contexts``, by the weights of a trained version.

        Args:
            model_set: The trained version.
            jobs: The jobs.
            contexts: The same jobs, encoded.
        """
        memory, walltime = (
            TargetReplay.of_version(model_set, name, jobs, contexts)
            for name in ("peak_memory", "walltime")
        )
        return AllocationReplay(
            memory.predictor, walltime.predictor, memory.log, walltime.log.values
        )

    def advance(self, rows: Integers) -> Occupancy:
        """Predict the occupancy of ``rows``, which follow those before in order of submission."""
        return self._replay.advance(rows)


def validation_rows(training: TrainingRows) -> Integers:
    """The rows of the last window, which the refiners fitted for validation have not seen."""
    return training.split(int(len(training.truth) * WINDOWS[-1]))[1]


def reweight_transform(
    below: Array, upto: Array, training: TrainingRows, ratio: Array
) -> tuple[Array, Array]:
    """Compute the probability integral transform after reweighting coarse masses.

    Args:
        below: The mixture's mass below each outcome's bin.
        upto: The mixture's mass up to and with it.
        training: The coarse masses of the same rows, and the coarse bin of each outcome.
        ratio: The factor of each coarse mass (float64[n, coarse bins]).
    """
    row = np.arange(len(below))
    before = np.cumsum(training.coarse, axis=1) - training.coarse
    reweighted = training.coarse * ratio
    start = np.cumsum(reweighted, axis=1) - reweighted
    total = reweighted.sum(axis=1)
    before, start, factor = (values[row, training.truth] for values in (before, start, ratio))
    below, upto = (
        np.clip((start + factor * np.maximum(mass - before, 0.0)) / total, 0.0, 1.0)
        for mass in (below, upto)
    )
    return below, upto
