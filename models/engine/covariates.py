"""Memory and walltime given covariates: the labels of jobs.

CatBoost predicts the logarithms of both together. The residuals of jobs that a model was not fitted
to, added to a job's prediction, are its joint distribution, as a conformal predictive distribution
(Vovk et al. 2017) has it: memory and walltime keep their correlation, on which waste depends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from infra.aliases import Array, Flags, Floats
from jobs.labels import read_labels
from models.histories.occupancy import Occupancy
from models.quantities.targets import Grid
from models.refiner.boosting import fit_several

MIN_ROWS = 100
"""Fewer ended jobs with covariates do not say how far predictions by them are off."""
MAX_RESIDUALS = 2000
FOLDS = 5
_ROWS = 500
"""Jobs whose distributions are computed at once."""


@dataclass(frozen=True)
class CovariateModel:
    """A model of the memory and walltime of jobs, and its residuals.

    Attributes:
        predict: Computes the logarithms of memory in bytes and walltime in s, float64[n, 2].
        residuals: Of jobs that the model was not fitted to, float64[m, 2].
    """

    predict: Callable[[pd.DataFrame], Floats]
    residuals: Floats

    def occupancy(self, jobs: pd.DataFrame, grid: Grid) -> Occupancy:
        """Predict the memory of n jobs by their covariates, and for how long it is held."""
        count, inputs = len(jobs), covariates(jobs)
        mass = np.zeros((count, grid.bins), np.float32)
        weighted, seconds = np.zeros_like(mass), np.zeros(count)
        for start in range(0, count, _ROWS):
            rows = slice(start, start + _ROWS)
            logs = self.predict(inputs.iloc[rows])[:, None, :] + self.residuals[None]
            bins, times = grid.bin(np.exp(logs[:, :, 0])), np.exp(logs[:, :, 1])
            cells = (np.arange(len(bins))[:, None] * grid.bins + bins).ravel()
            shape, cell_count = (len(bins), grid.bins), len(bins) * grid.bins
            mass[rows] = np.bincount(cells, minlength=cell_count).reshape(shape) / bins.shape[1]
            lasted = np.bincount(cells, times.ravel(), minlength=cell_count).reshape(shape)
            weighted[rows] = lasted / lasted.sum(axis=1, keepdims=True)
            seconds[rows] = times.mean(axis=1)
        top = grid.bins - 1 - np.argmax(mass[:, ::-1] > 0, axis=1)
        never = np.zeros(count, np.bool_)
        return Occupancy(mass, weighted, seconds, top, np.zeros(count, np.int64), never)


def covariates(jobs: pd.DataFrame) -> pd.DataFrame:
    """The labels of jobs, a column each: numbers, NaN for missing, and texts of dtype object."""
    if "labels" not in jobs or not jobs["labels"].notna().any():
        return pd.DataFrame(index=jobs.index)
    labels = read_labels(jobs["labels"])
    texts = labels.columns[[not is_numeric_dtype(labels[name]) for name in labels.columns]]
    return labels.assign(**{name: labels[name].fillna("").astype(object) for name in texts})


def has_numbers(jobs: pd.DataFrame) -> Flags:
    """Whether each job reports a number among its labels, bool[n].

    Texts alone are better served by the histories of jobs that share them.
    """
    numbers = covariates(jobs).select_dtypes("number")
    return np.asarray(numbers.notna().any(axis=1).to_numpy(), np.bool_)


def fit_covariates(jobs: pd.DataFrame, memory: Array, seconds: Array) -> CovariateModel | None:
    """Fit memory and walltime by covariates; None for fewer than MIN_ROWS jobs.

    Args:
        jobs: Ended jobs that report covariates.
        memory: The peak memory of each, bytes, above 0.
        seconds: The walltime of each, s, above 0.
    """
    if len(jobs) < MIN_ROWS:
        return None
    inputs, logs = covariates(jobs), np.log(np.column_stack([memory, seconds]))
    fold = np.random.default_rng(0).permutation(len(jobs)) % FOLDS
    residuals = np.empty_like(logs)
    for number in range(FOLDS):
        rest, rows = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        fitted = fit_several(inputs.iloc[rest], logs[rest])
        residuals[rows] = logs[rows] - fitted(inputs.iloc[rows])
    return CovariateModel(fit_several(inputs, logs), residuals[-MAX_RESIDUALS:])
