"""The call about a task: its body read, bounded; pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from services.http.bodies import parse_json, read_json
from services.http.contract import PredictRequest, read_jobs_to_predict, read_time_option
from services.http.errors import HTTPError

MAX_TASK_JOBS = 1_000_000
"""Jobs that a task may have."""


@dataclass(frozen=True)
class TaskRequest:
    """A task to be told the needs of: one of its jobs, how many there are, and how many may run at once (None: all)."""

    job: PredictRequest
    jobs: int
    at_once: int | None
    at: datetime | None


def read_task(body: bytes) -> TaskRequest:
    """Read ``{"task": {…fields of one of its jobs…}, "jobs": n, "at_once": n, "at": time}``; raises HTTPError (400, 422)."""
    given = parse_json(body)
    if not isinstance(given, dict) or not isinstance(given.get("task"), dict):
        raise HTTPError(
            422,
            'the body must be an object with "task", the fields of one of its jobs, and "jobs", how many there are',
        )
    if unknown := [name for name in given if name not in ("task", "jobs", "at_once", "at")]:
        raise HTTPError(
            422,
            f"there is no option {unknown[0][:100]!r} here; there are task, jobs, at_once and at",
        )
    job = read_jobs_to_predict(
        read_json(orjson.dumps({"jobs": [{"job_id": "task", **given["task"]}]}))
    )
    if job.unread:
        raise HTTPError(
            422,
            f"{job.unread[0]} is known only of a job that ran: a task is described as it is submitted",
        )
    at_once = given.get("at_once")
    return TaskRequest(
        job,
        _count("jobs", given.get("jobs")),
        None if at_once is None else _count("at_once", at_once),
        read_time_option(given.get("at")),
    )


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_TASK_JOBS:
        raise HTTPError(422, f"{name} must be a whole number from 1 to {MAX_TASK_JOBS}")
    return value
