"""States of tasks: normal, ahead, late, stalled, failing or done, and what delays them.

A task is stalled when nothing has happened to it (no end, start or submission of a job) for longer
than chance allows (``models.tasks.silence``); until enough is learned for that, for longer than
most of its open jobs should take in all. It stays stalled until something happens.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np

from infra.aliases import Array
from models.quantities.targets import Grid
from models.tasks.inputs import OpenJobs, Queries
from models.tasks.ranges import LEVELS
from models.tasks.sets import FAILED as FAILED
from models.tasks.sets import Tasks
from models.tasks.silence import MIN_OPEN

STATES = ("normal", "ahead", "late", "stalled", "failing", "done")
MIN_ENDED = 5
"""Fewer ended jobs than this do not show which share fails."""
MOST_JOBS_LEVEL = 0.75
"""The quantile of a job's predicted walltime that most jobs do not exceed."""
GRACE_SECONDS = 1800.0
"""Seconds of silence before a task can be called stalled, while no hazard is learned."""
LONG_SILENCE = 1.25
"""Multiple of what most open jobs should take from which a silence counts as a stall, then."""
MAX_NAMED = 5
MAX_CHANCE = 0.05
"""A site is named if so many failures would come about there by chance less often than this."""


@dataclass(frozen=True)
class Thresholds:
    """Limits that an operator may set.

    ``stalled``: evidence of a stall, as a multiple of the usual level. ``failing``: share of
    the ended jobs. ``late``, ``ahead``: levels of the first prediction that the end now predicted
    lies above or below.
    """

    stalled: float = 1.0
    failing: float = 0.3
    late: float = 0.95
    ahead: float = 0.05

    def to_json(self) -> dict[str, float]:
        """As plain values."""
        return asdict(self)


def upper_walltime(mass: Array, grid: Grid) -> Array:
    """The MOST_JOBS_LEVEL quantile of each row of ``mass`` (float[n, bins]), in s (float64[n])."""
    reached = np.cumsum(mass, axis=1, dtype=np.float64)
    last = (reached < MOST_JOBS_LEVEL * reached[:, -1:]).sum(axis=1)
    return grid.edges[1:][np.minimum(last, grid.bins - 1)]


def last_end(tasks: Tasks, queries: Queries) -> Array:
    """When a job of each query's task last ended before its time, else its definition (s[n])."""
    ends = tasks.ended[np.lexsort((tasks.ended, tasks.task))]
    latest = np.empty(len(queries))
    for row, (task, at) in enumerate(zip(queries.task, queries.at, strict=True)):
        own = ends[tasks.first[task] : tasks.first[task + 1]]
        ended = np.searchsorted(own, at, side="right")
        latest[row] = own[ended - 1] if ended else tasks.defined[task]
    return latest


def submitted(tasks: Tasks, queries: Queries, opened: OpenJobs) -> OpenJobs:
    """The open jobs that were submitted by the time of their query.

    Args:
        tasks: The tasks.
        queries: What is predicted, and as of when.
        opened: Their open jobs.
    """
    rows = np.flatnonzero(tasks.submitted[opened.job] <= queries.at[opened.query])
    return OpenJobs(opened.query[rows], opened.job[rows], opened.spent[rows])


def last_event(tasks: Tasks, queries: Queries, opened: OpenJobs, ends: Array) -> Array:
    """When a job of each query's task last ended, started or was submitted (float64[n], s).

    Args:
        tasks: The tasks.
        queries: Which tasks, and at what times.
        opened: Their open jobs that were submitted by then.
        ends: ``last_end`` of the queries.
    """
    started, at = tasks.started[opened.job], queries.at[opened.query]
    latest = ends.copy()
    changed = np.where(started <= at, started, tasks.submitted[opened.job])
    np.maximum.at(latest, opened.query, changed)
    return latest


def silence_ratio(
    tasks: Tasks, queries: Queries, opened: OpenJobs, longest: Array, ends: Array
) -> Array:
    """How long nothing has happened, relative to the silence that counts as a stall (float64[n]).

    A silence counts as one from LONG_SILENCE times what most open jobs should take.

    Args:
        tasks: The tasks.
        queries: Which tasks, and at what times.
        opened: Their open jobs that were submitted by then.
        longest: ``upper_walltime`` of each open job (float64[m]).
        ends: ``last_end`` of the queries.

    Returns:
        The ratio; 0 for tasks with fewer than MIN_OPEN open jobs.
    """
    count = len(queries)
    jobs_left = np.bincount(opened.query, minlength=count)
    usual = np.bincount(opened.query, longest, minlength=count) / np.maximum(jobs_left, 1)
    silent = queries.at - last_event(tasks, queries, opened, ends) - GRACE_SECONDS
    ratio = np.maximum(silent, 0.0) / (LONG_SILENCE * np.maximum(usual, 1.0))
    return np.where(jobs_left >= MIN_OPEN, ratio, 0.0)


def failures(tasks: Tasks, queries: Queries) -> tuple[Array, Array]:
    """Count the ended jobs of each query's task, and the failed among them (int64[n] each)."""
    ended, failed = np.zeros(len(queries), np.int64), np.zeros(len(queries), np.int64)
    for row, (task, at) in enumerate(zip(queries.task, queries.at, strict=True)):
        own = slice(tasks.first[task], tasks.first[task + 1])
        over = tasks.ended[own] <= at
        ended[row], failed[row] = over.sum(), (over & tasks.failed[own]).sum()
    return ended, failed


