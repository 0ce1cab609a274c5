"""What a trial found, and the rows that sum it up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Floats, Integers
from models.evaluation.allocation_backtest import AllocationBacktest
from models.evaluation.backtest import OURS, Evaluation
from scheduling.outcome import Replay
from trial.advice import Winners
from trial.claims import CHECK, SHARES, Claim, Windows
from trial.limits import LimitSetting, TimeLimits

Row = dict[str, Any]

MAX_JOBS = 250_000
"""Of a longer log the latest jobs are judged."""
NAMES = {"walltime": "run time", "peak_memory": "peak memory", "wait": "wait in the queue"}
"""The targets of a trial in plain words."""
HOUR, GIB = 3600.0, 2.0**30
MONTH = pd.Timedelta(days=30)
MAX_REPLAYED_JOBS = 40_000
"""Of a longer check window the latest jobs are replayed."""
COST_HOW = "Walltime × cores of each job, or memory × run time, summed over jobs that report both."
AT_REQUEST = {
    "at_request": (
        "jobs that ran to their requested walltime or past it, without Gridcast",
        "Recorded run time at least the requested walltime: killed at it, or never stopped.",
    ),
    "limit_is_request": (
        "jobs whose time limit from Gridcast equals their request",
        "No shorter limit was safe enough, or no job of their owner had ended.",
    ),
}
"""What the counts of ``savings`` are as shares of jobs, and how they are come by."""


@dataclass(frozen=True)
class Judged:
    """A target's backtest: ``rows`` are the positions of its jobs, ``best_rule`` the simple rule
    of least mean error on the first 70 % of the log, ``accuracy`` a row a predictor."""

    evaluation: Evaluation
    rows: Integers
    best_rule: str
    accuracy: list[Row]


@dataclass(frozen=True)
class LimitStudy:
    """Time limits of the jobs at ``rows``, and their setting."""

    setting: LimitSetting
    rows: Integers
    limits: TimeLimits


@dataclass(frozen=True)
class MemoryStudy:
    """Memory requests of jobs: the backtest; ``assumed`` where no job states a request."""

    backtest: AllocationBacktest
    assumed: bool


@dataclass(frozen=True)
class WaitStudy:
    """Replays with the site's own requests and with Gridcast's limits, and the recorded waits."""

    before: Replay
    after: Replay
    recorded: Floats | None
    sampled_of: int


@dataclass(frozen=True)
class Trial:
    """All that a page shows.

    Attributes:
        name: Of the log.
        jobs: The judged jobs, in order of submission.
        left_out: Jobs before these that were not judged.
        windows: The windows of the claims.
        cost: A row a resource: what the last 30 days requested and used.
        judged: By target.
        limits: None without requested walltimes.
        memory: None without memory in use.
        waits: None where no replay was possible.
        claims: Claims and what became of them.
        winners: What to ask for, by field.
        risk: The share of jobs that may outlive their time limit, or need more than they are told
            to ask for.
        not_judged: (subject, jobs, why).
        seconds: How long the trial took.
    """

    name: str
    jobs: pd.DataFrame
    left_out: int
    windows: Windows
    cost: list[Row]
    judged: dict[str, Judged]
    limits: LimitStudy | None
    memory: MemoryStudy | None
    waits: WaitStudy | None
    claims: list[Claim]
    winners: list[Winners]
    risk: float
    not_judged: list[tuple[str, int, str]] = field(default_factory=list)
    seconds: float = 0.0


def within_range(frame: pd.DataFrame) -> Floats:
    """1 where the outcome is within the 90 % range, else 0 (float64[n])."""
    within = frame["actual"].between(frame["low"], frame["high"])
    return np.asarray(within, dtype=np.float64)


def cores_of(jobs: pd.DataFrame) -> Floats:
    """The cores of each job, at least 1 (float64[n])."""
    cores = jobs["requested_cores"].fillna(jobs["cores"]).fillna(1.0)
    return np.maximum(cores.to_numpy(np.float64), 1.0)


def savings(trial: Trial, window: str = CHECK) -> list[Row]:
    """What the check window would have saved, in core hours and GiB·h, and what it would lose.

    A row also counts the jobs that ran to their request or past it (``at_request``, without
    Gridcast), and those whose limit equals it (``limit_is_request``); None of memory.
    """
    rows: list[Row] = []
    if trial.limits:
        inside = trial.windows.contains(window, trial.limits.rows)
        limits = trial.limits.limits
        of_log = trial.jobs.iloc[trial.limits.rows[inside]]
        request, walltime = (
            of_log[name].to_numpy(np.float64) for name in ("requested_walltime", "walltime")
        )
        rows.append(
            {
                "resource": "core hours",
                "jobs": int(inside.sum()),
                "requested": float(limits.requested[inside].sum()),
                "with_gridcast": float(limits.written[inside].sum()),
                "killed_or_retried": int(limits.killed[inside].sum()),
                "lost": float(limits.lost[inside].sum()),
                "at_request": int((walltime >= request).sum()),
                "limit_is_request": int((limits.limit[inside] >= request).sum()),
            }
        )
    if trial.memory:
        backtest = trial.memory.backtest
        inside = trial.windows.contains(window, backtest.rows)
        in_use = backtest.used[inside].sum()
        rows.append(
            {
                "resource": "GiB·h",
                "jobs": int(inside.sum()),
                "requested": float(backtest.waste["request"][inside].sum() + in_use),
                "with_gridcast": float(backtest.waste[OURS][inside].sum() + in_use),
                "killed_or_retried": int((backtest.failures[OURS][inside] > 0).sum()),
                "lost": None,
                "at_request": None,
                "limit_is_request": None,
            }
        )
    return rows


def check_since(trial: Trial) -> pd.Timestamp:
    """When the first job of the check window was submitted."""
    first: pd.Timestamp = trial.jobs["submitted_at"].iloc[int(len(trial.jobs) * SHARES[CHECK][0])]
    return first


def rows_of(trial: Trial) -> Sequence[Row]:
    """The rows of ``--json``: costs, claims, killed shares and replayed waits, of the same keys."""
    last = trial.jobs["submitted_at"].iloc[-1]
    month, check = (
        f"{name}, submitted from {since:%Y-%m-%d} to {last:%Y-%m-%d}"
        for name, since in (
            ("last 30 days", max(last - MONTH, trial.jobs["submitted_at"].iloc[0])),
            ("last 30 % of the jobs", check_since(trial)),
        )
    )
    rows: list[Row] = []

    def add(title: str, value: float, unit: str, jobs: int, how: str, window: str = check) -> None:
        rows.append(Claim(title, unit, how, None, value, None, None, jobs=jobs).row(window))

    for cost in trial.cost:
        for name in ("requested", "used"):
            if cost[name] is not None:
                title = f"{cost['resource']} {name} by the jobs of the last 30 days"
                add(title, cost[name], cost["unit"], cost["jobs"], COST_HOW, month)
    rows += [claim.row(check) for claim in trial.claims]
    for saving in savings(trial):
        label, how = (
            "that Gridcast's time limit kills earlier than their request would",
            "Run time longer than the limit, and the limit shorter than the request.",
        )
        if saving["resource"] == "GiB·h":
            label = "over Gridcast's first memory request, run again"
            how = "Peak memory larger than the first rung of the retry ladder."
        count = max(saving["jobs"], 1)
        share = saving["killed_or_retried"] / count
        add(f"jobs {label}", share, "share of jobs", saving["jobs"], how)
        for name, (title, how) in AT_REQUEST.items():
            if saving[name] is not None:
                add(title, saving[name] / count, "share of jobs", saving["jobs"], how)
    if trial.waits:
        study = trial.waits
        for label, values in (
            ("recorded", study.recorded),
            ("replayed with the site's requests", study.before.waits),
            ("replayed with Gridcast's time limits", study.after.waits),
        ):
            if values is not None:
                how = "Start less submission, as recorded."
                if label != "recorded":
                    how = f"EASY backfilling on {study.before.machine.processors:,} processors."
                add(f"mean wait, {label}", float(values.mean()), "s", len(values), how)
    return rows
