"""The task watch: when each open task will be done, its state, and what delays it.

Three steps, as in ATLAS's P2PA: the 95th percentile of the group is the ceiling; the models of
``models.tasks.ends`` predict the end at the definition; and every later update predicts it again
from what ended, what runs and for how long, and what waits. A stalled task has no predicted end.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.aliases import Array
from infra.background import is_data_error
from infra.settings import Settings
from jobs.schema import COLUMNS as COLUMNS_OF_JOBS
from jobs.schema import OUTCOMES
from jobs.store import (
    add_task_predictions,
    first_task_predictions,
    latest_task_predictions,
    read_jobs,
    read_thresholds,
)
from jobs.store.tasks import stored_task_name
from models.engine.target_predictor import TargetPredictor
from models.engine.training import find_target
from models.histories.features import Levels, choose_levels, encode
from models.histories.mixture import Mixture
from models.quantities import stochastic
from models.tasks.backtest import queries_about, query_inputs
from models.tasks.chains import Links, TaskSet, links, task_sets
from models.tasks.ends import FEWEST_JOBS, PastQueries, TaskModel
from models.tasks.inputs import OpenJobs, Queries, inputs, open_jobs
from models.tasks.ranges import LEVELS, fit_calibrated, time_left
from models.tasks.sets import Tasks, group_tasks, microseconds
from monitoring.alerts import active_alerts, alert_key, notify
from monitoring.tasks.activity import Activity, ended_by_hour, summarise
from monitoring.tasks.slow_hosts import alert_about
from monitoring.tasks.stalls import StallDetector, fit_live_detector
from monitoring.tasks.states import (
    Thresholds,
    compare_with_first,
    confidence,
    delay_reasons,
    failures,
    last_end,
    last_event,
    silence_ratio,
    states,
    submitted,
    upper_walltime,
)
from monitoring.tasks.task_sets import (
    blocked_tasks,
    held_up_by,
    quantiles,
    rows_of_sets,
    until_done,
)

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = logging.getLogger(__name__)

HISTORY = timedelta(days=60)
DONE_SHOWN = timedelta(days=1)
"""How long a task that is done stays among the watched ones."""
REFIT_AFTER = timedelta(hours=6)
MAX_FIT_JOBS = 100_000
"""The latest jobs whose tasks the models are fitted on."""
JOB_COLUMNS = (
    *(name for name in COLUMNS_OF_JOBS if name not in OUTCOMES),
    *("started_at", "ended_at", "status", "walltime", "cpu_time", "host", "host_power"),
)
"""What is read of jobs: what is known at submission, and the outcomes that a state follows from."""
ALERT_PREFIX = "task "
MAX_ALERTS = 20
"""New alerts in one update; the next updates send the others, as they do what was not delivered."""
ALERTED_STATES = ("stalled", "failing")
MIN_MOVE = 0.02
"""An end that moved by less than this share of the time left is not stored again."""
IDENTITY = ["kind", "source", "task"]
ENDS = ("low", "median", "high")
TIMES = ("defined_at", *ENDS, "ceiling", "asked_at", "stalled_since")
COLUMNS = (
    *IDENTITY,
    *("owner", "group", "state", "reasons", "tasks", "jobs", "ended", "failed", "progress"),
    *("expected_progress", "confidence", *TIMES, "ended_by_hour", "members"),
)
"""``ended_by_hour`` counts a task's jobs that ended in each of the last 24 hours; ``members`` are
the names of the tasks of a chain or request."""


@dataclass(frozen=True)
class _Open:
    """The open jobs of queried tasks, and the walltime that each should not exceed (s)."""

    queries: Queries
    jobs: OpenJobs
    longest: Array

    def of(self, query: int) -> dict[int, float]:
        """The longest walltimes of one query's jobs, by row."""
        own = slice(*np.searchsorted(self.jobs.query, [query, query + 1]))
        return dict(zip(self.jobs.job[own].tolist(), self.longest[own].tolist(), strict=True))


