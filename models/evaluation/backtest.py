"""Evaluation: every predictor backtested on a log in order of time, and one table of their errors.

Each job is predicted by what had ended at its submission; models are refitted on a schedule, and
the first jobs (the warm-up) are not counted. Twelve baselines and Gridcast take a minute for 30,000
jobs and under ten for 235,000 on two cores: fitted baselines train on at most 30,000 ended jobs,
ten times at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Flags, Floats, Integers, Progress
from infra.settings import THREADS
from models.baselines.catalogue import (
    BASELINES,
    BASELINES_BY_SUBJECT,
    HEURISTICS,
    IDEAL,
    OPTIONAL_BASELINES,
    BaselinePredictions,
    predict_baselines,
)
from models.baselines.regressions import import_fitting
from models.engine.training import TrainingError
from models.engine.wait_regression import backtest_waits
from models.past.queue_inputs import first_of_burst, queue_inputs
from models.quantities.metrics import (
    MONTH,
    QUANTILE_LEVELS,
    compare_errors,
    deciles,
    distribution_errors,
    log_score,
    lowest_counted,
    pinball,
    point_errors,
    time_blocks,
    wait_shares,
)
from models.quantities.subjects import WAITS, Subject
from models.quantities.targets import Target
from models.refiner.clusters import By, most_informative_field

Row = dict[str, Any]

OURS = "gridcast"
WAIT_POINTS = {OURS: "centre", f"{OURS}-ratio": "ratio", f"{OURS}-low": "low"}
"""Gridcast's points of a wait: of least absolute error, most often within a factor of e, and of
least median error."""
PREDICTORS = (OURS, *(baseline.name for baseline in BASELINES), IDEAL.name)
MIN_CPU_TIME_SHARE = 0.5
"""The ideal is only shown where at least this share of the jobs reports its CPU time."""
LONG_SECONDS = 60.0
"""Longer jobs have a table of their own: on many logs most jobs crash at once."""
MIN_CLUSTER_JOBS = 100
MAX_CLUSTERS = 30
PART_COLUMNS = (
    "predictor", "jobs", "mae", "median_ae", "apa", "under", "crps", "coverage_90", "width_90",
)  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """The tables of an evaluation; each list holds a dict a row.

    Attributes:
        target: Name of the target.
        unit: Its unit.
        warm_up: The share of the jobs that was not counted.
        rows: A row a predictor, by mae.
        long_rows: The same for jobs over a minute.
        burst_rows: Of waits, the same for the first job of a queue and owner in an hour.
        unseen_rows: Gridcast's errors on jobs of whose user, and of whose program, no outcome was
            available at submission.
        cluster_rows: The same for each large group, site or queue.
        period_rows: Error and coverage a month (three days on short logs) of all with a range.
        jobs: submitted_at, actual, cluster, a column a predictor, and low and high of Gridcast's
            90 % range.
        upper: Gridcast's quantiles of these jobs at the upper levels that were wanted, float64[n,
            levels].
        deciles: The share of outcomes in each tenth of their distribution; empty without Gridcast.
        reliability: The share of outcomes not above each of QUANTILE_LEVELS; empty likewise.
    """

    target: str
    unit: str
    warm_up: float
    rows: list[Row]
    long_rows: list[Row]
    burst_rows: list[Row]
    unseen_rows: list[Row]
    cluster_rows: list[Row]
    period_rows: list[Row]
    jobs: pd.DataFrame
    upper: Floats
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
    cluster_by: By | None = None,
    upper_levels: tuple[float, ...] = (),
) -> Evaluation:
    """Backtest ``jobs`` and compare predictors on those after the warm-up.

    Args:
        jobs: Records of the target's subject, in any order.
        target: What is predicted.
        warm_up: The share of the jobs, by submission, that is not counted.
        predictors: Names of the predictors; all of the subject's unless given, the ideal only where
            enough jobs report their CPU times.
        progress: Called as jobs are predicted.
        refit_every: The share of the jobs between two refits.
        cluster_by: What tells clusters of Gridcast's refiners apart.
        upper_levels: Further levels of Gridcast's quantiles; not of waits.

    Raises:
        TrainingError: For an unknown predictor, a share out of range, or when no job after the
            warm-up has a known outcome.
    """
    names = _chosen_predictors(jobs, target, predictors)
    if not 0 < warm_up < 1 or not 0 < refit_every <= 1:
        raise TrainingError("warm_up and refit_every must be shares between 0 and 1")
    jobs = jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
    inputs = queue_inputs(jobs) if target.subject is WAITS else None
    if target.subject.add_surroundings and inputs is None:
        jobs = target.subject.add_surroundings(jobs)
    outcomes = target.value(jobs)
    counted = counted_rows(outcomes, warm_up)
    if not len(counted):
        raise TrainingError(
            f"no job after the warm-up has a known {target.name}: there is nothing to evaluate"
        )
    from models.engine.backtest import backtest  # in one thread, as it prepares compiled code

    ours_names = [name for name in names if name in (OURS, *WAIT_POINTS)]
    baseline_names = [name for name in names if name not in ours_names]
    scores: dict[str, Any] = {}
    upper = np.empty((len(counted), 0))
    by_regression = None
    predictions: dict[str, BaselinePredictions] = {}
    is_ended = Event()

    def report_baseline(text: str, share: float) -> None:
        if is_ended.is_set():
            raise CancelledError
        if progress and not ours_names:
            progress(text, share)

    if progress and ours_names and baseline_names:
        progress(f"{target.name}: baseline {baseline_names[0]}", 0.0)
    if set(baseline_names) - {*HEURISTICS}:
        import_fitting()
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        stack.callback(is_ended.set)  # an error or interrupt does not wait for all baselines
        # Fits and the replay of histories leave Python's lock, so that two cores have work.
        baselines = pool.submit(
            predict_baselines,
            jobs,
            target,
            baseline_names,
            warm_up=warm_up,
            refit_every=refit_every,
            inputs=inputs,
            progress=report_baseline,
        )
        if THREADS == 1:
            wait([baselines])
        if inputs is not None and any(name in names for name in WAIT_POINTS):
            by_regression = backtest_waits(jobs, inputs, warm_up, refit_every, progress)
            if by_regression is None and target.subject.add_surroundings:
                jobs = target.subject.add_surroundings(jobs)
        if by_regression is not None:
            rows = counted - (len(jobs) - len(by_regression.centre))
            quantiles = by_regression.quantiles[rows]
            ends = quantiles[:, 0], quantiles[:, -1]
            predictions = {
                name: BaselinePredictions(getattr(by_regression, point)[rows], *ends, quantiles)
                for name, point in WAIT_POINTS.items()
                if name in names
            }
            scores = _wait_scores(outcomes[counted], quantiles)
        elif OURS in names:
            ours = backtest(
                jobs,
                target,
                warm_up=warm_up,
                refit_every=refit_every,
                cluster_by=cluster_by,
                upper_levels=upper_levels,
                progress=progress,
            )
            upper = ours.upper
            if not np.array_equal(ours.rows, counted):
                raise AssertionError("Gridcast and the baselines predicted different jobs")
            predictions[OURS] = BaselinePredictions(ours.point, ours.low, ours.high, ours.quantiles)
            scores = {
                "crps": float(ours.crps.mean()),
                "log_score": log_score(ours.pit_upto - ours.pit_below),
                "deciles": deciles(ours.pit_below, ours.pit_upto),
                "reliability": [
                    float((ours.truth <= ours.quantiles[:, column]).mean())
                    for column in range(len(ours.levels))
                ],
            }
        by_baseline = {
            name: _take(predicted, counted) for name, predicted in baselines.result().items()
        }
    predictions = by_baseline | predictions
    unseen = {
        f"{OURS}, {field} never seen": np.flatnonzero(
            is_unseen(jobs, field, target.subject)[counted]
        )
        for field in ("user", "program")
        if field in jobs
    }
    is_burst = first_of_burst(jobs)[counted] if inputs is not None else None
    return _tables(
        jobs.iloc[counted],
        target,
        warm_up,
        outcomes[counted],
        predictions,
        scores,
        unseen,
        upper,
        is_burst,
    )


def counted_rows(outcomes: Floats, warm_up: float) -> Integers:
    """The positions of jobs with an outcome after the warm-up, a share of all jobs in order."""
    after = np.arange(len(outcomes)) >= max(int(len(outcomes) * warm_up), 1)
    return np.flatnonzero(np.isfinite(outcomes) & after)


def _wait_scores(actual: Floats, quantiles: Floats) -> dict[str, Any]:
    """Scores of a distribution known by its quantiles at QUANTILE_LEVELS only."""
    levels = np.array([0.0, *QUANTILE_LEVELS, 1.0])
    below = (quantiles < actual[:, None]).sum(axis=1)
    return {
        "crps": 2 * pinball(actual, quantiles),
        "log_score": None,
        "deciles": deciles(levels[below], levels[below + 1]),
        "reliability": [float((actual <= column).mean()) for column in quantiles.T],
    }


def _chosen_predictors(
    jobs: pd.DataFrame, target: Target, predictors: Sequence[str] | None
) -> tuple[str, ...]:
    has_cpu_times = (
        target.name == "walltime" and jobs["cpu_time"].notna().mean() >= MIN_CPU_TIME_SHARE
    )
    default, optional = (
        tuple(baseline.name for baseline in baselines[target.subject.name])
        for baselines in (BASELINES_BY_SUBJECT, OPTIONAL_BASELINES)
    )
    available = (OURS, *default, *optional)
    names = (OURS, *default, *(optional if has_cpu_times else ()))
    if target.subject is WAITS:
        available, names = ((*WAIT_POINTS, *some[1:]) for some in (available, names))
    if predictors is not None:
        names = tuple(predictors)
    unknown = [name for name in names if name not in available]
    if unknown or not names:
        raise TrainingError(
            f"there is no predictor {', '.join(unknown) or 'chosen'}; "
            f"there are {', '.join(available)}"
        )
    if IDEAL.name in names and not has_cpu_times:
        raise TrainingError(
            f"{IDEAL.name} needs the CPU times of jobs whose run time is evaluated, "
            "which these do not report"
        )
    return names


def best_baseline(rows: Sequence[Row]) -> str:
    """The name of the row with the least mae, without Gridcast and the ideal unless alone."""
    ours = (OURS, IDEAL.name, *WAIT_POINTS)
    baselines = [row for row in rows if row["predictor"] not in ours] or list(rows)
    return str(min(baselines, key=lambda row: (row["mae"], row["predictor"]))["predictor"])


def is_unseen(jobs: pd.DataFrame, field: str, subject: Subject) -> Any:
    """Which jobs name a value of ``field`` of which no outcome was available yet (bool[n]).

    Args:
        jobs: The jobs.
        field: The user or program; a job without one is not unseen.
        subject: Of the target, which says when an outcome becomes available.
    """
    names = [name for name in ("source", field) if name in jobs]
    groups = jobs.groupby(names, dropna=False, sort=False)
    first = groups[subject.outcome_time].transform("min")
    return (jobs[field].notna() & ~(first < jobs["submitted_at"])).to_numpy()


def _tables(
    jobs: pd.DataFrame,
    target: Target,
    warm_up: float,
    actual: Floats,
    predictions: dict[str, BaselinePredictions],
    scores: dict[str, Any],
    unseen: dict[str, Integers],
    upper: Floats,
    is_burst: Flags | None = None,
) -> Evaluation:
    lowest = lowest_counted(target.grid)
    submitted = jobs["submitted_at"].reset_index(drop=True)

    def table(rows: Integers, names: Sequence[str] = tuple(predictions)) -> list[Row]:
        return _by_error(
            [_row(name, actual[rows], _take(predictions[name], rows), lowest) for name in names]
        )

    def sample(name: str, rows: Integers) -> list[Row]:
        return [
            row
            | {"sample": name}
            | wait_shares(actual[rows], predictions[row["predictor"]].point[rows])
            for row in table(rows)
        ]

    everyone = np.arange(len(actual))
    rows = table(everyone) if is_burst is None else sample("all", everyone)
    best, block = best_baseline(rows), time_blocks(submitted)
    best_errors = np.abs(predictions[best].point - actual)
    for row in rows:
        errors = np.abs(predictions[row["predictor"]].point - actual)
        for name, interval in zip(
            ("mae_difference", "mae_ratio"), compare_errors(errors, best_errors, block), strict=True
        ):
            row |= {
                name: interval.value,
                f"{name}_low": interval.low,
                f"{name}_high": interval.high,
            }
        if row["predictor"] == OURS:
            row |= {name: scores[name] for name in ("crps", "log_score")}
    clusters = jobs[most_informative_field(jobs)].fillna("(none)").astype(object)
    columns = {"submitted_at": submitted, "actual": actual, "cluster": clusters.to_numpy()}
    columns |= {name: predicted.point for name, predicted in predictions.items()}
    if OURS in predictions:
        columns |= {"low": predictions[OURS].low, "high": predictions[OURS].high}
    ranged = [
        name
        for name, predicted in predictions.items()
        if name in (OURS, best) or predicted.low is not None
    ]
    is_long = (actual > LONG_SECONDS) & (target.unit == "s")
    return Evaluation(
        target=target.name,
        unit=target.unit,
        warm_up=warm_up,
        rows=rows,
        long_rows=table(np.flatnonzero(is_long)) if is_long.any() else [],
        burst_rows=[] if is_burst is None else sample("burst", np.flatnonzero(is_burst)),
        unseen_rows=[
            {**row, "predictor": name}
            for name, positions in unseen.items()
            if OURS in predictions and len(positions)
            for row in table(positions, [OURS])
        ],
        cluster_rows=[
            {"cluster": name} | {column: row[column] for column in PART_COLUMNS}
            for name, positions in _large_clusters(columns["cluster"])
            for row in table(positions)
        ],
        period_rows=[
            {"period": period} | {column: row[column] for column in PART_COLUMNS}
            for period, positions in _periods(submitted)
            for row in table(positions, ranged)
        ],
        jobs=pd.DataFrame(columns),
        upper=upper,
        deciles=scores.get("deciles", []),
        reliability=scores.get("reliability", []),
    )


def _row(name: str, actual: Floats, predicted: BaselinePredictions, lowest: float) -> Row:
    quantiles = predicted.point[:, None] if predicted.quantiles is None else predicted.quantiles
    return (
        {"predictor": name, "jobs": len(actual)}
        | point_errors(actual, predicted.point, lowest)
        | distribution_errors(actual, quantiles, predicted.low, predicted.high, lowest)
        | {"log_score": None}
    )


def _by_error(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row["mae"], row["predictor"]))


def _take(predicted: BaselinePredictions, rows: Integers) -> BaselinePredictions:
    def of_rows(column: Floats | None) -> Floats | None:
        return None if column is None else column[rows]

    return BaselinePredictions(
        predicted.point[rows],
        of_rows(predicted.low),
        of_rows(predicted.high),
        of_rows(predicted.quantiles),
    )


def _large_clusters(labels: Any) -> list[tuple[str, Integers]]:
    """The largest clusters and their rows, by size."""
    groups = pd.Series(labels).groupby(labels, sort=True).indices
    large = sorted(
        (-len(rows), str(label)) for label, rows in groups.items() if len(rows) >= MIN_CLUSTER_JOBS
    )
    return [(label, np.asarray(groups[label])) for _, label in large[:MAX_CLUSTERS]]


def _periods(submitted: pd.Series[Any]) -> list[tuple[str, Integers]]:
    """The months and their rows; on logs under a month stretches of three days."""
    if (submitted.max() - submitted.min()).total_seconds() >= MONTH:
        labels = submitted.dt.strftime("%Y-%m")
    else:
        first = submitted.min().normalize()
        days = (submitted - first).dt.days
        labels = (first + pd.to_timedelta(days - days % 3, unit="D")).dt.strftime("%Y-%m-%d")
    groups = labels.groupby(labels, sort=True).indices
    return [(str(label), np.asarray(rows)) for label, rows in groups.items()]
