"""Transfer records: files or data sets copied between places, declared as job records are."""

from __future__ import annotations

import pandas as pd

from jobs.schema import TIME_TYPE, Field, Record, derive_fields

DAY = 86400.0
LONGEST = 49 * DAY
"""Longest duration of a transfer in seconds: 2³² − 1 ms, where counters end, are 49.7 days."""

_FIELDS: tuple[Field, ...] = (
    Field(
        "transfer_id",
        "text",
        "the transfer service's own name of it, unique within its source",
        required=True,
        outcome=False,
    ),
    Field(
        "source", "text", "which log or service the record comes from", required=True, outcome=False
    ),
    Field("user", "text", "user who requested it", outcome=False),
    Field(
        "group",
        "text",
        "the virtual organisation (VO), experiment or instrument it was for",
        outcome=False,
    ),
    Field(
        "activity", "text", "purpose: the service's activity, or the kind of data", outcome=False
    ),
    Field(
        "direction",
        "text",
        "read or write, as seen from the server that wrote the log",
        outcome=False,
    ),
    Field(
        "from_endpoint",
        "text",
        "where the bytes come from: site, storage element or host",
        outcome=False,
    ),
    Field("to_endpoint", "text", "where they go", outcome=False),
    Field(
        "link",
        "text",
        "network link; from_endpoint>to_endpoint where the log has none",
        outcome=False,
    ),
    Field("file_system", "text", "file system, pool or volume at the server", outcome=False),
    Field("device", "text", "the disk, stripe or drive within it", outcome=False),
    Field("protocol", "text", "gsiftp, https, root, pftp …", outcome=False),
    Field("streams", "number", "parallel streams", "streams", lowest=1, highest=1e4, outcome=False),
    Field("buffer_bytes", "number", "TCP buffer", "bytes", outcome=False),
    Field("bytes", "number", "size of what is copied", "bytes", lowest=1, outcome=False),
    Field("files", "number", "files copied", "files", highest=1e12, outcome=False),
    Field("submitted_at", "time", "when it was requested", "UTC", required=True, outcome=False),
    Field("started_at", "time", "when the first byte was to move", "UTC", outcome=True),
    Field("ended_at", "time", "when it stopped, for whatever reason", "UTC", outcome=True),
    Field("status", "text", "state of the transfer: one of STATUSES", outcome=True),
    Field(
        "duration",
        "number",
        "how long it took from start to end",
        "s",
        highest=LONGEST,
        outcome=True,
    ),
)

TRANSFER = Record(
    "transfer",
    _FIELDS,
    ("source", "transfer_id"),
    "duration",
    tuple(field.name for field in _FIELDS if field.outcome),
    (
        "source",
        "transfer_id",
        "submitted_at",
        "started_at",
        "ended_at",
        "status",
        "bytes",
        "duration",
    ),
)
"""The declaration that the table, the readers and the models follow."""


def derive_transfer_fields(transfers: pd.DataFrame) -> pd.DataFrame:
    """Derive the fields of conformed transfers as ``derive_fields`` does, and what logs leave out.

    Unless the log says otherwise a transfer starts when it is requested and is completed when it
    ends; its link is named by its two endpoints.
    """
    has_times = transfers[["started_at", "ended_at"]].notna().any(axis=1)
    ran = transfers["duration"].notna()
    starts = (
        transfers["started_at"].mask(~has_times & ran, transfers["submitted_at"]).astype(TIME_TYPE)
    )
    filled = derive_fields(transfers.assign(started_at=starts), TRANSFER)
    ends = filled["from_endpoint"] + ">" + filled["to_endpoint"]
    status = filled["status"].mask(
        filled["status"].isna() & filled["ended_at"].notna(), "completed"
    )
    return filled.assign(
        link=filled["link"].fillna(ends).astype("str"), status=status.astype("str")
    )
