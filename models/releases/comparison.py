"""Comparing model sets on the same later jobs: each lives through them as it would when serving, then the errors are set side by side."""

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


@dataclass(frozen=True)
class Difference:
    """How much larger the mean absolute error of one is than another's, as a share of the other's, with its 95 % interval."""

    share: float
    low: float
    high: float

    def __str__(self) -> str:
        """For a sentence: ``3.1% lower (95 %: 1.0% to 5.2%)``, where a negative end means higher."""
        word = "lower" if self.share < 0 else "higher"
        sign = -1 if self.share < 0 else 1
        ends = sorted((sign * self.low, sign * self.high))
        return f"{abs(self.share):.1%} {word} (95 %: {ends[0]:.1%} to {ends[1]:.1%})"


def baseline_predictions(
    jobs: pd.DataFrame, since: pd.Timestamp, target: str
) -> dict[str, pd.Series]:
    """What each of COMPARISON_BASELINES says of the jobs submitted from ``since`` on, in order of submission."""
    ordered = jobs.sort_values("submitted_at", kind="stable")
    later = (ordered["submitted_at"] >= since).to_numpy()
    answers = predict_baselines(ordered, TARGETS[target], COMPARISON_BASELINES)
    return {
        name: pd.Series(answer.point[later], index=ordered.index[later])
        for name, answer in answers.items()
    }


def table(
    jobs: pd.DataFrame,
    since: pd.Timestamp,
    answers: Mapping[str, pd.DataFrame],
    targets: tuple[str, ...],
) -> pd.DataFrame:
    """A row a target and predictor: jobs, mae, median_ae, apa, coverage_90 (NaN for one without a range), by target and mae.

    ``answers`` are those of ``predict_in_time`` by name; COMPARISON_BASELINES are added. ``apa`` is the average prediction accuracy, the mean of
    min(p, t)/max(p, t) (Tsafrir, Etsion and Feitelson 2007).
    """
    rows = []
    for target in targets:
        truth = outcomes(jobs, since, target)
        for name, answer in answers.items():
            rows.append(
                _row(
                    target,
                    name,
                    truth,
                    answer[target],
                    answer[f"{target}_low"],
                    answer[f"{target}_high"],
                )
            )
        for name, point in baseline_predictions(jobs, since, target).items():
            rows.append(_row(target, name, truth, point))
    return pd.DataFrame(rows).sort_values(["target", "mae"], kind="stable", ignore_index=True)


def outcomes(jobs: pd.DataFrame, since: pd.Timestamp, target: str) -> pd.Series:
    """The known outcomes of the jobs submitted from ``since`` on, in order of submission."""
    later = jobs[jobs["submitted_at"] >= since].sort_values("submitted_at", kind="stable")
    return pd.Series(TARGETS[target].value(later), index=later.index).dropna()


def _row(
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


def difference(truth: pd.Series, mine: pd.Series, theirs: pd.Series, seed: int = 0) -> Difference:
    """How much larger the error of ``mine`` is than that of ``theirs``, relative to theirs (negative: mine is better).

    The interval resamples BLOCKS runs of neighbouring jobs: the errors of one task's jobs come together, and an interval over
    single jobs would be too narrow.
    """
    mine_errors, their_errors = (
        (answer.loc[truth.index] - truth).abs().to_numpy(dtype=float) for answer in (mine, theirs)
    )
    _, ratio = compare_errors(mine_errors, their_errors, equal_blocks(len(truth), BLOCKS), seed)
    return Difference(ratio.value - 1, ratio.low - 1, ratio.high - 1)
