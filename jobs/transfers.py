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
    ),
    Field("source", "text", "which log or service the record comes from", required=True),
    Field("user", "text", "user who requested it"),
    Field("group", "text", "the virtual organisation (VO), experiment or instrument it was for"),
    Field("activity", "text", "purpose: the service's activity, or the kind of data"),
    Field("direction", "text", "read or write, as seen from the server that wrote the log"),
    Field("from_endpoint", "text", "where the bytes come from: site, storage element or host"),
    Field("to_endpoint", "text", "where they go"),
    Field("link", "text", "network link; from_endpoint>to_endpoint where the log has none"),
    Field("file_system", "text", "file system, pool or volume at the server"),
    Field("device", "text", "the disk, stripe or drive within it"),
    Field("protocol", "text", "gsiftp, https, root, pftp …"),
    Field("streams", "number", "parallel streams", "streams", lowest=1, highest=1e4),
    Field("buffer_bytes", "number", "TCP buffer", "bytes"),
    Field("bytes", "number", "size of what is copied", "bytes", lowest=1),
    Field("files", "number", "files copied", "files", highest=1e12),
    Field("submitted_at", "time", "when it was requested", "UTC", required=True),
    Field("started_at", "time", "when the first byte was to move", "UTC"),
    Field("ended_at", "time", "when it stopped, for whatever reason", "UTC"),
    Field("status", "text", "state of the transfer: one of STATUSES"),
    Field("duration", "number", "how long it took from start to end", "s", highest=LONGEST),
)

TRANSFER = Record(
    "transfer",
    _FIELDS,
    ("source", "transfer_id"),
    "duration",
    ("started_at", "ended_at", "status", "duration"),
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
