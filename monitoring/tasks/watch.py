"""The watch over tasks: at every look, when each open task will be done, how it stands, and who holds it back.

Three steps, as in ATLAS's P2PA: the 95th percentile of the group is the ceiling; the models of ``models.tasks.ends`` foresee the end at the
definition; and every later look foresees it anew from what ended, what runs and for how long, and what waits.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.aliases import Array
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
from monitoring.alerts import active_alerts, notify
from monitoring.tasks.states import (
    Thresholds,
    compare_with_first,
    confidence,
    delay_reasons,
    failures,
    last_end,
    silence_ratio,
    states,
    submitted,
    upper_walltime,
)
from monitoring.tasks.task_sets import blocked_tasks, quantiles, rows_of, until_done

if TYPE_CHECKING:
    from sqlalchemy import Engine


HISTORY = timedelta(days=60)
SHOWN = timedelta(days=1)
"""How long a task that is done stays among those that are looked at."""
REFIT = timedelta(hours=6)
MOST_JOBS = 100_000
"""The latest ended jobs whose tasks the models are fitted on."""
SEEN = (
    *(name for name in COLUMNS_OF_JOBS if name not in OUTCOMES),
    "started_at",
    "ended_at",
    "status",
    "walltime",
    "host",
)
"""What is read of jobs: all that is known at submission, and the outcomes that say how a task stands."""
ALERT = "task "
MOST_TOLD = 20
"""Of more that went wrong at once the rest is told at the next looks, as what could not be delivered is."""
WRONG = ("stalled", "failing")
MOVED = 0.02
"""An end that moved by less than this share of what is left is no news."""


@dataclass
class TaskWatch:
    """What is kept between two looks at one store: the histories of jobs, the models of tasks, and when these were fitted."""

    engine: Engine
    settings: Settings
    mixture: Mixture | None = None
    levels: Levels | None = None
    model: TaskModel = field(default_factory=TaskModel)
    fitted_at: pd.Timestamp | None = None
    learned_until: pd.Timestamp | None = None

    def look(self, now: datetime) -> pd.DataFrame:
        """Look at all tasks as they stood at ``now``; returns a row a task that is open or lately done, and stores what is news."""
        moment = pd.Timestamp(now)
        jobs = as_of(
            read_jobs(self.engine, since=moment - HISTORY, until=moment, columns=SEEN), moment
        )
        tasks = group_tasks(jobs)
        waits = links(tasks)
        sets = task_sets(tasks, waits)
        several = tasks.sizes > 1
        several[np.concatenate([whole.rows for whole in sets] or [np.empty(0, np.int64)])] = True
        rows = np.flatnonzero(
            (tasks.finished > moment.timestamp() - SHOWN.total_seconds()) & several
        )
        if not len(rows):
            return pd.DataFrame(columns=COLUMNS)
        self._learn(tasks, jobs, moment)
        found = self._predict(
            tasks, rows, waits, [whole for whole in sets if np.isin(whole.rows, rows).any()], moment
        )
        self._keep(found, moment)
        return found

    def _learn(self, tasks: Tasks, jobs: pd.DataFrame, now: pd.Timestamp) -> None:
        aim = find_target("walltime")
        if self.mixture is None or self.levels is None:
            self.levels = choose_levels(jobs, aim.subject)
            self.mixture = TargetPredictor.create(aim, self.levels).mixture
        since = self.learned_until - SHOWN if self.learned_until is not None else None
        ended = tasks.jobs["ended_at"].notna() if since is None else tasks.jobs["ended_at"] > since
        some = np.flatnonzero(ended)
        if len(some):
            # What is learned twice is known by its name and left out.
            contexts = replace(
                encode(tasks.jobs.iloc[some], self.levels),
                at=microseconds(tasks.defined[tasks.task[some]]),
            )
            self.mixture.learn(
                contexts, aim.value(tasks.jobs.iloc[some]), aim.limit(tasks.jobs.iloc[some])
            )
        self.learned_until = now
        if self.fitted_at is None or now - self.fitted_at >= REFIT:
            self.model, self.fitted_at = fit_on(jobs, now), now

    def _predict(
        self, tasks: Tasks, rows: Array, waits: Links, sets: list[TaskSet], now: pd.Timestamp
    ) -> pd.DataFrame:
        assert self.mixture is not None and self.levels is not None  # noqa: S101
        at = now.timestamp()
        count = len(rows)
        over = np.add.reduceat(tasks.ended <= at, tasks.first[:-1])[rows]
        questions = Queries(rows, np.full(count, at), over / tasks.sizes[rows])
        contexts, mixture = encode(tasks.jobs, self.levels), self.mixture
        asked: dict[str, Array] = {}

        def ask(job: Array, _: Array) -> tuple[Array, Array]:
            alike = pd.util.hash_pandas_object(
                pd.DataFrame(contexts.keys[job]), index=False
            ).to_numpy()
            heads, which = np.unique(alike, return_index=True, return_inverse=True)[1:]
            part = contexts.take(job[heads]).predicted_at(now)
            mass = mixture.distributions(
                part, mixture.target.limit(tasks.jobs.iloc[job[heads]])
            ).mass
            asked["most"] = upper_walltime(mass, mixture.grid)[which]
            return mass, which

        shown = inputs(tasks, questions, ask, mixture.grid)
        left = time_left(self.model, shown, LEVELS)
        left[over == tasks.sizes[rows]] = 0.0
        later = self._ends_of_sets(tasks, questions, shown, sets, waits)
        for place in (
            place for place, row in enumerate(rows) if row in waits.before and left[place].any()
        ):
            left[place] = quantiles(later[rows[place]][None])[0]
        opened = open_jobs(tasks, questions)
        seen = submitted(tasks, questions, opened)
        most = asked.get("most", np.empty(0))[tasks.submitted[opened.job] <= at]
        found = self._rows(
            tasks, questions, left, seen, most, over, blocked_tasks(tasks, rows, waits, at)
        )
        for kind in ("chain", "request"):
            some = [whole for whole in sets if whole.kind == kind]
            before = first_answers(self.engine, [whole.name for whole in some], kind)
            found = (
                pd.concat(
                    [found, rows_of(some, tasks, waits, later, found, before, at)],
                    ignore_index=True,
                )
                if some
                else found
            )
        times: Any = {
            name: pd.to_datetime(found[name], unit="s", utc=True).dt.round("s") for name in MOMENTS
        }
        return found.assign(**times)

    def _ends_of_sets(
        self, tasks: Tasks, questions: Queries, shown: Array, sets: list[TaskSet], waits: Links
    ) -> dict[int, Array]:
        rows, at = questions.task, float(questions.at[0])
        some = np.flatnonzero(
            np.isin(rows, np.concatenate([whole.rows for whole in sets] or [np.empty(0, np.int64)]))
        )
        points = time_left(self.model, shown[some], stochastic.LEVELS)
        points[tasks.finished[rows[some]] <= at] = 0.0
        return until_done(tasks, rows[some], points, sets, waits, at)

    def _rows(
        self,
        tasks: Tasks,
        questions: Queries,
        left: Array,
        opened: OpenJobs,
        most: Array,
        over: Array,
        waiting: Array,
    ) -> pd.DataFrame:
        at, rows = questions.at, questions.task
        finished, defined = tasks.finished[rows], tasks.defined[rows]
        end = np.where(np.isfinite(finished)[:, None], finished[:, None], at[:, None] + left)
        place, expected = compare_with_first(
            defined, end, first_answers(self.engine, tasks.names[rows]), at
        )
        quiet = np.where(
            waiting, 0.0, silence_ratio(tasks, questions, opened, most, last_end(tasks, questions))
        )
        ended, bad = failures(tasks, questions)
        stand = states(
            np.isfinite(finished),
            quiet,
            ended,
            bad,
            place,
            thresholds_of(self.engine, tasks.groups[rows]),
        )
        reasons = [
            [] if state not in ("late", *WRONG) else _reasons(tasks, questions, q, opened, most)
            for q, state in enumerate(stand)
        ]
        columns = {
            "kind": "task", "task": tasks.names[rows], "owner": tasks.users[rows], "group": tasks.groups[rows], "state": stand,
            "reasons": reasons, "tasks": 1.0, "jobs": tasks.sizes[rows].astype(float), "ended": over.astype(float),
            "failed": bad.astype(float), "progress": over / tasks.sizes[rows], "expected_progress": expected,
            "confidence": confidence(place), "ceiling": defined + ceilings(tasks, rows, float(at[0])),
            "defined_at": defined, "low": end[:, 0], "median": end[:, 1], "high": end[:, 2], "asked_at": at,
        }  # fmt: skip
        return pd.DataFrame(columns)

    def _keep(self, found: pd.DataFrame, now: pd.Timestamp) -> None:
        """Store the rows that say something new, and tell of tasks that went wrong or are right again."""
        known = pd.concat(
            [latest_task_predictions(self.engine, kind) for kind in found["kind"].unique()]
        ).set_index(["kind", "task"])
        before = known.reindex(pd.MultiIndex.from_frame(found[["kind", "task"]]))
        left = np.maximum((found["median"] - found["asked_at"]).dt.total_seconds().to_numpy(), 60.0)
        moved = np.nan_to_num(
            _seconds(found["median"]) - _seconds(pd.to_datetime(before["median"], utc=True)),
            nan=np.inf,
        )
        same = (before["state"].to_numpy() == found["state"].to_numpy()) & (
            before["ended"].to_numpy() == found["ended"].to_numpy()
        )
        news = found[~(same & (np.abs(moved) <= MOVED * left))]
        with self.engine.begin() as connection:
            add_task_predictions(connection, news)
        self._tell(found[found["kind"] == "task"], now)

    def _tell(self, found: pd.DataFrame, now: pd.Timestamp) -> None:
        """Tell of tasks that went wrong or are right again; a chain or request says no more than its tasks do."""
        told = {key for key in active_alerts(self.engine, now - HISTORY) if key.startswith(ALERT)}
        wrong = found[found["state"].isin(WRONG)]
        names = ALERT + wrong["task"]
        new = wrong[~names.isin(told).to_numpy()].head(MOST_TOLD)
        sentences = dict.fromkeys(sorted(told - set(names)), "")
        sentences |= {
            f"{ALERT}{task}": f"{task} of {owner} is {state}: {'; '.join(reasons)}"
            for task, owner, state, reasons in zip(
                new["task"], new["owner"], new["state"], new["reasons"], strict=True
            )
        }
        notify(self.engine, self.settings, sentences, now.to_pydatetime())


def _reasons(
    tasks: Tasks, questions: Queries, question: int, opened: OpenJobs, most: Array
) -> list[str]:
    own = slice(*np.searchsorted(opened.question, [question, question + 1]))
    return delay_reasons(
        tasks,
        int(questions.task[question]),
        float(questions.at[question]),
        dict(zip(opened.job[own], most[own], strict=True)),
    )


MOMENTS = ("defined_at", "low", "median", "high", "ceiling", "asked_at")
COLUMNS = (
    "kind", "task", "owner", "group", "state", "reasons", "tasks", "jobs", "ended", "failed", "progress", "expected_progress", "confidence",
    *MOMENTS,
)  # fmt: skip


def as_of(jobs: pd.DataFrame, now: pd.Timestamp) -> pd.DataFrame:
    """``jobs`` as they were known at ``now``: what ended or started later had not."""
    later, waits = jobs["ended_at"] > now, jobs["started_at"] > now
    outcomes = {name: jobs[name].mask(later) for name in ("ended_at", "walltime", "status")}
    return jobs.assign(**outcomes, started_at=jobs["started_at"].mask(waits))


def fit_on(jobs: pd.DataFrame, now: pd.Timestamp) -> TaskModel:
    """The models of tasks, fitted on the latest of ``jobs`` by what is known ``now``."""
    tasks = group_tasks(jobs.sort_values("submitted_at", kind="stable").tail(MOST_JOBS))
    rows = np.flatnonzero(tasks.sizes >= FEWEST_JOBS)
    questions = queries_about(tasks, rows)
    asked = questions.take(np.flatnonzero(questions.at < now.timestamp()))
    if not len(asked):
        return TaskModel()
    return fit_calibrated(
        PastQueries(asked, query_inputs(tasks, asked), tasks.finished[asked.task]), now.timestamp()
    )


def ceilings(tasks: Tasks, rows: Array, at: float) -> Array:
    """The 95th percentile of how long the ended tasks of each task's group took (float64[rows], s); of all where it has none."""
    lasted, over = tasks.finished - tasks.defined, tasks.finished <= at
    whole = float(np.quantile(lasted[over], 0.95)) if over.any() else 0.0
    of_group = {
        group: float(np.quantile(lasted[same], 0.95))
        if (same := over & (tasks.groups == group)).any()
        else whole
        for group in dict.fromkeys(tasks.groups[rows])
    }
    return np.array([of_group[group] for group in tasks.groups[rows]])


def first_answers(engine: Engine, names: Array | list[str], kind: str = "task") -> Array:
    """The first end foreseen of each task, chain or request: low, median and high in seconds since 1970 (float64[n, 3]), NaN if new."""
    found = first_task_predictions(engine, kind).set_index("task").reindex(names)
    return np.column_stack(
        [_seconds(pd.to_datetime(found[name], utc=True)) for name in ("low", "median", "high")]
    )


def _seconds(times: pd.Series[Any]) -> Array:
    return np.asarray(
        (times - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(dtype=np.float64)
    )


def thresholds_of(engine: Engine, groups: Array) -> list[Thresholds]:
    """The thresholds that hold for each group: the newest set for it, else the newest for ``all``, else the usual."""
    made: dict[str, Thresholds] = {}
    stored = read_thresholds(engine)
    for group in dict.fromkeys(groups):
        values: dict[str, float] = {}
        for whose in ("all", group):
            own = stored[stored["group"] == whose]
            values |= dict(zip(own["name"], own["value"], strict=True))
        made[group] = Thresholds(
            **{
                name: value
                for name, value in values.items()
                if name in Thresholds.__dataclass_fields__
            }
        )
    return [made[group] for group in groups]
