"""Evaluation: a whole log lived through in time order, every predictor asked at every submission, one table in the end.

Only what had ended is known, models are fitted anew on a schedule, and the first jobs (the warm-up) are not counted. Twelve
baselines and Gridcast take a minute for 30,000 jobs and under ten for 235,000 on two cores: fitted baselines train on at most
30,000 ended jobs, ten times at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.aliases import Floats, Progress
from models.baselines.catalogue import (
    BASELINES,
    BASELINES_BY_SUBJECT,
    IDEAL,
    OPTIONAL_BASELINES,
    BaselinePredictions,
    predict_baselines,
)
from models.engine.training import (
    TrainingError,
)
from models.quantities.metrics import (
    MONTH,
    compare_errors,
    deciles,
    distribution_errors,
    log_score,
    lowest_counted,
    point_errors,
    time_blocks,
)
from models.quantities.targets import Target
from models.refiner.clusters import most_informative_field

Row = dict[str, Any]

OURS = "gridcast"
PREDICTORS = (OURS, *(baseline.name for baseline in BASELINES), IDEAL.name)
ENOUGH_TOLD = 0.5
"""The ideal is only shown where at least this share of the jobs tells its CPU time."""
LONG = 60.0
"""Jobs that take longer than this many seconds have a table of their own: on many logs most jobs crash at once."""
FEWEST_IN_CLUSTER = 100
MOST_CLUSTERS = 30


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found; each list holds a dict a row of its table.

    ``rows`` has a row a predictor, by mae; ``long_rows`` the same for jobs over a minute, ``cluster_rows`` for each large group, site
    or queue; ``period_rows`` the error and coverage a month (three days on short logs) of all that give a range.
    ``jobs`` has submitted_at, actual, cluster, a column a predictor, and low and high of Gridcast's 90 % range. ``deciles`` are the
    shares of outcomes in each tenth of their distribution, ``reliability`` the share not above each of QUANTILE_LEVELS quantiles; empty
    without Gridcast.
    """

    target: str
    unit: str
    warm_up: float
    rows: list[Row]
    long_rows: list[Row]
    cluster_rows: list[Row]
    period_rows: list[Row]
    jobs: pd.DataFrame
    deciles: list[float]
    reliability: list[float]

    @property
    def best_baseline(self) -> str:
        """The baseline with the least mean absolute error, or Gridcast where it was alone."""
        return best_baseline(self.rows)


def evaluate(
    jobs: pd.DataFrame,
    target: Target,
    warm_up: float = 0.1,
    predictors: Sequence[str] | None = None,
    progress: Progress | None = None,
    refit_every: float = 0.1,
) -> Evaluation:
    """Live through ``jobs`` and compare ``predictors`` (default: all of PREDICTORS) on the jobs after the warm-up.

    The ideal is left out where the log does not tell CPU times, or where these are the target. Raises TrainingError for an unknown
    predictor, a share that is none, or when no job after the warm-up has a known outcome.
    """
    told = target.name == "walltime" and jobs["cpu_time"].notna().mean() >= ENOUGH_TOLD
    usual, more = (
        tuple(one.name for one in of[target.subject.name])
        for of in (BASELINES_BY_SUBJECT, OPTIONAL_BASELINES)
    )
    names = tuple(predictors if predictors is not None else (OURS, *usual, *(more if told else ())))
    unknown = [name for name in names if name not in (OURS, *usual, *more)]
    if unknown or not names:
        raise TrainingError(
            f"there is no predictor {', '.join(unknown) or 'chosen'}; there are {', '.join((OURS, *usual, *more))}"
        )
    if IDEAL.name in names and not told:
        raise TrainingError(
            f"{IDEAL.name} needs the CPU times of jobs whose run time is evaluated, which these do not tell"
        )
    if not 0 < warm_up < 1 or not 0 < refit_every <= 1:
        raise TrainingError("warm_up and refit_every must be shares between 0 and 1")
    jobs = jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
    if target.subject.add_surroundings:
        jobs = target.subject.add_surroundings(jobs)
    outcomes = target.value(jobs)
    counted = np.flatnonzero(
        np.isfinite(outcomes) & (np.arange(len(jobs)) >= max(int(len(jobs) * warm_up), 1))
    )
    if not len(counted):
        raise TrainingError(
            f"no job after the warm-up has a known {target.name}: there is nothing to evaluate"
        )
    asked = [name for name in names if name != OURS]
    everything = predict_baselines(
        jobs, target, asked, warm_up=warm_up, refit_every=refit_every, progress=progress
    )
    answers = {name: _take(answer, counted) for name, answer in everything.items()}
    ours: dict[str, Any] = {}
    if OURS in names:
        answers[OURS], ours = _gridcast(jobs, target, counted, warm_up, refit_every, progress)
    return _report(jobs.iloc[counted], target, warm_up, outcomes[counted], answers, ours)


def best_baseline(rows: Sequence[Row]) -> str:
    """The name of the row with the least mae, Gridcast's and the ideal left out unless they are alone."""
    others = [row for row in rows if row["predictor"] not in (OURS, IDEAL.name)] or list(rows)
    return str(min(others, key=lambda row: (row["mae"], row["predictor"]))["predictor"])


