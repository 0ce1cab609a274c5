"""How the logged predictions met their outcomes: the numbers of a window, overall and by the cluster that answered."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

LEAST_ANSWERS = 100
"""A cluster with fewer answers is left to the overall numbers."""


def accuracy(predictions: pd.DataFrame) -> pd.DataFrame:
    """Measure ``predictions``, a row an answer: target, cluster, point, low, high and the actual outcome.

    Returns rows of name (target and metric), segment (``all`` or the cluster) and value. In the target's unit: mae (mean absolute
    error), baseline_mae where there is a column ``baseline``, median_error (median of the absolute error), bias (mean of prediction
    minus outcome); shares: under (predicted too low), coverage_90 (outcome within low and high); width (median of high over low, as a
    factor); answers (how many). A column ``weight`` says for how many jobs each answer stands.
    """
    known = predictions[predictions["actual"].notna() & predictions["point"].notna()]
    rows = []
    for target, answers in known.groupby("target"):
        rows += [(f"{target} {name}", "all", value) for name, value in _metrics(answers).items()]
        for cluster, own in answers.groupby("cluster"):
            if len(own) >= LEAST_ANSWERS and len(own) < len(answers):
                rows += [
                    (f"{target} {name}", str(cluster), value)
                    for name, value in _metrics(own).items()
                ]
    return pd.DataFrame(rows, columns=["name", "segment", "value"]).astype(
        {"name": "str", "segment": "str", "value": float}
    )


def _metrics(answers: pd.DataFrame) -> dict[str, float]:
    error = (answers["point"] - answers["actual"]).to_numpy(dtype=float)
    weight = (
        answers["weight"].to_numpy(dtype=float) if "weight" in answers else np.ones(len(answers))
    )
    bounded = (answers["low"].notna() & answers["high"].notna()).to_numpy()
    metrics = {
        "answers": float(len(answers)),
        "mae": float(np.average(np.abs(error), weights=weight)),
        "median_error": _median(np.abs(error), weight),
        "bias": float(np.average(error, weights=weight)),
        "under": float(np.average(error < 0, weights=weight)),
    }
    if "baseline" in answers:
        metrics["baseline_mae"] = float(
            np.average((answers["baseline"] - answers["actual"]).abs(), weights=weight)
        )
    if bounded.any():
        known, weight = answers[bounded], weight[bounded]
        within = known["actual"].between(known["low"], known["high"])
        metrics["coverage_90"] = float(np.average(within, weights=weight))
        metrics["width"] = _median(
            (known["high"] / np.maximum(known["low"], 1.0)).to_numpy(dtype=float), weight
        )
    return metrics


def _median(values: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]) -> float:
    if (weight == weight[0]).all():
        return float(np.median(values))
    order = np.argsort(values)
    reached = np.cumsum(weight[order])
    return float(values[order[np.searchsorted(reached, reached[-1] / 2)]])
