"""How linear, boosted and neural regressions adapt beside Gridcast: after a planted change and on LCG's last days; docs/predictions.md.

    uv run python benchmarks/rivals.py [LOG ...]

All are asked at submission, know what had ended, and are fitted anew after each tenth of the log. The change makes the work of the most
active program twice as much from day 20 of 30 on, in three generated logs; only that program's jobs are judged.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from logs import asked, load, show, warm_up

from infra.aliases import Floats
from jobs.workload import START, Change, generate
from models.baselines.available_history import read_history
from models.baselines.catalogue import predict_baselines
from models.baselines.regressions import Fitted, Regression, numbers
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
    names = asked(__doc__ or "", "LCG")
    show(
        f"MAE in seconds around a planted change (twice the work), {len(SEEDS)} generated logs",
        planted(),
    )
    for name in names:
        jobs = load(name)
        since = jobs["submitted_at"].max() - pd.Timedelta(days=LAST_DAYS)
        found = answers(jobs, warm_up(name))
        actual = WALLTIME.value(jobs)
        judged = np.isfinite(actual) & (jobs["submitted_at"] >= since).to_numpy()
        show(
            f"{name}, last {LAST_DAYS} days, {judged.sum():,} jobs",
            [_row(who, point[judged], actual[judged]) for who, point in found.items()],
        )


def planted() -> list[dict[str, Any]]:
    """A row a predictor, a column a stretch of time around the change."""
    errors: dict[str, dict[str, list[Floats]]] = {}
    for seed in SEEDS:
        made = generate(seed=seed, changes=[Change("slow_program", DAY)])
        jobs = made.jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
        day = ((jobs["submitted_at"] - START) / pd.Timedelta(days=1)).to_numpy() - DAY
        struck = (jobs["program"] == made.truth["changes"][0]["name"]).to_numpy()
        actual = WALLTIME.value(jobs)
        for who, point in answers(jobs, 0.1).items():
            for part, (since, until) in PARTS.items():
                rows = struck & (day >= since) & (day < until) & np.isfinite(actual)
                errors.setdefault(who, {}).setdefault(part, []).append(np.abs(point - actual)[rows])
    return [
        {"predictor": who}
        | {part: float(np.concatenate(found).mean()) for part, found in row.items()}
        for who, row in errors.items()
    ]


def answers(jobs: pd.DataFrame, warm: float) -> dict[str, Floats]:
    """What each says of every job at its submission (float64[n]; NaN where it was not asked)."""
    baselines = predict_baselines(
        jobs, WALLTIME, ("template", "median-10", "ridge", "catboost"), warm_up=warm
    )
    found = {name: answer.point for name, answer in baselines.items()}
    seen = read_history(
        jobs, WALLTIME, [int(len(jobs) * share) for share in np.arange(warm, 1, 0.1)]
    )
    most = np.where(np.isfinite(seen.request), seen.request, np.inf)
    found["neural, on logarithms"] = np.clip(neural_on_logarithms(seen), WALLTIME.grid.lowest, most)
    found["neural, on seconds"] = np.clip(neural_on_seconds(seen), WALLTIME.grid.lowest, most)
    lived = backtest(jobs, warm_up=warm)
    found["gridcast"] = np.full(len(jobs), np.nan)
    found["gridcast"][lived.rows] = lived.point
    return found


def _neural(inputs: pd.DataFrame, values: Floats, target: Target, logarithms: bool) -> Fitted:
    """Two hidden layers (64 and 32) on the logarithms of the inputs, stopped early on a tenth of what has ended."""
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

    def predict(asked: pd.DataFrame) -> Floats:
        found = model.predict(asked)
        return (
            np.exp(np.clip(found, 0.0, np.log(target.grid.edges[-1])))
            if logarithms
            else found * scale
        )

    return predict


neural_on_logarithms = Regression(
    numbers, lambda inputs, values, target: _neural(inputs, values, target, True)
)
neural_on_seconds = Regression(
    numbers, lambda inputs, values, target: _neural(inputs, values, target, False)
)


def _row(who: str, point: Floats, actual: Floats) -> dict[str, Any]:
    point, truth = np.maximum(point, 1.0), np.maximum(actual, 1.0)
    error = np.abs(point - actual)
    return {
        "predictor": who,
        "MAE": float(error.mean()),
        "median AE": float(np.median(error)),
        "APA": float(np.minimum(point / truth, truth / point).mean()),
    }


if __name__ == "__main__":
    main()
