"""Backtest of memory allocation: the waste of every policy, job by job.

Waste is counted as in the Sizey paper (Bader et al., IEEE CLUSTER 2024): GiB·h allocated and not
used, and all that a failed attempt held, for the whole of the job's run time (time to failure 1.0).
Each policy has its own retries, and knows only what had ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from infra.aliases import Array, Flags, Floats, Integers, Progress
from infra.compiled import compiled
from jobs.coded_jobs import in_microseconds
from models.engine.allocation import FAILURE_PRICE, GIB_HOUR, ladders
from models.engine.covariates import CovariateModel, fit_covariates, has_numbers
from models.engine.level_selection import select_levels
from models.engine.prequential import AllocationReplay
from models.engine.target_predictor import batches
from models.engine.training import TrainingError
from models.evaluation.allocation_rules import RULES, template_statistics
from models.histories.components import OVER
from models.histories.features import Level, Levels, encode
from models.histories.mixture import outcome_order
from models.quantities.targets import TARGETS

Row = dict[str, Any]

OURS = "gridcast"
POLICIES = (*(rule.name for rule in RULES), OURS)
DEFAULT_REQUEST = 4 * 2.0**30
"""The request of a job without one, where a machine has that much: many sites' default of 4 GiB."""
MAX_BROKEN_SHARE = 0.05
"""A request is no limit where more of the ended jobs than this used more than they requested."""
MIN_JUDGED_JOBS = 20
"""So many jobs with a request are assumed before that share is taken."""
FIRST_LEVELS = 16
LAST_CHOICE = 4000
"""Levels are chosen anew as the jobs double, as the live engine does, until there are so many."""


class MemoryBounds(NamedTuple):
    """Each job's request (or the default), the most it may get, and whether that is its request."""

    request: Floats
    ceiling: Floats
    by_request: Flags


@dataclass(frozen=True)
class AllocationBacktest:
    """Every policy's waste and failures, job by job.

    Attributes:
        rows: Positions, in order of submission, of the n jobs counted.
        request: What each requested, or the default, bytes; float64[n] as all that follow.
        has_request: Whether it requested memory, bool[n].
        used: What each held and used, GiB·h.
        first_rung: Gridcast's first allocation, bytes.
        cold: Whether no outcome of its submitter was available, bool[n].
        waste: By policy, GiB·h.
        failures: By policy, failed attempts, int64[n].
    """

    rows: Integers
    request: Floats
    has_request: Flags
    used: Floats
    first_rung: Floats
    cold: Flags
    waste: dict[str, Floats]
    failures: dict[str, Integers]


def evaluate_allocation(
    jobs: pd.DataFrame,
    warm_up: float = 0.1,
    price: float = FAILURE_PRICE,
    progress: Progress | None = None,
) -> list[Row]:
    """Backtest all policies, and count each one's waste and failures after the warm-up.

    Args:
        jobs: The log; counted are the jobs with a known memory and walltime.
        warm_up: The share of the jobs, by submission, that is not counted.
        price: Of a failure, GiB·h.
        progress: Called as jobs are predicted.

    Returns:
        A row a policy: policy, jobs, waste_gbh, failures (attempts), failed_jobs; cold_jobs and
        cold_waste_gbh are of jobs of whose submitter no outcome was available.

    Raises:
        TrainingError: When there is no such job.
    """
    done = backtest_allocation(jobs, warm_up, price, progress)
    return [
        {
            "policy": name,
            "jobs": len(done.rows),
            "waste_gbh": float(waste.sum()),
            "failures": int(done.failures[name].sum()),
            "failed_jobs": int((done.failures[name] > 0).sum()),
            "cold_jobs": int(done.cold.sum()),
            "cold_waste_gbh": float(waste[done.cold].sum()),
        }
        for name, waste in done.waste.items()
    ]


