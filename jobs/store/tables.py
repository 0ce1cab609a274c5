"""The store's tables. Times are microseconds since 1970 in UTC.

The columns of records follow from their declarations in ``jobs.schema``.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)
from sqlalchemy.types import TypeEngine

from jobs.schema import JOB, Record
from jobs.transfers import TRANSFER

metadata = MetaData()

# Keys sort byte by byte on both databases, whatever the locale of the server.
_KEY_TEXT = Text().with_variant(Text(collation="C"), "postgresql")
_TYPES: dict[str, TypeEngine[Any]] = {
    "text": Text(),
    "labels": Text(),
    "number": Double(),
    "count": BigInteger(),
    "time": BigInteger(),
    "flag": Boolean(),
    "json": Text(),
}


def _column(name: str, kind: str, required: bool = False) -> Column[Any]:
    type_ = _KEY_TEXT if name in (*JOB.identity, *TRANSFER.identity) else _TYPES[kind]
    return Column(name, type_, nullable=not required, info={"kind": kind})


def _record_table(record: Record, name: str) -> Table:
    return Table(
        name,
        metadata,
        *(_column(field.name, field.kind, field.required) for field in record.fields),
        Column(
            "revision", BigInteger(), nullable=False, server_default="0", info={"kind": "count"}
        ),
        PrimaryKeyConstraint(*record.identity, name=f"{name}_key"),
        *(Index(f"{name}_{column}", column) for column in ("submitted_at", "ended_at", "revision")),
    )


jobs = _record_table(JOB, "jobs")
"""One row per job.

``revision`` numbers, in commit order, the transactions in which the store learned that jobs had
ended. It is 0 until a job has ended, and does not change when a later report corrects the outcome.
"""

Index("jobs_task_id", jobs.c.task_id)
Index("jobs_user", jobs.c.user, jobs.c.submitted_at)

transfers = _record_table(TRANSFER, "transfers")
"""One row per transfer, stored as jobs are."""

ATTEMPT_FIELDS = (
    *("job_id", "source", "submitted_at", "started_at", "ended_at", "status", "queue", "site"),
    *("host", "requested_walltime", "requested_cores", "requested_memory", "cores", "walltime"),
    *("cpu_time", "peak_memory"),
)
"""The fields of a job that are kept of an earlier attempt."""

attempts = Table(
    "attempts",
    metadata,
    *(
        _column(name, JOB.by_name[name].kind, JOB.by_name[name].required or name == "ended_at")
        for name in ATTEMPT_FIELDS
    ),
    PrimaryKeyConstraint(*JOB.identity, "ended_at", name="attempts_key"),
)
"""One row per earlier attempt of a job: an ended run that is not the job's outcome."""

RECORDS: dict[str, Table] = {JOB.name: jobs, TRANSFER.name: transfers}
"""The table of each kind of record."""

KEYS: dict[str, Table] = {
    RECORDS[record.name].name: Table(
        f"{record.name}_keys",
        metadata,
        *(_column(name, "text", required=True) for name in record.identity),
        _column("submitted_at", "time", required=True),
        PrimaryKeyConstraint(*record.identity, name=f"{record.name}_keys_key"),
    )
    for record in (JOB, TRANSFER)
}
"""The keys of the rows of each table of records, with the month's time; see ``claims``."""

rejects = Table(
    "rejects",
    metadata,
    _column("file", "text", required=True),
    _column("line", "count", required=True),
    _column("reason", "text", required=True),
    _column("raw", "text"),
    _column("seen_at", "time", required=True),
    PrimaryKeyConstraint("file", "line", "reason", name="rejects_key"),
)
"""One row per rejected line or record."""

predictions = Table(
    "predictions",
    metadata,
    _column("asked_at", "time", required=True),
    _column("source", "text", required=True),
    _column("job_id", "text", required=True),
    _column("target", "text", required=True),
    _column("model_version", "text", required=True),
    _column("cluster", "text"),
    *(_column(name, "number") for name in ("point", "median", "low", "high")),
    _column("cold_start", "flag"),
    _column("known_revision", "count"),
    _column("shadow", "flag"),
    PrimaryKeyConstraint(
        "source", "job_id", "target", "asked_at", "model_version", name="predictions_key"
    ),
    Index("predictions_asked_at", "asked_at"),
)
"""The prediction log: one row per prediction, job and target.

``low`` and ``high`` bound the 90 % interval. ``shadow`` marks predictions that no caller received:
the challenger's, or the champion's for jobs that the challenger answered as the canary.
``known_revision`` is the newest revision of ``jobs`` that the predictor had learned: a prediction
for a job of a greater revision was made before the job's end was known.
"""

