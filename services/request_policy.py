"""Common rules of adapters: from a prediction and a job's own request to the requests to write.

Python 3.8 and its standard library are enough: a site copies this file beside its adapters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import ceil, isfinite

MODES = ("off", "observe", "suggest", "act")
ANY = "*"
MIB = 1 << 20
MINUTE = 60
MARGIN = 1.25
"""Factor on what one job in a hundred exceeds, or on the longest recent one where that is more."""
LEAST_GAIN = 10
"""Percent of a request that the first rung saves at least, or the request is not replaced."""
RUNGS = ("peak_memory_allocation", "peak_memory_allocation_2", "peak_memory_allocation_3")
OWN_LEVELS = ("job", "program")
"""Rows of the local table that count the jobs of one user's program."""


@dataclass(frozen=True)
class RequestPolicy:
    """Whose requests are written, and within what.

    Attributes:
        mode: off; observe notes for administrators what would be written; suggest tells the user
            too; act writes it.
        users: Users whose jobs are covered; ``*`` for any, as is an empty list beside another one.
        programs: Programs (names of jobs in Slurm), likewise.
        queues: Queues (partitions in Slurm), likewise.
        least_jobs: A prediction must rest on so many jobs.
        least_memory: Bytes that are written at least, or the request where that is less.
        least_walltime: Seconds, likewise.
        above_request: Whether more than the job requested may be written, and a request for a job
            that has none.
    """

    mode: str = "off"
    users: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    least_jobs: int = 5
    least_memory: int = 256 * MIB
    least_walltime: int = 10 * MINUTE
    above_request: bool = False

    def covers(self, job: JobRequest) -> bool:
        """Whether the lists name a job: its user, program and queue; never without any list."""
        lists = ((self.users, job.user), (self.programs, job.program), (self.queues, job.queue))
        return any(names for names, _ in lists) and all(
            ANY in names or name in names for names, name in lists if names
        )

    def cells(self) -> list[str]:
        """The policy as cells ``name=value`` of the local table's first line.

        >>> RequestPolicy("act", users=("ann", "bob")).cells()[:3]
        ['mode=act', 'users=ann,bob', 'programs=']
        """
        return [
            f"{name}={','.join(value) if isinstance(value, tuple) else f'{value:d}'}"
            if name != "mode"
            else f"mode={value}"
            for name, value in asdict(self).items()
        ]

    @staticmethod
    def parse(cells: Iterable[str]) -> RequestPolicy:
        """Read cells of the table's first line; off where any of them is missing or unreadable.

        >>> RequestPolicy.parse(RequestPolicy("act", users=("ann",)).cells()).users
        ('ann',)
        >>> RequestPolicy.parse(["mode=act", "users=*"]).mode
        'off'
        """
        texts = {name: text for name, _, text in (cell.partition("=") for cell in cells)}
        try:
            values: dict[str, object] = {"mode": texts["mode"]}
            for name in ("users", "programs", "queues"):
                values[name] = tuple(item for item in texts[name].split(",") if item)
            for name in ("least_jobs", "least_memory", "least_walltime"):
                values[name] = int(texts[name])
            values["above_request"] = bool(int(texts["above_request"]))
        except (KeyError, ValueError):
            return RequestPolicy()
        if values["mode"] not in MODES:
            return RequestPolicy()
        return RequestPolicy(**values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class JobRequest:
    """A submission: whose it is and what it requests, None for nothing.

    Attributes:
        memory: Bytes of the whole job.
        walltime: The time limit, s.
        can_retry: Whether the job may be run again after it was killed for its memory or limit.
    """

    user: str | None
    program: str | None
    queue: str | None = None
    memory: float | None = None
    walltime: float | None = None
    can_retry: bool = True


@dataclass(frozen=True)
class RequestPlan:
    """The requests of a job: first, and after each failure for their lack.

    Attributes:
        mode: Of the policy; off for a job that no list covers. Only act changes the job.
        memory: Bytes of the whole job, whole MiB, rising; empty: unchanged.
        walltime: Time limits in s, whole minutes, rising; empty: unchanged.
        reason: In words; empty where the mode is off.
    """

    mode: str = "off"
    memory: tuple[int, ...] = ()
    walltime: tuple[int, ...] = ()
    reason: str = ""


def plan_requests(
    policy: RequestPolicy,
    row: Mapping[str, object] | None,
    job: JobRequest,
    is_fresh: bool = True,
    levels: Iterable[str] = OWN_LEVELS,
) -> RequestPlan:
    """Decide what to write for a job.

    Args:
        policy: Of the site.
        row: The prediction: numbers by the local table's columns, with ``level``; None for none.
        job: The submission.
        is_fresh: Whether the table is recent enough to act upon.
        levels: Levels of the table whose rows count jobs that are alike.

    Returns:
        The plan: without rungs wherever anything is missing, new or stale.

    >>> row = {"level": "job", "jobs": 40, "new": 0, "peak_memory_allocation": 5e8,
    ...        "peak_memory_allocation_2": 9e8, "walltime_kill_limit": 1400.0, "longest": 900.0}
    >>> ann = JobRequest("ann", "sim", memory=4 << 30, walltime=7200)
    >>> plan = plan_requests(RequestPolicy("act", users=("ann",)), row, ann)
    >>> plan.reason
    'requests memory 477, 859, 4096 MiB, time 30, 120 min after 40 jobs'
    >>> [rung / MIB for rung in plan.memory], plan.walltime
    ([477.0, 859.0, 4096.0], (1800, 7200))
    """
    if policy.mode not in MODES[1:] or not policy.covers(job):
        return RequestPlan()
    numbers = _numbers(row or {})
    jobs = int(numbers.get("jobs", 0))
    reason = ""
    if row is None:
        reason = "no prediction"
    elif not is_fresh:
        reason = "stale prediction"
    elif str(row.get("level")) not in levels:
        reason = f"predicted by {row.get('level')} only"
    elif numbers.get("new", 1):
        reason = "new user" if job.user and row.get("level") in OWN_LEVELS else "no history"
    elif jobs < policy.least_jobs:
        reason = f"{jobs} such jobs, {policy.least_jobs} needed"
    elif not job.can_retry:
        reason = "may not run again"
    if reason:
        return RequestPlan(policy.mode, reason=f"requests unchanged: {reason}")
    memory = _rungs(
        [numbers[name] for name in RUNGS if name in numbers],
        job.memory,
        policy.least_memory,
        MIB,
        policy.above_request,
    )
    limits = [numbers[name] * MARGIN for name in ("walltime_kill_limit",) if name in numbers]
    limits = [max(limit, numbers.get("longest", 0.0) * MARGIN) for limit in limits]
    walltime = _rungs(limits, job.walltime, policy.least_walltime, MINUTE, policy.above_request)
    if not memory and not walltime:
        is_bare = job.memory is None and job.walltime is None and not policy.above_request
        reason = "it requests nothing" if is_bare else f"less than {LEAST_GAIN} % would be saved"
        return RequestPlan(policy.mode, reason=f"requests unchanged: {reason}")
    parts = [
        f"{name} {', '.join(str(rung // size) for rung in rungs)} {unit}"
        for name, rungs, size, unit in (
            ("memory", memory, MIB, "MiB"),
            ("time", walltime, MINUTE, "min"),
        )
        if rungs
    ]
    verb = "requests" if policy.mode == "act" else "would request"
    reason = f"{verb} {', '.join(parts)} after {jobs} jobs"
    return RequestPlan(policy.mode, memory, walltime, reason)


def _rungs(
    predicted: list[float], request: float | None, least: int, step: int, above_request: bool
) -> tuple[int, ...]:
    """The rungs in whole steps, rising; the last is the request wherever there is one.

    Args:
        predicted: The predicted rungs.
        request: The job's own, None for none.
        least: The floor; the request where that is less.
        step: The unit of which rungs are multiples.
        above_request: Whether rungs above the request, or without one, are allowed.
    """
    floor = least if request is None else min(least, request)
    rungs = sorted({ceil(max(rung, floor) / step) * step for rung in predicted})
    if request is None:
        return tuple(rungs) if above_request else ()
    below = [rung for rung in rungs if rung < request]
    if above_request and max(predicted, default=0) > request:
        return tuple(rungs)
    is_worth_it = below and 100 * below[0] <= (100 - LEAST_GAIN) * request
    return (*below, int(request)) if is_worth_it else ()


def _numbers(row: Mapping[str, object]) -> dict[str, float]:
    """The finite numbers of a row that are not negative."""
    numbers = {name: float(value) for name, value in row.items() if isinstance(value, (int, float))}
    return {name: value for name, value in numbers.items() if isfinite(value) and value >= 0}
