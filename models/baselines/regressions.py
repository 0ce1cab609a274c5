"""The fitted baselines: plain regressions on history and request, fitted again as jobs end.

They have the form in which papers publish them. Each is trained on ended jobs only, with their
inputs as they were at submission.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.aliases import Floats
from infra.settings import THREADS
from models.baselines.available_history import AvailableHistory
from models.histories.labels import is_label, with_label_columns
from models.past.recent import (
    last,
    mean_of_two,
    median_of,
)
from models.quantities.subjects import JOBS
from models.quantities.targets import Target

TRAINING_ROWS = 30_000
"""The most ended jobs of one fit, the latest: long logs then take minutes, not hours."""
FEWEST_ROWS = 100
SEED = 1

Fitted = Callable[[pd.DataFrame], Floats]
CATEGORIES = ("user", "group", "program", "queue", "site")


@dataclass(frozen=True)
class Regression:
    """A fitted baseline: ``inputs`` makes a row a job, ``fit`` learns a function from such rows."""

    inputs: Callable[[AvailableHistory], pd.DataFrame]
    fit: Callable[[pd.DataFrame, Floats, Target], Fitted]

    def __call__(self, history: AvailableHistory) -> Floats:
        """Predictions, fitted again at each of ``history.refits`` (float64[n]).

        Before the first fit they are the mean of the template's last two.
        """
        predicted, inputs = history.finest(mean_of_two), self.inputs(history)
        for start, stop in zip(history.refits, (*history.refits[1:], len(predicted)), strict=True):
            rows = latest_outcomes(history, int(history.submitted_at[start]))
            if len(rows) >= FEWEST_ROWS and stop > start:
                fitted = self.fit(inputs.iloc[rows], history.values[rows], history.target)
                predicted[start:stop] = fitted(inputs.iloc[start:stop])
        return predicted


def import_fitting() -> None:
    """Import the libraries that fit regressions, before several threads do at once."""
    import sklearn.ensemble
    import sklearn.linear_model
    import sklearn.pipeline
    import sklearn.preprocessing  # noqa: F401

    from models.refiner.boosting import import_catboost

    import_catboost()


def latest_outcomes(history: AvailableHistory, at: int) -> npt.NDArray[np.int64]:
    """The last ``TRAINING_ROWS`` rows whose outcome was available at ``at`` (µs), in that order."""
    rows = np.flatnonzero((history.available_at <= at) & np.isfinite(history.values))
    return rows[np.argsort(history.available_at[rows], kind="stable")][-TRAINING_ROWS:]


def numeric_inputs(history: AvailableHistory) -> pd.DataFrame:
    """Statistics of the history and how many outcomes they have, the request and the hour.

    No input depends on the date (the weekday, a median since the log's beginning): on a log of days
    trees take it for a cause, and a plain CatBoost's error on LCG-2005 nearly doubles.
    """
    owner = history.levels[-1:]
    inputs = {
        "template_last": history.finest(last),
        "template_two": history.finest(mean_of_two),
        "template_ten": history.finest(median_of(10)),
        "template_average": history.finest(lambda level: level.average),
        "template_most": history.finest(lambda level: np.fmax.reduce(level.values, axis=1)),
        "user_last": history.finest(last, owner),
        "user_two": history.finest(mean_of_two, owner),
        "user_ten": history.finest(median_of(10), owner),
        "user_average": history.finest(lambda level: level.average, owner),
        "template_known": np.isfinite(history.levels[0].values).sum(axis=1),
        "user_known": np.isfinite(history.levels[-1].values).sum(axis=1),
        "hour": history.submitted_at / 3.6e9 % 24,
        "limit": np.nan_to_num(history.request),
    }
    for name in _numeric_fields(history):
        inputs[name] = np.nan_to_num(history.jobs[name].to_numpy(dtype=np.float64))
    return pd.DataFrame(np.column_stack([*inputs.values()]), columns=[*inputs])


def _numeric_fields(history: AvailableHistory) -> tuple[str, ...]:
    if history.target.subject is JOBS:
        return ("requested_cores", "requested_memory", "input_bytes")
    return tuple(name for name in history.target.subject.numbers if name in history.jobs)


def inputs_with_categories(history: AvailableHistory) -> pd.DataFrame:
    """``numeric_inputs``, and user, program, site and the like as categories.

    Optional fields and labels are among both, as far as they are reported.
    """
    subject = history.target.subject
    jobs = with_label_columns(history.jobs, subject).reset_index(drop=True)
    optional = [*subject.optional, *filter(is_label, jobs.columns)]
    names = (*CATEGORIES, "activity", "direction", "file_system", "link", *optional)
    used = [name for name in dict.fromkeys(names) if name in jobs and jobs[name].notna().any()]
    numbers = [name for name in used if pd.api.types.is_numeric_dtype(jobs[name])]
    categories = jobs[used].drop(columns=numbers).fillna("").astype(object)
    return pd.concat([numeric_inputs(history), jobs[numbers], categories], axis=1)


def inputs_with_cpu_time(history: AvailableHistory) -> pd.DataFrame:
    """``inputs_with_categories`` and the job's own CPU time, unknown at its submission."""
    return inputs_with_categories(history).assign(cpu_time=history.jobs["cpu_time"].to_numpy())


def _ridge(inputs: pd.DataFrame, values: Floats, target: Target) -> Fitted:
    """On standardised inputs, in seconds: on logarithms the error is a third larger (KTH-SP2)."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaler, line = make_pipeline(StandardScaler(), Ridge()).fit(inputs, values)
    # For single rows the checks of the pipeline would take a thousand times as long as the sum.
    weights = line.coef_ / scaler.scale_
    constant = line.intercept_ - scaler.mean_ @ weights
    return lambda rows: rows.to_numpy(dtype=np.float64) @ weights + constant


def _forest(inputs: pd.DataFrame, values: Floats, target: Target) -> Fitted:
    """In seconds: on logarithms its absolute error is far larger (KTH-SP2)."""
    predict = fit_forest(inputs.to_numpy(dtype=np.float32), values)
    return lambda rows: predict(np.ascontiguousarray(rows.to_numpy(dtype=np.float32)))


def fit_forest(
    inputs: npt.NDArray[np.float32], values: Floats
) -> Callable[[npt.NDArray[np.float32]], Floats]:
    """Fit a random forest to ``inputs`` (float32[n, m]) by squared error; returns its function."""
    from sklearn.ensemble import RandomForestRegressor

    model = RandomForestRegressor(
        60, min_samples_leaf=5, max_features=1 / 3, n_jobs=THREADS, random_state=SEED
    ).fit(inputs, values)
    trees = [tree.tree_ for tree in model.estimators_]

    def predict(rows: npt.NDArray[np.float32]) -> Floats:
        # As the model, but without its checks and its threads, which add up trees in any order.
        return np.asarray(sum(tree.predict(rows)[:, 0] for tree in trees) / len(trees))

    return predict


def _catboost(inputs: pd.DataFrame, values: Floats, target: Target) -> Fitted:
    """On logarithms by absolute error, with CatBoost's own treatment of categories."""
    from models.refiner.boosting import fit_regression

    lowest, highest = np.log(target.grid.lowest), np.log(target.grid.edges[-1])
    logs = fit_regression(
        inputs, np.log(np.maximum(values, target.grid.lowest)), "MAE", kind="baseline"
    )
    return lambda rows: np.exp(np.clip(logs(rows), lowest, highest))


ridge = Regression(numeric_inputs, _ridge)
forest = Regression(numeric_inputs, _forest)
catboost = Regression(inputs_with_categories, _catboost)
wait_catboost = Regression(lambda history: history.queue_inputs, _catboost)
ideal = Regression(inputs_with_cpu_time, _catboost)
