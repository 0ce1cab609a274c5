"""Jobs by hour, group and site, and how sites and hosts do, as the pages show them.

Everything is counted from the jobs that an update of the task watch has read anyway, so that no
page reads jobs to count them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array
from models.ranking.speeds import Speeds
from models.tasks.sets import FAILED
from monitoring.tasks.slow_hosts import slow_host_rows

HOURS = 14 * 24
"""Hours that are counted."""
MAX_GROUPS, MAX_SITES, MAX_HOSTS_OF_SITE = 7, 300, 20
"""The largest are named; the rest is counted together, or left out in the case of hosts."""
MAX_SPEED_JOBS = 100_000
"""The latest ended jobs that speeds are learned from."""
UNKNOWN, REST = "(unknown)", "(others)"
_LEVELS = ("waiting", "running")
_DAY = 24 * 3600.0

Activity = dict[str, Any]


def summarise(jobs: pd.DataFrame, now: pd.Timestamp) -> Activity:
    """Count jobs by hour, group and site as of a time.

    Args:
        jobs: Jobs without later starts and outcomes (``watch.as_of``).
        now: The present.

    Returns:
        ``hours``, the end of each hour (s since 1970, the last is now); ``groups`` and ``sites``
        by name with lists over the hours: ``waiting`` and ``running`` at its end, ``ended`` and
        ``failed`` within it, of sites the median ``wait`` of the jobs that it started (s, None
        without any) too, and ``speed``, by which factor jobs run longer there; ``hosts``, rows
        of the last day; and ``slow_hosts``, those that are slow now.
    """
    latest = now.timestamp()
    full_hour = np.floor(latest / 3600) * 3600
    hours = full_hour - 3600.0 * np.arange(HOURS - 1, -1, -1)
    hours = np.append(hours, latest) if latest > full_hour else hours
    times = {name: _seconds(jobs[f"{name}_at"]) for name in ("submitted", "started", "ended")}
    failed = jobs["status"].isin(FAILED).to_numpy()
    names, codes = _largest(jobs["group"], times["ended"], hours[0], MAX_GROUPS)
    groups = _by_hour(codes, len(names), times, failed, hours)
    site_names, site_codes = _largest(jobs["site"], times["ended"], hours[0], MAX_SITES)
    at_sites = _by_hour(site_codes, len(site_names), times, failed, hours)
    waits = _median_waits(site_codes, len(site_names), times, hours)
    speeds, hosts = _speeds_and_hosts(jobs, times, failed, latest)
    sites = {
        name: {**_row(at_sites, row), "wait": waits[row], "speed": speeds.get(name)}
        for row, name in enumerate(site_names)
    }
    return {
        "hours": hours.tolist(),
        "groups": {name: _row(groups, row) for row, name in enumerate(names)},
        "sites": sites,
        "hosts": hosts,
        "slow_hosts": slow_host_rows(jobs, now),
    }


def ended_by_hour(task_of_job: Array, ended: Array, count: int, now: float) -> Array:
    """Count the jobs of each task that ended in each of the last 24 hours (int64[count, 24]).

    Args:
        task_of_job: The row of each job's task (int64[jobs]).
        ended: When each job ended (s since 1970, infinite for open ones).
        count: How many tasks there are.
        now: The present (s since 1970).
    """
    hour = 23 - np.floor((now - ended) / 3600)
    recent = (hour >= 0) & (ended <= now)
    cells = task_of_job[recent] * 24 + hour[recent].astype(np.int64)
    return np.bincount(cells, minlength=count * 24).reshape(count, 24)


def _seconds(times: pd.Series[Any]) -> Array:
    """Seconds since 1970, infinite where the time is missing."""
    since = (times - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    return np.asarray(since.fillna(np.inf).to_numpy(dtype=np.float64))


def _largest(
    values: pd.Series[Any], ended: Array, since: float, most: int
) -> tuple[list[str], Array]:
    """Name the values with most jobs that are open or ended since; the code of each job's value."""
    codes, names = pd.factorize(values.fillna(UNKNOWN))
    jobs = np.bincount(codes[ended > since], minlength=len(names))
    order = np.argsort(-jobs, kind="stable")
    order = order[jobs[order] > 0]
    new_code = np.full(len(names), min(len(order), most))
    new_code[order[:most]] = np.arange(len(order[:most]))
    named = [str(names[code]) for code in order[:most]]
    return [*named, REST] if len(order) > most else named, new_code[codes]


