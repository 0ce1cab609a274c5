"""What the page shows of tasks, chains and requests, and of thresholds, as plain values."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.aliases import Array
from jobs.owners import Owners, select_owned
from jobs.store import read_jobs, read_predictions_of, read_thresholds, task_history
from monitoring.tasks.states import FAILED, STATES, Thresholds
from services.dashboard.values import MAX_ROWS, Query, page_of, records, sort_rows
from services.http.errors import HTTPError

if TYPE_CHECKING:
    from sqlalchemy import Engine

KINDS = ("task", "chain", "request")
MAX_JOBS, MAX_BARS, MAX_POINTS, MAX_CHANGES = 20_000, 150, 200, 40
"""Jobs that are read of a task; bars, points of a line and changes that are drawn."""
BURST = timedelta(hours=1)
JOB_FIELDS = ("job_id", "site", "host", "status", "submitted_at", "started_at", "ended_at")
JOB_ORDERS = (*JOB_FIELDS, "hours")
TASK_ORDERS = ("task", "owner", "group", "progress", "jobs", "failed", "median", "defined_at")
LARGEST_STEP = 0.1
"""An end that moved by more than this share of the time that was left is a change to name."""
SLOW_FACTOR = 3.0
"""A job is slow that runs so many times the median of its task's ended jobs."""


def owned_tasks(frame: pd.DataFrame, owners: Owners | None) -> pd.DataFrame:
    """The tasks of some owners, and their chains and requests without tasks of others.

    Args:
        frame: The tasks as of the latest update.
        owners: Whose tasks; None: all.
    """
    if owners is None:
        return frame
    own = owners.own(frame, "owner")
    is_task = (frame["kind"] == "task").to_numpy(dtype=bool)
    hidden_tasks = frame[is_task & ~own]
    names = set(zip(hidden_tasks["source"], hidden_tasks["task"], strict=True))
    owned = frame[own]
    if "members" not in owned:
        return owned
    # What is said of a chain or request may name its tasks.
    mixed = [
        isinstance(members, list | np.ndarray)
        and any((source, member) in names for member in members)
        for source, members in zip(owned["source"], owned["members"], strict=True)
    ]
    return owned[~np.array(mixed, dtype=bool)]


def tasks(frame: pd.DataFrame, query: Query) -> dict[str, Any]:
    """Give a page of tasks, or of chains or requests.

    Args:
        frame: The tasks as of the latest update.
        query: ``kind``; the filters ``state``, ``group``, ``owner`` and ``text``; ``sort``, by
            default the gravest state first; ``page`` (from 0) and ``size``.

    Raises:
        HTTPError: A value of the query is not allowed (422).
    """
    rows = page_of(query)
    frame = frame[frame["kind"] == _kind(query)]
    counts = frame["state"].value_counts()
    matches = np.ones(len(frame), bool)
    for name in ("state", "group", "owner"):
        if query.get(name):
            matches &= (frame[name] == query[name]).to_numpy()
    if text := query.get("text", "").strip().lower():
        fields = ("task", "owner", "group")
        matches &= np.logical_or.reduce([_contains(frame[name], text) for name in fields])
    chosen = sort_rows(frame[matches], query, TASK_ORDERS)
    return {
        "count": len(chosen),
        "states": {state: int(counts.get(state, 0)) for state in STATES},
        "groups": sorted(frame["group"].dropna().unique().tolist())[:MAX_ROWS],
        "rows": records(chosen.iloc[rows].drop(columns="members", errors="ignore")),
    }


def _kind(query: Query) -> str:
    kind = query.get("kind", KINDS[0])
    if kind not in KINDS:
        raise HTTPError(422, f"kind must be one of {', '.join(KINDS)}")
    return kind


def _contains(values: pd.Series[Any], text: str) -> Array:
    return values.str.lower().str.contains(text, regex=False).to_numpy(bool)


