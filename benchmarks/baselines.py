"""Adaptation of linear, boosted and neural regressions and of Gridcast; docs/benchmarks/regressions.md.

    uv run python benchmarks/baselines.py [LOG ...]

After a planted change, and on the last days of LCG. All predict at submission from ended jobs, and
are fitted again after each tenth of the log. The change doubles the work of the most active program
from day 20 of 30, in three generated logs; only its jobs are evaluated.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from logs import load, selected_logs, show, warm_up

from infra.aliases import Floats
from jobs.workload import START, Change, generate
from models.baselines.available_history import read_history
from models.baselines.catalogue import predict_baselines
from models.baselines.regressions import Fitted, Regression, numeric_inputs
from models.engine.backtest import backtest
from models.quantities.targets import TARGETS, Target

WALLTIME = TARGETS["walltime"]
SEEDS, DAY = (1, 2, 3), 20.0
PARTS = {
    "the week before": (-7, 0),
    "first day after": (0, 1),
    "days 2 and 3": (1, 3),
    "days 4 to 10": (3, 10),
}
LAST_DAYS = 3


def main() -> None:
    """The planted change, then the last days of each log."""
    names = selected_logs(__doc__ or "", "LCG")
    show(
        f"MAE in seconds around a planted change (twice the work), {len(SEEDS)} generated logs",
        planted(),
    )
    for name in names:
        jobs = load(name)
        since = jobs["submitted_at"].max() - pd.Timedelta(days=LAST_DAYS)
        points = answers(jobs, warm_up(name))
        actual = WALLTIME.value(jobs)
        judged = np.isfinite(actual) & (jobs["submitted_at"] >= since).to_numpy()
        show(
            f"{name}, last {LAST_DAYS} days, {judged.sum():,} jobs",
            [_row(predictor, point[judged], actual[judged]) for predictor, point in points.items()],
        )


def planted() -> list[dict[str, Any]]:
    """A row a predictor, a column a stretch of time around the change."""
    errors: dict[str, dict[str, list[Floats]]] = {}
    for seed in SEEDS:
        generated = generate(seed=seed, changes=[Change("slow_program", DAY)])
        jobs = generated.jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
        day = ((jobs["submitted_at"] - START) / pd.Timedelta(days=1)).to_numpy() - DAY
        struck = (jobs["program"] == generated.truth["changes"][0]["name"]).to_numpy()
        actual = WALLTIME.value(jobs)
        for predictor, point in answers(jobs, 0.1).items():
            for period, (since, until) in PARTS.items():
                rows = struck & (day >= since) & (day < until) & np.isfinite(actual)
                errors.setdefault(predictor, {}).setdefault(period, []).append(
                    np.abs(point - actual)[rows]
                )
    return [
        {"predictor": predictor}
        | {period: float(np.concatenate(points).mean()) for period, points in row.items()}
        for predictor, row in errors.items()
    ]


def answers(jobs: pd.DataFrame, warm: float) -> dict[str, Floats]:
    """Predictions of every job at its submission, by predictor: float64[n], NaN for none."""
    baselines = predict_baselines(
        jobs, WALLTIME, ("template", "median-10", "ridge", "catboost"), warm_up=warm
    )
    points = {name: answer.point for name, answer in baselines.items()}
    seen = read_history(
        jobs, WALLTIME, [int(len(jobs) * share) for share in np.arange(warm, 1, 0.1)]
    )
    most = np.where(np.isfinite(seen.request), seen.request, np.inf)
    points["neural, on logarithms"] = np.clip(
        neural_on_logarithms(seen), WALLTIME.grid.lowest, most
    )
    points["neural, on seconds"] = np.clip(neural_on_seconds(seen), WALLTIME.grid.lowest, most)
    gridcast = backtest(jobs, warm_up=warm)
    points["gridcast"] = np.full(len(jobs), np.nan)
    points["gridcast"][gridcast.rows] = gridcast.point
    return points


def _neural(inputs: pd.DataFrame, values: Floats, target: Target, logarithms: bool) -> Fitted:
    """Two hidden layers (64, 32) on the logarithms of the inputs, with early stopping."""
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    scale = 1.0 if logarithms else values.mean()
    network = MLPRegressor(
        hidden_layer_sizes=(64, 32), early_stopping=True, max_iter=60, random_state=0
    )
    model = make_pipeline(FunctionTransformer(np.log1p), StandardScaler(), network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 60 passes are what a scheduled refit can wait for
        model.fit(
            inputs, np.log(np.maximum(values, target.grid.lowest)) if logarithms else values / scale
        )

    def predict(rows: pd.DataFrame) -> Floats:
        points = model.predict(rows)
        return (
            np.exp(np.clip(points, 0.0, np.log(target.grid.edges[-1])))
            if logarithms
            else points * scale
        )

    return predict


neural_on_logarithms = Regression(
    numeric_inputs, lambda inputs, values, target: _neural(inputs, values, target, True)
)
neural_on_seconds = Regression(
    numeric_inputs, lambda inputs, values, target: _neural(inputs, values, target, False)
)


def _row(predictor: str, point: Floats, actual: Floats) -> dict[str, Any]:
    point, truth = np.maximum(point, 1.0), np.maximum(actual, 1.0)
    error = np.abs(point - actual)
    return {
        "predictor": predictor,
        "MAE": float(error.mean()),
        "median AE": float(np.median(error)),
        "APA": float(np.minimum(point / truth, truth / point).mean()),
    }


if __name__ == "__main__":
    main()
