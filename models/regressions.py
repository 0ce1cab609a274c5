"""The fitted baselines: plain regressions on history and request, fitted anew as jobs end.

They are what the field tries first, in the form that its papers publish. Each is trained on ended jobs only, with their
inputs as they stood at submission.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.recent import Floats, last, mean_of_two, median_of
from models.seen import Seen

TRAINING_ROWS = 30_000
"""The most ended jobs, latest first, that one fit uses: long logs then take minutes, not hours."""
FEWEST_ROWS = 100
SEED = 1

Fitted = Callable[[pd.DataFrame], Floats]
NAMES = ("user", "group", "program", "queue", "site")


def refitted(seen: Seen, inputs: pd.DataFrame, fit: Callable[[pd.DataFrame, Floats], Fitted]) -> Floats:
    """Predictions of a model that is fitted anew at each of ``seen.refits``, as the template's last two before the first (float64[n])."""
    predicted = seen.along(mean_of_two)
    for start, stop in zip(seen.refits, (*seen.refits[1:], len(predicted)), strict=True):
        rows = latest_ended(seen, start)
        if len(rows) >= FEWEST_ROWS and stop > start:
            predicted[start:stop] = fit(inputs.iloc[rows], seen.values[rows])(inputs.iloc[start:stop])
    return predicted


def latest_ended(seen: Seen, row: int) -> npt.NDArray[np.int64]:
    """The rows, at most ``TRAINING_ROWS``, whose outcome became known last before the job at ``row`` was submitted."""
    known = np.flatnonzero((seen.known <= seen.at[row]) & np.isfinite(seen.values))
    return known[np.argsort(seen.known[known], kind="stable")][-TRAINING_ROWS:]


def numbers(seen: Seen) -> pd.DataFrame:
    """What history says and on how many outcomes it stands, what was asked for, and the hour: n rows without gaps.

    Nothing that tells the date is among them (the weekday, a median since the log's beginning): on a log of days trees take it
    for a cause, and a plain CatBoost's error on LCG-2005 nearly doubles.
    """
    owner = seen.levels[-1:]
    inputs = {
        "template_last": seen.along(last),
        "template_two": seen.along(mean_of_two),
        "template_ten": seen.along(median_of(10)),
        "template_average": seen.along(lambda level: level.average),
        "template_most": seen.along(lambda level: np.fmax.reduce(level.values, axis=1)),
        "user_last": seen.along(last, owner),
        "user_two": seen.along(mean_of_two, owner),
        "user_ten": seen.along(median_of(10), owner),
        "user_average": seen.along(lambda level: level.average, owner),
        "template_known": np.isfinite(seen.levels[0].values).sum(axis=1),
        "user_known": np.isfinite(seen.levels[-1].values).sum(axis=1),
        "hour": seen.at / 3.6e9 % 24,
        "limit": np.nan_to_num(seen.request),
    }
    asked = {name: np.nan_to_num(seen.jobs[name].to_numpy()) for name in ("requested_cores", "requested_memory", "input_bytes")}
    return pd.DataFrame(inputs | asked, dtype=np.float64)


def ridge(seen: Seen) -> Floats:
    """Ridge regression on standardised inputs (float64[n]); on logarithms its absolute error is a third larger (KTH-SP2)."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return refitted(seen, numbers(seen), lambda inputs, values: _predictor(make_pipeline(StandardScaler(), Ridge()).fit(inputs, values)))


def forest(seen: Seen) -> Floats:
    """Random forest (float64[n]); on logarithms, whose mean lies far below the middle, its absolute error is far larger (KTH-SP2)."""
    from sklearn.ensemble import RandomForestRegressor

    def fit(inputs: pd.DataFrame, values: Floats) -> Fitted:
        model = RandomForestRegressor(60, min_samples_leaf=5, max_features=1 / 3, n_jobs=-1, random_state=SEED)
        # Threads would add the trees up in any order, and the last digit would differ from run to run.
        return _predictor(model.fit(inputs, values).set_params(n_jobs=1))

    return refitted(seen, numbers(seen), fit)


def catboost(seen: Seen) -> Floats:
    """CatBoost on logarithms by absolute error, with its own treatment of user, group, program, queue and site (float64[n])."""
    from models.training import fit_plain

    names = seen.jobs[[name for name in NAMES if seen.jobs[name].notna().any()]].fillna("").astype(object)
    lowest, highest = np.log(seen.target.grid.lowest), np.log(seen.target.grid.edges[-1])

    def fit(inputs: pd.DataFrame, values: Floats) -> Fitted:
        logs = fit_plain(inputs, np.log(np.maximum(values, seen.target.grid.lowest)))
        return lambda asked: np.exp(np.clip(logs(asked), lowest, highest))

    return refitted(seen, pd.concat([numbers(seen), names.reset_index(drop=True)], axis=1), fit)


def _predictor(model: Any) -> Fitted:
    return lambda inputs: np.asarray(model.predict(inputs), dtype=np.float64)