def task(
    engine: Engine, frame: pd.DataFrame, name: str, query: Query, owners: Owners | None = None
) -> dict[str, Any]:
    """Describe one task, chain or request: its state, its jobs or tasks, and its predictions.

    Args:
        engine: The store.
        frame: The tasks as of the latest update.
        name: Its name.
        query: ``kind``, and ``source`` where several sources use the name; of the table of jobs
            ``status``, ``sort`` (by default the open ones first), ``page`` and ``size``.
        owners: Whose jobs are listed; None: all.

    Raises:
        HTTPError: There is none (404), several sources have one, or a value is not allowed (422).
    """
    kind, rows = _kind(query), page_of(query, MAX_ROWS)
    row = frame[(frame["task"] == name) & (frame["kind"] == kind)]
    if query.get("source"):
        row = row[row["source"] == query["source"]]
    if row.empty:
        raise HTTPError(404, f"there is no {kind} {name} among those that are open or lately done")
    if len(row) > 1:
        sources = ", ".join(sorted(row["source"]))
        raise HTTPError(422, f"several sources have a {kind} {name}: add source=, one of {sources}")
    source = row["source"].iloc[0]
    history = task_history(engine, name, kind, source)
    answer = {
        "task": records(row)[0],
        "history": records(history[["asked_at", "low", "median", "high", "ceiling", "ended"]]),
        "changes": changes(history),
        "tasks": [],
        "jobs": [],
    }
    if kind != "task":
        names = row["members"].iloc[0] if "members" in row else None
        same = (frame["kind"] == "task") & (frame["source"] == source)
        members = frame[same & frame["task"].isin([] if names is None else list(names))]
        members = members.sort_values("defined_at", kind="stable").head(MAX_ROWS)
        return {**answer, "tasks": records(members)}
    jobs = select_owned(_jobs_of(engine, name, row.iloc[0]), owners)
    status = query.get("status", "")
    listed = jobs if not status else jobs[jobs["status"] == status]
    listed = sort_rows(listed, query, JOB_ORDERS).iloc[rows]
    return {
        **answer,
        "job_count": int((jobs["status"] == status).sum()) if status else len(jobs),
        "statuses": {str(k): int(v) for k, v in jobs["status"].value_counts().items()},
        "jobs": records(listed[[*JOB_FIELDS, "hours"]]),
        "ended": ended_over_time(jobs),
        "bars": bars(engine, jobs, source),
        "errors": errors(jobs),
    }


def _jobs_of(engine: Engine, name: str, row: pd.Series[Any]) -> pd.DataFrame:
    """Read the jobs of a task as of its update, the open ones first, with state and hours run."""
    source, defined_at, now = row["source"], row["defined_at"], row["asked_at"]
    having = {"task_id": name, "source": source}
    columns = (*JOB_FIELDS, "user", "group")
    jobs = read_jobs(engine, until=now, columns=columns, having=having, limit=MAX_JOBS)
    if jobs.empty:  # a burst has no name of its own in the store
        having = {"user": row["owner"], "source": source}
        until = min(now, defined_at + BURST)
        jobs = read_jobs(
            engine, since=defined_at, until=until, columns=columns, having=having, limit=MAX_JOBS
        )
        jobs = jobs[jobs["group"].fillna("") == (row["group"] or "")]
    is_open = jobs["ended_at"].isna() | (jobs["ended_at"] > now)
    started = jobs["started_at"] <= now
    state = pd.Series(np.where(started, "running", "waiting"), index=jobs.index)
    status = jobs["status"].fillna("unknown").where(~is_open, state)
    until = jobs["ended_at"].mask(is_open).fillna(now)
    hours = ((until - jobs["started_at"]).dt.total_seconds() / 3600).where(started)
    jobs = jobs.assign(status=status, ended_at=jobs["ended_at"].mask(is_open), hours=hours)
    return jobs.iloc[(~is_open).to_numpy().argsort(kind="stable")]


def ended_over_time(jobs: pd.DataFrame) -> dict[str, list[Any]]:
    """Count the jobs that had ended and failed at up to MAX_POINTS of the ends."""
    over = jobs[jobs["ended_at"].notna()].sort_values("ended_at", kind="stable")
    last = len(over) - 1
    rows = np.unique(np.linspace(0, last, min(len(over), MAX_POINTS)).round().astype(np.int64))
    failed = over["status"].isin(FAILED).cumsum().to_numpy()
    return {
        "times": [moment.isoformat() for moment in over["ended_at"].iloc[rows]],
        "ended": (rows + 1).tolist(),
        "failed": failed[rows].tolist(),
    }


