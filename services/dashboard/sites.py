"""What the page shows of sites and hosts: load, failures, waits and speed."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jobs.owners import Owners, select_owned
from jobs.store import read_predicted_and_actual
from models.quantities.targets import TARGETS
from monitoring.tasks.activity import MAX_SITES, Activity
from services.dashboard.overview import levels, predicted_and_actual, sums
from services.dashboard.values import Query, hours_of, records
from services.http.errors import HTTPError

if TYPE_CHECKING:
    from sqlalchemy import Engine

MAX_HOSTS = 30
DAY = 24
MAX_WAIT_JOBS = 16_000
"""The latest ended jobs of all sites, among which those of a site are looked for."""


def sites(activity: Activity) -> dict[str, Any]:
    """Give a row a site as of the latest update, the hosts where most fail, and the slow ones."""
    hosts = [
        {**host, "failed_share": host["failed"] / host["ended"] if host["ended"] else None}
        for host in activity.get("hosts", ())
    ]
    worst = [host for host in hosts if host["failed"] > 1]
    worst.sort(key=lambda host: (-host["failed_share"], -host["failed"]))
    return {
        "sites": [_row(name, counts) for name, counts in activity.get("sites", {}).items()],
        "hosts": worst[:MAX_HOSTS],
        "slow_hosts": activity.get("slow_hosts", []),
    }


def _row(name: str, counts: dict[str, Any]) -> dict[str, Any]:
    ended, failed = (sum(counts[kind][-DAY:]) for kind in ("ended", "failed"))
    waits = [wait for wait in counts["wait"][-DAY:] if wait is not None]
    return {
        "name": name,
        "running": counts["running"][-1],
        "waiting": counts["waiting"][-1],
        "ended": ended,
        "failed": failed,
        "failed_share": failed / ended if ended else None,
        "wait": float(np.median(waits)) if waits else None,
        "speed": counts["speed"],
        "running_by_hour": counts["running"][-DAY:],
        "failed_by_hour": counts["failed"][-DAY:],
    }


def site(
    engine: Engine,
    activity: Activity,
    name: str,
    now: datetime,
    query: Query,
    owners: Owners | None = None,
) -> dict[str, Any]:
    """Describe one site over the last hours.

    Args:
        engine: The store.
        activity: The counts of jobs as of the latest update.
        name: The site.
        now: The present.
        query: ``hours``, how far to look back.
        owners: Whose predictions and waits are compared; None: all.

    Raises:
        HTTPError: No job of the site was seen lately (404), or ``hours`` is not allowed (422).
    """
    hours = hours_of(query)
    counts = activity.get("sites", {}).get(name)
    if counts is None:
        message = (
            f"no job of a site {name} was seen lately, or it is none of the {MAX_SITES} largest"
        )
        raise HTTPError(404, message)
    step = -(-hours // 168)
    _, predicted = predicted_and_actual(engine, now, hours, {"site": name}, owners)
    return {
        "hours": hours,
        "site": _row(name, counts),
        "times": levels(activity["hours"], hours, step),
        **{kind: levels(counts[kind], hours, step) for kind in ("waiting", "running", "wait")},
        **{kind: sums(counts[kind], hours, step) for kind in ("ended", "failed")},
        "hosts": [host for host in activity["hosts"] if host["site"] == name],
        "predicted": predicted,
        "waits": waits(engine, name, now, hours, owners),
    }


def waits(
    engine: Engine, name: str, now: datetime, hours: int, owners: Owners | None = None
) -> list[dict[str, Any]]:
    """Compare the waits of a site's jobs with the first prediction made while they waited.

    Args:
        engine: The store.
        name: The site.
        now: The present.
        hours: How far to look back.
        owners: Whose jobs; None: all.

    Returns:
        Rows by day with ``jobs``, the medians ``predicted`` and ``actual`` (s) and ``within``, the
        share of waits in the predicted range.
    """
    rows = read_predicted_and_actual(
        engine,
        ["wait"],
        ["submitted_at", "started_at", "user", "group"],
        since=now - pd.Timedelta(hours=hours),
        until=now,
        limit=MAX_WAIT_JOBS,
        having={"site": name},
    )
    rows = select_owned(rows, owners).dropna(subset=["started_at", "median"])
    if rows.empty:
        return []
    actual = TARGETS["wait"].value(rows)
    within = (rows["low"] <= actual) & (actual <= rows["high"])
    rows = rows.assign(actual=actual, within=within, day=rows["submitted_at"].dt.floor("D"))
    by_day = rows.groupby("day").agg(
        jobs=("actual", "size"),
        predicted=("median", "median"),
        actual=("actual", "median"),
        within=("within", "mean"),
    )
    return records(by_day.reset_index())