def _by_hour(
    codes: Array, count: int, times: dict[str, Array], failed: Array, hours: Array
) -> dict[str, Array]:
    """Count jobs by code and hour (int64[count, hours] each)."""
    columns = len(hours) + 1

    def counted(moments: Array, chosen: Array) -> Array:
        chosen = chosen & (codes < count)
        hour = np.searchsorted(hours, moments[chosen])
        cells = np.bincount(codes[chosen] * columns + hour, minlength=count * columns)
        return cells.reshape(count, columns)[:, :-1]

    submitted, started, ended = (times[name] for name in ("submitted", "started", "ended"))
    everything, in_window = np.ones(len(codes), bool), ended > hours[0] - 3600
    left, has_started = np.minimum(started, ended), np.isfinite(started)
    return {
        "waiting": (counted(submitted, everything) - counted(left, everything)).cumsum(axis=1),
        "running": (counted(started, has_started) - counted(ended, has_started)).cumsum(axis=1),
        "ended": counted(ended, in_window),
        "failed": counted(ended, in_window & failed),
    }


def _row(counts: dict[str, Array], row: int) -> dict[str, list[int]]:
    return {name: values[row].tolist() for name, values in counts.items()}


def _median_waits(
    codes: Array, count: int, times: dict[str, Array], hours: Array
) -> list[list[float | None]]:
    """The median wait of the jobs that started in each hour, by code (s)."""
    started = times["started"]
    recent = (started > hours[0] - 3600) & (started <= hours[-1]) & (codes < count)
    waited = pd.Series((started - times["submitted"])[recent])
    medians = waited.groupby([codes[recent], np.searchsorted(hours, started[recent])]).median()
    waits: list[list[float | None]] = [[None] * len(hours) for _ in range(count)]
    cells: Any = medians.index
    for (code, hour), wait in zip(cells, medians.tolist(), strict=True):
        waits[code][hour] = wait
    return waits


def _speeds_and_hosts(
    jobs: pd.DataFrame, times: dict[str, Array], failed: Array, now: float
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The speed of each site, and the worst hosts of each site in the last day."""
    ended = times["ended"]
    over = np.flatnonzero(np.isfinite(ended))
    latest = jobs.iloc[over[np.argsort(ended[over], kind="stable")][-MAX_SPEED_JOBS:]]
    speeds = Speeds.of(latest).factor
    host = jobs["site"].fillna(UNKNOWN) + "\0" + jobs["host"]
    of_hosts = Speeds.of(latest.assign(site=host.loc[latest.index])).factor
    running = np.isfinite(times["started"]) & ~np.isfinite(ended)
    recent = (ended > now - _DAY) & np.isfinite(ended)
    table = pd.DataFrame({"running": running, "ended": recent, "failed": recent & failed})
    rows = table.groupby(host.to_numpy()).sum()
    rows = rows[rows.any(axis=1)]
    names = pd.Series(rows.index, index=rows.index).str.split("\0", n=1)
    rows["site"], rows["host"] = names.str[0], names.str[1]
    own = np.array([of_hosts.get(name, np.nan) for name in rows.index], dtype=np.float64)
    typical = np.array([speeds.get(name, np.nan) for name in rows["site"]], dtype=np.float64)
    rows["speed"] = own / typical
    rows["badness"] = rows["failed"] / rows["ended"].clip(lower=1) + rows["speed"].fillna(1.0)
    rows = rows.sort_values("badness", ascending=False, kind="stable")
    rows = rows.groupby("site", sort=False).head(MAX_HOSTS_OF_SITE)
    rows["speed"] = rows["speed"].astype(object).where(rows["speed"].notna(), None)
    listed: Any = rows.drop(columns="badness").to_dict("records")
    return dict(speeds), listed
