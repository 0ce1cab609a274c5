"""Backtests: what would have been predicted of each job of a log at its submission."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Floats, Progress
from jobs.coded_jobs import in_microseconds
from jobs.schema import OUTCOMES
from models.engine.allocation import allocation_columns
from models.engine.level_selection import select_levels
from models.engine.log_rows import LogRows
from models.engine.model_set import NO_MODEL, ModelSet
from models.engine.predictions import Predictions, quantile_columns
from models.engine.prequential import (
    AllocationReplay,
    Predicted,
    RefinerFit,
    TargetReplay,
)
from models.engine.target_predictor import TargetPredictor, batches
from models.engine.training import TrainingError, find_target
from models.histories.components import MixtureSettings
from models.histories.features import Contexts, choose_levels, encode
from models.quantities.classes import Cuts, Thresholds
from models.quantities.metrics import QUANTILE_LEVELS
from models.quantities.subjects import JOBS
from models.quantities.targets import TARGETS, Target, read_fields
from models.refiner.clusters import By, answering_clusters


@dataclass(frozen=True)
class Backtest:
    """What would have been predicted after the warm-up, a row a job, in order of submission.

    Attributes:
        rows: Positions in the jobs as given, of those whose outcome is known.
        truth: Their outcomes.
        point: Best single values.
        median: Medians.
        mean: Means.
        low: Lower ends of the 90 % ranges.
        high: Upper ends.
        levels: The levels of the columns of ``quantiles``.
        quantiles: Calibrated quantiles, float64[n, levels].
        upper: Calibrated quantiles at further levels, float64[n, upper levels].
        crps: Continuous ranked probability scores.
        pit_below: The uncalibrated mass below the truth's bin.
        pit_upto: The uncalibrated mass up to the truth's bin and with it.
        shares: Probabilities of the classes between the thresholds, float64[n, thresholds + 1].
        refined: Whether a refiner took part.
        clusters: Whose refiner it was.
        refits: A record a refit.
    """

    rows: Array
    truth: Array
    point: Array
    median: Array
    mean: Array
    low: Array
    high: Array
    levels: tuple[float, ...]
    quantiles: Array
    upper: Array
    crps: Array
    pit_below: Array
    pit_upto: Array
    shares: Array
    refined: Array
    clusters: Array
    refits: list[dict[str, Any]]


def backtest(
    jobs: pd.DataFrame,
    target: str | Target = "walltime",
    *,
    warm_up: float = 0.1,
    refit_every: float = 0.1,
    cluster_by: By | None = None,
    settings: MixtureSettings | None = None,
    refined: bool = True,
    thresholds: Thresholds = (),
    upper_levels: tuple[float, ...] = (),
    progress: Progress | None = None,
) -> Backtest:
    """Predict each job at its submission by what had ended, the refiners refitted on a schedule.

    Args:
        jobs: The log, in any order.
        target: What is predicted, by name or as it is.
        warm_up: The share of the jobs, by submission, before the first refit; the levels are chosen
            on these.
        refit_every: The share of the jobs between two refits.
        cluster_by: What clusters are told apart by.
        settings: Of the mixture; the target's own unless given.
        refined: False for the mixture of histories alone.
        thresholds: Of the classes whose probabilities are wanted.
        upper_levels: Further levels of which calibrated quantiles are wanted.
        progress: Called as jobs are predicted.

    Raises:
        TrainingError: For an unknown target, or a share out of range.
    """
    target = find_target(target) if isinstance(target, str) else target
    if not 0 < warm_up < 1 or not 0 < refit_every <= 1:
        raise TrainingError("warm_up and refit_every must be shares between 0 and 1")
    sequence = np.argsort(jobs["submitted_at"].to_numpy(), kind="stable")
    jobs, count = jobs.iloc[sequence], len(jobs)
    first, step = max(int(count * warm_up), 1), max(int(count * refit_every), 1)
    known_at = in_microseconds(jobs["submitted_at"].iloc[min(first, count - 1)])
    levels = select_levels(jobs.iloc[:first], [target], known_at, settings).levels
    log = LogRows.of(jobs, target, levels)
    replay = TargetReplay(TargetPredictor.create(target, levels, settings), log)
    cuts = Cuts.of(thresholds, target.grid)
    fit: RefinerFit | None = None
    columns: list[dict[str, Array]] = []
    refits: list[dict[str, Any]] = []
    starts = [0, *range(first, count, step)]
    for start, stop in zip(starts, [*starts[1:], count], strict=True):
        if refined and start:
            at = int(log.contexts.at[start])
            clusters = log.find_clusters(jobs, cluster_by, at).assign(jobs)
            fit = replay.fit(at, clusters, fit)
            replay.deploy(fit, clusters)
            report = fit.selection.report
            refits.append({"from_row": start, "trained_on": len(fit.rows), "clusters": report})
        for rows in batches(np.arange(start, stop)):
            predicted = replay.advance(rows)
            wanted = np.array((*QUANTILE_LEVELS, *upper_levels))
            quantile_levels = replay.calibration.levels(rows, wanted)
            if start:
                columns.append(_columns(replay, predicted, quantile_levels, wanted, cuts))
            if progress:
                progress(f"{target.name}: backtesting {count} jobs", (int(rows[-1]) + 1) / count)
    joined = {name: np.concatenate([batch[name] for batch in columns]) for name in columns[0]}
    observed = np.isfinite(joined["truth"])
    joined = {name: values[observed] for name, values in joined.items()}
    joined["rows"] = sequence[joined["rows"]]
    return Backtest(levels=QUANTILE_LEVELS, refits=refits, **joined)


def _columns(
    replay: TargetReplay, predicted: Predicted, levels: Floats, wanted: Floats, cuts: Cuts
) -> dict[str, Array]:
    rows, distribution, truth = (
        predicted.rows,
        predicted.distribution,
        replay.log.values[predicted.rows],
    )
    at_levels = replay.calibration.quantiles(rows, distribution, levels, wanted)
    quantiles, upper = np.split(at_levels, [len(QUANTILE_LEVELS)], axis=1)
    low, high = quantiles[:, 0], quantiles[:, -1]
    refiners = replay.predictor.refiners
    return {
        "rows": rows,
        "truth": truth,
        "point": np.clip(replay.points(predicted), low, high),
        "median": distribution.median(),
        "mean": distribution.mean(),
        "low": low,
        "high": high,
        "quantiles": quantiles,
        "upper": upper,
        "crps": distribution.continuous_ranked_probability(truth),
        "pit_below": replay.calibration.below[rows],
        "pit_upto": replay.calibration.upto[rows],
        "shares": distribution.shares(cuts),
        "refined": np.full(len(rows), bool(refiners)),
        "clusters": answering_clusters(replay.clusters[rows], refiners),
    }


def predict_in_time(
    model_set: ModelSet | None,
    history: pd.DataFrame,
    queries: pd.DataFrame,
    quantiles: tuple[float, ...] = (),
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Predict jobs as a version that serves would have: each by what had ended at its submission.

    The version's weights and calibration learn all outcomes of ``history`` since its training, as
    they become available; nothing is retrained.

    Args:
        model_set: The version; None for the histories of walltimes alone.
        history: Jobs with their outcomes.
        queries: The jobs to predict, their outcomes unread; they may be among ``history``.
        quantiles: Levels of further calibrated quantiles.
        progress: Called as jobs are predicted.

    Returns:
        The columns of ``Forecaster.predict``, not rounded, under the index of ``queries``, in order
        of submission.
    """
    # The host, too, is known only once a job has started.
    queries = queries.drop(columns=[name for name in OUTCOMES if name in queries])
    queries = queries.sort_values("submitted_at", kind="stable")
    jobs = pd.concat([history, queries], ignore_index=True)
    is_query = np.arange(len(jobs)) >= len(history)
    names = tuple(model_set.targets) if model_set else ("walltime",)
    contexts = encode(jobs, model_set.levels) if model_set else None
    columns: dict[str, Array] = {}
    cold = np.zeros(len(queries), dtype=bool)
    for number, name in enumerate(names):

        def report(text: str, share: float, number: int = number) -> None:
            if progress:
                progress(text, (number + share) / len(names))

        replay = _replay_of(model_set, name, jobs, contexts, queries)
        batch_columns, batch_cold = _query_columns(replay, name, is_query, quantiles, report)
        columns |= batch_columns
        cold |= batch_cold
    if model_set and contexts is not None and {"peak_memory", "walltime"} <= set(names):
        replay_of_memory = AllocationReplay.of_version(model_set, jobs, contexts)
        columns |= _allocation_columns(replay_of_memory, np.flatnonzero(is_query))
    clusters = np.full(len(queries), NO_MODEL, dtype=object)
    if model_set:
        clusters = model_set.answering_clusters(model_set.clusters.assign(queries))
    version = model_set.version if model_set else NO_MODEL
    predictions = Predictions(columns, clusters, cold, np.arange(len(queries)), version)
    ids = queries["job_id"].to_numpy() if "job_id" in queries else np.arange(len(queries))
    return predictions.frame(ids).set_index(queries.index)


