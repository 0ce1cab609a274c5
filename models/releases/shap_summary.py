"""SHAP summary: which inputs move the CatBoost refiners, how far, and in which direction.

SHAP values (Lundberg and Lee 2017) as CatBoost computes them, of a sample of the training jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from infra.aliases import Array
from models.engine.explanation import readable_input
from models.engine.model_set import ModelSet, TargetModel
from models.quantities.targets import TARGETS
from models.refiner.clusters import GLOBAL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from models.refiner.boosting import CatBoostRefiner

MAX_INPUTS, LONGEST_NAME = 20, 44
MAX_CLUSTERS = 8
"""At most so many refiners of a target are summarised."""
COLUMNS = ("target", "cluster", "input", "mean_abs_shap", "share", "direction")


def shap_summary(model_set: ModelSet) -> pd.DataFrame:
    """Summarise the SHAP values of each refiner, the most important inputs first.

    Returns:
        A row a target, cluster and input: ``mean_abs_shap`` in log-odds over the sampled jobs and
        the ranges of outcomes, its ``share`` of all inputs, and ``direction``, the correlation
        between the input and how far it moves the prediction to larger values (-1 to 1).
    """
    rows = []
    for target, model in model_set.targets.items():
        names = readable_names(model_set, target)
        for cluster in list(model.refiners)[: MAX_CLUSTERS if model.sample is not None else 0]:
            mean, moves = shap_values(model, cluster)
            rows += [
                {
                    "target": target,
                    "cluster": cluster,
                    "input": names[column],
                    "mean_abs_shap": float(mean[column]),
                    "share": float(mean[column] / max(mean.sum(), np.finfo(float).tiny)),
                    "direction": _correlation(model, column, moves[:, column]),
                }
                for column in np.argsort(-mean, kind="stable")[:MAX_INPUTS]
            ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def readable_names(model_set: ModelSet, target: str) -> list[str]:
    """Describe the inputs of a target's refiners for a person."""
    grid = TARGETS[target].grid
    return [
        f"ended jobs: {name.removeprefix('ended ').replace('+', ', ')}"
        if name.startswith("ended ")
        else readable_input(name, grid)
        for name in model_set.card.features[target]
    ]


def shap_values(model: TargetModel, cluster: str) -> tuple[Array, Array]:
    """Compute the SHAP values of a refiner for the sampled jobs.

    Returns:
        The mean absolute value of each input (float64[m]), and how far each moves each job to
        larger outcomes: the slope of its values over the ranges of outcomes (float64[n, m]).
    """
    assert model.sample is not None  # noqa: S101
    refiner = cast("CatBoostRefiner", model.refiners[cluster])
    values = refiner.share * refiner.shap_values(model.sample)
    position = refiner.classes - refiner.classes.mean()
    slopes = np.einsum("k,nkm->nm", position, values) / max(float((position**2).sum()), 1.0)
    return np.abs(values).mean(axis=(0, 1)), slopes


def _correlation(model: TargetModel, column: int, moves: Array) -> float:
    assert model.sample is not None  # noqa: S101
    values = model.sample[:, column]
    observed = np.isfinite(values)
    values, moves = values[observed], moves[observed]
    if len(values) < 2 or not values.std() or not moves.std():
        return 0.0
    return float(np.corrcoef(values, moves)[0, 1])


def plot_shap(model_set: ModelSet, target: str) -> Figure:
    """Plot the SHAP values of the global refiner, or of the first one: a point a sampled job."""
    from matplotlib.figure import Figure

    model = model_set.targets[target]
    assert model.sample is not None  # noqa: S101
    cluster = GLOBAL if GLOBAL in model.refiners else next(iter(model.refiners))
    mean, moves = shap_values(model, cluster)
    names = readable_names(model_set, target)
    columns = np.argsort(-mean, kind="stable")[:MAX_INPUTS][::-1]
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots()
    spread = np.random.default_rng(0).uniform(-0.3, 0.3, len(moves))
    points = None
    for row, column in enumerate(columns):
        ranks = pd.Series(model.sample[:, column]).rank(pct=True).to_numpy()
        points = axes.scatter(
            moves[:, column], row + spread, c=ranks, cmap="coolwarm", s=5, vmin=0, vmax=1
        )
    labels = [
        name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
        for name in (names[column] for column in columns)
    ]
    axes.set_yticks(range(len(columns)), labels)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set(
        xlabel="SHAP value: to smaller outcomes ←  → to larger ones [log-odds a range]",
        title=f"{target}: what the CatBoost model of {cluster} looks at",
    )
    if points is not None:
        bar = figure.colorbar(points, ax=axes, label="value of the input")
        bar.set_ticks([0, 1], labels=["low", "high"])
    return figure
