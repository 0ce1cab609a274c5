"""The state of a batch system when each job was submitted, as inputs of a regression of its wait.

A job sees the jobs submitted, started and ended strictly before its own submission: what waits and
runs, the latest waits of similar jobs, and of jobs that still wait how long they have waited.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from infra.aliases import Array, Floats
from infra.compiled import compiled
from models.past.load import key_of, seconds
from models.past.queues import LONGEST_RUN, LONGEST_WAIT, OVERTIME, QUEUE

WAITING_SCOPES = (
    "system", "system_ahead", "queue", "queue_ahead", "queue_smaller", "owner", "owner_queue",
    "owner_shape",
)  # fmt: skip
"""All waiting jobs, those of the queue and of the owner; of no lower priority (ahead); that request
no more cores, memory and walltime (smaller); of the owner in the same queue, of the same shape."""
WAITING = (
    "waiting", "waiting_work", "waiting_cores", "waiting_gpus", "waiting_memory", "waiting_age",
    "waiting_oldest",
)  # fmt: skip
"""Number of waiting jobs, their requested core seconds, cores, GPUs, bytes, their ages in sum and
at most."""
RUNNING_SCOPES = ("system", "queue", "owner", "owner_queue")
RUNNING = (
    "running", "running_cores", "running_gpus", "running_memory", "remaining_request",
    "remaining_expected", "cores_ending_1h", "cores_ending_4h", "cores_ending_24h",
)  # fmt: skip
"""Number of running jobs, their cores, GPUs, bytes; core seconds until they end as requested and
as expected; cores expected to become free within some hours."""
ENDING = np.array([1.0, 4.0, 24.0]) * 3600.0
RECENT_SCOPES = ("system", "queue", "owner", "owner_queue", "shape", "owner_shape")
RECENT = (
    "started", "last_wait", "mean_wait", "since_start", "median_wait", "lower_wait", "upper_wait",
    "median_priority", "low_priority", "start_span", "wait_at_priority", "since_submission",
    "last_age", "last_has_started",
)  # fmt: skip
"""Of the latest MOST_RECENT started jobs: logarithms of waits (last, decayed mean, quartiles, that
of the nearest priority), priorities less the job's own, and times since starts; of the job
submitted last: how long ago, the logarithm of its wait so far, and whether it has started."""
MOST_RECENT = 30
DECAY = 0.85
"""Weight of a started job relative to the one that started after it."""
CAPACITY = ("running_cores", "running_gpus", "running_memory")
OWNERS = ("user", "project", "group")
REQUESTS = (
    "requested_cores", "requested_walltime", "requested_memory", "requested_gpus",
    "requested_nodes", "priority", "fair_share",
)  # fmt: skip
CATEGORIES = (
    "user", "group", "project", "program", "queue", "site", "qos", "reservation", "constraint",
    "gpu_type",
)  # fmt: skip
USUAL_SHARE = 0.4
"""Walltime over requested walltime of an owner none of whose jobs has ended."""
SHARE_STEP = 0.1
"""Weight of the newest job in an owner's moving average of that share."""
LEAST_REMAINING = 60.0
BURST_SPAN = 3600.0


