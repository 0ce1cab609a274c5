"""Advice to people: what jobs requested against what they used, and what to request instead.

The advice is the largest of the prediction for the next such job, of what all but a chosen share of
the past jobs kept to, and of the amount that past advice shows to be needed for that share to keep
to it for a month (advice_calibration.py, docs/benchmarks/advice.md). It comes with the numbers of
past jobs that needed more, and of those killed at their limit, whose need is unknown. A job that
was killed for its memory or time and ran again needed more than that attempt had requested.
Implausible records are counted and left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.aliases import Array
from infra.errors import InputError
from jobs.coded_jobs import in_microseconds
from jobs.labels import parse_labels
from jobs.owners import Owners, select_owned
from jobs.store import read_attempts, read_jobs, read_newest
from models.quantities.subjects import JOBS
from monitoring.advice_calibration import (
    FIELDS,
    HISTORY,
    MIN_JOBS,
    NO_PROGRAM,
    OTHER_PROGRAMS,
    REQUESTS,
    UNITS,
    Kinds,
    advised_amounts,
    later_needs,
    least_jobs,
    limits_of_queues,
)

if TYPE_CHECKING:
    from sqlalchemy import Engine

NAME_FIELDS = ("user", "group", "project", "program", "job_name")
"""What a name may be the name of, in the order in which it is looked for."""
MAX_ROWS = 20
SITE_JOBS = 200_000
"""The site's jobs from which advice is calibrated, the latest."""
CPU_TOLERANCE, TIME_TOLERANCE = 1.2, 2.0
"""Factors on what cores can compute and on the requested time, for rounding and grace periods."""
UNENFORCED_SHARE = 0.05
"""Where more jobs ran beyond their limit it is not enforced, and no sign of a wrong record."""
NEAR_LIMIT = 0.9
"""Predictions for jobs that were killed at their limit lie this near to it."""
QUERY_FIELDS = (
    *("source", "user", "group", "project", "program", "job_name", "queue", "site"),
    *("requested_cores", *REQUESTS.values()),
    *JOBS.optional,
    "labels",
)
USE_FIELDS = (
    *("user", "status", "walltime", "cores", "requested_cores", "requested_walltime"),
    *("cpu_time", "peak_memory"),
)
KILLED = {
    "walltime": ("timeout", "requested_walltime"),
    "peak_memory": ("out_of_memory", "requested_memory"),
}
"""The status of a run that was killed for want of a target, and the request that was too small."""
GIB = 2.0**30

Predict = Callable[[list[dict[str, Any]], Iterable[float]], list[dict[str, Any]]]
"""Predicts jobs that are not recorded, with further quantiles."""


@dataclass(frozen=True)
class UsageAdvice:
    """Advice about the jobs ``having`` a value that were submitted from ``since`` to ``until``.

    ``rows`` has one row a program and request, the greatest waste first; ``jobs`` is how many it
    is from, ``left_out`` how many were not used, by the reason.
    """

    having: dict[str, str]
    since: datetime
    until: datetime
    jobs: int
    left_out: dict[str, int]
    rows: list[dict[str, Any]]


def advise(
    engine: Engine,
    predict: Predict,
    name: str,
    since: datetime,
    until: datetime,
    *,
    by: str | None = None,
    risk: float = 0.01,
    owners: Owners | None = None,
) -> UsageAdvice:
    """Advise the user, group, project or program of a name.

    Args:
        engine: The store.
        predict: Predicts the next jobs.
        name: The name.
        since: The first submission.
        until: The end of the submissions.
        by: What the name is the name of; by default the first of NAME_FIELDS that has jobs.
        risk: The share of jobs that may need more time, or more memory.
        owners: By whose jobs; None: everybody's.

    Raises:
        InputError: No such job was submitted in that time and has ended.
    """
    for field in (by,) if by else NAME_FIELDS:
        begin = min(since, until - timedelta(microseconds=HISTORY))
        jobs = read_jobs(engine, since=begin, until=until, ended=True, having={field: name})
        jobs = select_owned(jobs[jobs["ended_at"] <= until], owners)
        is_recent = jobs["submitted_at"] >= since
        if is_recent.any():
            recent, left_out = plausible_jobs(jobs[is_recent])
            jobs = pd.concat([plausible_jobs(jobs[~is_recent])[0], recent], ignore_index=True)
            jobs = with_needs(jobs, read_attempts(engine, jobs))
            site = site_needs(engine, tuple(sorted(jobs["source"].unique())), until)
            rows = _rows(jobs, since, until, site, predict, risk)
            return UsageAdvice({field: name}, since, until, len(recent), left_out, rows)
    kind = by or "user, group, project or program"
    for field in (by,) if by else NAME_FIELDS:
        earlier = read_jobs(engine, until=until, ended=True, having={field: name})
        earlier = select_owned(earlier, owners)
        if len(earlier):
            last = earlier["submitted_at"].max()
            days = int(np.ceil((until - last) / timedelta(days=1)))
            raise InputError(
                f"the latest ended job of the {field} {name} was submitted on {last:%Y-%m-%d}, "
                f"before {since:%Y-%m-%d}: --days {days + 28} advises by the four weeks until then"
            )
    raise InputError(
        f"no job of a {kind} called {name} has ended (gridcast jobs --list shows names)"
    )


