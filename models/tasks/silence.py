"""Silences of tasks, and the hazard that ends them: how improbable is it that nothing happened?

A silence begins with an event of a task (submission, start or end of a job) and lasts until its
next one. It is cut into steps, each of which either ends with an event or not: the discrete-time
hazard of survival analysis (Singer and Willett 1993). The cumulated hazard of a silence is minus
the logarithm of the probability that it lasts so long (Cox and Snell 1968), so it is the evidence
that the task is not merely slow. Everything is as of the end of the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from infra.aliases import Array
from infra.compiled import compiled
from models.refiner.boosting import fit_hazard
from models.tasks.job_curves import JobCurves
from models.tasks.sets import Tasks

MIN_OPEN = 4
"""Fewer open jobs than this are stragglers: the task is late, not stalled."""
STEP_ENDS = 360.0 * 1.25 ** np.arange(38)
"""Seconds of silence at which a step ends and the next begins: six minutes to two weeks."""
FEWEST_SILENCES = 150
"""With fewer ended silences no hazard is learned."""
MODELS = ((5, 20.0), (6, 40.0))
"""Depth and regularisation of the models whose mean is the hazard: logs have few long silences."""
MAX_STEPS = 150_000
"""The latest steps that a hazard is learned from."""
USUAL_SECONDS = 7 * 86400.0
"""The time before a silence by which the usual rates of starts and ends are measured."""
TOLERANCE = 300.0
"""Seconds by which a job may outlast its request before it counts as overdue."""
OWN_INPUTS = (
    "silent", "step", "running", "waiting", "share_ended", "jobs",
    "end_hazard", "end_hazard_max", "run_survival", "overdue", "least_left", "oldest_by_longest",
    "youngest_by_longest", "oldest_by_mean", "spent_by_request", "youngest", "oldest",
    "sibling_survival", "start_hazard", "start_hazard_max", "wait_survival", "fewest_cores",
    "wait_by_longest", "longest_wait", "request",
)  # fmt: skip
"""Of the task itself, whose state is the same throughout a silence."""
OTHER_INPUTS = (
    "overtakers", "overtakers_in_queue", "owner_starts", "queue_starts", "owner_ends",
    "site_ends", "starts_by_usual", "ends_by_usual", "usual_starts", "usual_ends",
    "overtakers_before", "owner_starts_before",
)  # fmt: skip
"""What the jobs of other tasks did during the step and, as ``before``, earlier in the silence."""
PAST_INPUTS = ("silent_by_gap", "events", "events_1h", "events_6h", "events_24h", "last_five")
"""Of the task's events until the silence began."""
CLOCK_INPUTS = ("hour", "weekday", "owner_running")
OWNER_INPUTS = ("silent_by_usual", "owner_silences")
"""Of the owner's silences that had ended when this one began."""
INPUTS = OWN_INPUTS + OTHER_INPUTS + PAST_INPUTS + CLOCK_INPUTS + OWNER_INPUTS
LATEST_SILENCES = 20
"""The owner's latest silences that make up the usual one."""


