"""What users, programs and queues should request: where most is to be won."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from monitoring.advice_calibration import MIN_JOBS
from monitoring.advising import larger
from trial.limits import STEP

MOST = 10
FIELDS = ("user", "program", "queue", "group", "project", "site")
"""Of these the first three that tell jobs apart have a table each."""
TABLES = 3
HOUR, MIB = 3600.0, 2.0**20
ADVISED = ("walltime", "peak_memory")
LEAST_SHARE = 0.01
"""A value with less of what is unused in all is not where most is to be won."""
KILLED = {"walltime": "timeout", "peak_memory": "out_of_memory"}


@dataclass(frozen=True)
class Winners:
    """The values of a field with most to be won in the last 30 days, a row each."""

    field: str
    rows: list[dict[str, Any]]


def winners(
    jobs: pd.DataFrame, of_jobs: pd.DataFrame, risk: float, since: pd.Timestamp
) -> list[Winners]:
    """Find where most is to be won.

    Args:
        jobs: The log.
        of_jobs: Under the same index: the predicted walltime (s) and peak_memory (bytes),
            unused_hours, saved_hours (core hours), waste_gibh and saved_gibh (GiB·h); NaN where
            a job was not judged.
        risk: The accepted share of jobs that need more than is advised.
        since: Jobs submitted from then on count.
    """
    recent = jobs["submitted_at"] >= since
    jobs, of_jobs = jobs[recent], of_jobs[recent]
    totals = of_jobs.clip(lower=0).sum().replace(0.0, np.inf)
    saved, unused = ["saved_hours", "saved_gibh"], ["unused_hours", "waste_gibh"]
    tables = list[Winners]()
    for field in FIELDS:
        if jobs[field].nunique() < 2 or len(tables) == TABLES:
            continue
        rows = []
        for value, group in of_jobs.groupby(jobs[field], observed=True):
            sums = group[["unused_hours", "saved_hours", "waste_gibh", "saved_gibh"]].sum()
            share = float((sums[saved] / totals[saved]).sum())
            of_waste = float((sums[unused] / totals[unused]).max())
            if len(group) >= MIN_JOBS and share > 0 and of_waste >= LEAST_SHARE:
                rows.append((share, str(value), group, sums))
        rows.sort(key=lambda row: -row[0])
        best = [_row(field, *row[1:], jobs.loc[row[2].index], risk) for row in rows[:MOST]]
        if best:
            tables.append(Winners(field, best))
    return tables


def _row(
    field: str, value: str, group: pd.DataFrame, sums: Any, jobs: pd.DataFrame, risk: float
) -> dict[str, Any]:
    time = _ask_for(jobs, "walltime", group["walltime"], risk, STEP)
    memory = _ask_for(jobs, "peak_memory", group["peak_memory"], risk, 64 * MIB)
    return {
        field: value,
        "jobs": len(group),
        **{name: float(total) for name, total in sums.items()},
        **{f"time_{name}": number for name, number in time.items()},
        **{f"memory_{name}": number for name, number in memory.items()},
    }


def _ask_for(
    jobs: pd.DataFrame, target: str, predicted: pd.Series[float], risk: float, step: float
) -> dict[str, Any]:
    """What was requested (median) and used (95 %), and what to ask for; None where unknown.

    The larger of the median prediction and of what all but ``risk`` of the jobs used; None where
    that is no less than the request, or more jobs than ``risk`` were killed at it.
    """
    request = jobs["requested_memory" if target == "peak_memory" else "requested_walltime"]
    used, advised = jobs[target].dropna(), None
    if len(used) >= MIN_JOBS and predicted.notna().any():
        value = larger(float(predicted.median()), used, risk)
        step = step if target == "peak_memory" or value < 2 * HOUR else HOUR
        value = float(np.ceil(value / step) * step)
        killed = float((jobs["status"] == KILLED[target]).mean())
        if not value >= request.median() and killed <= risk:
            advised = value
    requested = float(request.median()) if request.notna().any() else None
    return {
        "requested": requested,
        "used_95": float(used.quantile(0.95)) if len(used) else None,
        "ask_for": advised,
    }