@dataclass
class TaskWatch:
    """What is kept between two updates: histories of jobs, and models of tasks."""

    engine: Engine
    settings: Settings
    mixture: Mixture | None = None
    levels: Levels | None = None
    model: TaskModel = field(default_factory=TaskModel)
    detector: StallDetector = field(default_factory=StallDetector)
    fitted_at: pd.Timestamp | None = None
    activity: Activity = field(default_factory=dict)
    learned_until: pd.Timestamp | None = None

    def update(self, now: datetime) -> pd.DataFrame:
        """Describe every task that is open or lately done as of ``now``; store what changed.

        Returns:
            A row a task, chain or request, with COLUMNS; times in UTC.
        """
        moment = pd.Timestamp(now)
        stored = read_jobs(self.engine, since=moment - HISTORY, until=moment, columns=JOB_COLUMNS)
        jobs = as_of(stored, moment)
        self.activity = summarise(jobs, moment)
        alert_about(self.engine, self.settings, self.activity["slow_hosts"], moment)
        tasks = group_tasks(jobs)
        waits = links(tasks)
        sets = task_sets(tasks, waits)
        in_sets = np.concatenate([task_set.rows for task_set in sets] or [np.empty(0, np.int64)])
        watched = tasks.sizes > 1
        watched[in_sets] = True
        watched &= tasks.finished > moment.timestamp() - DONE_SHOWN.total_seconds()
        rows = np.flatnonzero(watched)
        if not len(rows):
            return pd.DataFrame(columns=list(COLUMNS))
        self._learn(tasks, jobs, moment)
        sets = [task_set for task_set in sets if np.isin(task_set.rows, rows).any()]
        described = self._predict(tasks, rows, waits, sets, moment)
        self._store(described)
        self._alert(described[described["kind"] == "task"], moment)
        return described

    def _learn(self, tasks: Tasks, jobs: pd.DataFrame, now: pd.Timestamp) -> None:
        target = find_target("walltime")
        if self.mixture is None or self.levels is None:
            self.levels = choose_levels(jobs, target.subject)
            self.mixture = TargetPredictor.create(target, self.levels).mixture
        ended_at = tasks.jobs["ended_at"]
        new = ended_at.notna()
        if self.learned_until is not None:  # jobs that are learned twice count once
            new = ended_at > self.learned_until - DONE_SHOWN
        rows = np.flatnonzero(new)
        if len(rows):
            ended = tasks.jobs.iloc[rows]
            defined = microseconds(tasks.defined[tasks.task[rows]])
            contexts = replace(encode(ended, self.levels), at=defined)
            self.mixture.learn(contexts, target.value(ended), target.limit(ended))
        self.learned_until = now
        if self.fitted_at is None or now - self.fitted_at >= REFIT_AFTER:
            self.model, self.detector = fit_on(jobs, now)
            self.fitted_at = now

    def _predict(
        self, tasks: Tasks, rows: Array, waits: Links, sets: list[TaskSet], now: pd.Timestamp
    ) -> pd.DataFrame:
        assert self.mixture is not None and self.levels is not None  # noqa: S101
        at = now.timestamp()
        over = np.add.reduceat(tasks.ended <= at, tasks.first[:-1])[rows]
        queries = Queries(rows, np.full(len(rows), at), over / tasks.sizes[rows])
        contexts, mixture = encode(tasks.jobs, self.levels), self.mixture
        longest = np.empty(0)

        def walltimes(job: Array, _: Array) -> tuple[Array, Array]:
            nonlocal longest
            keys = pd.DataFrame(contexts.keys[job])
            alike = pd.util.hash_pandas_object(keys, index=False).to_numpy()
            _, heads, index = np.unique(alike, return_index=True, return_inverse=True)
            unique = contexts.take(job[heads]).predicted_at(now)
            limit = mixture.target.limit(tasks.jobs.iloc[job[heads]])
            mass = mixture.distributions(unique, limit).mass
            longest = upper_walltime(mass, mixture.grid)[index]
            return mass, index

        task_inputs = inputs(tasks, queries, walltimes, mixture.grid)
        left = time_left(self.model, task_inputs, LEVELS)
        left[over == tasks.sizes[rows]] = 0.0
        remaining = self._remaining_of_sets(tasks, queries, task_inputs, sets, waits)
        for index, row in enumerate(rows.tolist()):
            if row in waits.before and left[index].any():
                left[index] = quantiles(remaining[row][None])[0]
        jobs = open_jobs(tasks, queries)
        was_submitted = tasks.submitted[jobs.job] <= at
        opened = _Open(queries, submitted(tasks, queries, jobs), longest[was_submitted])
        frame, causes = self._task_rows(tasks, left, opened, over, waits)
        states_by_row = dict(zip(rows.tolist(), frame["state"], strict=True))
        frames = [frame]
        for kind in ("chain", "request"):
            own = [task_set for task_set in sets if task_set.kind == kind]
            if own:
                sources = tasks.jobs["source"].iloc[
                    tasks.first[[task_set.rows[0] for task_set in own]]
                ]
                first = first_ends(self.engine, [task_set.name for task_set in own], sources, kind)
                frames.append(
                    rows_of_sets(own, tasks, waits, remaining, states_by_row, causes, first, at)
                )
        described = pd.concat(frames, ignore_index=True).reindex(columns=list(COLUMNS))
        times: dict[str, Any] = {
            name: pd.to_datetime(described[name], unit="s", utc=True).dt.round("s")
            for name in TIMES
        }
        return described.assign(**times)

    def _remaining_of_sets(
        self, tasks: Tasks, queries: Queries, task_inputs: Array, sets: list[TaskSet], waits: Links
    ) -> dict[int, Array]:
        rows, at = queries.task, float(queries.at[0])
        in_sets = np.concatenate([task_set.rows for task_set in sets] or [np.empty(0, np.int64)])
        members = np.flatnonzero(np.isin(rows, in_sets))
        points = time_left(self.model, task_inputs[members], stochastic.LEVELS)
        points[tasks.finished[rows[members]] <= at] = 0.0
        return until_done(tasks, rows[members], points, sets, waits, at)

    def _task_rows(
        self, tasks: Tasks, left: Array, opened: _Open, over: Array, waits: Links
    ) -> tuple[pd.DataFrame, dict[int, int]]:
        """Describe the tasks; and ``held_up_by``, which task each one without an end waits for."""
        queries = opened.queries
        rows, at, now = queries.task, queries.at, float(queries.at[0])
        finished, defined = tasks.finished[rows], tasks.defined[rows]
        done = np.isfinite(finished)
        sources = tasks.jobs["source"].iloc[tasks.first[rows]]
        end = np.where(done[:, None], finished[:, None], at[:, None] + left)
        first = first_ends(self.engine, tasks.names[rows], sources)
        level, expected = compare_with_first(defined, end, first, at)
        ends = last_end(tasks, queries)
        silence = self.detector.ratios(tasks, rows, now)
        if silence is None:
            silence = silence_ratio(tasks, queries, opened.jobs, opened.longest, ends)
        silence[blocked_tasks(tasks, rows, waits, now)] = 0.0
        limits = thresholds_of(self.engine, tasks.groups[rows])
        ended, failed = failures(tasks, queries)
        chosen = states(done, silence, ended, failed, level, limits)
        stall_limit = np.array([limit.stalled for limit in limits])
        stalled = ~done & (silence > stall_limit)
        since = np.where(stalled, last_event(tasks, queries, opened.jobs, ends), np.nan)
        causes = held_up_by(tasks, set(rows[stalled].tolist()), waits, now)
        no_end = np.array([row in causes for row in rows.tolist()])
        # The longer a task is silent, the less is known of its end.
        trust = np.where(stalled, stall_limit / np.maximum(silence, stall_limit), ~no_end)
        reasons = []
        for index, state in enumerate(chosen):
            own = []
            if state in ("late", *ALERTED_STATES):
                own = delay_reasons(tasks, int(rows[index]), now, opened.of(index))
            if stalled[index]:
                own.append(stall_sentence(since[index], left[index]))
            elif no_end[index]:
                own.append(f"waits for task {tasks.names[causes[int(rows[index])]]}, which stalls")
            reasons.append(own)
        columns = {
            "kind": "task",
            "source": sources.to_numpy(),
            "task": tasks.names[rows],
            "owner": tasks.users[rows],
            "group": tasks.groups[rows],
            "state": chosen,
            "reasons": reasons,
            "tasks": 1.0,
            "jobs": tasks.sizes[rows].astype(float),
            "ended": over.astype(float),
            "failed": failed.astype(float),
            "progress": over / tasks.sizes[rows],
            "expected_progress": expected,
            "confidence": confidence(level) * trust,
            "ceiling": defined + ceilings(tasks, rows, now),
            "defined_at": defined,
            **{name: np.where(no_end, np.nan, end[:, i]) for i, name in enumerate(ENDS)},
            "ended_by_hour": list(ended_by_hour(tasks.task, tasks.ended, len(tasks), now)[rows]),
            "asked_at": at,
            "stalled_since": since,
        }
        return pd.DataFrame(columns), causes

    def _store(self, described: pd.DataFrame) -> None:
        """Store the rows that say something new; one that the store cannot take is left out."""
        names = described.assign(task=[stored_task_name(name) for name in described["task"]])
        keys = pd.MultiIndex.from_frame(names[IDENTITY])
        kinds = described["kind"].unique()
        latest = pd.concat([latest_task_predictions(self.engine, kind) for kind in kinds])
        before = latest.set_index(IDENTITY).reindex(keys)
        left = (described["median"] - described["asked_at"]).dt.total_seconds().to_numpy()
        now, then = _seconds(described["median"]), _seconds(before["median"])
        unmoved = np.abs(now - then) <= MIN_MOVE * np.maximum(left, 60.0)
        same = (unmoved | (np.isnan(now) & np.isnan(then))) & (
            before["state"].to_numpy() == described["state"].to_numpy()
        )
        same &= before["ended"].to_numpy() == described["ended"].to_numpy()
        new = described[~same].drop(columns="stalled_since")
        try:
            self._add(new)
        except Exception as error:
            if not is_data_error(error):
                raise
            for row in range(len(new)):
                self._add_one(new.iloc[row : row + 1])

    def _add(self, rows: pd.DataFrame) -> None:
        with self.engine.begin() as connection:
            add_task_predictions(connection, rows)

    def _add_one(self, row: pd.DataFrame) -> None:
        try:
            self._add(row)
        except Exception as error:
            if not is_data_error(error):
                raise
            name = str(row["task"].iloc[0])[:100]
            log.warning("the prediction of task %r cannot be stored: %s", name, error)

    def _alert(self, tasks: pd.DataFrame, now: pd.Timestamp) -> None:
        """Alert about tasks that went wrong, and when they recover; their sets add nothing."""
        active = active_alerts(self.engine, self.settings, now - HISTORY)
        old_keys = {f"{ALERT_PREFIX}{name}" for name in tasks["task"]} & active.keys()
        several = tasks["source"].nunique() > 1
        sentences, titles = dict[str, str](), dict[str, str]()
        for row in tasks.to_dict("records"):
            name = f"{ALERT_PREFIX}{row['task']}"
            # Alerts of older versions have no source in their key.
            key = name if name in old_keys else alert_key(name, row["source"])
            titles[key] = f"{name} of {row['source']}" if several else name
            if row["state"] not in ALERTED_STATES:
                continue
            reasons = "; ".join(row["reasons"])
            sentences[key] = f"{row['task']} of {row['owner']} is {row['state']}: {reasons}"
        over = {key for key in active if key.startswith(ALERT_PREFIX)} - sentences.keys()
        # Those that no address knows come before those that only some could be sent.
        unsent = [key for key in sentences if key not in active]
        unsent += [key for key in sentences if active.get(key) is False]
        conditions = dict.fromkeys(sorted(over), "")
        conditions |= {key: sentences[key] for key in unsent[:MAX_ALERTS]}
        notify(self.engine, self.settings, conditions, now.to_pydatetime(), titles)