@dataclass(frozen=True)
class Steps:
    """Steps of silences, those of a silence adjacent and in order.

    ``task`` int64[n]; ``begun``, when the silence began, ``start`` and ``stop`` of the step
    (float64[n], s since 1970); ``over`` bool[n], whether an event came before ``stop``.
    """

    task: Array
    begun: Array
    start: Array
    stop: Array
    over: Array

    def __len__(self) -> int:
        return len(self.task)

    def take(self, rows: Array) -> Steps:
        """Some of the steps."""
        return Steps(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def is_first(self) -> Array:
        """Whether each step is the first of its silence (bool[n])."""
        changed = (np.diff(self.task) != 0) | (np.diff(self.begun) != 0)
        return np.concatenate([[True], changed]) if len(self) else np.zeros(0, bool)


def silences(tasks: Tasks, rows: Array, until: float, open_only: bool = False) -> Steps:
    """The steps of all silences of some tasks while at least MIN_OPEN of their jobs were open.

    Args:
        tasks: The tasks.
        rows: Those to look at.
        until: Steps that end later are left out (s since 1970).
        open_only: Only silences that had not ended then.
    """
    if not len(rows):
        empty = np.empty(0)
        return Steps(empty.astype(np.int64), empty, empty, empty, empty.astype(bool))
    task, begun, start, stop, over = _silences(
        *(tasks.first, tasks.submitted, tasks.started, tasks.ended),
        *(rows.astype(np.int64), STEP_ENDS, until, MIN_OPEN, open_only),
    )
    return Steps(task, begun, start, stop, over)


@compiled
def _silences(
    first: Array,
    submitted: Array,
    started: Array,
    ended: Array,
    rows: Array,
    step_ends: Array,
    until: float,
    min_open: int,
    open_only: bool,
) -> tuple[Array, Array, Array, Array, Array]:
    """The compiled part of ``silences``."""
    task, begun, start, stop, over = [0], [0.0], [0.0], [0.0], [False]
    for row in rows:
        low, high = first[row], first[row + 1]
        size = high - low
        events = np.empty(3 * size + 1)
        events[:size] = submitted[low:high]
        events[size : 2 * size] = started[low:high]
        events[2 * size : 3 * size] = ended[low:high]
        events[3 * size] = np.inf
        events.sort()
        for index in range(3 * size):
            begin, following = events[index], events[index + 1]
            if begin > until:
                break
            if following - begin <= step_ends[0] or (open_only and following <= until):
                continue
            waiting_or_running = 0
            for job in range(low, high):
                waiting_or_running += submitted[job] <= begin and ended[job] > begin
            if waiting_or_running < min_open:
                continue
            for step in range(len(step_ends) - 1):
                from_time, to_time = begin + step_ends[step], begin + step_ends[step + 1]
                if from_time >= following or to_time > until:
                    break
                task.append(row)
                begun.append(begin)
                start.append(from_time)
                stop.append(to_time)
                over.append(following <= to_time)
    return (
        np.array(task)[1:],
        np.array(begun)[1:],
        np.array(start)[1:],
        np.array(stop)[1:],
        np.array(over)[1:],
    )


def inputs_of(tasks: Tasks, steps: Steps, curves: JobCurves) -> Array:
    """Compute the inputs of the hazard for each step (float32[n, INPUTS], NaN for unknown).

    Args:
        tasks: All tasks: those that are not queried tell what the machine does.
        steps: Steps of silences.
        curves: Predictions of the jobs.
    """
    jobs = tasks.jobs
    cores = np.nan_to_num(jobs["requested_cores"].to_numpy(np.float64), nan=1.0)
    request = np.nan_to_num(jobs["requested_walltime"].to_numpy(np.float64))
    owner = pd.factorize(jobs["user"])[0]
    queue = pd.factorize(
        jobs["queue"].astype(object).fillna("") + "\0" + jobs["site"].astype(object).fillna("")
    )[0]
    times = tasks.first, tasks.submitted, tasks.started, tasks.ended
    step_times = steps.task, steps.begun, steps.start, steps.stop
    wide = np.full((len(steps), len(INPUTS)), np.nan)
    own, others_end, past = np.cumsum(list(map(len, (OWN_INPUTS, OTHER_INPUTS, PAST_INPUTS))))
    kinds = [
        (curve.reached, curve.row, np.array([curve.lowest, curve.steps]))
        for curve in (curves.walltime, curves.wait)
    ]
    _own_inputs(*times, cores, request, *step_times, *kinds[0], *kinds[1], wide[:, :own])
    by_start, by_end = (np.argsort(event, kind="stable") for event in times[2:])
    _other_inputs(
        *times,
        *(cores, tasks.task, owner, queue),
        *(by_start, tasks.started[by_start], by_end, tasks.ended[by_end]),
        *step_times,
        wide[:, own:others_end],
    )
    _past_inputs(*times, *step_times, wide[:, others_end:past])
    wide[:, past] = steps.start / 3600 % 24
    wide[:, past + 1] = steps.start // 86400 % 7
    wide[:, past + 2] = _running(owner, tasks, steps) - wide[:, INPUTS.index("running")]
    wide[:, past + 3 :] = _owner_inputs(owner, tasks, steps)
    return wide.astype(np.float32)


def _owner_inputs(owner: Array, tasks: Tasks, steps: Steps) -> Array:
    """Compute OWNER_INPUTS (float64[n, 2])."""
    rows = np.flatnonzero(tasks.sizes >= MIN_OPEN)
    earlier = silences(tasks, rows, float(steps.stop.max(initial=-np.inf)))
    last = np.append(np.flatnonzero(earlier.is_first)[1:], len(earlier)) - 1
    last = last[earlier.over[last]] if len(earlier) else last[:0]
    ended = pd.DataFrame(
        {
            "owner": owner[tasks.first[earlier.task[last]]],
            "at": earlier.stop[last],
            "lasted": np.log(earlier.stop[last] - earlier.begun[last]),
        }
    ).sort_values("at", kind="stable", ignore_index=True)
    by_owner = ended.groupby("owner")["lasted"]
    ended["usual"] = by_owner.rolling(LATEST_SILENCES, min_periods=1).mean().droplevel(0)
    ended["silences"] = by_owner.cumcount() + 1.0
    order = np.argsort(steps.begun, kind="stable")
    queries = pd.DataFrame({"owner": owner[tasks.first[steps.task]], "at": steps.begun}).iloc[order]
    by_step = pd.merge_asof(queries, ended, on="at", by="owner")[["usual", "silences"]].to_numpy()
    by_step = by_step[np.argsort(order, kind="stable")]
    silent = np.log(steps.start - steps.begun)
    return np.column_stack([silent - by_step[:, 0], np.nan_to_num(by_step[:, 1])])


def _running(owner: Array, tasks: Tasks, steps: Steps) -> Array:
    """How many jobs of each step's owner run at its start (float64[n])."""
    far, since = 1e9, tasks.submitted.min(initial=np.inf)
    wanted = owner[tasks.first[steps.task]] * far

    def before(times: Array) -> Array:
        keys = np.sort(owner * far + np.minimum(times - since, far / 2))
        upto = np.searchsorted(keys, wanted + steps.start - since, side="right")
        return np.asarray(upto - np.searchsorted(keys, wanted))

    return before(tasks.started) - before(tasks.ended)


@compiled
def _survival(reached: Array, lasted: float, scale: Array) -> float:
    """The share of a distribution that lasts longer, one in ten thousand at least."""
    if lasted <= 0:
        return 1.0
    position = min(scale[1] * np.log2(max(lasted / scale[0], 1.0)), len(reached) - 1e-6)
    low = int(position)
    before = reached[low - 1] if low > 0 else 0.0
    return max(1.0 - (before + (reached[low] - before) * (position - low)), 1e-4)


@compiled
def _hazard(reached: Array, lasted: float, length: float, scale: Array) -> tuple[float, float]:
    """The share that lasts longer, and the cumulative hazard of the next ``length`` seconds."""
    share = _survival(reached, lasted, scale)
    return share, np.log(share / _survival(reached, lasted + length, scale))


@compiled
def _own_inputs(
    first: Array,
    submitted: Array,
    started: Array,
    ended: Array,
    cores: Array,
    request: Array,
    step_task: Array,
    begun: Array,
    start: Array,
    stop: Array,
    walltimes: Array,
    walltime_row: Array,
    walltime_scale: Array,
    waits: Array,
    wait_row: Array,
    wait_scale: Array,
    out: Array,
) -> None:
    """Compute OWN_INPUTS; the arguments are as in ``inputs_of``."""
    for row in range(len(step_task)):
        low, high = first[step_task[row]], first[step_task[row] + 1]
        at, length, to = start[row], stop[row] - start[row], out[row]
        running, waiting, over, jobs = 0, 0, 0, 0
        end_hazard, end_most, run_share, youngest, oldest = 0.0, 0.0, 0.0, np.inf, 0.0
        start_hazard, start_most, wait_share, fewest, longest = 0.0, 0.0, 0.0, np.inf, 0.0
        requested, overdue, least_left, spent, logs = 0, 0, np.inf, 0.0, 0.0
        longest_run, log_runs, longest_begun = 0.0, 0.0, 0.0
        for job in range(low, high):
            if submitted[job] > at:
                continue
            jobs += 1
            if ended[job] <= at:
                over += 1
                ran = ended[job] - started[job]
                log_runs += np.log(ran + 60)
                longest_run = max(longest_run, ran)
                longest_begun = max(longest_begun, started[job] - submitted[job])
            elif started[job] <= at:
                running += 1
                age = at - started[job]
                curve = walltimes[walltime_row[job]]
                share, hazard = _hazard(curve, age, length, walltime_scale)
                end_hazard += hazard
                end_most = max(end_most, hazard)
                run_share += share
                youngest, oldest = min(youngest, age), max(oldest, age)
                longest_begun = max(longest_begun, started[job] - submitted[job])
                if request[job] > 0:
                    requested += 1
                    overdue += age > request[job] + TOLERANCE
                    least_left = min(least_left, request[job] - age)
                    spent += age / request[job]
                    logs += np.log(request[job])
            else:
                waiting += 1
                age = at - submitted[job]
                curve = waits[wait_row[job]]
                share, hazard = _hazard(curve, age, length, wait_scale)
                start_hazard += hazard
                start_most = max(start_most, hazard)
                wait_share += share
                fewest, longest = min(fewest, cores[job]), max(longest, age)
                if request[job] > 0:
                    logs += np.log(request[job])
        to[0], to[1], to[2], to[3] = np.log(at - begun[row]), np.log(length), running, waiting
        to[4], to[5], to[6], to[7] = over / jobs, jobs, end_hazard, end_most
        if running:
            to[8], to[15], to[16] = run_share / running, youngest, oldest
        if requested:
            to[9], to[10], to[14] = overdue / requested, least_left, spent / requested
        if running and over:
            to[11] = np.log((oldest + 60) / (longest_run + 60))
            to[12] = np.log((youngest + 60) / (longest_run + 60))
            to[13] = np.log(oldest + 60) - log_runs / over
            outlived, survived = 0.5, 1.0
            for job in range(low, high):
                if ended[job] <= at:
                    outlived += ended[job] - started[job] > youngest + length
                    survived += ended[job] - started[job] > youngest
            to[17] = 1.0 - outlived / survived
        to[18], to[19] = start_hazard, start_most
        if waiting:
            to[20], to[21], to[23] = wait_share / waiting, fewest, longest
            if running + over:
                to[22] = np.log((longest + 60) / (longest_begun + 60))
        to[24] = logs / (running + waiting)


@compiled
def _other_inputs(
    first: Array,
    submitted: Array,
    started: Array,
    ended: Array,
    cores: Array,
    task: Array,
    owner: Array,
    queue: Array,
    by_start: Array,
    starts: Array,
    by_end: Array,
    ends: Array,
    step_task: Array,
    begun: Array,
    start: Array,
    stop: Array,
    out: Array,
) -> None:
    """Compute OTHER_INPUTS; the arguments are as in ``inputs_of``."""
    origin = submitted.min()
    last_used = np.full(queue.max() + 1, -1)
    for row in range(len(step_task)):
        own, begin, at, until, to = step_task[row], begun[row], start[row], stop[row], out[row]
        low, high = first[own], first[own + 1]
        fewest, earliest, own_starts, own_ends = np.inf, np.inf, 0, 0
        for job in range(low, high):
            own_starts += at < started[job] <= until
            own_ends += at < ended[job] <= until
            if submitted[job] <= at < ended[job]:
                if started[job] > at:
                    fewest, earliest = min(fewest, cores[job]), min(earliest, submitted[job])
                else:
                    last_used[queue[job]] = row
        is_next = row > 0 and step_task[row - 1] == own and begun[row - 1] == begin
        to[:6] = 0.0
        to[10], to[11] = 0.0, 0.0
        if is_next:
            to[10] = out[row - 1, 10] + out[row - 1, 1]
            to[11] = out[row - 1, 11] + out[row - 1, 2]
        since = np.searchsorted(starts, at, side="right")
        upto = np.searchsorted(starts, until, side="right")
        for index in range(since if is_next else np.searchsorted(starts, begin, "right"), upto):
            job = by_start[index]
            if task[job] == own:
                continue
            same_queue, same_owner = queue[job] == queue[low], owner[job] == owner[low]
            # A job that was submitted later, is no smaller hindrance, and started first.
            overtook = submitted[job] > earliest and cores[job] <= fewest
            if index < since:
                to[10] += overtook and same_queue
                to[11] += same_owner
                continue
            to[0] += overtook
            to[1] += overtook and same_queue
            to[2] += same_owner
            to[3] += same_queue
        span = min(USUAL_SECONDS, max(begin - origin, 3600.0))
        start_count = upto - since - own_starts
        since, upto = np.searchsorted(ends, at, "right"), np.searchsorted(ends, until, "right")
        for index in range(since, upto):
            job = by_end[index]
            if task[job] != own:
                to[4] += owner[job] == owner[low]
                to[5] += last_used[queue[job]] == row
        end_count = upto - since - own_ends
        usual_starts = (
            np.searchsorted(starts, begin, "right") - np.searchsorted(starts, begin - span, "right")
        ) / span
        usual_ends = (
            np.searchsorted(ends, begin, "right") - np.searchsorted(ends, begin - span, "right")
        ) / span
        to[6] = np.log((start_count + 1) / (usual_starts * (until - at) + 1))
        to[7] = np.log((end_count + 1) / (usual_ends * (until - at) + 1))
        to[8], to[9] = usual_starts, usual_ends


@compiled
def _past_inputs(
    first: Array,
    submitted: Array,
    started: Array,
    ended: Array,
    step_task: Array,
    begun: Array,
    start: Array,
    stop: Array,
    out: Array,
) -> None:
    """Compute PAST_INPUTS; the arguments are as in ``inputs_of``."""
    gap = 0.0
    for row in range(len(step_task)):
        begin, to = begun[row], out[row]
        if row > 0 and step_task[row - 1] == step_task[row] and begun[row - 1] == begin:
            to[1:] = out[row - 1, 1:]
        else:
            low, high = first[step_task[row]], first[step_task[row] + 1]
            events, count = np.empty(3 * (high - low)), 0
            for job in range(low, high):
                for moment in (submitted[job], started[job], ended[job]):
                    if moment <= begin:
                        events[count] = moment
                        count += 1
            events = np.sort(events[:count])
            gap = 0.0
            for index in range(count - 1):
                gap = max(gap, events[index + 1] - events[index])
            to[1] = count
            for column, hours in ((2, 1), (3, 6), (4, 24)):
                to[column] = (events > begin - hours * 3600.0).sum()
            to[5] = np.log(begin - events[max(0, count - 6)] + 60)
        to[0] = np.log((start[row] - begin) / (gap + 600))


Hazard = Callable[[Array], Array]


def fit_silences(inputs: Array, steps: Steps) -> Hazard | None:
    """Fit the probability that a step ends its silence; None with too few ended silences."""
    if steps.over.sum() < FEWEST_SILENCES:
        return None
    over = steps.over[-MAX_STEPS:].astype(np.int64)
    fitted = [fit_hazard(inputs[-MAX_STEPS:], over, *settings) for settings in MODELS]
    models = [model for model in fitted if model is not None]
    return (lambda rows: np.mean([model(rows) for model in models], axis=0)) if models else None


def evidence(hazard: Hazard, inputs: Array, steps: Steps) -> Array:
    """Minus the log probability that each silence lasted to the end of its step (float64[n]).

    Args:
        hazard: Gives the probability that an event ends a step.
        inputs: As of ``inputs_of``.
        steps: The steps, those of a silence adjacent.
    """
    if not len(steps):
        return np.empty(0)
    added = -np.log1p(-np.minimum(hazard(inputs), 1 - 1e-9))
    total, first = np.cumsum(added), np.flatnonzero(steps.is_first)
    before = np.repeat(total[first] - added[first], np.diff(np.append(first, len(added))))
    return np.asarray(total - before)
