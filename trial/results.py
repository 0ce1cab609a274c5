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
from trial.claims import CHECK, Claim, Windows
from trial.limits import LimitSetting, TimeLimits

Row = dict[str, Any]

MAX_JOBS = 250_000
"""Of a longer log the latest jobs are judged."""
NAMES = {"walltime": "run time", "peak_memory": "peak memory", "wait": "wait in the queue"}
"""The targets of a trial in plain words."""
HOUR, GIB = 3600.0, 2.0**30


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
    """Time limits of the jobs at ``rows``, their setting, and the killed share aimed at."""

    setting: LimitSetting
    risk: float
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
        risk: The share of jobs that may need more than they are told to ask for.
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
    """What the check window would have saved, in core hours and GiB·h, and what it would lose."""
    rows: list[Row] = []
    if trial.limits:
        inside = trial.windows.contains(window, trial.limits.rows)
        limits = trial.limits.limits
        rows.append(
            {
                "resource": "core hours",
                "jobs": int(inside.sum()),
                "requested": float(limits.requested[inside].sum()),
                "with_gridcast": float(limits.written[inside].sum()),
                "killed_or_retried": int(limits.killed[inside].sum()),
                "lost": float(limits.lost[inside].sum()),
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
            }
        )
    return rows


def rows_of(trial: Trial) -> Sequence[Row]:
    """The rows of ``--json``: costs, claims, killed shares and replayed waits."""
    blank = {"claimed": None, "low": None, "high": None}
    rows: list[Row] = []
    for cost in trial.cost:
        for name in ("requested", "used"):
            if cost["jobs"]:
                label = f"{cost['resource']} {name} by the jobs of the last 30 days"
                rows.append(
                    {"what": label, **blank, "realised": cost[name], "unit": cost["unit"]}
                    | {"jobs": cost["jobs"]}
                )
    rows += [claim.row() for claim in trial.claims]
    for saving in savings(trial):
        label = "killed at Gridcast's time limit"
        if saving["resource"] == "GiB·h":
            label = "over Gridcast's first memory request, run again"
        share = saving["killed_or_retried"] / max(saving["jobs"], 1)
        rows.append(
            {"what": f"jobs {label}", **blank, "realised": share, "unit": "share of jobs"}
            | {"jobs": saving["jobs"]}
        )
    if trial.waits:
        study = trial.waits
        for label, values in (
            ("recorded", study.recorded),
            ("replayed with the site's requests", study.before.waits),
            ("replayed with Gridcast's time limits", study.after.waits),
        ):
            if values is not None:
                rows.append(
                    {"what": f"mean wait, {label}", **blank, "realised": float(values.mean())}
                    | {"unit": "s", "jobs": len(values)}
                )
    return rows
