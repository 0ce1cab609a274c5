"""Backtest of the ends of tasks, beside what is done today.

At its definition a task is known by its description: its owner and its jobs, with the sites that
they request, but neither when each will be submitted nor any outcome that was not yet available.
At a progress p the end is predicted when that share of its jobs had ended. Every model is fitted on
what was available when it was fitted, a tenth of the tasks at a time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Progress
from models.baselines.regressions import fit_forest
from models.engine.log_rows import LogRows
from models.engine.target_predictor import TargetPredictor
from models.engine.training import (
    TrainingError,
    find_target,
)
from models.histories.features import choose_levels, encode
from models.quantities.metrics import coverage, point_errors
from models.tasks.chains import links, ready_at
from models.tasks.ends import FEWEST_JOBS, PROGRESS_LEVELS, PastQueries
from models.tasks.inputs import Queries, WalltimePredictor, inputs, prequential_predictor
from models.tasks.ranges import backtest_ranges
from models.tasks.sets import Tasks, group_tasks, microseconds

Row = dict[str, Any]

BASELINES = ("group-p95", "rate", "forest")
OURS = "gridcast"


def evaluate_tasks(
    jobs: pd.DataFrame,
    warm_up: float = 0.1,
    progress: Progress | None = None,
    refit_every: float = 0.1,
) -> list[Row]:
    """Compare predictors of the end of tasks on those after the warm-up.

    Args:
        jobs: The jobs of the tasks; only tasks of at least FEWEST_JOBS jobs that have all ended are
            counted.
        warm_up: The share of the tasks, by definition, that is not counted.
        progress: Called as tasks are predicted.
        refit_every: The share of the tasks between two refits.

    Returns:
        A row a predictor and progress, errors in hours.

    Raises:
        TrainingError: When there are no such tasks.
    """
    tasks = group_tasks(jobs)
    ended = np.flatnonzero((tasks.sizes >= FEWEST_JOBS) & np.isfinite(tasks.finished))
    if len(ended) < 2 or not 0 < warm_up < 1:
        raise TrainingError(
            f"no task of at least {FEWEST_JOBS} jobs has ended after the warm-up: "
            "there is nothing to evaluate"
        )
    counted = ended[int(len(ended) * warm_up) :]
    queries = queries_about(tasks, ended)
    past = PastQueries(
        queries, query_inputs(tasks, queries, progress), tasks.finished[queries.task]
    )
    time_left = backtest_ranges(past, tasks.defined[ended], warm_up, refit_every, progress)
    baselines = _baselines(tasks, ended, warm_up, refit_every)
    rows = []
    for share in PROGRESS_LEVELS:
        at_share = np.flatnonzero((queries.progress == share) & np.isin(queries.task, counted))
        task, at, end = queries.task[at_share], queries.at[at_share], past.finished[at_share]
        defined = tasks.defined[task]
        ends = {name: predicted[task] for name, predicted in baselines.items()}
        if share:
            ends["rate"] = defined + (at - defined) / share
        for name in BASELINES:
            if name in ends:
                rows.append(_row(name, share, end, np.maximum(ends[name], at)))
        low, middle, high = (at + column for column in time_left[at_share].T)
        rows.append(_row(OURS, share, end, middle) | {"coverage_90": coverage(end, low, high)})
    return rows


def _row(name: str, share: float, end: Array, predicted: Array) -> Row:
    errors = point_errors(end / 3600, predicted / 3600)
    return {
        "predictor": name,
        "progress": share,
        "tasks": len(end),
        "mae_hours": errors["mae"],
        "median_ae_hours": errors["median_ae"],
        "coverage_90": None,
    }


def queries_about(tasks: Tasks, rows: Array) -> Queries:
    """Query tasks ``rows`` at each of PROGRESS_LEVELS, in order of time.

    A task that waits for others is queried when it can begin.
    """
    at = np.concatenate(
        [
            (ready_at(tasks, links(tasks)) if share == 0 else tasks.reached(share))[rows]
            for share in PROGRESS_LEVELS
        ]
    )
    order = np.argsort(at, kind="stable")
    return Queries(
        np.tile(rows, len(PROGRESS_LEVELS))[order],
        at[order],
        np.repeat(PROGRESS_LEVELS, len(rows))[order],
    )


def query_inputs(tasks: Tasks, queries: Queries, progress: Progress | None = None) -> Array:
    """Compute the models' inputs, the walltimes of the jobs predicted as of each query.

    Args:
        tasks: The tasks.
        queries: What is predicted, and as of when.
        progress: Called with the progress.
    """
    return inputs(
        tasks, queries, prequential_walltimes(tasks), find_target("walltime").grid, progress
    )


def prequential_walltimes(tasks: Tasks) -> WalltimePredictor:
    """Return a predictor of the walltimes of the jobs of ``tasks``; it can be called once.

    A job is predicted, and its histories are credited, as of its task's definition.
    """
    target, jobs = find_target("walltime"), tasks.jobs
    levels = choose_levels(jobs.iloc[: max(len(jobs) // 10, 1)], target.subject)
    contexts = replace(encode(jobs, levels), at=microseconds(tasks.defined[tasks.task]))
    log = LogRows.of_contexts(contexts, target.value(jobs), target.limit(jobs))
    return prequential_predictor(TargetPredictor.create(target, levels), log)


def _baselines(tasks: Tasks, ended: Array, warm_up: float, refit_every: float) -> dict[str, Array]:
    """Predict ends (float64[tasks]) by the group's 95th percentile and by P2PA's random forest."""
    defined, finished = tasks.defined[ended], tasks.finished[ended]
    begin = ready_at(tasks, links(tasks))[ended]
    durations, groups = finished - begin, tasks.groups[ended]
    ceiling = np.empty(len(ended))
    for row in range(len(ended)):
        available = finished[:row] <= defined[row]
        same_group = available & (groups[:row] == groups[row])
        sample = durations[:row][same_group if same_group.any() else available]
        ceiling[row] = np.quantile(sample, 0.95) if len(sample) else 0.0
    parameters = _parameters(tasks, ended)
    by_forest, count = ceiling.copy(), len(ended)
    starts = list(range(int(count * warm_up), count, max(int(count * refit_every), 1)))
    for start, stop in zip(starts, [*starts[1:], count], strict=True):
        available = np.flatnonzero(finished <= defined[start])
        if len(available):
            fitted = fit_forest(parameters[available], durations[available])
            by_forest[start:stop] = fitted(parameters[start:stop])
    ends = {name: np.full(len(tasks), np.nan) for name in ("group-p95", "forest")}
    ends["group-p95"][ended], ends["forest"][ended] = begin + ceiling, begin + by_forest
    return ends


def _parameters(tasks: Tasks, rows: Array) -> Array:
    """P2PA's inputs: owner, group, project, program, main site, size, requests, hour."""
    first_jobs = tasks.jobs.iloc[tasks.first[:-1][rows]]
    names = [
        pd.factorize(first_jobs[name].fillna(""))[0]
        for name in ("user", "group", "project", "program", "site")
    ]
    requests = [
        np.nan_to_num(first_jobs[name].to_numpy())
        for name in ("requested_walltime", "requested_cores", "input_bytes", "events")
    ]
    sites = [len(set(tasks.site[tasks.first[task] : tasks.first[task + 1]])) for task in rows]
    return np.column_stack(
        [*names, *requests, tasks.sizes[rows], sites, tasks.defined[rows] / 3600 % 24]
    ).astype(np.float32)