def queue_inputs(jobs: pd.DataFrame) -> pd.DataFrame:
    """Compute the inputs of each job's wait, as known at its submission.

    Args:
        jobs: Jobs in order of submission.

    Returns:
        Numbers (NaN unknown) and texts (columns of type object), under the index of ``jobs``.
    """
    at, begin, end = (seconds(jobs[name]) for name in ("submitted_at", "started_at", "ended_at"))
    size = np.column_stack([_numbers(jobs, name) for name in REQUESTS])
    cores, request, memory, gpus = (np.nan_to_num(size[:, k], nan=0.0) for k in range(4))
    cores = np.maximum(cores, 1.0)
    request = np.where(request > 0, request, 86400.0)
    priority = _numbers(jobs, "priority")
    if np.isnan(priority).all():
        priority = -at  # first come, first served
    keys = _keys(jobs, cores, request, memory)
    left_queue = np.fmin(np.where(np.isnan(begin), end, begin), at + LONGEST_WAIT)
    limit = np.where(_numbers(jobs, "requested_walltime") > 0, OVERTIME * request, LONGEST_RUN)
    over = np.fmin(end, begin + limit)
    started = np.flatnonzero(np.isfinite(begin))
    started = started[np.argsort(begin[started], kind="stable")]
    ended = np.flatnonzero(np.isfinite(begin) & np.isfinite(end))
    ended = ended[np.argsort(end[ended], kind="stable")]
    owner = np.ascontiguousarray(keys[:, 2])
    expected = request * _usual_shares(owner, begin, end, request, started, ended)
    waiting = np.zeros((len(jobs), len(WAITING_SCOPES), len(WAITING)))
    running = np.zeros((len(jobs), len(RUNNING_SCOPES), len(RUNNING)))
    amounts = np.column_stack([cores * request, cores, gpus, memory, request, priority])
    _count(at, begin, left_queue, over, expected, amounts, keys, started, ENDING, waiting, running)
    columns = _named(waiting, WAITING_SCOPES, WAITING) | _named(running, RUNNING_SCOPES, RUNNING)
    for position, scope in enumerate(RECENT_SCOPES):
        recent = np.full((len(jobs), len(RECENT)), np.nan)
        key = np.ascontiguousarray(keys[:, position])
        _recent_waits(key, at, begin, left_queue, priority, started, MOST_RECENT, recent)
        columns |= _named(recent[:, None], (scope,), RECENT)
    columns |= dict(zip(REQUESTS, size.T, strict=True)) | _pressure(columns, keys)
    columns |= {"hour": at // 3600 % 24, "weekday": at // 86400 % 7}
    numbers = pd.DataFrame(columns, index=jobs.index).astype(np.float32)
    texts = jobs.reindex(columns=list(CATEGORIES)).astype(object)
    return pd.concat([numbers, texts.where(texts.notna(), "")], axis=1)


def first_of_burst(jobs: pd.DataFrame) -> Array:
    """Which jobs are the first of their queue and owner in an hour of the clock (bool[n]).

    Arrays of hundreds of jobs are submitted, and start, together; each counts once.

    Args:
        jobs: Jobs in order of submission.
    """
    hour = (seconds(jobs["submitted_at"]) // BURST_SPAN).astype(np.int64)
    burst = pd.DataFrame({"key": key_of(jobs, (*QUEUE, _owner_field(jobs))), "hour": hour})
    return ~burst.duplicated().to_numpy()


def _owner_field(jobs: pd.DataFrame) -> str:
    names = [name for name in OWNERS if name in jobs and jobs[name].notna().any()]
    return names[0] if names else OWNERS[0]


def _numbers(jobs: pd.DataFrame, name: str) -> Floats:
    if name not in jobs:
        return np.full(len(jobs), np.nan)
    return jobs[name].to_numpy(dtype=np.float64, na_value=np.nan)


def _keys(jobs: pd.DataFrame, cores: Floats, request: Floats, memory: Floats) -> Array:
    """The key of each job for each of RECENT_SCOPES (int64[n, scopes])."""
    classes = pd.DataFrame({
        name: np.floor(np.log2(np.maximum(values, 1.0)))
        for name, values in (("cores", cores), ("request", request), ("memory", memory))
    })  # fmt: skip
    owner = _owner_field(jobs)
    fields = (("source", "site"), QUEUE, ("source", owner), (*QUEUE, owner))
    system, queue, of_owner, owner_queue = (key_of(jobs, names) for names in fields)
    shape = key_of(classes.assign(queue=queue), ("queue", "cores", "request", "memory"))
    owner_shape = key_of(classes.assign(key=shape, owner=of_owner), ("key", "owner"))
    return np.column_stack([system, queue, of_owner, owner_queue, shape, owner_shape])


def _named(values: Array, scopes: tuple[str, ...], names: tuple[str, ...]) -> dict[str, Array]:
    return {
        f"{scope}_{name}": values[:, row, column]
        for row, scope in enumerate(scopes)
        for column, name in enumerate(names)
    }


def _pressure(columns: dict[str, Array], keys: Array) -> dict[str, Array]:
    """Free capacity as far as seen, the rank by priority, and the time to work the queue off."""
    pressure = {}
    for position, scope in enumerate(("system", "queue")):
        for name in CAPACITY:
            used = pd.Series(columns[f"{scope}_{name}"])
            most = used.groupby(keys[:, position]).cummax()
            pressure[f"{scope}_{name.replace('running', 'free')}"] = (most - used).to_numpy()
        cores = np.maximum(columns[f"{scope}_running_cores"], 1.0)
        for waiting in (scope, f"{scope}_ahead"):
            pressure[f"{waiting}_drain"] = columns[f"{waiting}_waiting_work"] / cores
        count = np.maximum(columns[f"{scope}_waiting"], 1.0)
        pressure[f"{scope}_rank"] = columns[f"{scope}_ahead_waiting"] / count
    return pressure


@compiled
def _usual_shares(
    owner: Array, begin: Array, end: Array, request: Array, started: Array, ended: Array
) -> Array:
    """The owner's usual walltime over request when each job started (float64[n])."""
    shares = np.full(len(owner), USUAL_SHARE)
    average = np.full(owner.max() + 1 if len(owner) else 0, np.nan)
    position = 0
    for row in started:
        while position < len(ended) and end[ended[position]] <= begin[row]:
            past = ended[position]
            position += 1
            share = min(max(end[past] - begin[past], 0.0) / request[past], 1.0)
            before = average[owner[past]]
            average[owner[past]] = (
                share if np.isnan(before) else before + SHARE_STEP * (share - before)
            )
        if not np.isnan(average[owner[row]]):
            shares[row] = average[owner[row]]
    return shares


@compiled
def _add_waiting(out: Array, amounts: Array, age: float) -> None:
    out[0] += 1
    for column in range(4):
        out[1 + column] += amounts[column]
    out[5] += age
    out[6] = max(out[6], age)


@compiled
def _add_running(
    out: Array, amounts: Array, requested: float, expected: float, ending: Array
) -> None:
    out[0] += 1
    for column in range(3):
        out[1 + column] += amounts[1 + column]
    out[4] += amounts[1] * requested
    out[5] += amounts[1] * expected
    for column in range(len(ending)):
        if expected < ending[column]:
            out[6 + column] += amounts[1]


@compiled
def _count(
    at: Array,
    begin: Array,
    left_queue: Array,
    over: Array,
    expected: Array,
    amounts: Array,
    keys: Array,
    started: Array,
    ending: Array,
    waiting_out: Array,
    running_out: Array,
) -> None:
    """Sum up the jobs that wait and run at each submission, by scope.

    The columns of ``amounts`` are core seconds, cores, GPUs, bytes, requested walltime, priority.
    """
    waiting, running = np.empty(len(at), np.int64), np.empty(len(at), np.int64)
    waits, runs, submitted, position = 0, 0, 0, 0
    for row in range(len(at)):
        now = at[row]
        while submitted < row and at[submitted] < now:
            waiting[waits] = submitted
            waits += 1
            submitted += 1
        while position < len(started) and begin[started[position]] < now:
            running[runs] = started[position]
            runs += 1
            position += 1
        remaining = 0
        for index in range(waits):
            job = waiting[index]
            if left_queue[job] < now:
                continue
            waiting[remaining] = job
            remaining += 1
            if keys[job, 0] != keys[row, 0]:
                continue
            out, size, age = waiting_out[row], amounts[job], now - at[job]
            is_ahead = size[5] >= amounts[row, 5]
            _add_waiting(out[0], size, age)
            if is_ahead:
                _add_waiting(out[1], size, age)
            if keys[job, 1] == keys[row, 1]:
                _add_waiting(out[2], size, age)
                if is_ahead:
                    _add_waiting(out[3], size, age)
                mine = amounts[row]
                if size[1] <= mine[1] and size[3] <= mine[3] and size[4] <= mine[4]:
                    _add_waiting(out[4], size, age)
            if keys[job, 2] == keys[row, 2]:
                _add_waiting(out[5], size, age)
                if keys[job, 3] == keys[row, 3]:
                    _add_waiting(out[6], size, age)
                if keys[job, 5] == keys[row, 5]:
                    _add_waiting(out[7], size, age)
        waits, remaining = remaining, 0
        for index in range(runs):
            job = running[index]
            if over[job] < now:
                continue
            running[remaining] = job
            remaining += 1
            if keys[job, 0] != keys[row, 0]:
                continue
            ran = now - begin[job]
            requested = max(amounts[job, 4] - ran, 0.0)
            left = max(expected[job] - ran, LEAST_REMAINING)
            for scope in range(4):
                if keys[job, scope] == keys[row, scope]:
                    _add_running(running_out[row, scope], amounts[job], requested, left, ending)
        runs = remaining


@compiled
def _recent_waits(
    key: Array,
    at: Array,
    begin: Array,
    left_queue: Array,
    priority: Array,
    started: Array,
    size: int,
    out: Array,
) -> None:
    """Fill ``out`` with RECENT of each job's key."""
    keys = key.max() + 1 if len(key) else 0
    latest, counts = np.empty((keys, size), np.int64), np.zeros(keys, np.int64)
    last_submitted = np.full(keys, -1, np.int64)
    logs, priorities = np.empty(size), np.empty(size)
    position = 0
    for row in range(len(at)):
        now = at[row]
        while position < len(started) and begin[started[position]] < now:
            job = started[position]
            position += 1
            latest[key[job], counts[key[job]] % size] = job
            counts[key[job]] += 1
        mine = key[row]
        count = min(counts[mine], size)
        out[row, 0] = counts[mine]
        if count:
            total, weights, weight, nearest = 0.0, 0.0, 1.0, np.inf
            for back in range(count):
                job = latest[mine, (counts[mine] - 1 - back) % size]
                logs[back] = np.log(max(begin[job] - at[job], 1.0))
                priorities[back] = priority[job]
                total += weight * logs[back]
                weights += weight
                weight *= DECAY
                if abs(priority[job] - priority[row]) < nearest:
                    nearest = abs(priority[job] - priority[row])
                    out[row, 10] = logs[back]
            newest = latest[mine, (counts[mine] - 1) % size]
            oldest = latest[mine, (counts[mine] - count) % size]
            out[row, 1], out[row, 2], out[row, 3] = logs[0], total / weights, now - begin[newest]
            in_order = np.sort(logs[:count])
            out[row, 4], out[row, 5] = in_order[count // 2], in_order[count // 4]
            out[row, 6] = in_order[min(count - 1, 3 * count // 4)]
            in_order = np.sort(priorities[:count])
            out[row, 7] = in_order[count // 2] - priority[row]
            out[row, 8] = in_order[count // 10] - priority[row]
            out[row, 9] = now - begin[oldest]
        previous = last_submitted[mine]
        if previous >= 0:
            until = left_queue[previous] if left_queue[previous] < now else now
            out[row, 11] = now - at[previous]
            out[row, 12] = np.log(max(until - at[previous], 1.0))
            out[row, 13] = begin[previous] < now
        last_submitted[mine] = row
