"""Reader of Rucio's events about transfers (transfer-done, transfer-failed …), as JSON: an array or an object a line, times in UTC.

Other events are counted and left out. A transfer is named by its request, since one FTS job may hold many.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import isnan, nan
from pathlib import Path
from typing import Any

from jobs.readers import units
from jobs.readers.contract import Batch, Reader, ReadOptions, Reject
from jobs.readers.errors import FieldError
from jobs.readers.fts import texts
from jobs.readers.objects import JsonRecord, read_objects
from jobs.readers.rows import Row, gather, jobs_of, value
from jobs.transfers import TRANSFER

MARKS = (b'"request-id"', b'"src-rse"', b'"dst-rse"', b'"transfer-id"', b'"event_type"')
STATES = {
    "transfer-done": "completed",
    "transfer-failed": "failed",
    "transfer-lost": "failed",
    "transfer-submitted": "waiting",
    "transfer-queued": "waiting",
}


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first events have three of the names that only these have."""
    return sum(mark in head for mark in MARKS) >= 3


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream the transfers of a file of events; one without a request's name or a time of submission is rejected."""
    return gather(
        jobs_of(_events(path), partial(_transfer, options=options)), options.batch_rows, TRANSFER
    )


def _events(path: Path) -> Iterator[JsonRecord]:
    for found in read_objects(path):
        if not isinstance(found, tuple) or found[2].get("event_type", "transfer-done") in STATES:
            yield found
        else:
            yield (
                f"event {str(found[2]['event_type'])[:60]} is no transfer"
                if "event_type" in found[2]
                else Reject(found[0], "", found[1])
            )


def _transfer(event: dict[str, Any], options: ReadOptions) -> Row:
    payload = event.get("payload")
    fields = texts(payload if isinstance(payload, dict) else event)
    words = partial(value, fields, parse=units.words, missing=None)
    number = partial(value, fields, parse=units.number, missing=nan)
    printed = [
        value(fields, name, units.calendar, None)
        for name in ("submitted_at", "started_at", "transferred_at")
    ]
    submitted, started, ended = units.to_utc(printed, options.timezone)
    name = words("request-id")
    if not name:
        raise FieldError("request-id is missing")
    begun = started if isnan(submitted) else submitted
    if isnan(begun):
        raise FieldError("submitted_at is missing")
    size = number("bytes")
    return {
        "transfer_id": name,
        "source": options.source or words("tool-id") or "rucio",
        "user": words("account"),
        "group": words("vo") or words("scope"),
        "activity": words("activity"),
        "from_endpoint": words("src-rse"),
        "to_endpoint": words("dst-rse"),
        "protocol": words("protocol"),
        "bytes": size if size > 0 else number("file-size"),
        "files": 1.0,
        "submitted_at": begun,
        "started_at": started,
        "ended_at": ended,
        "status": STATES.get(str(event.get("event_type", "transfer-done")), "unknown"),
    }


RUCIO = Reader("rucio", recognises, read)
"""The reader to put in the list."""
