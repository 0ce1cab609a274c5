"""Plots of classes: the ROC curves of each target, a panel a predictor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.evaluation.backtest import OURS
from models.evaluation.class_backtest import CLASSIFIER, ClassEvaluation, ClassPredictions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTTED = (OURS, CLASSIFIER)


def roc_plots(evaluation: ClassEvaluation) -> dict[str, Figure]:
    """Plot the ROC curves of each target: each class against the others, and the micro-average."""
    return {
        f"roc-{name}": _roc_plot(name, predictions)
        for name, predictions in evaluation.targets.items()
    }


def _roc_plot(target: str, predictions: ClassPredictions) -> Figure:
    from matplotlib.figure import Figure
    from sklearn.metrics import roc_curve

    figure = Figure(figsize=(10, 5), layout="constrained")
    for predictor, axes in zip(PLOTTED, figure.subplots(1, len(PLOTTED)), strict=True):
        shares = predictions.shares[predictor]
        hit = np.eye(shares.shape[1])[predictions.truth - 1]
        for k in np.flatnonzero((hit.sum(axis=0) > 0) & (hit.sum(axis=0) < len(hit))):
            axes.plot(*roc_curve(hit[:, k], shares[:, k])[:2], linewidth=1, label=f"class {k + 1}")
        axes.plot(
            *roc_curve(hit.ravel(), shares.ravel())[:2],
            color="black",
            linewidth=2,
            label="micro-average",
        )
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        axes.set(
            xlabel="false positives, share",
            ylabel="true positives, share",
            title=f"{target}: {predictor}",
        )
        axes.legend()
    return figure
