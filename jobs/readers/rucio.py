"""Reader of Rucio's events about transfers (transfer-done, transfer-failed …), as JSON.

A file is an array of them or an object a line; times are in UTC. Other events are counted and left
out. A transfer is named by its request, since one FTS job may hold many.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

from jobs.readers import units
from jobs.readers.contract import Batch, Reader, ReadOptions
from jobs.readers.errors import FieldError
from jobs.readers.fts import lower_names
from jobs.readers.objects import JsonRecord, read_objects
from jobs.readers.rows import Row, Values, gather, parse_rows
from jobs.transfers import TRANSFER

MARKS = (b"request-id", b"src-rse", b"dst-rse", b"transfer-id", b"event_type")
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
    """Stream the transfers of a file of events.

    One without a request's name or a time of submission is rejected.
    """
    rows = parse_rows(_events(path), partial(_transfer, options=options))
    return gather(rows, options.batch_rows, TRANSFER)


def _events(path: Path) -> Iterator[JsonRecord]:
    for item in read_objects(path):
        if not isinstance(item, tuple):
            yield item
            continue
        number, raw, event = item
        kind = str(event.get("event_type", "transfer-done"))
        if kind in STATES:
            payload = event.get("payload")
            if isinstance(payload, str):  # as Rucio's table of messages has it
                payload = _loaded(payload)
            fields = lower_names(payload if isinstance(payload, dict) else event)
            yield number, raw, fields | {"event_type": kind}
        else:
            yield f"event {kind[:60]} is no transfer"


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _transfer(values: Values, options: ReadOptions) -> Row:
    printed = [values.moment(name) for name in ("submitted_at", "started_at", "transferred_at")]
    submitted, started, ended = units.to_utc(printed, options.timezone)
    name = values.text("request-id")
    if not name:
        raise FieldError("request-id is missing")
    submitted = units.first_known(submitted, started)
    if isnan(submitted):
        raise FieldError("submitted_at is missing")
    return {
        "transfer_id": name,
        "source": options.source or values.text("tool-id") or "rucio",
        "user": values.text("account"),
        "group": values.text("vo", "scope"),
        "activity": values.text("activity"),
        "from_endpoint": values.text("src-rse"),
        "to_endpoint": values.text("dst-rse"),
        "protocol": values.text("protocol"),
        "bytes": values.positive("bytes", "file-size"),
        "files": 1.0,
        "submitted_at": submitted,
        "started_at": started,
        "ended_at": ended,
        "status": STATES[values.fields["event_type"]],
    }


RUCIO = Reader("rucio", recognises, read)
"""The reader to put in the list."""
