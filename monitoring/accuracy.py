"""How the logged predictions met their outcomes: the numbers of a window, overall and by the cluster that answered."""

from __future__ import annotations

import numpy as np
import pandas as pd

LEAST_ANSWERS = 100
"""A cluster with fewer answers is left to the overall numbers."""


def accuracy(predictions: pd.DataFrame) -> pd.DataFrame:
    """Measure ``predictions``, a row an answer: target, cluster, point, low, high and the actual outcome.

    Returns rows of name (target and metric), segment (``all`` or the cluster) and value. In the target's unit: mae (mean absolute
    error), median_error (median of the absolute error), bias (mean of prediction minus outcome); shares: under (predicted too low),
    coverage_90 (outcome within low and high); width (median of high over low, as a factor); answers (how many).
    """
    known = predictions[predictions["actual"].notna() & predictions["point"].notna()]
    rows = []
    for target, answers in known.groupby("target"):
        rows += [(f"{target} {name}", "all", value) for name, value in _metrics(answers).items()]
        for cluster, own in answers.groupby("cluster"):
            if len(own) >= LEAST_ANSWERS and len(own) < len(answers):
                rows += [(f"{target} {name}", str(cluster), value) for name, value in _metrics(own).items()]
    return pd.DataFrame(rows, columns=["name", "segment", "value"]).astype({"name": "str", "segment": "str", "value": float})


def _metrics(answers: pd.DataFrame) -> dict[str, float]:
    error = (answers["point"] - answers["actual"]).to_numpy(dtype=float)
    bounded = answers[answers["low"].notna() & answers["high"].notna()]
    metrics = {
        "answers": float(len(answers)),
        "mae": float(np.mean(np.abs(error))),
        "median_error": float(np.median(np.abs(error))),
        "bias": float(np.mean(error)),
        "under": float(np.mean(error < 0)),
    }
    if len(bounded):
        metrics["coverage_90"] = float(bounded["actual"].between(bounded["low"], bounded["high"]).mean())
        metrics["width"] = float(np.median(bounded["high"] / np.maximum(bounded["low"], 1.0)))
    return metrics