def stall_sentence(since: float, left: Array) -> str:
    """Say since when a task stalls, and how long it needs once it goes on.

    Args:
        since: Its last event (s since 1970).
        left: Low, median and high time that it needs (float64[3], s).
    """
    low, median, high = left / 3600
    moment = f"{pd.Timestamp(since, unit='s'):%Y-%m-%d %H:%M} UTC"
    return (
        f"nothing has happened since {moment}: no end is predicted; "
        f"once it goes on it needs {median:.1f} h ({low:.1f} to {high:.1f} h)"
    )


def as_of(jobs: pd.DataFrame, now: pd.Timestamp) -> pd.DataFrame:
    """Give ``jobs`` as they were at ``now``, without later starts and outcomes."""
    later, waits = jobs["ended_at"] > now, jobs["started_at"] > now
    names = ("ended_at", "walltime", "cpu_time", "status")
    outcomes = {name: jobs[name].mask(later) for name in names if name in jobs}
    return jobs.assign(**outcomes, started_at=jobs["started_at"].mask(waits))


def fit_on(jobs: pd.DataFrame, now: pd.Timestamp) -> tuple[TaskModel, StallDetector]:
    """Fit the models of ends and of stalls on the latest of ``jobs``, by what is known ``now``."""
    latest = jobs.sort_values("submitted_at", kind="stable").tail(MAX_FIT_JOBS)
    tasks = group_tasks(latest)
    detector = fit_live_detector(tasks, now.timestamp())
    queries = queries_about(tasks, np.flatnonzero(tasks.sizes >= FEWEST_JOBS))
    past = queries.take(np.flatnonzero(queries.at < now.timestamp()))
    if not len(past):
        return TaskModel(), detector
    past_inputs = query_inputs(tasks, past)
    past_queries = PastQueries(past, past_inputs, tasks.finished[past.task])
    return fit_calibrated(past_queries, now.timestamp()), detector


