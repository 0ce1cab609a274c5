"""What the page shows, as plain values: tasks, one task, sites and hosts, thresholds; ``models_overview`` has the models."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pandas as pd

from jobs.store import read_jobs, read_thresholds, task_history
from monitoring.tasks.states import FAILED, STATES, Thresholds
from monitoring.tasks.task_sets import STATES_BY_SEVERITY
from services.http.errors import HTTPError

if TYPE_CHECKING:
    from sqlalchemy import Engine

KINDS = ("task", "chain", "request")
MOST_SHOWN, MOST_JOBS, MOST_HOSTS = 200, 200, 30
_SHOWN = ("job_id", "site", "host", "status", "submitted_at", "started_at", "ended_at")
_OF_JOBS = (*_SHOWN, "task_id", "user", "after_task_id", "request_id")
LOOKED_BACK = timedelta(days=60)


def as_json(value: Any) -> bytes:
    """Plain values, NaN and missing times as null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as JSON values: times as text, what is missing as None."""
    columns = {}
    for name in frame.columns:
        column = frame[name]
        if isinstance(column.dtype, pd.DatetimeTZDtype):
            columns[name] = [None if pd.isna(value) else value.isoformat() for value in column]
        else:
            columns[name] = [
                value if isinstance(value, list | dict) else None if pd.isna(value) else value
                for value in column.tolist()
            ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def by_severity(tasks: pd.DataFrame) -> pd.DataFrame:
    """Tasks in the order in which they need somebody, then by their end."""
    rank = tasks["state"].map({state: place for place, state in enumerate(STATES_BY_SEVERITY)})
    return (
        tasks.assign(_rank=rank)
        .sort_values(["_rank", "median", "task"], kind="stable", ignore_index=True)
        .drop(columns="_rank")
    )


def tasks(found: pd.DataFrame, query: dict[str, str]) -> dict[str, Any]:
    """A page of tasks, or of another ``kind``: ``state``, ``group`` and ``text`` filter, ``page`` (from 0) and ``size`` choose."""
    page, size = _whole(query, "page", 0, 10**6), _whole(query, "size", 50, MOST_SHOWN)
    found = found[found["kind"] == _kind(query)]
    counts = found["state"].value_counts()
    chosen = np.ones(len(found), bool)
    for name in ("state", "group"):
        if query.get(name):
            chosen &= (found[name] == query[name]).to_numpy()
    if text := query.get("text", "").strip().lower():
        chosen &= np.logical_or.reduce(
            [_has(found[name], text) for name in ("task", "owner", "group")]
        )
    rows = np.flatnonzero(chosen)
    shown = found.iloc[rows[page * size : (page + 1) * size]]
    return {
        "count": len(rows),
        "states": {state: int(counts.get(state, 0)) for state in STATES},
        "rows": records(shown),
    }


def _kind(query: dict[str, str]) -> str:
    kind = query.get("kind", KINDS[0])
    if kind not in KINDS:
        raise HTTPError(422, f"kind must be one of {', '.join(KINDS)}")
    return kind


def _has(values: pd.Series[Any], text: str) -> Any:
    return values.str.lower().str.contains(text, regex=False).to_numpy(bool)


def _whole(query: dict[str, str], name: str, usual: int, most: int) -> int:
    text = query.get(name, str(usual))
    if not text.isdecimal() or not (0 if name == "page" else 1) <= int(text) <= most:
        raise HTTPError(422, f"{name} must be a whole number of at most {most:,}")
    return int(text)


def task(engine: Engine, found: pd.DataFrame, name: str, query: dict[str, str]) -> dict[str, Any]:
    """One task, chain or request: how it stands, its jobs (the open ones first) or its tasks, and every prediction of its end."""
    kind = _kind(query)
    row = found[(found["task"] == name) & (found["kind"] == kind)]
    if row.empty:
        raise HTTPError(404, f"there is no {kind} {name} among those that are open or lately done")
    first, last = row["defined_at"].iloc[0], row["asked_at"].iloc[0]
    jobs = read_jobs(engine, since=first, until=last, columns=_OF_JOBS)
    history = records(task_history(engine, name, kind))
    if kind != "task":
        return {
            "task": records(row)[0],
            "history": history,
            "tasks": records(_members(found, jobs, kind, name)),
            "jobs": [],
        }
    own = jobs["task_id"] == name
    if not own.any():  # a burst has no name of its own in the store
        own = (jobs["user"] == row["owner"].iloc[0]) & (
            jobs["submitted_at"] < first + timedelta(hours=1)
        )
    jobs = jobs[own]
    order = jobs["ended_at"].notna().to_numpy().argsort(kind="stable")
    return {
        "task": records(row)[0],
        "history": history,
        "tasks": [],
        "jobs": records(jobs.iloc[order[:MOST_JOBS]][list(_SHOWN)]),
    }


def _members(found: pd.DataFrame, jobs: pd.DataFrame, kind: str, name: str) -> pd.DataFrame:
    """The tasks of a chain or request that are open or lately done, in the order of their definition."""
    told = jobs.dropna(subset=["task_id"]).drop_duplicates(
        ["task_id", "after_task_id", "request_id"]
    )
    names = set(told["task_id"][told["request_id"] == name]) if kind == "request" else {name}
    pairs = (
        list(zip(told["task_id"], told["after_task_id"], strict=True)) if kind == "chain" else []
    )
    while (
        more := {
            one
            for pair in pairs
            if names.intersection(pair)
            for one in pair
            if isinstance(one, str)
        }
        - names
    ):
        names |= more
    members = found[(found["kind"] == "task") & found["task"].isin(names)]
    return members.sort_values("defined_at", kind="stable").head(MOST_SHOWN)


def sites(engine: Engine, now: datetime) -> dict[str, Any]:
    """How sites and hosts stand: what runs and waits, and of what ended within a day how much failed."""
    jobs = read_jobs(
        engine,
        since=pd.Timestamp(now) - LOOKED_BACK,
        until=now,
        columns=("site", "host", "status", "started_at", "ended_at"),
    )
    ended = jobs["ended_at"] <= now
    runs = ~ended & (jobs["started_at"] <= now)
    lately = ended & (jobs["ended_at"] > pd.Timestamp(now) - timedelta(days=1))
    table = pd.DataFrame(
        {
            "running": runs,
            "waiting": ~ended & ~runs,
            "ended": lately,
            "bad": lately & jobs["status"].isin(FAILED),
        }
    )
    table["longest_hours"] = (
        ((pd.Timestamp(now) - jobs["started_at"]).dt.total_seconds() / 3600).where(runs).round(1)
    )

    def rows(field: str) -> pd.DataFrame:
        made = table.groupby(jobs[field].fillna("(unknown)")).agg(
            {
                "running": "sum",
                "waiting": "sum",
                "ended": "sum",
                "bad": "sum",
                "longest_hours": "max",
            }
        )
        made = made[made[["running", "waiting", "ended"]].any(axis=1)]
        made["failed_share"] = np.where(
            made["ended"] > 0, made["bad"] / made["ended"].clip(lower=1), np.nan
        )
        return made.rename_axis("name").reset_index()

    hosts = (
        rows("host")
        .query("bad > 1")
        .sort_values(["failed_share", "bad"], ascending=False)
        .head(MOST_HOSTS)
    )
    return {
        "sites": records(rows("site").sort_values("running", ascending=False)),
        "hosts": records(hosts),
    }


def thresholds(engine: Engine) -> dict[str, Any]:
    """What holds unless it is set, what it means, and everything that was ever set."""
    return {
        "usual": Thresholds().to_json(),
        "meaning": "stalled: how many times as long as most of its open jobs should take nothing has happened; failing: share of the ended "
        "jobs; late, ahead: level of the first prediction that the end now foreseen lies above or below.",
        "rows": records(read_thresholds(engine).iloc[::-1]),
    }