measurements = Table(
    "measurements",
    metadata,
    _column("measured_at", "time", required=True),
    _column("kind", "text", required=True),
    _column("name", "text", required=True),
    _column("segment", "text", required=True),
    _column("value", "number"),
    _column("details", "json"),
    PrimaryKeyConstraint("kind", "name", "segment", "measured_at", name="measurements_key"),
    Index("measurements_measured_at", "measured_at"),
)
"""Measured values. ``segment`` is a cluster, a source or ``all``.

``kind`` is drift, missing, accuracy, evaluation, decay, alert, letter, collected or retention.
"""

task_predictions = Table(
    "task_predictions",
    metadata,
    _column("asked_at", "time", required=True),
    Column("kind", Text(), nullable=False, server_default="task", info={"kind": "text"}),
    Column("source", _KEY_TEXT, nullable=False, server_default="", info={"kind": "text"}),
    Column("task", _KEY_TEXT, nullable=False, info={"kind": "text"}),
    _column("owner", "text"),
    _column("group", "text"),
    *(_column(name, "time") for name in ("defined_at", "median", "low", "high", "ceiling")),
    *(
        _column(name, "number")
        for name in (
            "tasks",
            "jobs",
            "ended",
            "failed",
            "progress",
            "expected_progress",
            "confidence",
        )
    ),
    _column("state", "text"),
    _column("reasons", "json"),
    _column("told_at", "time"),
    PrimaryKeyConstraint("kind", "source", "task", "asked_at", name="task_predictions_key"),
    Index("task_predictions_asked_at", "asked_at"),
)
"""One row per task and per change of its prediction: end, state and reasons.

``kind`` is task, chain or request; the name of a chain or request is stored in ``task``, the number
of its tasks in ``tasks``. ``low`` and ``high`` bound the 90 % interval of the end. ``told_at`` is
the time at which the production system accepted the prediction.
"""

task_thresholds = Table(
    "task_thresholds",
    metadata,
    _column("set_at", "time", required=True),
    Column("group", _KEY_TEXT, nullable=False, info={"kind": "text"}),
    _column("name", "text", required=True),
    _column("value", "number", required=True),
    _column("set_by", "text", required=True),
    PrimaryKeyConstraint("group", "name", "set_at", name="task_thresholds_key"),
)
"""Every threshold ever set, for a group or for ``all``; the newest applies."""

audit = Table(
    "audit",
    metadata,
    Column("change", _KEY_TEXT, nullable=False, info={"kind": "text"}),
    _column("number", "count", required=True),
    _column("changed_at", "time", required=True),
    _column("last_at", "time", required=True),
    *(_column(name, "text", required=True) for name in ("who", "origin")),
    _column("address", "text"),
    *(_column(name, "text", required=True) for name in ("action", "object")),
    *(_column(name, "text") for name in ("before", "after", "why")),
    _column("result", "text", required=True),
    _column("calls", "count", required=True),
    _column("records", "count"),
    PrimaryKeyConstraint("change", "number", name="audit_key"),
    Index("audit_changed_at", "changed_at"),
)
"""The audit log: who changed what, when and from where; see ``jobs.store.audit``.

A change of something outside the store has two rows: ``number`` 0 before it (``begun``), 1 with its
result. Repeated changes of an hour are counted in one row (``calls``, ``records``, ``last_at``); a
trigger refuses any other change of a row.
"""

shard_publications = Table(
    "shard_publications",
    metadata,
    *(_column(name, "count", required=True) for name in ("shards", "shard")),
    Column("model", _KEY_TEXT, nullable=False, info={"kind": "text"}),
    _column("outcomes", "count", required=True),
    _column("published_at", "time", required=True),
    Column("body", LargeBinary(), nullable=False, info={"kind": "bytes"}),
    PrimaryKeyConstraint("shards", "shard", "model", name="shard_publications_key"),
)
"""What each shard of the predictor learned of its own users; see ``models.engine.shared_learning``.

``outcomes`` counts what it had learned: a later publication takes the place of an earlier one.
"""
