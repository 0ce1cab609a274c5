"""Waits by regression on the state of the queue, with ranges by the latest errors of alike waits.

Two CatBoost regressions by absolute error, of the logarithm and of the square root of a wait, are
averaged. Its distribution is that centre times the latest actual over predicted ratios, out of
sample, of the waits predicted most nearly as long (split conformal prediction with neighbours).
Arrays, whose jobs are submitted and start together, count once: regressions and ranges learn the
first job of a queue and owner in an hour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from infra.aliases import Array, Floats, Integers, Progress
from infra.compiled import compiled
from models.past.load import seconds
from models.past.queue_inputs import first_of_burst
from models.past.queues import waits
from models.quantities.metrics import QUANTILE_LEVELS
from models.refiner.boosting import fit_regression

MIN_TRAINING_ROWS = 500
MAX_TRAINING_ROWS = 15_000
"""The latest started jobs that are trained on."""
HOLDOUT = 0.25
"""The share of the training rows, the latest, whose errors the first ranges are made of."""
MAX_ERRORS = 3000
"""The latest errors that ranges are made of."""
NEIGHBOURS = 300
"""The errors a range is made of, of waits predicted most nearly as long."""
LOW_LEVEL = 1 / 3
"""The quantile of least median error: half of all waits are short and a tenth last for days."""
BATCH_ROWS = 256


@dataclass(frozen=True)
class WaitPredictions:
    """The predictions of n waits, in seconds.

    Attributes:
        centre: The prediction of the regressions, the point of least absolute error.
        ratio: The point that most likely is within a factor of e of the wait.
        low: The LOW_LEVEL quantile, the point of least median error.
        quantiles: Calibrated quantiles at QUANTILE_LEVELS, float64[n, levels].
    """

    centre: Floats
    ratio: Floats
    low: Floats
    quantiles: Floats


@dataclass(frozen=True)
class WaitRegression:
    """Fitted regressions, and the latest waits that they had not seen.

    Attributes:
        centre: The logarithm of the predicted wait for inputs, float64[n].
        centres: Such predictions made before, in order of availability of the waits, float64[m].
        errors: The logarithms of the actual waits less these, float64[m].
    """

    centre: Callable[[pd.DataFrame], Floats]
    centres: Floats
    errors: Floats

    @staticmethod
    def fit(
        inputs: pd.DataFrame, logs: Floats, earlier: WaitRegression | None = None
    ) -> WaitRegression | None:
        """Fit to the logarithms of waits, in order of availability; None for too few.

        Args:
            inputs: As from ``queue_inputs``.
            logs: Logarithms of the waits.
            earlier: A regression whose errors go on; without one the latest rows are held out.
        """
        if len(logs) < MIN_TRAINING_ROWS:
            return None
        inputs, logs = inputs.iloc[-MAX_TRAINING_ROWS:], logs[-MAX_TRAINING_ROWS:]
        if earlier:
            return WaitRegression(_fit_centre(inputs, logs), earlier.centres, earlier.errors)
        early = int(len(logs) * (1 - HOLDOUT))
        centres = _fit_centre(inputs.iloc[:early], logs[:early])(inputs.iloc[early:])
        nothing = np.empty(0)
        regression = WaitRegression(_fit_centre(inputs, logs), nothing, nothing)
        return regression.learn(centres, logs[early:])

    def learn(self, centres: Floats, logs: Floats) -> WaitRegression:
        """Return the regression with further errors, in order of availability.

        Args:
            centres: What was predicted of the waits before they were available.
            logs: Logarithms of the waits.
        """
        return WaitRegression(
            self.centre,
            np.append(self.centres, centres)[-MAX_ERRORS:],
            np.append(self.errors, logs - centres)[-MAX_ERRORS:],
        )

    def predict(self, centres: Floats) -> WaitPredictions:
        """Predict waits by their ``centre`` and the errors so far."""
        order = np.argsort(self.centres, kind="stable")
        count = min(NEIGHBOURS, len(order))
        ends = [np.searchsorted(self.centres[order], centres, side) for side in ("left", "right")]
        middle = (ends[0] + ends[1]) // 2
        first = np.clip(middle - count // 2, 0, len(order) - count)
        errors = np.sort(self.errors[order][first[:, None] + np.arange(count)], axis=1)
        # One more error than there are, as large as the largest: the finite-sample correction.
        levels = np.clip((np.array(QUANTILE_LEVELS) - 0.5) * (1 + 1 / count) + 0.5, 0, 1)
        quantiles = np.quantile(errors, np.append(levels, LOW_LEVEL), axis=1).T
        waits_at = _seconds(centres[:, None] + quantiles)
        ratio = _seconds(centres + _likeliest(errors, 1.0))
        return WaitPredictions(_seconds(centres), ratio, waits_at[:, -1], waits_at[:, :-1])


def _seconds(logs: Floats) -> Floats:
    """Invert ``log_waits``: the logarithm of a second stands for every shorter wait."""
    return np.where(logs > 0, np.exp(logs), 0.0)


def _fit_centre(inputs: pd.DataFrame, logs: Floats) -> Callable[[pd.DataFrame], Floats]:
    of_logs = fit_regression(inputs, logs, "MAE")
    of_roots = fit_regression(inputs, np.exp(logs / 2), "MAE")
    return lambda rows: (of_logs(rows) + 2 * np.log(np.maximum(of_roots(rows), 1.0))) / 2


@compiled
def _likeliest(values: Array, half_width: float) -> Array:
    """The middle of the interval of that half width that holds most of each row (ascending)."""
    out = np.zeros(len(values))
    for row in range(len(values)):
        most, last = 0, 0
        for first in range(values.shape[1]):
            while last < values.shape[1] and values[row, last] <= values[row, first] + (
                2 * half_width
            ):
                last += 1
            if last - first > most:
                most = last - first
                out[row] = (values[row, first] + values[row, last - 1]) / 2
    return out


def started_bursts(jobs: pd.DataFrame, logs: Floats) -> Integers:
    """The rows that are learned, in order of their starts: the first job of each burst.

    Args:
        jobs: Jobs in order of submission.
        logs: Logarithms of their waits, NaN where a job has not started.
    """
    rows = np.flatnonzero(first_of_burst(jobs) & np.isfinite(logs))
    return rows[np.argsort(jobs["started_at"].to_numpy()[rows], kind="stable")]


def log_waits(jobs: pd.DataFrame) -> Floats:
    """Logarithms of waits of a second at least (float64[n], NaN where a job has not started)."""
    return np.asarray(np.log(np.maximum(waits(jobs), 1.0)))


def fit_waits(jobs: pd.DataFrame, inputs: pd.DataFrame) -> WaitRegression | None:
    """Fit to all jobs that have started; None for too few.

    Args:
        jobs: Jobs in order of submission.
        inputs: As from ``queue_inputs``.
    """
    logs = log_waits(jobs)
    rows = started_bursts(jobs, logs)
    return WaitRegression.fit(inputs.iloc[rows], logs[rows])


def backtest_waits(
    jobs: pd.DataFrame,
    inputs: pd.DataFrame,
    warm_up: float,
    refit_every: float,
    progress: Progress | None = None,
) -> WaitPredictions | None:
    """Predict each job's wait at its submission by the waits that had ended by then.

    Args:
        jobs: Jobs in order of submission.
        inputs: As from ``queue_inputs``.
        warm_up: The share of the jobs before those that are predicted.
        refit_every: The share of the jobs between two fits.
        progress: Called as jobs are predicted.

    Returns:
        Predictions of the jobs after the warm-up; None where too few waits had ended by its end.
    """
    actual = log_waits(jobs)
    learned = started_bursts(jobs, actual)
    at, available_at = seconds(jobs["submitted_at"]), seconds(jobs["started_at"])[learned]
    start, count = max(int(len(jobs) * warm_up), 1), len(jobs)
    step = max(int(count * refit_every), 1)
    centres = np.full(count, np.nan)
    regression: WaitRegression | None = None
    batches: list[WaitPredictions] = []
    position = 0
    for first in range(start, count, BATCH_ROWS):
        ended = int(np.searchsorted(available_at, at[first], side="left"))
        if regression is not None:
            new = learned[position:ended]
            new = new[np.isfinite(centres[new])]
            regression = regression.learn(centres[new], actual[new])
        position = ended
        if regression is None or (first - start) // step > (first - BATCH_ROWS - start) // step:
            past = learned[:ended][-MAX_TRAINING_ROWS:]
            regression = WaitRegression.fit(inputs.iloc[past], actual[past], regression)
            if regression is None:
                return None
        rows = slice(first, min(first + BATCH_ROWS, count))
        centres[rows] = regression.centre(inputs.iloc[rows])
        batches.append(regression.predict(centres[rows]))
        if progress:
            progress(f"wait: backtesting {count} jobs", rows.stop / count)
    return WaitPredictions(*(
        np.concatenate([getattr(batch, name) for batch in batches])
        for name in ("centre", "ratio", "low", "quantiles")
    ))  # fmt: skip
