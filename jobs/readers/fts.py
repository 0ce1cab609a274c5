"""Reader of the transfer-complete messages that FTS sends to its message broker, as JSON.

A file is an array of them, an object a line, or has an EOT character between them. Times are
milliseconds since 1970. A transfer is submitted at tr_timestamp_start, when FTS takes it up;
timestamp_tr_st and timestamp_tr_comp are the first and the last byte, and what lies before is spent
on preparing the two ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

from jobs.readers import units
from jobs.readers.contract import Batch, Reader, ReadOptions
from jobs.readers.errors import FieldError
from jobs.readers.objects import read_objects
from jobs.readers.rows import Row, Values, gather, parse_rows
from jobs.transfers import TRANSFER

MARKS = (b'"tr_id"', b'"t_final_transfer_state"', b'"timestamp_tr_st"', b'"tr_timestamp_start"')
STATES = {"ok": "completed", "error": "failed", "abort": "cancelled", "canceled": "cancelled"}


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first messages have two of the names that only these have."""
    return sum(mark in head for mark in MARKS) >= 2


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream the transfers of a file of messages; one without tr_id or times is rejected."""
    records = (
        (item[0], item[1], lower_names(item[2])) if isinstance(item, tuple) else item
        for item in read_objects(path)
    )
    rows = parse_rows(records, partial(_transfer, source=options.source))
    return gather(rows, options.batch_rows, TRANSFER)


def _transfer(values: Values, source: str | None) -> Row:
    name = values.text("tr_id")
    first = values.timestamp("timestamp_tr_st")
    submitted = values.timestamp("tr_timestamp_start", "timestamp_tr_st")
    if not name:
        raise FieldError("tr_id is missing")
    if isnan(submitted):
        raise FieldError("tr_timestamp_start is missing")
    return {
        "transfer_id": name,
        "source": source or values.text("endpnt") or "fts",
        "user": values.text("user_dn"),
        "group": values.text("vo"),
        "activity": values.text("activity"),
        "from_endpoint": values.text("src_site_name", "src_hostname"),
        "to_endpoint": values.text("dst_site_name", "dst_hostname"),
        "link": values.text("t_channel"),
        "protocol": (values.text("src_url") or "").partition("://")[0] or None,
        "streams": values.positive("nstreams", "n_streams"),
        "buffer_bytes": values.positive("tcp_buf_size"),
        "bytes": values.positive("f_size", "file_size"),
        "files": 1.0,
        "submitted_at": submitted,
        "started_at": units.first_known(first, submitted),
        "ended_at": values.timestamp("timestamp_tr_comp", "tr_timestamp_complete"),
        "status": STATES.get((values.text("t_final_transfer_state") or "").lower(), "unknown"),
    }


def lower_names(record: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with its names in lower case."""
    return {name.lower(): value for name, value in record.items()}


FTS = Reader("fts", recognises, read)
"""The reader to put in the list."""
