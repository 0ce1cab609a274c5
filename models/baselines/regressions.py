"""The fitted baselines: plain regressions on history and request, fitted anew as jobs end.

They are what the field tries first, in the form that its papers publish. Each is trained on ended jobs only, with their
inputs as they stood at submission.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.aliases import Floats
from models.baselines.available_history import AvailableHistory
from models.past.recent import (
    last,
    mean_of_two,
    median_of,
)
from models.quantities.subjects import JOBS
from models.quantities.targets import Target

TRAINING_ROWS = 30_000
"""The most ended jobs, latest first, that one fit uses: long logs then take minutes, not hours."""
FEWEST_ROWS = 100
SEED = 1

Fitted = Callable[[pd.DataFrame], Floats]
CATEGORIES = ("user", "group", "program", "queue", "site")


@dataclass(frozen=True)
class Regression:
    """A fitted baseline: ``inputs`` are what it looks at, a row a job; ``fit`` learns outcomes from them and gives what predicts."""

    inputs: Callable[[AvailableHistory], pd.DataFrame]
    fit: Callable[[pd.DataFrame, Floats, Target], Fitted]

    def __call__(self, seen: AvailableHistory) -> Floats:
        """Predictions, fitted anew at each of ``seen.refits``, as the template's last two before the first (float64[n])."""
        predicted, inputs = seen.finest(mean_of_two), self.inputs(seen)
        for start, stop in zip(seen.refits, (*seen.refits[1:], len(predicted)), strict=True):
            rows = latest_outcomes(seen, int(seen.submitted_at[start]))
            if len(rows) >= FEWEST_ROWS and stop > start:
                predicted[start:stop] = self.fit(inputs.iloc[rows], seen.values[rows], seen.target)(
                    inputs.iloc[start:stop]
                )
        return predicted


def latest_outcomes(seen: AvailableHistory, at: int) -> npt.NDArray[np.int64]:
    """The rows, at most ``TRAINING_ROWS``, whose outcome became known last by ``at`` (microseconds), in that order."""
    known = np.flatnonzero((seen.available_at <= at) & np.isfinite(seen.values))
    return known[np.argsort(seen.available_at[known], kind="stable")][-TRAINING_ROWS:]


def numbers(seen: AvailableHistory) -> pd.DataFrame:
    """What history says and on how many outcomes it stands, what was asked for, and the hour: n rows without gaps.

    Nothing that tells the date is among them (the weekday, a median since the log's beginning): on a log of days trees take it
    for a cause, and a plain CatBoost's error on LCG-2005 nearly doubles.
    """
    owner = seen.levels[-1:]
    inputs = {
        "template_last": seen.finest(last),
        "template_two": seen.finest(mean_of_two),
        "template_ten": seen.finest(median_of(10)),
        "template_average": seen.finest(lambda level: level.average),
        "template_most": seen.finest(lambda level: np.fmax.reduce(level.values, axis=1)),
        "user_last": seen.finest(last, owner),
        "user_two": seen.finest(mean_of_two, owner),
        "user_ten": seen.finest(median_of(10), owner),
        "user_average": seen.finest(lambda level: level.average, owner),
        "template_known": np.isfinite(seen.levels[0].values).sum(axis=1),
        "user_known": np.isfinite(seen.levels[-1].values).sum(axis=1),
        "hour": seen.submitted_at / 3.6e9 % 24,
        "limit": np.nan_to_num(seen.request),
    }
    asked = {
        name: np.nan_to_num(seen.jobs[name].to_numpy(dtype=np.float64)) for name in _asked(seen)
    }
    return pd.DataFrame(
        np.column_stack([*inputs.values(), *asked.values()]), columns=[*inputs, *asked]
    )


def _asked(seen: AvailableHistory) -> tuple[str, ...]:
    """What was asked for, in numbers."""
    if seen.target.subject is JOBS:
        return ("requested_cores", "requested_memory", "input_bytes")
    return tuple(name for name in seen.target.subject.numbers if name in seen.jobs)


def inputs_with_categories(seen: AvailableHistory) -> pd.DataFrame:
    """``numbers``, and who, what and where as categories."""
    told = [
        name
        for name in (*CATEGORIES, "activity", "direction", "file_system", "link")
        if name in seen.jobs
    ]
    names = (
        seen.jobs[[name for name in told if seen.jobs[name].notna().any()]]
        .fillna("")
        .astype(object)
    )
    return pd.concat([numbers(seen), names.reset_index(drop=True)], axis=1)


def inputs_with_cpu_time(seen: AvailableHistory) -> pd.DataFrame:
    """``inputs_with_categories``, and the CPU time that the job was then to take, which nobody can know at its submission."""
    return inputs_with_categories(seen).assign(cpu_time=seen.jobs["cpu_time"].to_numpy())


def _ridge(inputs: pd.DataFrame, values: Floats, target: Target) -> Fitted:
    """On standardised inputs; on logarithms its absolute error is a third larger (KTH-SP2)."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaler, line = make_pipeline(StandardScaler(), Ridge()).fit(inputs, values)
    # A replay asks for one job at a time, and the pipeline's own checks would take a thousand times as long as the sum.
    weights = line.coef_ / scaler.scale_
    constant = line.intercept_ - scaler.mean_ @ weights
    return lambda asked: asked.to_numpy(dtype=np.float64) @ weights + constant


def _forest(inputs: pd.DataFrame, values: Floats, target: Target) -> Fitted:
    """In seconds: on logarithms, whose mean lies far below the middle, its absolute error is far larger (KTH-SP2)."""
    guess = fit_forest(inputs.to_numpy(dtype=np.float32), values)
    return lambda asked: guess(np.ascontiguousarray(asked.to_numpy(dtype=np.float32)))


def fit_forest(
    inputs: npt.NDArray[np.float32], values: Floats
) -> Callable[[npt.NDArray[np.float32]], Floats]:
    """A random forest over ``inputs`` (float32[n, m]) by squared error, as a function from such rows to values."""
    from sklearn.ensemble import RandomForestRegressor

    model = RandomForestRegressor(
        60, min_samples_leaf=5, max_features=1 / 3, n_jobs=-1, random_state=SEED
    ).fit(inputs, values)
    trees = [tree.tree_ for tree in model.estimators_]

    def predict(rows: npt.NDArray[np.float32]) -> Floats:
        # As the model does it, but without threads, which would add the trees up in any order, and without its checks.
        return np.asarray(sum(tree.predict(rows)[:, 0] for tree in trees) / len(trees))

    return predict


def _catboost(inputs: pd.DataFrame, values: Floats, target: Target) -> Fitted:
    """On logarithms by absolute error, with its own treatment of user, group, program, queue and site."""
    from models.refiner.boosting import fit_plain

    lowest, highest = np.log(target.grid.lowest), np.log(target.grid.edges[-1])
    logs = fit_plain(inputs, np.log(np.maximum(values, target.grid.lowest)))
    return lambda asked: np.exp(np.clip(logs(asked), lowest, highest))


ridge = Regression(numbers, _ridge)
forest = Regression(numbers, _forest)
catboost = Regression(inputs_with_categories, _catboost)
ideal = Regression(inputs_with_cpu_time, _catboost)
