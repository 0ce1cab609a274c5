"""Requests about a task: reading ``POST /task``; pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from msgspec import UNSET
from msgspec import json as msgspec_json
from msgspec.structs import asdict

from services.http.bodies import Row, batch_of_rows, decode, set_members, unknown_field
from services.http.contract import TaskOptions, unchecked
from services.http.errors import HTTPError
from services.http.options import read_options, unknown_option
from services.http.requests import PredictRequest, read_jobs_to_predict

_FORM = (
    'the body must be an object with "task", the fields of one of its jobs, and "jobs", '
    "how many there are"
)
_NAMES = ("task", *TaskOptions.__struct_fields__)
_DECODER: Any = msgspec_json.Decoder(unchecked("Body", _NAMES[1:], task=Row))


@dataclass(frozen=True)
class TaskRequest:
    """A task: one of its jobs, how many there are, and how many may run at once (None: all)."""

    job: PredictRequest
    jobs: int
    at_once: int | None
    at: datetime | None


def read_task(body: bytes) -> TaskRequest:
    """Read ``{"task": {fields of a job}, "jobs": n, "at_once": n, "at": time}``.

    Raises:
        HTTPError: 400, 413 or 422.
    """
    members = asdict(decode(body, _DECODER, _explain))
    row = members.pop("task")
    if row is UNSET:
        raise HTTPError(422, _FORM)
    if row.job_id is UNSET:
        row.job_id = "task"
    job = read_jobs_to_predict(batch_of_rows([[row]], {}))
    if job.unread:
        raise HTTPError(
            422,
            f"{job.unread[0]} is known only of a job that ran: "
            "a task is described as it is submitted",
        )
    options = read_options(set_members(members), {}, TaskOptions)
    return TaskRequest(job, options.jobs, options.at_once, options.at)


def _explain(_: str, path: str, unknown: str | None) -> HTTPError:
    if unknown is None:
        return HTTPError(422, _FORM)
    if path:
        return HTTPError(422, f"job 0: {unknown_field(unknown)}")
    return unknown_option(unknown, _NAMES)