def plausible_jobs(jobs: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Select the jobs whose records show their use; count the others once each, by the reason."""
    walltime, cores = jobs["walltime"], jobs["cores"].fillna(jobs["requested_cores"]).fillna(1.0)
    computable = CPU_TOLERANCE * walltime * cores + 60
    beyond = walltime > TIME_TOLERANCE * jobs["requested_walltime"] + 600
    faults = {
        "cancelled before they ran": (jobs["status"] == "cancelled") & ~(walltime > 0),
        "without a run time": walltime.isna(),
        "with more CPU time than their cores have": jobs["cpu_time"] > computable,
        "that ran twice as long as they might": beyond & (beyond.mean() <= UNENFORCED_SHARE),
        "with no memory in use": jobs["peak_memory"] == 0,
    }
    left_out, good = {}, pd.Series(True, index=jobs.index)
    for reason, wrong in faults.items():
        left_out[reason] = int((wrong & good).sum())
        good &= ~wrong
    return jobs[good], {reason: count for reason, count in left_out.items() if count}


def with_needs(jobs: pd.DataFrame, attempts: pd.DataFrame) -> pd.DataFrame:
    """Add what each job needed at least, and its earlier attempts.

    Args:
        jobs: Jobs that have ended.
        attempts: Their earlier attempts.

    Returns:
        The jobs with ``{target}_need`` (the outcome, or more than the request of an attempt that
        was killed for want of it), ``{target}_kills`` (such attempts) and ``attempts``.
    """
    key = ["source", "job_id"]
    identity = pd.MultiIndex.from_frame(jobs[key])

    def of_jobs(values: pd.Series) -> Array:
        return values.reindex(identity).to_numpy(float)

    columns = {"attempts": np.nan_to_num(of_jobs(attempts.groupby(key).size()))}
    for target, (status, request) in KILLED.items():
        killed = attempts[attempts["status"] == status]
        bound = killed[[target, request]].max(axis=1)
        by_job = bound.groupby([killed[name] for name in key])
        columns[f"{target}_kills"] = np.nan_to_num(of_jobs(by_job.size()))
        least = np.nextafter(of_jobs(by_job.max()), np.inf)
        columns[f"{target}_need"] = np.fmax(jobs[target], least)
    return jobs.assign(**columns)


def most_wasteful_users(
    engine: Engine, since: datetime, until: datetime, most: int = 10
) -> list[str]:
    """Rank users by the requested core hours that their plausible jobs did not use.

    Args:
        engine: The store.
        since: The first submission.
        until: The end of the submissions.
        most: How many users.
    """
    ended = read_jobs(engine, since=since, until=until, ended=True, columns=USE_FIELDS)
    jobs, _ = plausible_jobs(ended)
    unused = _unused(jobs).groupby(jobs["user"]).sum().sort_values(ascending=False, kind="stable")
    return [str(user) for user in unused[unused > 0].index[:most]]


def _unused(jobs: pd.DataFrame) -> pd.Series:
    """Requested core hours that were not used, 0 without a request."""
    cores = jobs["requested_cores"].fillna(jobs["cores"]).fillna(1.0)
    spare = (jobs["requested_walltime"] - jobs["walltime"]).clip(lower=0)
    return (spare * cores / 3600).fillna(0.0)


@lru_cache(maxsize=2)
def site_needs(
    engine: Engine, sources: tuple[str, ...], until: datetime
) -> dict[str, tuple[pd.DataFrame, pd.Series]]:
    """Measure what later jobs of the site needed, by the advice of past moments.

    Args:
        engine: The store.
        sources: The sources of the jobs.
        until: Jobs that had ended by then are used.

    Returns:
        By target the later needs, and the limits of the queues.
    """
    newest = [read_newest(engine, SITE_JOBS, source, FIELDS) for source in sources]
    jobs = pd.concat(newest, ignore_index=True)
    begin = until - timedelta(microseconds=HISTORY)
    jobs = jobs[(jobs["ended_at"] <= until) & (jobs["submitted_at"] >= begin)]
    jobs = plausible_jobs(jobs.sort_values("submitted_at", kind="stable"))[0]
    return {
        target: (
            later_needs(Kinds.of(jobs, target, by_user=True), unit),
            limits_of_queues(jobs, target),
        )
        for target, unit in UNITS.items()
    }


def _rows(
    jobs: pd.DataFrame,
    since: datetime,
    until: datetime,
    site: dict[str, tuple[pd.DataFrame, pd.Series]],
    predict: Predict,
    risk: float,
) -> list[dict[str, Any]]:
    now, first = (in_microseconds(moment) for moment in (until, since))
    coded = {
        target: Kinds.of(jobs, target, by_user=False, limits=limits)
        for target, (_, limits) in site.items()
    }
    kinds, _ = coded["walltime"].at(now, first)
    recent = jobs["submitted_at"] >= since
    # Jobs with a longer request mostly need more: different requests are not similar.
    groups: dict[Any, pd.DataFrame] = {
        kind: group for kind, group in jobs[recent].groupby(kinds[recent]) if len(group) >= MIN_JOBS
    }
    order = sorted(groups, key=lambda kind: -float(_unused(groups[kind]).sum()))[:MAX_ROWS]
    if not order:
        return []
    answers = predict([next_job(groups[kind]) for kind in order], (round(1 - risk, 6),))
    by_kind = dict(zip(order, answers, strict=True))
    advised: dict[str, Any] = {}
    for target, unit in UNITS.items():
        predicted = {
            kind: answer.get(f"{target}_q{1 - risk:g}") for kind, answer in by_kind.items()
        }
        past = coded[target].at(now, first)[1]
        past = past[past.index.isin([kind for kind in order if predicted[kind] is not None])]
        least = [
            larger(predicted[kind], groups[kind][f"{target}_need"].dropna(), risk)
            for kind in past.index
        ]
        own = later_needs(coded[target], unit)
        amounts = advised_amounts(past, own, site[target][0], np.array(least), risk, unit)
        advised[target] = amounts.to_dict("index")
    return [
        _row(
            groups[kind],
            by_kind[kind],
            {target: rows.get(kind) for target, rows in advised.items()},
            risk,
        )
        for kind in order
    ]


def next_job(jobs: pd.DataFrame) -> dict[str, Any]:
    """The next of similar jobs, with the fields of the latest at its submission."""
    latest = jobs.iloc[-1]
    job = {name: latest[name] for name in QUERY_FIELDS if pd.notna(latest[name])}
    if "labels" in job:
        job["labels"] = parse_labels(job["labels"])
    return job


def _row(
    jobs: pd.DataFrame, answer: dict[str, Any], advised: dict[str, Any], risk: float
) -> dict[str, Any]:
    latest, names = jobs.iloc[-1], jobs["program"].fillna(jobs["job_name"])
    program = names.iloc[-1] if names.nunique(dropna=False) == 1 else OTHER_PROGRAMS
    program = NO_PROGRAM if pd.isna(program) else program
    row = {
        "program": str(program),
        "cores": float(latest["requested_cores"]) if pd.notna(latest["requested_cores"]) else 1.0,
        "jobs": len(jobs),
        "killed_at_limit": int((jobs["status"] == "timeout").sum()),
        "earlier_attempts": int(jobs["attempts"].sum()),
        "attempts_killed_at_limit": int(jobs["walltime_kills"].sum()),
        "attempts_killed_for_memory": int(jobs["peak_memory_kills"].sum()),
        "several_attempts": float((jobs["attempts"] > 0).mean()),
        "unused_core_hours": round(float(_unused(jobs).sum()), 1),
        **_requested_and_used(jobs, "walltime", "requested_walltime"),
        **_advice(jobs, "walltime", advised["walltime"], answer, risk),
    }
    if advised["peak_memory"] is not None:
        # Not the first rung of the allocation: many batch systems have no second attempt.
        row["killed_for_memory"] = int((jobs["status"] == "out_of_memory").sum())
        row |= _requested_and_used(jobs, "peak_memory", "requested_memory")
        row |= _advice(jobs, "peak_memory", advised["peak_memory"], answer, risk)
    return row


def larger(predicted: float, used: pd.Series, risk: float) -> float:
    """The larger of a prediction and of what all but ``risk`` of the jobs used (of few: all).

    Args:
        predicted: The prediction.
        used: What the jobs used.
        risk: The accepted share of jobs that use more.
    """
    rank = min(math.ceil((len(used) + 1) * (1 - risk)), len(used)) - 1
    return max(predicted, float(used.sort_values().iloc[rank]))


def _requested_and_used(jobs: pd.DataFrame, target: str, request: str) -> dict[str, float]:
    used = jobs[target].dropna()
    quantiles = used.quantile([0.5, 0.95]).tolist() if len(used) else [float("nan")] * 2
    return {
        f"{target}_asked": float(jobs[request].median()),
        f"{target}_used": quantiles[0],
        f"{target}_used_95": quantiles[1],
    }


def _advice(
    jobs: pd.DataFrame,
    target: str,
    advised: dict[str, Any] | None,
    answer: dict[str, Any],
    risk: float,
) -> dict[str, Any]:
    """What to request, in whole units, its range and risk, and the share that needed more.

    ``beyond`` is true where the request must be exceeded, nobody knows by how much: jobs were
    killed at it, and predictions end there. Without ``enough`` of the ``later_jobs`` that show
    how past advice did the amount is the request.
    """
    if advised is None:
        return {}
    amount, need = float(advised["amount"]), jobs[f"{target}_need"].dropna()
    status, request = KILLED[target]
    is_near_limit = amount >= NEAR_LIMIT * float(jobs[request].median())
    killed = float((jobs["status"] == status).mean())
    return {
        f"{target}_ask_for": amount,
        f"{target}_low": answer[f"{target}_low"],
        f"{target}_high": answer[f"{target}_high"],
        f"{target}_risk": risk,
        f"{target}_more": float((need > amount).mean()),
        f"{target}_beyond": is_near_limit and killed > risk,
        f"{target}_enough": bool(advised["enough"]),
        f"{target}_later_jobs": int(advised["later_jobs"]),
        f"{target}_capped": bool(advised["capped"]),
    }


def sentences(advice: UsageAdvice, zone: str) -> list[str]:
    """Write the advice for a person, with times in the zone ``zone``."""
    begin, end = (
        f"{pd.Timestamp(moment).tz_convert(zone):%Y-%m-%d %H:%M}"
        for moment in (advice.since, advice.until)
    )
    field, name = next(iter(advice.having.items()))
    count = _count(advice.jobs, "job")
    lines = [f"{field} {name}: {count} submitted from {begin} to {end} ({zone})."]
    if advice.left_out:
        counts = [f"{count} {reason}" for reason, count in advice.left_out.items()]
        lines.append(f"Left out: {', '.join(counts)}.")
    for row in advice.rows:
        lines.append(
            f"{row['program']} on {_count(row['cores'], 'core')}, {_count(row['jobs'], 'job')}: "
            f"requested {_time(row['walltime_asked'])}, used {_time(row['walltime_used'])} "
            f"(95 %: {_time(row['walltime_used_95'])}); {row['killed_at_limit']} killed at the "
            "limit." + _ask_for(row, "walltime", _time)
        )
        if "peak_memory_ask_for" in row:
            lines.append(
                f"  memory: requested {_size(row['peak_memory_asked'])}, "
                f"used {_size(row['peak_memory_used'])} "
                f"(95 %: {_size(row['peak_memory_used_95'])}); {row['killed_for_memory']} killed "
                "for it." + _ask_for(row, "peak_memory", _size)
            )
        if row["earlier_attempts"]:
            lines.append(
                f"  attempts: {_percent(row['several_attempts'])} of these jobs needed more than "
                f"one; {_count(row['earlier_attempts'], 'earlier attempt')}: "
                f"{row['attempts_killed_at_limit']} killed at the limit, "
                f"{row['attempts_killed_for_memory']} for memory."
            )
    if not advice.rows:
        lines.append(f"No program has the {MIN_JOBS} jobs that advice needs.")
    return lines


def _ask_for(row: dict[str, Any], target: str, text: Callable[[float], str]) -> str:
    if f"{target}_ask_for" not in row:
        return ""
    value, request, risk = row[f"{target}_ask_for"], row[f"{target}_asked"], row[f"{target}_risk"]
    if row[f"{target}_beyond"]:
        return (
            f" Request more than {text(request)}: how much those that were killed would have "
            "needed, nobody knows."
        )
    if not row[f"{target}_enough"]:
        keep = "Keep to what you request: not" if np.isfinite(value) else "Not"
        return (
            f" {keep} enough jobs to advise at a risk of {_percent(risk)}: it takes "
            f"{least_jobs(risk)} that ran after past advice on such jobs, and there are "
            f"{row[f'{target}_later_jobs']}."
        )
    verb = "Request" if not value >= request else "Keep to what you request: this risk takes"
    low, high = text(row[f"{target}_low"]), text(row[f"{target}_high"])
    chance = f", the risk of too little is {_percent(risk)}"
    if row[f"{target}_capped"]:
        chance = ", and this risk takes more: no job of the queue has requested or used so much"
    return (
        f" {verb} {text(value)}: the next such job is predicted to need {low} to {high} (90 %)"
        f"{chance}; of these jobs {_percent(row[f'{target}_more'])} needed more."
    )


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'s' * (number != 1)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _time(seconds: float) -> str:
    if not np.isfinite(seconds):
        return "nothing"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min" if seconds >= 60 else f"{seconds:.0f} s"


def _size(size: float) -> str:
    return f"{size / GIB:.3g} GiB" if np.isfinite(size) else "nothing"
