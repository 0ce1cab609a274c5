"""How tasks stand: normal, ahead, late, stalled, failing or done, and who holds them back.

A task is stalled when nothing has happened to it, no end, no start, no submission, for longer than most of its open jobs should take as
a whole: a task of long jobs is not stalled because it is quiet. It stays stalled until something happens, so the state does not flap.
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

STATES = ("normal", "ahead", "late", "stalled", "failing", "done")
FEWEST_ENDED = 5
"""Fewer ended jobs than this say nothing about how many fail."""
FEWEST_OPEN = 4
"""Fewer open jobs than this are stragglers: the task is late, not stalled."""
MOST = 0.75
"""What most jobs do not exceed: this quantile of what is foreseen for each."""
MOMENT = 1800.0
"""Seconds for which no task is called stalled."""
NAMED = 5


@dataclass(frozen=True)
class Thresholds:
    """What an operator may set: ``stalled``, how many times as long as most of a task's open jobs should take it may be quiet;
    ``failing``, a share of its ended jobs; ``late`` and ``ahead``, levels of its first prediction that the end now foreseen lies above
    or below."""

    stalled: float = 1.25
    failing: float = 0.3
    late: float = 0.95
    ahead: float = 0.05

    def to_json(self) -> dict[str, float]:
        """As plain values."""
        return asdict(self)


def upper_walltime(mass: Array, grid: Grid) -> Array:
    """What most jobs of each row of ``mass`` (float[n, bins]) will not exceed (float64[n])."""
    reached = np.cumsum(mass, axis=1, dtype=np.float64)
    return grid.edges[1:][np.minimum((reached < MOST * reached[:, -1:]).sum(axis=1), grid.bins - 1)]


def last_end(tasks: Tasks, questions: Queries) -> Array:
    """When a job of each question's task last ended before its instant, else when the task was defined (float64[n])."""
    ends = tasks.ended[np.lexsort((tasks.ended, tasks.task))]
    found = np.empty(len(questions))
    for row, (task, at) in enumerate(zip(questions.task, questions.at, strict=True)):
        own = ends[tasks.first[task] : tasks.first[task + 1]]
        known = np.searchsorted(own, at, side="right")
        found[row] = own[known - 1] if known else tasks.defined[task]
    return found


def submitted(tasks: Tasks, questions: Queries, opened: OpenJobs) -> OpenJobs:
    """The open jobs that were submitted by the instant: who watches a task sees only these."""
    rows = np.flatnonzero(tasks.submitted[opened.job] <= questions.at[opened.question])
    return OpenJobs(opened.question[rows], opened.job[rows], opened.spent[rows])


def silence_ratio(
    tasks: Tasks, questions: Queries, opened: OpenJobs, most: Array, ends: Array
) -> Array:
    """How long nothing has happened to each question's task, as a multiple of what most of its open jobs should take (float64[n]).

    ``most`` float64[m] is ``upper_walltime`` of each open job, ``ends`` float64[n] ``last_end``. 0 for a task of few open jobs.
    """
    at, count = questions.at[opened.question], len(questions)
    moment = np.where(
        tasks.started[opened.job] <= at, tasks.started[opened.job], tasks.submitted[opened.job]
    )
    news = ends.copy()
    np.maximum.at(news, opened.question, moment)
    left = np.bincount(opened.question, minlength=count)
    usual = np.bincount(opened.question, most, minlength=count) / np.maximum(left, 1)
    silent = np.maximum(questions.at - news - MOMENT, 0.0)
    return np.where(left >= FEWEST_OPEN, silent / np.maximum(usual, 1.0), 0.0)


def failures(tasks: Tasks, questions: Queries) -> tuple[Array, Array]:
    """The jobs of each question that had ended, and of these the failed (int64[n] each)."""
    ended, bad = np.zeros(len(questions), np.int64), np.zeros(len(questions), np.int64)
    for row, (task, at) in enumerate(zip(questions.task, questions.at, strict=True)):
        own = slice(tasks.first[task], tasks.first[task + 1])
        over = tasks.ended[own] <= at
        ended[row], bad[row] = over.sum(), (over & tasks.failed[own]).sum()
    return ended, bad


