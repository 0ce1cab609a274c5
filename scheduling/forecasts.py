"""Gridcast's distributions as a predictor in replay time: it learns as jobs end there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from infra.aliases import Floats, Integers
from jobs.schema import OUTCOMES
from models.engine.log_rows import LogRows
from models.engine.model_set import ModelSet, TargetModel
from models.engine.target_predictor import TargetPredictor
from models.histories.features import Contexts, Levels, choose_levels, encode
from models.quantities.distribution import Distribution
from models.quantities.targets import TARGETS
from models.refiner.clusters import GLOBAL
from scheduling.policies import PolicyError
from scheduling.quantities import parse_quantity, warm_up
from scheduling.trace import Trace

MICROSECONDS = 1e6


class Forecasts:
    """The walltime predictor of the live service, fed in replay time.

    Its histories hold no outcome but those that the replay has reported.

    Args:
        trace: The jobs of the replay.
        model: A trained model, whose weights and refiners are used. None starts with nothing, and
            chooses the levels by the fields of the first jobs.
        past: Jobs that had ended before the log begins, for the histories.
        calibrate: Learn the calibration too, which takes about twice the time.

    Raises:
        PolicyError: Where the model was trained on outcomes of the log's own time.
    """

    def __init__(
        self,
        trace: Trace,
        model: ModelSet | None = None,
        past: pd.DataFrame | None = None,
        calibrate: bool = False,
    ) -> None:
        jobs = trace.jobs.drop(columns=list(OUTCOMES))
        jobs["requested_cores"] = jobs["requested_cores"].fillna(trace.jobs["cores"])
        levels = model.levels if model else choose_levels(jobs.iloc[: warm_up(len(trace))])
        self.contexts = encode(jobs, levels)
        self.limits = np.where(jobs["requested_walltime"] > 0, trace.request, np.inf)
        self.begin = int(self.contexts.at[0] - trace.submitted[0] * MICROSECONDS)
        walltime = _trained_before(model, self.begin) if model else None
        self.predictor = TargetPredictor.create(TARGETS["walltime"], levels, model=walltime)
        self.clusters = (
            model.clusters.assign(jobs) if model else np.full(len(trace), GLOBAL, dtype=object)
        )
        if past is not None:
            self._load_past(past, levels)
        self._calibrate = calibrate
        self._pending: list[tuple[Integers, Integers, Floats]] = []
        self._cached: tuple[bytes, float, Contexts, Distribution] | None = None

    def _load_past(self, past: pd.DataFrame, levels: Levels) -> None:
        """Fill the histories with outcomes from before the log; the weights learn none of them."""
        log = LogRows.of(past, self.predictor.target, levels, until=self.begin - 1)
        rows = log.outcome_order
        self.predictor.load_histories(log.contexts.take(rows), log.values[rows], log.limits[rows])

    def learn(self, rows: Integers, ended: Floats, lengths: Floats) -> None:
        """See Predictor; the outcomes are learned together before the next prediction."""
        available_at = self.begin + np.round(ended * MICROSECONDS).astype(np.int64)
        self._pending.append((np.array(rows), available_at, np.array(lengths, dtype=np.float64)))

    def _learn_pending(self) -> None:
        if self._pending:
            rows, available_at, lengths = (
                np.concatenate(column) for column in zip(*self._pending, strict=True)
            )
            contexts = replace(self.contexts.take(rows), available_at=available_at)
            if self._calibrate:
                self.predictor.learn(contexts, lengths, self.limits[rows], self.clusters[rows])
            else:
                self.predictor.mixture.learn(contexts, lengths, self.limits[rows])
            self._pending.clear()

    def distribution(self, rows: Integers, now: float) -> Distribution:
        """Predict the walltimes of ``rows`` by what had ended at ``now`` (s)."""
        return self._predicted(rows, now)[1]

    def _predicted(self, rows: Integers, now: float) -> tuple[Contexts, Distribution]:
        query = (rows.tobytes(), now)
        if self._cached is None or self._cached[:2] != query:
            self._learn_pending()
            at = np.full(len(rows), self.begin + round(now * MICROSECONDS))
            contexts = replace(self.contexts.take(rows), at=at)
            predicted = self.predictor.distribution(
                contexts, self.limits[rows], self.clusters[rows]
            )
            self._cached = (*query, contexts, predicted)
        return self._cached[2:]

    def predict(self, rows: Integers, quantity: str, now: float) -> Floats:
        """See Predictor."""
        contexts, predicted = self._predicted(rows, now)
        if quantity == "median":
            return predicted.median()
        if quantity == "mean":
            return predicted.mean()
        if quantity == "log-mean":
            return log_mean(predicted)
        if quantity == "point":
            scale = self.predictor.mixture.error_scale
            return self.predictor.points(predicted, contexts, scale)
        level, deviations = parse_quantity(quantity)
        if level is not None:
            return predicted.quantile(level)
        return predicted.mean() + deviations * predicted.standard_deviation()

    def calibrated(self, rows: Integers, now: float) -> tuple[Floats, Floats]:
        """Predict calibrated probabilities at the edges of the grid, by what had ended at ``now``.

        Args:
            rows: The jobs.
            now: The present, s.

        Returns:
            P(T ≤ edge) and E[T; T ≤ edge] (float64[rows, bins + 1] each).
        """
        contexts, predicted = self._predicted(rows, now)
        mass, grid = predicted.mass.astype(np.float64), predicted.grid
        raw = np.minimum(np.cumsum(mass / mass.sum(axis=1, keepdims=True), axis=1), 1.0)
        familiarity = self.predictor.mixture.familiarity(contexts, self.limits[rows])
        repeated = familiarity.take(np.repeat(np.arange(len(rows)), grid.bins))
        edges = np.tile(grid.edges[1:], len(rows))
        below = self.predictor.calibration.probabilities(raw.ravel(), repeated)
        below = repeated.widen_probabilities(below, edges).reshape(raw.shape)
        below[:, -1] = 1.0
        below = np.where(grid.edges[1:] >= predicted.limit[:, None], 1.0, below)
        below = np.concatenate([np.zeros((len(rows), 1)), below], axis=1)
        values = np.minimum(grid.centres, predicted.limit[:, None])
        moments = np.cumsum(np.diff(below, axis=1) * values, axis=1)
        return below, np.concatenate([np.zeros((len(rows), 1)), moments], axis=1)

    def remaining(self, row: int, ran: float, now: float) -> float:
        """E[T | T > t] of the distribution.

        Args:
            row: The row of the job.
            ran: How long it has run, in s.
            now: The present.
        """
        return float(self.distribution(np.array([row]), now).remaining(np.array([ran])).mean()[0])


def _trained_before(model: ModelSet, begin: int) -> TargetModel:
    """The model of walltimes; raises PolicyError if trained on outcomes from ``begin`` (µs) on."""
    if "walltime" not in model.targets:
        raise PolicyError(f"the model {model.version} does not predict walltime")
    if model.card.window.until_us >= begin:
        raise PolicyError(
            f"the model {model.version} was trained on jobs that ended after the log begins: "
            "replay a later part of it"
        )
    return model.targets["walltime"]


def log_mean(predicted: Distribution) -> Floats:
    """Exponential of the expected logarithm of each row (float64[n])."""
    values = np.minimum(predicted.grid.centres[None, :], predicted.limit[:, None])
    logarithm: Floats = (predicted.mass * np.log(values)).sum(axis=1, dtype=np.float64)
    return np.exp(logarithm)
