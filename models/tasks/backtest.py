"""How well ends of tasks are foreseen, asked of a log in the order of time, beside what is done today.

At its definition a task is known as it is described: its owner and its jobs, with the sites that they ask for, but neither when each
will be submitted nor any outcome that was not known by then. At a progress p the question is asked at the instant when that share of its
jobs had ended. Every model is fitted on what was known when it was fitted, a tenth of the tasks at a time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Progress
from models.baselines.regressions import fit_forest
from models.engine.prequential import LogRows
from models.engine.target_predictor import TargetPredictor
from models.engine.training import (
    TrainingError,
    find_target,
)
from models.histories.features import choose_levels, encode
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
    """Compare predictors of the end of tasks on those after the warm-up: a row a predictor and progress, errors in hours.

    Only tasks of at least FEWEST_JOBS jobs that have all ended are counted. Raises TrainingError when there are none.
    """
    tasks = group_tasks(jobs)
    whole = np.flatnonzero((tasks.sizes >= FEWEST_JOBS) & np.isfinite(tasks.finished))
    if len(whole) < 2 or not 0 < warm_up < 1:
        raise TrainingError(
            f"no task of at least {FEWEST_JOBS} jobs has ended after the warm-up: there is nothing to evaluate"
        )
    counted = whole[int(len(whole) * warm_up) :]
    questions = queries_about(tasks, whole)
    past = PastQueries(
        questions, query_inputs(tasks, questions, progress), tasks.finished[questions.task]
    )
    ours = backtest_ranges(past, tasks.defined[whole], warm_up, refit_every, progress)
    rivals = _rivals(tasks, whole, warm_up, refit_every)
    rows = []
    for share in PROGRESS_LEVELS:
        asked = np.flatnonzero((questions.progress == share) & np.isin(questions.task, counted))
        task, at, end = questions.task[asked], questions.at[asked], past.finished[asked]
        for name in BASELINES:
            if name == "rate" and share == 0:
                continue
            foreseen = (
                rivals[name][task]
                if name != "rate"
                else tasks.defined[task] + (at - tasks.defined[task]) / share
            )
            rows.append(_row(name, share, np.abs(np.maximum(foreseen, at) - end), None))
        low, middle, high = (at + ours[asked, place] for place in range(3))
        rows.append(_row(OURS, share, np.abs(middle - end), (low <= end) & (end <= high)))
    return rows


def _row(name: str, share: float, error: Array, within: Array | None) -> Row:
    return {
        "predictor": name, "progress": share, "tasks": len(error), "mae_hours": float(error.mean() / 3600),
        "median_ae_hours": float(np.median(error) / 3600), "coverage_90": None if within is None else float(within.mean()),
    }  # fmt: skip


def queries_about(tasks: Tasks, rows: Array) -> Queries:
    """The questions about tasks ``rows`` at each of PROGRESS_LEVELS, in the order of time; who waits for others is asked about when it can begin."""
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


def query_inputs(tasks: Tasks, questions: Queries, progress: Progress | None = None) -> Array:
    """What the models are shown of each question, the walltimes of its jobs foreseen by the mixture as it stood at the instant."""
    return inputs(
        tasks, questions, prequential_walltimes(tasks), find_target("walltime").grid, progress
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


def _rivals(tasks: Tasks, whole: Array, warm_up: float, refit_every: float) -> dict[str, Array]:
    """The ends that the group's 95th percentile and P2PA's random forest on the task's parameters foresee (float64[tasks])."""
    defined, finished, begin = (
        tasks.defined[whole],
        tasks.finished[whole],
        ready_at(tasks, links(tasks))[whole],
    )
    lasted = finished - begin
    groups = tasks.groups[whole]
    ceiling = np.empty(len(whole))
    for row in range(len(whole)):
        known = finished[:row] <= defined[row]
        same = known & (groups[:row] == groups[row])
        ended = lasted[:row][same if same.any() else known]
        ceiling[row] = np.quantile(ended, 0.95) if len(ended) else 0.0
    parameters = _parameters(tasks, whole)
    guess = ceiling.copy()
    starts = list(
        range(int(len(whole) * warm_up), len(whole), max(int(len(whole) * refit_every), 1))
    )
    for start, stop in zip(starts, [*starts[1:], len(whole)], strict=True):
        known = np.flatnonzero(finished <= defined[start])
        if len(known):
            guess[start:stop] = fit_forest(parameters[known], lasted[known])(parameters[start:stop])
    ends = {name: np.full(len(tasks), np.nan) for name in ("group-p95", "forest")}
    ends["group-p95"][whole], ends["forest"][whole] = begin + ceiling, begin + guess
    return ends


def _parameters(tasks: Tasks, whole: Array) -> Array:
    """What P2PA's forest is told: owner, group, project, program, main site, number of jobs and sites, what they ask for, the hour."""
    heads = tasks.jobs.iloc[tasks.first[:-1][whole]]
    names = [
        pd.factorize(heads[name].fillna(""))[0]
        for name in ("user", "group", "project", "program", "site")
    ]
    asked = [
        np.nan_to_num(heads[name].to_numpy())
        for name in ("requested_walltime", "requested_cores", "input_bytes", "events")
    ]
    sites = [len(set(tasks.site[tasks.first[task] : tasks.first[task + 1]])) for task in whole]
    return np.column_stack(
        [*names, *asked, tasks.sizes[whole], sites, tasks.defined[whole] / 3600 % 24]
    ).astype(np.float32)
