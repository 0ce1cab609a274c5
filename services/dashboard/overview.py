"""What the page shows of tasks, sites, hosts and thresholds, as plain values."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pandas as pd

from infra.aliases import Array
from jobs.store import read_jobs, read_thresholds, task_history
from monitoring.tasks.states import FAILED, STATES, Thresholds
from services.http.errors import HTTPError

if TYPE_CHECKING:
    from sqlalchemy import Engine

KINDS = ("task", "chain", "request")
MAX_ROWS, MAX_JOBS, MAX_HOSTS = 200, 200, 30
JOB_FIELDS = ("job_id", "site", "host", "status", "submitted_at", "started_at", "ended_at")
READ_FIELDS = (*JOB_FIELDS, "source", "task_id", "user", "after_task_id", "request_id")
HISTORY = timedelta(days=60)
RECENT = timedelta(days=1)
SITE_COLUMNS = {
    "running": "sum",
    "waiting": "sum",
    "ended": "sum",
    "bad": "sum",
    "longest_hours": "max",
}


def as_json(value: Any) -> bytes:
    """Encode plain values; NaN and missing times become null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Give the rows of a frame as JSON values: times as text, missing values as None."""
    columns = {}
    for name in frame.columns:
        column = frame[name]
        if isinstance(column.dtype, pd.DatetimeTZDtype):
            columns[name] = [None if pd.isna(value) else value.isoformat() for value in column]
        else:
            columns[name] = [_plain(value) for value in column.tolist()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value if isinstance(value, list | dict) else None if pd.isna(value) else value


def tasks(frame: pd.DataFrame, query: dict[str, str]) -> dict[str, Any]:
    """Give a page of tasks, or of chains or requests.

    Args:
        frame: The tasks as of the latest update.
        query: ``kind``; the filters ``state``, ``group`` and ``text``; ``page`` (from 0), ``size``.

    Raises:
        HTTPError: A value of the query is not allowed (422).
    """
    page, size = _number(query, "page", 0, 10**6), _number(query, "size", 50, MAX_ROWS)
    frame = frame[frame["kind"] == _kind(query)]
    counts = frame["state"].value_counts()
    matches = np.ones(len(frame), bool)
    for name in ("state", "group"):
        if query.get(name):
            matches &= (frame[name] == query[name]).to_numpy()
    if text := query.get("text", "").strip().lower():
        fields = ("task", "owner", "group")
        matches &= np.logical_or.reduce([_contains(frame[name], text) for name in fields])
    rows = np.flatnonzero(matches)
    return {
        "count": len(rows),
        "states": {state: int(counts.get(state, 0)) for state in STATES},
        "rows": records(frame.iloc[rows[page * size : (page + 1) * size]]),
    }


def _kind(query: dict[str, str]) -> str:
    kind = query.get("kind", KINDS[0])
    if kind not in KINDS:
        raise HTTPError(422, f"kind must be one of {', '.join(KINDS)}")
    return kind


def _contains(values: pd.Series[Any], text: str) -> Array:
    return values.str.lower().str.contains(text, regex=False).to_numpy(bool)


def _number(query: dict[str, str], name: str, default: int, largest: int) -> int:
    text = query.get(name, str(default))
    smallest = 0 if name == "page" else 1
    if not text.isdecimal() or len(text) > 9 or not smallest <= int(text) <= largest:
        raise HTTPError(422, f"{name} must be a whole number of at most {largest:,}")
    return int(text)


def task(engine: Engine, frame: pd.DataFrame, name: str, query: dict[str, str]) -> dict[str, Any]:
    """Describe one task, chain or request: its state, its jobs or tasks, and its predictions.

    Args:
        engine: The store.
        frame: The tasks as of the latest update.
        name: Its name.
        query: ``kind``, and ``source`` where several sources use the name.

    Raises:
        HTTPError: There is none (404), or several sources have one (422).
    """
    kind = _kind(query)
    row = frame[(frame["task"] == name) & (frame["kind"] == kind)]
    if query.get("source"):
        row = row[row["source"] == query["source"]]
    if row.empty:
        raise HTTPError(404, f"there is no {kind} {name} among those that are open or lately done")
    if len(row) > 1:
        sources = ", ".join(sorted(row["source"]))
        raise HTTPError(422, f"several sources have a {kind} {name}: add source=, one of {sources}")
    source, defined_at = row["source"].iloc[0], row["defined_at"].iloc[0]
    jobs = read_jobs(
        engine,
        since=defined_at,
        until=row["asked_at"].iloc[0],
        columns=READ_FIELDS,
        sources=[source],
    )
    answer = {
        "task": records(row)[0],
        "history": records(task_history(engine, name, kind, source)),
        "tasks": [],
        "jobs": [],
    }
    if kind != "task":
        same_source = frame[frame["source"] == source]
        return {**answer, "tasks": records(_members(same_source, jobs, kind, name))}
    own = jobs["task_id"] == name
    if not own.any():  # a burst has no name of its own in the store
        first_hour = jobs["submitted_at"] < defined_at + timedelta(hours=1)
        own = (jobs["user"] == row["owner"].iloc[0]) & first_hour
    jobs = jobs[own]
    open_first = jobs["ended_at"].notna().to_numpy().argsort(kind="stable")
    return {**answer, "jobs": records(jobs.iloc[open_first[:MAX_JOBS]][list(JOB_FIELDS)])}


def _members(frame: pd.DataFrame, jobs: pd.DataFrame, kind: str, name: str) -> pd.DataFrame:
    """The tasks of a chain or request, in the order of their definition."""
    links = jobs.dropna(subset=["task_id"])
    links = links.drop_duplicates(["task_id", "after_task_id", "request_id"])
    if kind == "request":
        names = set(links["task_id"][links["request_id"] == name])
    else:
        names = {name}
        pairs = list(zip(links["task_id"], links["after_task_id"], strict=True))
        while more := _neighbours(names, pairs) - names:
            names |= more
    members = frame[(frame["kind"] == "task") & frame["task"].isin(names)]
    return members.sort_values("defined_at", kind="stable").head(MAX_ROWS)


def _neighbours(names: set[str], pairs: list[tuple[Any, Any]]) -> set[str]:
    linked = [pair for pair in pairs if names.intersection(pair)]
    return {name for pair in linked for name in pair if isinstance(name, str)}


def sites(engine: Engine, now: datetime) -> dict[str, Any]:
    """Count running and waiting jobs of sites and hosts, and the failures of the last day."""
    present = pd.Timestamp(now)
    columns = ("site", "host", "status", "started_at", "ended_at")
    jobs = read_jobs(engine, since=present - HISTORY, until=now, columns=columns)
    over = jobs["ended_at"] <= present
    running = ~over & (jobs["started_at"] <= present)
    recent = over & (jobs["ended_at"] > present - RECENT)
    hours = ((present - jobs["started_at"]).dt.total_seconds() / 3600).where(running).round(1)
    table = pd.DataFrame(
        {
            "running": running,
            "waiting": ~over & ~running,
            "ended": recent,
            "bad": recent & jobs["status"].isin(FAILED),
            "longest_hours": hours,
        }
    )

    def rows(field: str) -> pd.DataFrame:
        by_name = table.groupby(jobs[field].fillna("(unknown)")).agg(SITE_COLUMNS)
        by_name = by_name[by_name[["running", "waiting", "ended"]].any(axis=1)]
        share = by_name["bad"] / by_name["ended"].where(by_name["ended"] > 0)
        return by_name.assign(failed_share=share).rename_axis("name").reset_index()

    hosts = rows("host").query("bad > 1").sort_values(["failed_share", "bad"], ascending=False)
    return {
        "sites": records(rows("site").sort_values("running", ascending=False)),
        "hosts": records(hosts.head(MAX_HOSTS)),
    }


def thresholds(engine: Engine) -> dict[str, Any]:
    """Give the default thresholds, their meaning, and every value that was ever set."""
    return {
        "usual": Thresholds().to_json(),
        "meaning": "stalled: time without any event, as a multiple of what most of the open jobs "
        "should take; failing: share of the ended jobs; late, ahead: level of the first "
        "prediction that the end now predicted lies above or below.",
        "rows": records(read_thresholds(engine).iloc[::-1]),
    }


def metrics(status: dict[str, dict[str, Any]], updated_at: str) -> str:
    """Give Prometheus the age of the tasks and the failures of the threads that update them."""
    lines = [
        "# HELP gridcast_tasks_updated_timestamp_seconds When the tasks were last updated.",
        "# TYPE gridcast_tasks_updated_timestamp_seconds gauge",
    ]
    if updated_at:
        moment = datetime.fromisoformat(updated_at).timestamp()
        lines.append(f"gridcast_tasks_updated_timestamp_seconds {moment:.0f}")
    for name, kind, field in (
        ("gridcast_background_failures_total", "counter", "failures"),
        ("gridcast_background_failing", "gauge", "trouble"),
    ):
        lines.append(f"# TYPE {name} {kind}")
        for thread, values in status.items():
            value = values[field] if field == "failures" else int(bool(values[field]))
            lines.append(f'{name}{{thread="{thread}"}} {value}')
    return "\n".join(lines) + "\n"