def backtest_allocation(
    jobs: pd.DataFrame,
    warm_up: float = 0.1,
    price: float = FAILURE_PRICE,
    progress: Progress | None = None,
) -> AllocationBacktest:
    """Backtest all policies job by job; see ``evaluate_allocation``.

    Args:
        jobs: The log.
        warm_up: The share of the jobs, by submission, that is not counted.
        price: Of a failure, GiB·h.
        progress: Called as jobs are predicted.
    """
    if not 0 <= warm_up < 1:
        raise TrainingError("warm_up must be a share between 0 and 1")
    jobs = jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
    target = TARGETS["peak_memory"]
    peaks, seconds = target.value(jobs), jobs["walltime"].to_numpy(np.float64)
    counted = np.flatnonzero(
        np.isfinite(peaks) & (seconds >= 0) & (np.arange(len(jobs)) >= warm_up * len(jobs))
    )
    if not len(counted):
        raise TrainingError(
            "no job after the warm-up has a known peak_memory and walltime: "
            "there is nothing to evaluate"
        )
    bounds = _memory_bounds(jobs, peaks)
    statistics = template_statistics(jobs, target, bounds.request)
    if progress:
        progress("memory: the rules", 0.1)
    ladder_of = {rule.name: rule.ladder(statistics)[counted] for rule in RULES}
    ladder_of[OURS], cold = _predicted_ladders(jobs, counted, bounds, price, progress)
    peaks, seconds, ceiling = peaks[counted], seconds[counted], bounds.ceiling[counted]
    scores = {name: score(ladder_of[name], peaks, seconds, ceiling) for name in POLICIES}
    return AllocationBacktest(
        rows=counted,
        request=bounds.request[counted],
        has_request=np.isfinite(target.limit(jobs))[counted],
        used=peaks * seconds / GIB_HOUR,
        first_rung=np.minimum(ladder_of[OURS][:, 0], ceiling),
        cold=cold,
        waste={name: waste for name, (waste, _) in scores.items()},
        failures={name: failures for name, (_, failures) in scores.items()},
    )


def _memory_bounds(jobs: pd.DataFrame, peaks: Floats) -> MemoryBounds:
    """Find the bounds of each job by what was known at its submission.

    A job may get its request where jobs keep to theirs, else what the machine has: the most a core
    that any job had requested by then, or that an ended job had used.
    """
    limits = TARGETS["peak_memory"].limit(jobs)
    cores = np.maximum(jobs["requested_cores"].fillna(1.0).to_numpy(np.float64), 1.0)
    has_request = np.isfinite(limits)
    contexts = encode(jobs, Levels((Level(()),), 0))
    ended = outcome_order(contexts, peaks)
    used_per_core = _at_submission(
        np.maximum.accumulate(peaks[ended] / cores[ended]),
        contexts.available_at[ended],
        contexts.at,
    )
    requested_per_core = np.maximum.accumulate(np.where(has_request, limits, 0.0) / cores)
    per_core = np.maximum(requested_per_core, used_per_core)
    mostly_requested = np.cumsum(has_request) > 0.5 * np.arange(1, len(jobs) + 1)
    machine = np.where(
        mostly_requested & (per_core > 0),
        per_core * cores,
        np.maximum(per_core * cores, DEFAULT_REQUEST),
    )
    request = np.where(has_request, limits, np.minimum(DEFAULT_REQUEST, machine))
    judged = ended[has_request[ended]]
    judged_at = contexts.available_at[judged]
    broken = _at_submission(
        np.cumsum(peaks[judged] > limits[judged] * OVER), judged_at, contexts.at
    )
    count = np.searchsorted(judged_at, contexts.at, side="right")
    by_request = has_request & (broken <= MAX_BROKEN_SHARE * np.maximum(count, MIN_JUDGED_JOBS))
    return MemoryBounds(request, np.where(by_request, request, machine), by_request)


def _at_submission(running: Array, available_at: Integers, at: Integers) -> Floats:
    """Look up a running figure over outcomes at each submission ``at``; 0 before the first.

    Args:
        running: The figure after each outcome, in order of availability.
        available_at: When each outcome became available, µs.
        at: The submissions, µs.
    """
    return np.concatenate([[0.0], running])[np.searchsorted(available_at, at, side="right")]