def ceilings(tasks: Tasks, rows: Array, at: float) -> Array:
    """The 95th percentile of the durations of each group's ended tasks (float64[rows], s).

    Of a group that has none, that of all tasks.

    Args:
        tasks: The tasks.
        rows: The tasks to look at.
        at: The present, in s since 1970.
    """
    lasted, over = tasks.finished - tasks.defined, tasks.finished <= at

    def ceiling(chosen: Array, otherwise: float) -> float:
        return float(np.quantile(lasted[chosen], 0.95)) if chosen.any() else otherwise

    overall = ceiling(over, 0.0)
    groups = tasks.groups[rows]
    of_group = {g: ceiling(over & (tasks.groups == g), overall) for g in dict.fromkeys(groups)}
    return np.array([of_group[group] for group in groups])


def first_ends(
    engine: Engine, names: Array | list[str], sources: pd.Series[Any], kind: str = "task"
) -> Array:
    """The first predicted end of each task, chain or request (float64[n, 3], s since 1970).

    Args:
        engine: The store.
        names: Their names.
        sources: Their sources.
        kind: ``task``, ``chain`` or ``request``.

    Returns:
        Low, median and high; NaN for those that are new.
    """
    stored = first_task_predictions(engine, kind).set_index(["source", "task"])
    keys = pd.MultiIndex.from_arrays([list(sources), [stored_task_name(name) for name in names]])
    rows = stored.reindex(keys)
    return np.column_stack([_seconds(rows[name]) for name in ENDS])


def _seconds(times: pd.Series[Any]) -> Array:
    since = pd.to_datetime(times, utc=True) - pd.Timestamp(0, tz="UTC")
    return np.asarray(since.dt.total_seconds().to_numpy(dtype=np.float64))


def thresholds_of(engine: Engine, groups: Array) -> list[Thresholds]:
    """The thresholds of each group: the newest set for it, else for ``all``, else the defaults."""
    stored = read_thresholds(engine)
    stored = stored[stored["name"].isin(list(Thresholds.__dataclass_fields__))]
    by_group: dict[str, Thresholds] = {}
    for group in dict.fromkeys(groups):
        values: dict[str, float] = {}
        for scope in ("all", group):
            own = stored[stored["group"] == scope]
            values |= dict(zip(own["name"], own["value"], strict=True))
        by_group[group] = Thresholds(**values)
    return [by_group[group] for group in groups]
