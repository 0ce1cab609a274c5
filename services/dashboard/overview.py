"""What the page shows first: what is wrong, jobs over time, errors, failures and predictions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jobs.owners import Owners, select_owned
from jobs.schema import OF_KIND
from jobs.store import read_measurements, read_predicted_and_actual
from models.quantities.targets import TARGETS
from monitoring.site_status import SiteStatus, site_findings
from monitoring.tasks.activity import Activity
from services.dashboard.models_overview import charts
from services.dashboard.values import Query, hours_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

GRAVE_STATES = ("failing", "stalled")
MAX_NAMED = 5
"""Tasks of a state that are named."""
MAX_PREDICTED = 800
"""Points of predicted against actual."""
MAX_COLUMNS = 56
"""Columns of the heat map."""
MAX_SITES = 30


def overview(
    engine: Engine,
    activity: Activity,
    tasks: pd.DataFrame,
    status: SiteStatus | None,
    now: datetime,
    query: Query,
    owners: Owners | None = None,
) -> dict[str, Any]:
    """Give what the first page shows, but for the problems of the champion.

    Args:
        engine: The store.
        activity: The counts of jobs as of the latest update.
        tasks: The tasks as of the latest update.
        status: The state of the site as it was last read, if it was.
        now: The present.
        query: ``hours``, how far the page looks back.
        owners: Whose groups and jobs are shown; None: all.

    Raises:
        HTTPError: ``hours`` is not allowed (422).
    """
    hours = hours_of(query)
    target, predicted = predicted_and_actual(engine, now, hours, owners=owners)
    if owners is not None:  # what is said of the site may name anybody's group
        status = None
    return {
        "hours": hours,
        "problems": task_problems(tasks) + host_problems(activity) + site_problems(status, now),
        "open": int((tasks["kind"].eq("task") & tasks["state"].ne("done")).sum()),
        "jobs": jobs_over_time(activity, hours, owners),
        "failures": failures(activity, hours),
        "accuracy": accuracy(engine, now, target, hours),
        "predicted": predicted,
    }


def task_problems(tasks: pd.DataFrame) -> list[dict[str, Any]]:
    """Name the failing and stalled tasks: ``kind``, ``text``, ``since`` and ``link``."""
    problems: list[dict[str, Any]] = []
    for state in GRAVE_STATES:
        rows = tasks[(tasks["kind"] == "task") & (tasks["state"] == state)]
        for row in rows.head(MAX_NAMED).to_dict("records"):
            since = row["stalled_since"]
            reasons = "; ".join(list(row["reasons"])[:2]) or f"{row['failed']:.0f} jobs failed"
            problems.append(
                {
                    "kind": state,
                    "text": f"{row['task']} of {row['owner'] or 'an unknown owner'}: {reasons}",
                    "since": None if pd.isna(since) else since.isoformat(),
                    "task": row["task"],
                    "source": row["source"],
                }
            )
        if len(rows) > MAX_NAMED:
            more = f"{len(rows) - MAX_NAMED} more tasks are {state}"
            problems.append({"kind": state, "text": more, "state": state})
    return problems


def host_problems(activity: Activity) -> list[dict[str, Any]]:
    """Name the slow hosts: ``kind``, ``text``, ``since`` and ``view``."""
    return [
        {
            "kind": "slow",
            "text": host["text"],
            "since": datetime.fromtimestamp(host["since"], UTC).isoformat(),
            "view": "sites",
        }
        for host in activity.get("slow_hosts", ())[:MAX_NAMED]
    ]


def site_problems(status: SiteStatus | None, now: datetime) -> list[dict[str, Any]]:
    """Name what ``gridcast doctor`` finds of predictions, decay, drift and collectors.

    Args:
        status: The state of the site as it was last read, if it was.
        now: The present.
    """
    findings = site_findings(replace(status, read_at=now)) if status else ()
    return [
        {
            "kind": finding.subject,
            "text": f"{finding.summary.rstrip('.')}; {finding.remedy}",
            "view": "models" if not finding.subject.startswith("collector") else None,
        }
        for finding in findings
        if finding.state != "ok"
    ]


def jobs_over_time(activity: Activity, hours: int, owners: Owners | None = None) -> dict[str, Any]:
    """Give ``times`` (s since 1970) and, by group, jobs waiting, running, ended and failed.

    Args:
        activity: The counts of jobs.
        hours: How far to look back.
        owners: Whose groups; None: all.
    """
    if not activity:
        return {"times": [], "groups": {}}
    step = -(-hours // 168)
    groups = {
        name: {
            "waiting": levels(counts["waiting"], hours, step),
            "running": levels(counts["running"], hours, step),
            "ended": sums(counts["ended"], hours, step),
            "failed": sums(counts["failed"], hours, step),
        }
        for name, counts in activity["groups"].items()
        if owners is None or name in owners.groups
    }
    return {"times": levels(activity["hours"], hours, step), "groups": groups}


def levels(values: list[Any], hours: int, step: int) -> list[Any]:
    """The values at the end of every few hours.

    Args:
        values: A value an hour.
        hours: How many of the last hours.
        step: How many hours apart.
    """
    return values[-hours:][::-1][::step][::-1]


def sums(values: list[int], hours: int, step: int) -> list[int]:
    """The sums over every few hours.

    Args:
        values: A value an hour.
        hours: How many of the last hours.
        step: How many hours are summed up.
    """
    rest = np.array(values[-hours:], dtype=np.int64)
    rest = rest[len(rest) % step :]
    return rest.reshape(-1, step).sum(axis=1).tolist()


def failures(activity: Activity, hours: int) -> dict[str, Any]:
    """Give ``times`` and, by site, how many jobs ended and failed: the sites with most failures."""
    if not activity:
        return {"times": [], "sites": {}}
    step = -(-hours // MAX_COLUMNS)
    sites = activity["sites"]
    worst = sorted(sites, key=lambda name: -sum(sites[name]["failed"][-hours:]))[:MAX_SITES]
    counts = {
        name: {kind: sums(sites[name][kind], hours, step) for kind in ("ended", "failed")}
        for name in worst
    }
    return {
        "times": levels(activity["hours"], hours, step),
        "step": step,
        "sites": {name: of_site for name, of_site in counts.items() if sum(of_site["ended"])},
    }


def predicted_and_actual(
    engine: Engine,
    now: datetime,
    hours: int,
    having: dict[str, str] | None = None,
    owners: Owners | None = None,
) -> tuple[str, dict[str, Any]]:
    """Compare the first prediction of each job, made before its end was known, with what it took.

    Args:
        engine: The store.
        now: The present.
        hours: How far to look back.
        having: Only jobs with these values, by column.
        owners: Whose jobs; None: all.

    Returns:
        The target, and its unit, points and figures: ``mae`` and ``coverage``.
    """
    target = TARGETS["walltime"]
    rows = read_predicted_and_actual(
        engine,
        [target.name],
        [*OF_KIND["number"], "ended_at", "user", "group"],
        since=now - timedelta(hours=hours),
        until=now,
        limit=MAX_PREDICTED if not having and owners is None else 20 * MAX_PREDICTED,
        having=having,
    )
    rows = select_owned(rows, owners).tail(MAX_PREDICTED)
    actual = target.value(rows) if len(rows) else np.empty(0)
    rows, actual = rows[np.isfinite(actual)], actual[np.isfinite(actual)]
    within = (rows["low"] <= actual) & (actual <= rows["high"])
    error = np.abs(rows["point"] - actual)
    return target.name, {
        "target": target.name,
        "unit": target.unit,
        "source": rows["source"].tolist(),
        "job": rows["job_id"].tolist(),
        "predicted": rows["point"].round(1).tolist(),
        "actual": np.round(actual, 1).tolist(),
        "coverage": float(within.mean()) if len(rows) else None,
        "mae": float(error.mean()) if len(rows) else None,
    }


def accuracy(engine: Engine, now: datetime, target: str, hours: int) -> list[dict[str, Any]]:
    """Give the charts of error and coverage of the last hours.

    Args:
        engine: The store.
        now: The present.
        target: The predicted quantity.
        hours: How far to look back.
    """
    since = now - timedelta(hours=hours)
    measured = {
        kind: read_measurements(engine, kind=kind, segment="all", since=since, latest=2000)
        for kind in ("decay", "accuracy", "drift")
    }
    return [chart for chart in charts(measured) if chart["title"].startswith(f"{target}: ")]