def fields_of_replay(model_set: ModelSet | None) -> list[str] | None:
    """Return the fields of ended jobs that ``predict_in_time`` reads; None for all of them."""
    if model_set is None or model_set.levels.subject != JOBS.name:
        return None
    fields = {*JOBS.identity, "submitted_at", JOBS.outcome_time, *model_set.levels.fields}
    fields.update(*(read_fields(TARGETS[name]) for name in model_set.targets))
    if model_set.clusters.field:
        fields.add(model_set.clusters.field)
    return sorted(fields)


def _replay_of(
    model_set: ModelSet | None,
    name: str,
    jobs: pd.DataFrame,
    contexts: Contexts | None,
    queries: pd.DataFrame,
) -> TargetReplay:
    if model_set:
        return TargetReplay.of_version(model_set, name, jobs, contexts)
    target, first = TARGETS[name], queries["submitted_at"].min()
    levels = choose_levels(jobs[jobs["submitted_at"] < first], target.subject)
    return TargetReplay(TargetPredictor.create(target, levels), LogRows.of(jobs, target, levels))


def _query_columns(
    replay: TargetReplay,
    name: str,
    is_query: Array,
    quantiles: tuple[float, ...],
    report: Progress,
) -> tuple[dict[str, Array], Array]:
    """Predict the served jobs in order; returns columns and cold starts of the queries."""
    wanted = quantile_columns(quantiles)
    at = replay.log.contexts.at
    served = np.flatnonzero(is_query | (at >= replay.served_since))
    served = served[np.argsort(at[served], kind="stable")]
    batch_columns, cold, done = [], [], 0
    for rows in batches(served):
        predicted = replay.advance(rows)
        wanted_levels = np.array(list(wanted.values()))
        levels = replay.calibration.levels(rows, wanted_levels)
        query_positions = np.flatnonzero(is_query[rows])
        predicted, levels = predicted.take(query_positions), levels[query_positions]
        quantile_values = replay.calibration.quantiles(
            predicted.rows, predicted.distribution, levels, wanted_levels
        )
        moments = predicted.distribution.moments()
        numbers = {
            "": replay.points(predicted),
            "_median": predicted.distribution.median(),
            "_mean": moments[:, 0],
            "_sd": moments[:, 1],
        } | dict(zip(wanted, quantile_values.T, strict=True))
        numbers[""] = np.clip(numbers[""], numbers["_low"], numbers["_high"])
        batch_columns.append({f"{name}{end}": values for end, values in numbers.items()})
        cold.append(replay.cold_starts(predicted))
        done += len(rows)
        report(f"{name}: predicting past jobs in order of submission", done / len(served))
    if not batch_columns:
        return {}, np.zeros(0, dtype=bool)
    joined = {
        column: np.concatenate([batch[column] for batch in batch_columns])
        for column in batch_columns[0]
    }
    return joined, np.concatenate(cold)


def _allocation_columns(replay: AllocationReplay, query_rows: Array) -> dict[str, Array]:
    limits, columns = replay.log.limits, []
    for rows in batches(query_rows):
        occupancy = replay.advance(rows)
        masses = occupancy.distribution(replay.grid, limits[rows])
        columns.append(allocation_columns(occupancy, masses, limits[rows]))
    return {
        f"peak_memory{end}": np.concatenate([batch[end] for batch in columns])
        for end in (columns[0] if columns else ())
    }
