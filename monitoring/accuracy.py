"""Accuracy of logged predictions: the errors of a window, overall and by the answering cluster."""

from __future__ import annotations

import numpy as np
import pandas as pd

from infra.aliases import Floats
from models.quantities.metrics import coverage, point_errors, weighted_mean, weighted_median

MIN_CLUSTER_PREDICTIONS = 100
"""A cluster with fewer predictions has no rows of its own."""


def accuracy(predictions: pd.DataFrame) -> pd.DataFrame:
    """Compute the errors of ``predictions``.

    Args:
        predictions: A row a prediction: target, cluster, point, low, high and the actual outcome;
            ``weight`` is for how many jobs it stands, ``baseline`` what the baseline predicted.

    Returns:
        Rows of name (target and metric), segment (``all`` or the cluster) and value. In the
        target's unit: mae, baseline_mae, median_error (median of the absolute error), bias (mean of
        prediction minus outcome); shares: under (predicted too low), coverage_90 (outcome within
        low and high); width (median of high over low, as a factor); answers (how many).
    """
    observed = predictions[predictions["actual"].notna() & predictions["point"].notna()]
    rows = []
    for target, of_target in observed.groupby("target"):
        segments = [("all", of_target)]
        segments += [
            (str(cluster), of_cluster)
            for cluster, of_cluster in of_target.groupby("cluster")
            if MIN_CLUSTER_PREDICTIONS <= len(of_cluster) < len(of_target)
        ]
        rows += [
            (f"{target} {name}", segment, value)
            for segment, of_segment in segments
            for name, value in _metrics(of_segment).items()
        ]
    return pd.DataFrame(rows, columns=["name", "segment", "value"]).astype(
        {"name": "str", "segment": "str", "value": float}
    )


def _metrics(predictions: pd.DataFrame) -> dict[str, float]:
    def column(name: str) -> Floats:
        return predictions[name].to_numpy(dtype=float)

    actual, point = column("actual"), column("point")
    weights = column("weight") if "weight" in predictions else np.ones(len(predictions))
    errors = point_errors(actual, point, weights=weights)
    metrics = {
        "answers": float(len(predictions)),
        "mae": errors["mae"],
        "median_error": errors["median_ae"],
        "bias": weighted_mean(point - actual, weights),
        "under": errors["under"],
    }
    if "baseline" in predictions:
        metrics["baseline_mae"] = point_errors(actual, column("baseline"), weights=weights)["mae"]
    low, high = column("low"), column("high")
    ranged = ~np.isnan(low) & ~np.isnan(high)
    if ranged.any():
        low, high, weights = low[ranged], high[ranged], weights[ranged]
        metrics["coverage_90"] = coverage(actual[ranged], low, high, weights)
        metrics["width"] = weighted_median(high / np.maximum(low, 1.0), weights)
    return {name: float(value) for name, value in metrics.items() if value is not None}
