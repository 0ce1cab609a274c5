"""Advice to people: what a user's, group's or program's jobs asked for against what they used, and what to ask for instead.

What to ask for is the larger of what is foreseen for the next such job and of what so many of the jobs looked at kept to, at a risk that
the reader chooses: what is foreseen for one job is too little for a month of them (docs/sites.md). Beside it stands how many of the jobs
looked at needed more, and how many were killed at their limit, of which nobody knows how long they would have run. Records that cannot be
right are counted and left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.errors import InputError
from jobs.store import read_jobs

if TYPE_CHECKING:
    from sqlalchemy import Engine

WHO = ("user", "group", "project", "program", "job_name")
"""What a name may be the name of, in the order in which it is looked for."""
FEWEST = 5
"""Fewer jobs of a kind than this say nothing."""
MOST_KINDS = 20
SPARE_CPU, SPARE_TIME = 1.2, 2.0
"""A job cannot use more CPU time than its cores have, nor run twice as long as it may; this much is put down to rounding and grace."""
LIMIT_BROKEN = 0.05
"""Where more jobs than this ran beyond their limit it is none, and no sign of a wrong record."""
NEAR = 0.9
"""What is foreseen of jobs that were killed at their limit lies so near it."""
REQUESTS = ("requested_cores", "requested_walltime", "requested_memory")
KIND = ("source", "user", "group", "project", "program", "job_name", "queue", "site", *REQUESTS)
GIB = 2.0**30

Ask = Callable[[list[dict[str, Any]], Iterable[float]], list[dict[str, Any]]]
"""Asks for predictions of jobs that are only thought of, with further quantiles."""


@dataclass(frozen=True)
class UsageAdvice:
    """Advice for the jobs ``having`` a value that were submitted from ``since`` to ``until``: a row a program and what
    it asked for, the greatest waste first; how many ``jobs`` it is from, and how many were ``left_out``, by why."""

    having: dict[str, str]
    since: datetime
    until: datetime
    jobs: int
    left_out: dict[str, int]
    rows: list[dict[str, Any]]


def advise(
    engine: Engine,
    ask: Ask,
    name: str,
    since: datetime,
    until: datetime,
    *,
    by: str | None = None,
    risk: float = 0.01,
) -> UsageAdvice:
    """Advise whoever or whatever is called ``name``, taken for the first of WHO that has jobs, or for ``by``.

    Raises InputError where nothing of that name was submitted in that time.
    """
    for who in (by,) if by else WHO:
        found = read_jobs(engine, since=since, until=until, ended=True, having={who: name})
        if len(found):
            jobs, left_out = plausible_jobs(found)
            return UsageAdvice(
                {who: name}, since, until, len(jobs), left_out, _rows(jobs, ask, risk)
            )
    raise InputError(
        f"no job of a {by or 'user, group, project or program'} called {name} that was submitted in that time has ended"
    )


def plausible_jobs(jobs: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """The jobs that tell what was used, and how many others there are, by why; each counts once."""
    walltime, cores = jobs["walltime"], jobs["cores"].fillna(jobs["requested_cores"]).fillna(1.0)
    beyond = walltime > SPARE_TIME * jobs["requested_walltime"] + 600
    faults = {
        "cancelled before they ran": (jobs["status"] == "cancelled") & ~(walltime > 0),
        "without a run time": walltime.isna(),
        "with more CPU time than their cores have": jobs["cpu_time"]
        > SPARE_CPU * walltime * cores + 60,
        "that ran twice as long as they might": beyond & (beyond.mean() <= LIMIT_BROKEN),
        "with no memory in use": jobs["peak_memory"] == 0,
    }
    left_out, good = {}, pd.Series(True, index=jobs.index)
    for why, wrong in faults.items():
        left_out[why] = int((wrong & good).sum())
        good &= ~wrong
    return jobs[good], {why: count for why, count in left_out.items() if count}


def most_wasteful_users(
    engine: Engine, since: datetime, until: datetime, most: int = 10
) -> list[str]:
    """The users whose sound jobs left most core hours unused of what they asked for, the most wasteful first."""
    columns = [
        "user",
        "status",
        "walltime",
        "cores",
        "requested_cores",
        "requested_walltime",
        "cpu_time",
        "peak_memory",
    ]
    jobs, _ = plausible_jobs(
        read_jobs(engine, since=since, until=until, ended=True, columns=columns)
    )
    unused = _unused(jobs).groupby(jobs["user"]).sum().sort_values(ascending=False, kind="stable")
    return [str(user) for user in unused[unused > 0].index[:most]]


def _unused(jobs: pd.DataFrame) -> pd.Series:
    """Core hours asked for and not used, 0 where nothing was asked for."""
    cores = jobs["requested_cores"].fillna(jobs["cores"]).fillna(1.0)
    return ((jobs["requested_walltime"] - jobs["walltime"]).clip(lower=0) * cores / 3600).fillna(
        0.0
    )


def _rows(jobs: pd.DataFrame, ask: Ask, risk: float) -> list[dict[str, Any]]:
    name = jobs["program"].fillna(jobs["job_name"]).fillna("–")
    # Who asks for more time mostly needs more: jobs that asked for different times are not alike.
    alike = jobs.groupby(
        [name, jobs["requested_cores"].fillna(1.0), jobs["requested_walltime"].fillna(0.0)],
        sort=True,
    )
    kinds = [part for _, part in alike if len(part) >= FEWEST]
    kinds = sorted(kinds, key=lambda part: -float(_unused(part).sum()))[:MOST_KINDS]
    answers = ask([next_job(part) for part in kinds], (round(1 - risk, 6),)) if kinds else []
    return [_row(part, answer, risk) for part, answer in zip(kinds, answers, strict=True)]


def next_job(jobs: pd.DataFrame) -> dict[str, Any]:
    """The next job of a kind, as the latest was submitted."""
    latest = jobs.iloc[-1]
    return {name: latest[name] for name in KIND if pd.notna(latest[name])}


def _row(jobs: pd.DataFrame, answer: dict[str, Any], risk: float) -> dict[str, Any]:
    latest, unused, foreseen = jobs.iloc[-1], _unused(jobs), answer.get(f"walltime_q{1 - risk:g}")
    ask_for = None if foreseen is None else larger(foreseen, jobs["walltime"], risk)
    row = {
        "program": str(latest["program"] if pd.notna(latest["program"]) else latest["job_name"]),
        "cores": float(latest["requested_cores"]) if pd.notna(latest["requested_cores"]) else 1.0,
        "jobs": len(jobs),
        "killed_at_limit": int((jobs["status"] == "timeout").sum()),
        "unused_core_hours": round(float(unused.sum()), 1),
        **_asked_and_used(jobs, "walltime", "requested_walltime"),
        **_advice(jobs, "walltime", ask_for, answer, risk, 60.0),
    }
    if answer.get("peak_memory_allocation") is not None:
        told = answer.get("peak_memory_risk")
        row |= {"killed_for_memory": int((jobs["status"] == "out_of_memory").sum())}
        row |= _asked_and_used(jobs, "peak_memory", "requested_memory")
        row |= _advice(
            jobs,
            "peak_memory",
            answer["peak_memory_allocation"],
            answer,
            float("nan") if told is None else told,
            2.0**20,
        )
    return row


def larger(foreseen: float, used: pd.Series, risk: float) -> float:
    """The larger of what is foreseen and of what all but ``risk`` of the jobs kept to, of few jobs the longest."""
    place = min(math.ceil((len(used) + 1) * (1 - risk)), len(used)) - 1
    return max(foreseen, float(used.sort_values().iloc[place]))


def _asked_and_used(jobs: pd.DataFrame, target: str, asked: str) -> dict[str, float]:
    used = jobs[target].dropna()
    quantiles = used.quantile([0.5, 0.95]).tolist() if len(used) else [float("nan")] * 2
    return {
        f"{target}_asked": float(jobs[asked].median()),
        f"{target}_used": quantiles[0],
        f"{target}_used_95": quantiles[1],
    }


def _advice(
    jobs: pd.DataFrame,
    target: str,
    value: float | None,
    answer: dict[str, Any],
    risk: float,
    unit: float,
) -> dict[str, Any]:
    """What to ask for, in whole units, its range and risk, and the share of the jobs looked at that used more."""
    if value is None:
        return {}
    whole, used = float(np.ceil(value / unit) * unit), jobs[target].dropna()
    told = {
        "ask_for": whole,
        "low": answer[f"{target}_low"],
        "high": answer[f"{target}_high"],
        "risk": risk,
    }
    return {f"{target}_{name}": number for name, number in told.items()} | {
        f"{target}_more": float((used > whole).mean())
    }


def sentences(advised: UsageAdvice, zone: str) -> list[str]:
    """The advice as a person reads it, with the time zone of its times."""
    begin, end = (
        pd.Timestamp(moment).tz_convert(zone) for moment in (advised.since, advised.until)
    )
    (who, name), counted = (
        next(iter(advised.having.items())),
        [f"{count} {why}" for why, count in advised.left_out.items()],
    )
    said = [
        f"{who} {name}: {advised.jobs} jobs submitted from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} ({zone})."
    ]
    said += [f"Left out: {', '.join(counted)}."] if counted else []
    for row in advised.rows:
        said.append(
            f"{row['program']} on {row['cores']:g} cores, {row['jobs']} jobs: asked for {_time(row['walltime_asked'])}, used"
            f" {_time(row['walltime_used'])} (95 %: {_time(row['walltime_used_95'])}); {row['killed_at_limit']} killed at the limit."
            + _ask_for(row, "walltime", _time)
        )
        if "peak_memory_ask_for" in row:
            said.append(
                f"  memory: asked for {_size(row['peak_memory_asked'])}, used {_size(row['peak_memory_used'])}"
                f" (95 %: {_size(row['peak_memory_used_95'])}); {row['killed_for_memory']} killed for it."
                + _ask_for(row, "peak_memory", _size)
            )
    return said if advised.rows else [*said, f"No program has the {FEWEST} jobs that advice needs."]


def _ask_for(row: dict[str, Any], target: str, text: Callable[[float], str]) -> str:
    if f"{target}_ask_for" not in row:
        return ""
    value, asked, risk = row[f"{target}_ask_for"], row[f"{target}_asked"], row[f"{target}_risk"]
    killed = row["killed_at_limit" if target == "walltime" else "killed_for_memory"] / row["jobs"]
    if killed > (risk if risk == risk else 0.0) and value >= NEAR * asked:
        # What is foreseen ends where the jobs were ended.
        return f" Ask for more than {text(asked)}: how much those that were killed would have needed, nobody knows."
    verb = "Ask for" if not value >= asked else "Keep to what you ask for, or"
    foreseen = (
        f"nine of ten will need {text(row[f'{target}_low'])} to {text(row[f'{target}_high'])}"
    )
    more = f"of these jobs {row[f'{target}_more']:.1%} needed more"
    return (
        f" {verb} {text(value)}: {foreseen}"
        + (f", the risk of too little is {risk:.1%}" if risk == risk else "")
        + f"; {more}."
    )


def _time(seconds: float) -> str:
    if not np.isfinite(seconds):
        return "nothing"
    hours, minutes = divmod(round(seconds / 60), 60)
    return (
        f"{hours} h {minutes:02d} min"
        if hours
        else f"{minutes} min"
        if seconds >= 60
        else f"{seconds:.0f} s"
    )


def _size(size: float) -> str:
    return f"{size / GIB:.3g} GiB" if np.isfinite(size) else "nothing"