def _gridcast(
    jobs: pd.DataFrame,
    target: Target,
    counted: npt.NDArray[np.int64],
    warm_up: float,
    refit_every: float,
    progress: Progress | None,
) -> tuple[BaselinePredictions, dict[str, Any]]:
    from models.engine.backtest import backtest

    lived = backtest(jobs, target, warm_up=warm_up, refit_every=refit_every, progress=progress)
    if not np.array_equal(lived.rows, counted):
        raise AssertionError("Gridcast and the baselines were asked about different jobs")
    extra = {
        "crps": float(lived.crps.mean()),
        "log_score": log_score(lived.pit_upto - lived.pit_below),
        "deciles": deciles(lived.pit_below, lived.pit_upto),
        "reliability": [
            float((lived.truth <= lived.quantiles[:, place]).mean())
            for place in range(len(lived.levels))
        ],
    }
    return BaselinePredictions(lived.point, lived.low, lived.high, lived.quantiles), extra


def _report(
    jobs: pd.DataFrame,
    target: Target,
    warm_up: float,
    actual: Floats,
    answers: dict[str, BaselinePredictions],
    ours: dict[str, Any],
) -> Evaluation:
    one = lowest_counted(target.grid)
    submitted = jobs["submitted_at"].reset_index(drop=True)
    rows = [_row(name, actual, answer, one) for name, answer in answers.items()]
    best = best_baseline(rows)
    block = time_blocks(submitted)
    absolute = {name: np.abs(answer.point - actual) for name, answer in answers.items()}
    for row in rows:
        difference, ratio = compare_errors(absolute[row["predictor"]], absolute[best], block)
        row |= {
            "mae_difference": difference.value,
            "mae_difference_low": difference.low,
            "mae_difference_high": difference.high,
        }
        row |= {"mae_ratio": ratio.value, "mae_ratio_low": ratio.low, "mae_ratio_high": ratio.high}
        if row["predictor"] == OURS:
            row |= {"crps": ours["crps"], "log_score": ours["log_score"]}
    columns = {"submitted_at": submitted, "actual": actual, "cluster": _clusters(jobs)}
    columns |= {name: answer.point for name, answer in answers.items()}
    if OURS in answers:
        columns |= {"low": answers[OURS].low, "high": answers[OURS].high}
    table = pd.DataFrame(columns)
    long = np.flatnonzero(actual > LONG) if target.unit == "s" else np.array([], dtype=np.int64)
    return Evaluation(
        target=target.name,
        unit=target.unit,
        warm_up=warm_up,
        rows=_by_error(rows),
        long_rows=_by_error(
            [_row(name, actual[long], _take(answer, long), one) for name, answer in answers.items()]
        )
        if len(long)
        else [],
        cluster_rows=_parts("cluster", table["cluster"], actual, answers, one),
        period_rows=_parts(
            "period",
            _periods(submitted),
            actual,
            {k: a for k, a in answers.items() if k in (OURS, best) or a.low is not None},
            one,
        ),
        jobs=table,
        deciles=ours.get("deciles", []),
        reliability=ours.get("reliability", []),
    )


def _row(name: str, actual: Floats, answers: BaselinePredictions, one: float) -> Row:
    row: Row = (
        {"predictor": name, "jobs": len(actual)}
        | point_errors(actual, answers.point, one)
        | distribution_errors(
            actual,
            answers.point[:, None] if answers.quantiles is None else answers.quantiles,
            answers.low,
            answers.high,
            one,
        )
    )
    return row | {"log_score": None}


def _parts(
    name: str,
    labels: pd.Series[Any],
    actual: Floats,
    answers: dict[str, BaselinePredictions],
    one: float,
) -> list[Row]:
    """A few figures a predictor for each part of the jobs: parts by label for periods, by size for clusters."""
    groups = labels.groupby(labels, sort=True).indices
    if name == "cluster":
        large = sorted(
            (-len(rows), str(label))
            for label, rows in groups.items()
            if len(rows) >= FEWEST_IN_CLUSTER
        )
        groups = {label: groups[label] for _, label in large[:MOST_CLUSTERS]}
    keep = (
        "predictor",
        "jobs",
        "mae",
        "median_ae",
        "apa",
        "under",
        "crps",
        "coverage_90",
        "width_90",
    )
    found = []
    for label, rows in groups.items():
        part = _by_error(
            [
                _row(who, actual[rows], _take(answer, np.asarray(rows)), one)
                for who, answer in answers.items()
            ]
        )
        found += [{name: label} | {key: row[key] for key in keep} for row in part]
    return found


def _by_error(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row["mae"], row["predictor"]))


def _take(answers: BaselinePredictions, rows: npt.NDArray[np.int64]) -> BaselinePredictions:
    parts = (answers.point, answers.low, answers.high, answers.quantiles)
    return BaselinePredictions(*(None if part is None else part[rows] for part in parts))  # type: ignore[arg-type]


def _clusters(jobs: pd.DataFrame) -> pd.Series[Any]:
    """What each job is put together with."""
    return jobs[most_informative_field(jobs)].fillna("(none)").astype(object).reset_index(drop=True)


def _periods(submitted: pd.Series[Any]) -> pd.Series[Any]:
    """The month of each submission, or on logs under a month the first day of its three."""
    first = submitted.min().normalize()
    if (submitted.max() - submitted.min()).total_seconds() >= MONTH:
        return submitted.dt.strftime("%Y-%m")
    days = (submitted - first).dt.days
    return (first + pd.to_timedelta(days - days % 3, unit="D")).dt.strftime("%Y-%m-%d")
