"""Reader of the transfer-complete messages that FTS sends to its message broker, as JSON: an array or an object a line.

Times are milliseconds since 1970. A transfer is submitted at tr_timestamp_start, when FTS takes it up; timestamp_tr_st and
timestamp_tr_comp are the first and the last byte, and what lies before is spent on preparing the two ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import isnan, nan
from pathlib import Path
from typing import Any

from jobs.readers import units
from jobs.readers.contract import Batch, Reader, ReadOptions
from jobs.readers.errors import FieldError
from jobs.readers.objects import read_objects
from jobs.readers.rows import Row, gather, jobs_of, value
from jobs.transfers import TRANSFER

MARKS = (b'"tr_id"', b'"t_final_transfer_state"', b'"timestamp_tr_st"', b'"tr_timestamp_start"')
STATES = {"ok": "completed", "error": "failed", "abort": "cancelled", "canceled": "cancelled"}


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first messages have two of the names that only these have."""
    return sum(mark in head for mark in MARKS) >= 2


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream the transfers of a file of messages; one without tr_id or times is rejected."""
    return gather(
        jobs_of(read_objects(path), partial(_transfer, source=options.source)),
        options.batch_rows,
        TRANSFER,
    )


def _transfer(message: dict[str, Any], source: str | None) -> Row:
    inner = message.get("data")
    fields = texts(inner if isinstance(inner, dict) else message)
    words = partial(value, fields, parse=units.words, missing=None)
    number = partial(value, fields, parse=units.number, missing=nan)
    moment = partial(value, fields, parse=partial(units.timestamp, unit=1e-3), missing=nan)
    name, taken_up, first = words("tr_id"), moment("tr_timestamp_start"), moment("timestamp_tr_st")
    if not name:
        raise FieldError("tr_id is missing")
    begun = taken_up if taken_up > 0 else first
    if isnan(begun):
        raise FieldError("tr_timestamp_start is missing")
    last, finished = moment("timestamp_tr_comp"), moment("tr_timestamp_complete")
    return {
        "transfer_id": name,
        "source": source or words("endpnt") or "fts",
        "user": words("user_dn"),
        "group": words("vo"),
        "activity": words("activity"),
        "from_endpoint": words("src_site_name") or words("src_hostname"),
        "to_endpoint": words("dst_site_name") or words("dst_hostname"),
        "link": words("t_channel"),
        "protocol": (words("src_url") or "").partition("://")[0] or None,
        "streams": _positive(number("nstreams"), number("n_streams")),
        "buffer_bytes": _positive(number("tcp_buf_size")),
        "bytes": _positive(number("f_size"), number("file_size")),
        "files": 1.0,
        "submitted_at": begun,
        "started_at": first if first > 0 else begun,
        "ended_at": _positive(last, finished),
        "status": STATES.get((words("t_final_transfer_state") or "").lower(), "unknown"),
    }


def texts(record: dict[str, Any]) -> dict[str, str]:
    """A JSON object's plain values as texts, under names in lower case."""
    return {
        name.lower(): str(found)
        for name, found in record.items()
        if found is not None and not isinstance(found, dict | list)
    }


def _positive(*numbers: float) -> float:
    return next((number for number in numbers if number > 0), nan)


FTS = Reader("fts", recognises, read)
"""The reader to put in the list."""