def bars(engine: Engine, jobs: pd.DataFrame, source: str) -> list[dict[str, Any]]:
    """Give the jobs of a Gantt chart: slow ones, then open ones, then those that ended last.

    Args:
        engine: The store, for the predictions that were logged of the jobs.
        jobs: The jobs of the task.
        source: Their source.

    Returns:
        Rows of JOB_FIELDS, ``hours`` and ``slow``: why a job is called slow, else None.
    """
    latest = jobs["ended_at"].fillna(pd.Timestamp.max.tz_localize("UTC"))
    drawn = jobs.loc[latest.sort_values(ascending=False, kind="stable").index[: 2 * MAX_BARS]]
    logged = read_predictions_of(engine, source, drawn["job_id"].tolist(), ("walltime",))
    first = logged.drop_duplicates("job_id").set_index("job_id")["high"]
    limit = drawn["job_id"].map(first).astype(float) / 3600
    usual = jobs["hours"].where(jobs["ended_at"].notna()).median()
    why = [
        f"{'ran' if ended else 'has run for'} {ran:.1f} h; "
        + (f"predicted at most {high:.1f} h" if ran > high else f"{usual:.1f} h are usual here")
        if ran > high or ran > SLOW_FACTOR * usual
        else None
        for ended, ran, high in zip(drawn["ended_at"].notna(), drawn["hours"], limit, strict=True)
    ]
    slow = np.array([reason is not None for reason in why], dtype=bool)
    drawn = drawn.assign(slow=pd.Series(why, index=drawn.index, dtype=object))
    drawn = drawn.iloc[(~slow).argsort(kind="stable")[:MAX_BARS]]
    return records(drawn[[*JOB_FIELDS, "hours", "slow"]])


def errors(jobs: pd.DataFrame) -> list[dict[str, Any]]:
    """Count the jobs that did not complete by how they ended, and where most of them ran."""
    over = jobs[jobs["ended_at"].notna() & (jobs["status"] != "completed")]
    rows = []
    for status, own in over.groupby("status", sort=False):
        row: dict[str, Any] = {"status": status, "jobs": len(own)}
        for field in ("site", "host"):
            names = own[field].value_counts()
            row[field] = f"{names.index[0]} ({names.iloc[0]})" if len(names) else None
        rows.append(row)
    return sorted(rows, key=lambda row: -row["jobs"])


def changes(history: pd.DataFrame) -> list[dict[str, Any]]:
    """Say when the prediction of a task changed and why, the newest first.

    Args:
        history: Its predictions, by time.

    Returns:
        Rows with ``at``, ``moved`` (s, later is positive; None where one of both had no end) and a
        sentence ``why``; changes of at most LARGEST_STEP of the time left are left out.
    """
    named = []
    rows: list[dict[str, Any]] = history.to_dict("records")  # type: ignore[assignment]
    for before, after in pairwise(rows):
        left = (before["median"] - before["asked_at"]).total_seconds()
        moved = (after["median"] - before["median"]).total_seconds()
        state_changed = before["state"] != after["state"]
        if not state_changed and not abs(moved) > LARGEST_STEP * max(left, 60.0):
            continue
        causes = []
        if state_changed:
            causes.append(f"{before['state']} became {after['state']}")
        ended, failed = (int(after[name] - before[name]) for name in ("ended", "failed"))
        hours = (after["asked_at"] - before["asked_at"]).total_seconds() / 3600
        jobs = "job" if ended == 1 else "jobs"
        causes.append(
            f"{ended} {jobs} ended in {hours:.1f} h" + f", {failed} failed" * (failed > 0)
        )
        causes += [
            reason for reason in after["reasons"] or () if reason not in (before["reasons"] or ())
        ][:2]
        named.append(
            {
                "at": after["asked_at"].isoformat(),
                "moved": None if np.isnan(moved) else moved,
                "why": "; ".join(causes),
            }
        )
    return named[::-1][:MAX_CHANGES]


def thresholds(engine: Engine, owners: Owners | None = None) -> dict[str, Any]:
    """Give the default thresholds, their meaning, and every value that was ever set.

    Args:
        engine: The store.
        owners: Whose groups are listed, without the names of who set a value; None: all.
    """
    rows = read_thresholds(engine).iloc[::-1]
    if owners is not None:
        rows = rows[rows["group"].isin({"all", *owners.groups})].assign(set_by=None)
    return {
        "usual": Thresholds().to_json(),
        "meaning": "stalled: how improbable it is that nothing happened for so long, as a "
        "multiple of the usual level; failing: share of the ended jobs; late, ahead: level of "
        "the first prediction that the end now predicted lies above or below.",
        "rows": records(rows),
    }
