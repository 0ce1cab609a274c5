"""Hosts on which the same jobs take longer than elsewhere, by which factor and since when.

Each ended job is ranked among the jobs of its task at its site, or the same user's same jobs where
it has no task (normal scores of the ranks, corrected for the rated power). The scores of a host are
accumulated in the order of their ends: Page's cumulative sum (1954) rises while jobs take longer
there and is 0 otherwise; a host is slow while it exceeds a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm

from infra.aliases import Array, Flags, Floats
from models.past.load import key_of
from models.ranking.speeds import SAME_JOB

SAME_TASK = ("source", "task_id")
FEWEST_SAME = 8
"""A job is compared with the jobs of its task at its site, if these are at least so many."""
DRIFT, THRESHOLD = 0.5, 12.0
"""Allowance and threshold of the cumulative sum, in standard deviations of a job."""
MIN_FACTOR = 1.3
"""A host whose jobs take less than this factor longer is none that a person looks for."""
FEWEST_JOBS = 5
CPU_SHARE = 0.5
"""Share of the log factor of the walltime from which CPU time explains it."""


@dataclass(frozen=True)
class SlowHost:
    """A host that is slow: by which factor jobs take longer, since when, and for which resource.

    ``resource`` is ``cpu`` where CPU time rises with the walltime, ``io`` (disk, stage-in, or
    cores taken away) where jobs only wait longer, and ``unknown`` without CPU times.
    """

    site: str
    host: str
    factor: float
    since: float
    resource: str
    jobs: int


def slow_hosts(jobs: pd.DataFrame) -> list[SlowHost]:
    """The hosts that are slow as of the last end among ``jobs``, the slowest first.

    Args:
        jobs: Jobs as of a time, with ``site``, ``host``, ``walltime``, ``ended_at``, ``status``
            and, where they are reported, ``cpu_time`` and ``host_power``.
    """
    completed = jobs["status"].eq("completed").to_numpy(bool, na_value=False)
    has_host = jobs["host"].notna() & (jobs["walltime"] > 0) & jobs["ended_at"].notna()
    done = jobs[completed & has_host].sort_values("ended_at", kind="stable")
    group = _same_jobs(done)
    comparable = np.bincount(group)[group] >= FEWEST_SAME if len(group) else np.empty(0, bool)
    done, group = done[comparable], group[comparable]
    if done.empty:
        return []
    logs = np.log(done["walltime"].to_numpy(dtype=np.float64)) + _rated(done)
    middle = _medians(logs, group)
    score = _normal_scores(logs, group)
    cpu = np.full(len(done), np.nan)
    if "cpu_time" in done:
        seconds = done["cpu_time"].to_numpy(dtype=np.float64, na_value=np.nan)
        cpu = np.log(np.where(seconds > 0, seconds, np.nan))
    of_cpu = cpu + _rated(done) - _medians(cpu, group)
    ended = (done["ended_at"] - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(float)
    name_of_host = done["site"].fillna("").astype(str) + "\0" + done["host"].astype(str)
    code, names = pd.factorize(name_of_host)
    slow = []
    for host in np.unique(code):
        rows = np.flatnonzero(code == host)
        begin = _onset(score[rows])
        if begin is None or len(own := rows[begin:]) < FEWEST_JOBS:
            continue
        factor = float(np.exp(np.median(logs[own] - middle[own])))
        if factor < MIN_FACTOR:
            continue
        site, name = str(names[host]).split("\0", 1)
        resource = _resource(np.log(factor), of_cpu[own])
        slow.append(SlowHost(site, name, factor, float(ended[own[0]]), resource, len(own)))
    return sorted(slow, key=lambda item: -item.factor)


def slow_host_sentence(host: SlowHost) -> str:
    """What is wrong with a host, for a page and an alert."""
    why = {
        "cpu": "CPU time rises as much",
        "io": "CPU time does not: disk, stage-in or missing cores",
        "unknown": "CPU times are not reported",
    }[host.resource]
    since = f"{pd.Timestamp(host.since, unit='s'):%Y-%m-%d %H:%M} UTC"
    at = f" of {host.site}" if host.site else ""
    return (
        f"{host.host}{at} is slow since {since}: {host.jobs} jobs took"
        f" {host.factor:.1f} times as long as the same jobs elsewhere; {why}"
    )


def _same_jobs(done: pd.DataFrame) -> Array:
    """A code of those that each job is compared with: its task at its site, else the same jobs."""
    if done.empty:
        return np.empty(0, np.int64)
    same, task = key_of(done, ("site", *SAME_JOB)), key_of(done, ("site", *SAME_TASK))
    has_task = done["task_id"].notna().to_numpy(bool)
    return np.unique(np.where(has_task, task + same.max() + 1, same), return_inverse=True)[1]


def _rated(done: pd.DataFrame) -> Floats:
    """What a host's rated power explains of its jobs' logarithms: 0 without a rating."""
    if "host_power" not in done:
        return np.zeros(len(done))
    power = done["host_power"].to_numpy(dtype=np.float64, na_value=np.nan)
    logs = np.log(np.where(power > 0, power, np.nan))
    if np.isnan(logs).all():
        return np.zeros(len(done))
    return np.asarray(np.nan_to_num(logs - np.nanmedian(logs)))


def _medians(values: Floats, group: Array) -> Floats:
    return np.asarray(pd.Series(values).groupby(group).transform("median").to_numpy(float))


def _normal_scores(values: Floats, group: Array) -> Floats:
    """Van der Waerden's scores of the ranks within each group; ties share theirs."""
    grouped = pd.Series(values).groupby(group)
    rank, count = grouped.rank().to_numpy(float), grouped.transform("size").to_numpy(float)
    return np.asarray(norm.ppf(rank / (count + 1)))


def _onset(score: Floats) -> int | None:
    """The first job of the rise that leads over the threshold and lasts; None without one."""
    total, begin = 0.0, 0
    for index, value in enumerate(score.tolist()):
        if total == 0.0:
            begin = index
        total = max(total + value - DRIFT, 0.0)
    return begin if total > THRESHOLD else None


def _resource(factor: float, of_cpu: Floats) -> str:
    seen: Flags = np.isfinite(of_cpu)
    if seen.sum() < FEWEST_JOBS:
        return "unknown"
    return "cpu" if float(np.median(of_cpu[seen])) >= CPU_SHARE * factor else "io"