def _predicted_ladders(
    jobs: pd.DataFrame,
    counted: Integers,
    bounds: MemoryBounds,
    price: float,
    progress: Progress | None,
) -> tuple[Floats, Flags]:
    """Gridcast's ladders for the jobs ``counted``, and which of them are cold starts."""
    grid = TARGETS["peak_memory"].grid
    numbered = has_numbers(jobs)
    ladder, cold = [], []
    for start, stop in _level_choices(len(jobs), int(counted[0])):
        known_at = in_microseconds(jobs["submitted_at"].iloc[start])
        targets = [TARGETS["peak_memory"], TARGETS["walltime"]]
        levels = select_levels(jobs.iloc[:start], targets, known_at).levels
        replay = AllocationReplay.of_jobs(jobs, levels)
        model = _fit_covariates(jobs, numbered, start)
        for rows in batches(counted[(counted >= start) & (counted < stop)]):
            predicted = replay.advance(rows)
            ceiling, by_request = bounds.ceiling[rows], bounds.by_request[rows]
            ladder.append(ladders(predicted, grid, ceiling, by_request, price))
            if model and len(of_batch := np.flatnonzero(numbered[rows])):
                with_numbers = rows[of_batch]
                ladder[-1][of_batch] = ladders(
                    model.occupancy(jobs.iloc[with_numbers], grid),
                    grid,
                    bounds.ceiling[with_numbers],
                    price=price,
                )
            cold.append(predicted.cold)
            if progress:
                progress(f"memory: backtesting {len(jobs)} jobs", (int(rows[-1]) + 1) / len(jobs))
    return np.concatenate(ladder), np.concatenate(cold)


def _fit_covariates(jobs: pd.DataFrame, numbered: Flags, at: int) -> CovariateModel | None:
    """Fit covariates by what had ended at the submission of row ``at``; None for too few.

    Args:
        jobs: The log, by submission.
        numbered: Which jobs report a number among their covariates.
        at: The row.
    """
    if not numbered[:at].any():
        return None
    memory = TARGETS["peak_memory"].value(jobs)
    seconds = jobs["walltime"].to_numpy(np.float64)
    ended = (jobs["ended_at"] <= jobs["submitted_at"].iloc[at]).to_numpy()
    rows = np.flatnonzero(numbered & ended & (memory > 0) & (seconds > 0))
    return fit_covariates(jobs.iloc[rows], memory[rows], seconds[rows])


def _level_choices(count: int, first: int) -> Iterator[tuple[int, int]]:
    """The rows between two choices of levels, as the jobs double from the first counted one."""
    start = first
    while start < count:
        stop = count if start >= LAST_CHOICE else min(max(2 * start, FIRST_LEVELS), count)
        yield start, stop
        start = stop


def score(
    ladder: Floats, peaks: Floats, seconds: Floats, ceiling: Floats, gradual: bool = False
) -> tuple[Floats, Integers]:
    """Count waste and failed attempts of jobs by their ladders.

    A job tries its rungs in order, without those no larger than the one that failed and none above
    its ceiling; after the last the double, again and again.

    Args:
        ladder: float64[n, rungs] in bytes, NaN for no rung.
        peaks: What each job uses, bytes.
        seconds: How long it runs.
        ceiling: The most that it may get.
        gradual: Whether failed attempts take only a share of the run time, see ``ladders``.

    Returns:
        Waste in GiB·h (float64[n]) and failed attempts (int64[n]).

    >>> gib, hour = 2.0**30, np.array([3600.0])
    >>> ladder, peak, ceiling = np.array([[1, 3]]) * gib, np.array([5 * gib]), np.array([16 * gib])
    >>> waste, failures = score(ladder, peak, hour, ceiling)
    >>> waste.tolist(), failures.tolist()  # 1 and 3 are lost, then 6 is enough for 5
    ([5.0], [2])
    """
    waste, failures = np.empty(len(peaks)), np.empty(len(peaks), np.int64)
    _score(np.ascontiguousarray(ladder), peaks, seconds, ceiling, gradual, waste, failures)
    return waste / GIB_HOUR, failures


@compiled
def _score(
    ladder: Any,
    peaks: Any,
    seconds: Any,
    ceiling: Any,
    gradual: bool,
    waste: Any,
    failures: Any,
) -> None:
    for row in range(len(peaks)):
        waste[row], failures[row] = 0.0, 0
        allocated = min(ladder[row, 0], ceiling[row])
        rung = 1
        while allocated < peaks[row]:
            waste[row] += allocated * seconds[row] * (allocated / peaks[row] if gradual else 1.0)
            failures[row] += 1
            before = allocated
            while rung < ladder.shape[1] and not ladder[row, rung] > before:
                rung += 1
            allocated = ladder[row, rung] if rung < ladder.shape[1] else 2.0 * before
            # A job that breaks its ceiling shows that the machine has more.
            allocated = min(allocated, ceiling[row]) if before < ceiling[row] else 2.0 * before
        waste[row] += (allocated - peaks[row]) * seconds[row]