def compare_with_first(defined: Array, end: Array, before: Array, at: Array) -> tuple[Array, Array]:
    """Where the ends now foreseen lie in what was foreseen at first (0 to 1), and the share of that span that has passed (float64[n] each).

    ``end`` and ``before`` are low, median and high (float64[n, 3], s since 1970); of what is new ``before`` is NaN.
    """
    first = np.where(np.isnan(before), end, before)
    place = np.array(
        [
            np.interp(e, [d, *f], [0.0, *LEVELS])
            for e, d, f in zip(end[:, 1], defined, first, strict=True)
        ]
    )
    return place, np.clip((at - defined) / np.maximum(first[:, 1] - defined, 1.0), 0.0, 1.0)


def confidence(place: Array) -> Array:
    """1 where the end now foreseen is the middle of what was foreseen at first, 0 at its ends (float64[n])."""
    return np.clip(2 * np.minimum(place, 1 - place), 0.0, 1.0)


def states(
    finished: Array, quiet: Array, ended: Array, bad: Array, place: Array, limits: list[Thresholds]
) -> list[str]:
    """The state of each task, the gravest first; ``place`` is where the end now foreseen lies in the first prediction (0 to 1)."""
    found = []
    for row, limit in enumerate(limits):
        if finished[row]:
            found.append("done")
        elif ended[row] >= FEWEST_ENDED and _at_least(bad[row], ended[row]) > limit.failing:
            found.append("failing")
        elif quiet[row] > limit.stalled:
            found.append("stalled")
        else:
            found.append(
                "late"
                if place[row] > limit.late
                else "ahead"
                if place[row] < limit.ahead
                else "normal"
            )
    return found


def _at_least(bad: int, ended: int, z: float = 1.28) -> float:
    """The share of failures that is surely reached: the lower end of Wilson's interval (1927), nine times of ten."""
    share = bad / ended
    middle = share + z * z / (2 * ended)
    return float(
        (middle - z * np.sqrt(share * (1 - share) / ended + z * z / (4 * ended * ended)))
        / (1 + z * z / ended)
    )


def delay_reasons(tasks: Tasks, task: int, at: float, most: dict[int, float]) -> list[str]:
    """Sentences about who holds a task back: sites and hosts where its jobs fail, and the jobs that are longest overdue.

    ``most`` is ``upper_walltime`` of its open jobs (rows of ``tasks``).
    """
    own = np.arange(tasks.first[task], tasks.first[task + 1])
    over = own[tasks.ended[own] <= at]
    bad = over[tasks.failed[over]]
    said = []
    for field, names in (("site", tasks.site), ("host", tasks.host)) if len(bad) > 1 else ():
        ended, failing = Counter(names[over]), Counter(names[bad])
        for name, count in failing.most_common(NAMED):
            if name and count > 1 and count > 0.5 * ended[name]:
                said.append(f"{field} {name}: {count} of {ended[name]} jobs failed")
    begun = {
        job: tasks.started[job] if tasks.started[job] <= at else tasks.submitted[job]
        for job in most
    }
    late = sorted(
        (job for job in most if at - begun[job] > 2 * most[job]), key=lambda job: begun[job]
    )
    for site, count in Counter(tasks.site[late]).most_common(1) if late else ():
        if count > 1:
            said.append(f"{site or 'an unknown site'}: {count} jobs are overdue there")
    for job in late[:NAMED]:
        doing = "has run" if tasks.started[job] <= at else "has waited"
        said.append(
            f"job {tasks.job_ids[job]} {doing} for {(at - begun[job]) / 3600:.1f} h, longer than foreseen"
        )
    return said
