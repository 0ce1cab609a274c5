"""Comparison of model sets, and baselines, on the same later jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from infra.aliases import Floats
from models.baselines.catalogue import predict_baselines
from models.quantities.metrics import (
    compare_errors,
    coverage,
    equal_blocks,
    lowest_counted,
    point_errors,
)
from models.quantities.targets import TARGETS

COMPARISON_BASELINES = ("request", "last-two", "median-10")
"""Baselines that need no fitting and stand beside every comparison."""
BLOCKS = 40
"""Runs of neighbouring jobs that the bootstrap draws together."""
ALL_SOURCES = "all"
"""The name of all sources together in a comparison of several."""
COMPARISON_COLUMNS = (
    "source",
    "target",
    "predictor",
    "jobs",
    "mae",
    "median_ae",
    "apa",
    "coverage_90",
)


@dataclass(frozen=True)
class Difference:
    """Excess of one mean absolute error over another, as a share of it, with a 95 % interval."""

    share: float
    low: float
    high: float

    def __str__(self) -> str:
        """``3.1% lower (95 %: 1.0% to 5.2%)``, where a negative end means higher."""
        word = "lower" if self.share < 0 else "higher"
        sign = -1 if self.share < 0 else 1
        ends = sorted((sign * self.low, sign * self.high))
        return f"{abs(self.share):.1%} {word} (95 %: {ends[0]:.1%} to {ends[1]:.1%})"


def baseline_predictions(
    jobs: pd.DataFrame, later: pd.DataFrame, target: str
) -> dict[str, pd.Series]:
    """Return what each of COMPARISON_BASELINES says of ``later``, source by source.

    Args:
        jobs: The jobs before.
        later: The jobs to predict.
        target: The name of the target.
    """
    points: dict[str, list[pd.Series]] = {name: [] for name in COMPARISON_BASELINES}
    ordered = jobs.sort_values("submitted_at", kind="stable")
    for _, of_source in ordered[ordered["source"].isin(later["source"])].groupby("source"):
        rows = of_source.index.isin(later.index)
        answers = predict_baselines(of_source, TARGETS[target], COMPARISON_BASELINES)
        for name, answer in answers.items():
            points[name].append(pd.Series(answer.point[rows], index=of_source.index[rows]))
    return {name: pd.concat(series) for name, series in points.items() if series}


def comparison_table(
    jobs: pd.DataFrame,
    later: pd.DataFrame,
    answers: Mapping[str, pd.DataFrame],
    targets: tuple[str, ...],
) -> pd.DataFrame:
    """Compare predictors on the same later jobs, a row a source, target and predictor.

    Args:
        jobs: All jobs, from which the baselines learn.
        later: The jobs compared on, a part of ``jobs``.
        answers: The predictions of ``later`` by predictor; COMPARISON_BASELINES are added.
        targets: What is compared.

    Returns:
        Columns source (``ALL_SOURCES`` for all together, where there are several), target,
        predictor, jobs, mae, median_ae, apa and coverage_90 (NaN without a range), the smallest
        mae first. ``apa`` is the average prediction accuracy, the mean of min(p, t)/max(p, t)
        (Tsafrir, Etsion and Feitelson 2007).
    """
    rows = []
    for target in targets:
        truth = outcomes(later, target)
        baselines = baseline_predictions(jobs, later, target)
        sources = later.loc[truth.index, "source"]
        names = sorted(sources.unique())
        for source in names if len(names) == 1 else (ALL_SOURCES, *names):
            of_source = truth if source == ALL_SOURCES else truth[(sources == source).to_numpy()]
            for name, answer in answers.items():
                columns = (answer[f"{target}{suffix}"] for suffix in ("", "_low", "_high"))
                rows.append(_row(source, target, name, of_source, *columns))
            for name, point in baselines.items():
                rows.append(_row(source, target, name, of_source, point))
    frame = pd.DataFrame(rows, columns=COMPARISON_COLUMNS)
    frame["single"] = frame["source"] != ALL_SOURCES
    return frame.sort_values(
        ["single", "source", "target", "mae"], kind="stable", ignore_index=True
    ).drop(columns="single")


def outcomes(later: pd.DataFrame, target: str) -> pd.Series:
    """Return the observed outcomes of ``later``, in order of submission."""
    later = later.sort_values("submitted_at", kind="stable")
    return pd.Series(TARGETS[target].value(later), index=later.index).dropna()


def _row(
    source: str,
    target: str,
    name: str,
    truth: pd.Series,
    point: pd.Series,
    low: pd.Series | None = None,
    high: pd.Series | None = None,
) -> dict[str, object]:
    actual = truth.to_numpy(dtype=float)

    def values(column: pd.Series) -> Floats:
        return column.loc[truth.index].to_numpy(dtype=float)

    errors = point_errors(actual, values(point), lowest_counted(TARGETS[target].grid))
    return {
        "source": source,
        "target": target,
        "predictor": name,
        "jobs": len(truth),
        "mae": errors["mae"],
        "median_ae": errors["median_ae"],
        "apa": errors["apa"],
        "coverage_90": coverage(actual, values(low), values(high))
        if low is not None and high is not None
        else np.nan,
    }


def difference(
    truth: pd.Series,
    mine: pd.Series,
    theirs: pd.Series,
    *,
    sources: pd.Series | None = None,
    seed: int = 0,
) -> Difference:
    """Compare two mean absolute errors, relative to the second (negative: ``mine`` is better).

    The interval resamples BLOCKS runs of neighbouring jobs: the errors of one task's jobs are
    alike, and an interval over single jobs would be too narrow.

    Args:
        truth: The outcomes.
        mine: The points of one predictor, under an index that has that of ``truth``.
        theirs: The points of the other.
        sources: The source of each job: an error then counts relative to the mean error of
            ``theirs`` in its source, so that a source of long jobs does not decide alone.
        seed: Seed of the resampling.
    """
    mine_errors, their_errors = (
        (answer.loc[truth.index] - truth).abs().to_numpy(dtype=float) for answer in (mine, theirs)
    )
    if sources is not None:
        scale = pd.Series(their_errors).groupby(sources.loc[truth.index].to_numpy())
        weights = 1 / np.maximum(scale.transform("mean").to_numpy(), np.finfo(float).tiny)
        mine_errors, their_errors = mine_errors * weights, their_errors * weights
    _, ratio = compare_errors(mine_errors, their_errors, equal_blocks(len(truth), BLOCKS), seed)
    return Difference(ratio.value - 1, ratio.low - 1, ratio.high - 1)