def compare_with_first(defined: Array, end: Array, first: Array, at: Array) -> tuple[Array, Array]:
    """Compare predicted ends with the first prediction of each task.

    Args:
        defined: Definition of each task (float64[n], s since 1970).
        end: Low, median and high end predicted now (float64[n, 3], s since 1970).
        first: The same as predicted first, NaN for new tasks.
        at: The present (float64[n], s since 1970).

    Returns:
        Where the median lies in the first prediction (0 to 1), and the share of the time from
        the definition to the first median that has passed (float64[n] each).
    """
    first = np.where(np.isnan(first), end, first)
    level = np.array(
        [
            np.interp(now, [begin, *ends], [0.0, *LEVELS])
            for now, begin, ends in zip(end[:, 1], defined, first, strict=True)
        ]
    )
    return level, np.clip((at - defined) / np.maximum(first[:, 1] - defined, 1.0), 0.0, 1.0)


def confidence(level: Array) -> Array:
    """1 where an end lies in the middle of the first prediction, 0 at its ends (float64[n])."""
    return np.clip(2 * np.minimum(level, 1 - level), 0.0, 1.0)


def states(
    finished: Array,
    silence: Array,
    ended: Array,
    failed: Array,
    level: Array,
    limits: list[Thresholds],
) -> list[str]:
    """Give the state of each task, the gravest that applies.

    Args:
        finished: Whether all its jobs have ended (bool[n]).
        silence: The evidence of a stall, as a multiple of the usual level (float64[n]).
        ended: Its ended jobs (int64[n]).
        failed: The failed among them (int64[n]).
        level: Where its end lies in its first prediction (float64[n], 0 to 1).
        limits: The thresholds of its group.
    """
    chosen = []
    for row, limit in enumerate(limits):
        if finished[row]:
            chosen.append("done")
        elif ended[row] >= MIN_ENDED and _least_share(failed[row], ended[row]) > limit.failing:
            chosen.append("failing")
        elif silence[row] > limit.stalled:
            chosen.append("stalled")
        elif level[row] > limit.late:
            chosen.append("late")
        else:
            chosen.append("ahead" if level[row] < limit.ahead else "normal")
    return chosen


def _least_share(failed: int, ended: int, z: float = 1.28) -> float:
    """The lower end of Wilson's 80 % interval (1927) for the share of failures."""
    share = failed / ended
    middle = share + z * z / (2 * ended)
    spread = z * np.sqrt(share * (1 - share) / ended + z * z / (4 * ended * ended))
    return float((middle - spread) / (1 + z * z / ended))


def _stands_out(failed: int, ended: int, all_failed: int, all_ended: int) -> bool:
    """Whether a site or host has more of a task's failures than chance would give it.

    Args:
        failed: Failed jobs there.
        ended: Ended jobs there.
        all_failed: Failed jobs of the task.
        all_ended: Ended jobs of the task.
    """
    from scipy.stats import hypergeom

    if ended == all_ended:
        return True  # there is nothing to compare it with
    return bool(hypergeom.sf(failed - 1, all_ended, all_failed, ended) < MAX_CHANCE)


def delay_reasons(tasks: Tasks, task: int, at: float, longest: dict[int, float]) -> list[str]:
    """Say what delays a task: sites and hosts where its jobs fail, and its most overdue jobs.

    A site or host is named where more jobs failed than if failures had been spread at random over
    the task's ended jobs (hypergeometric, MAX_CHANCE), or where all of them ran.

    Args:
        tasks: The tasks.
        task: The row of the task.
        at: The present (s since 1970).
        longest: ``upper_walltime`` of its open jobs, by row of ``tasks.jobs``.
    """
    own = np.arange(tasks.first[task], tasks.first[task + 1])
    over = own[tasks.ended[own] <= at]
    failed = over[tasks.failed[over]]
    reasons: list[str] = []
    for field, names in (("site", tasks.site), ("host", tasks.host)) if len(failed) > 1 else ():
        ended, failing = Counter(names[over]), Counter(names[failed])
        for name, count in failing.most_common(MAX_NAMED):
            is_most = name and count > 1 and count > 0.5 * ended[name]
            if is_most and _stands_out(count, ended[name], len(failed), len(over)):
                label = name if name.startswith(field) else f"{field} {name}"
                reasons.append(f"{label}: {count} of {ended[name]} jobs failed")
    if not reasons and len(failed) > Thresholds().failing * len(over):
        sites = len(set(tasks.site[failed]))
        at_sites = f", at {sites} sites and none stands out" if sites > 1 else ""
        reasons.append(f"{len(failed)} of {len(over)} jobs failed{at_sites}")
    running = {job: tasks.started[job] <= at for job in longest}
    begun = {job: tasks.started[job] if running[job] else tasks.submitted[job] for job in longest}
    late = sorted(
        (job for job in longest if at - begun[job] > 2 * longest[job]), key=begun.__getitem__
    )
    for site, count in Counter(tasks.site[late]).most_common(1) if late else ():
        if count > 1:
            reasons.append(f"{site or 'an unknown site'}: {count} jobs are overdue there")
    for job in late[:MAX_NAMED]:
        verb, hours = "run" if running[job] else "waited", (at - begun[job]) / 3600
        reasons.append(
            f"job {tasks.job_ids[job]} has {verb} for {hours:.1f} h, "
            "more than twice what most such jobs should take"
        )
    if len(late) > MAX_NAMED:
        reasons.append(f"{len(late) - MAX_NAMED} more jobs are overdue")
    return reasons
