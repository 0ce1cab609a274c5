"""What requests ask for: the jobs to predict, and the finished jobs that are reported."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.schema import COLUMNS, QUERY_FIELDS, STATUSES, conform, derive_fields, split_valid
from services.http.bodies import Batch
from services.http.columns import CODED, TIME, single_array
from services.http.contract import FINISHED, FINISHED_REQUIRED, REQUIRED
from services.http.errors import HTTPError

_UNFINISHED = (
    "this is no finished job: it needs ended_at, or started_at and walltime, and an end status"
)


@dataclass(frozen=True)
class PredictRequest:
    """Jobs to predict: typed columns known at submission, and the fields that are ignored.

    ``started_at`` is that of jobs that run already, for questions about how they go on.
    """

    jobs: pa.Table
    unread: tuple[str, ...]
    started_at: pa.ChunkedArray | None = None


@dataclass(frozen=True)
class OutcomeReport:
    """Finished jobs: the valid ones, and index and reason of each rejected one.

    ``left_out`` has index and reason of the valid ones of which an optional field was left out.
    """

    jobs: pd.DataFrame
    rejected: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)


def read_jobs_to_predict(batch: Batch, now: datetime | None = None) -> PredictRequest:
    """The jobs of a batch as known at submission; fields that only an outcome has are left out.

    A job without ``submitted_at`` is submitted now.

    Raises:
        HTTPError: 422, naming the first job that cannot be read.
    """
    _require(batch, REQUIRED)
    _note_unknown_statuses(batch)
    # What is wrong with an ignored field is still wrong: the caller wants to know.
    if batch.errors.by_row:
        raise HTTPError(422, batch.errors.first)
    names = batch.jobs.column_names
    unread = tuple(name for name in names if name in COLUMNS and name not in QUERY_FIELDS)
    jobs = batch.jobs.select([name for name in QUERY_FIELDS if name in names])
    for name in REQUIRED:
        if name not in names:  # no rows at all
            jobs = jobs.append_column(name, pa.nulls(0, pa.string() if name == "job_id" else CODED))
    started_at = batch.jobs.column("started_at") if "started_at" in names else None
    return PredictRequest(_submitted(jobs, now or datetime.now(UTC)), unread, started_at)


def _note_unknown_statuses(batch: Batch) -> None:
    """Note the jobs whose status is none of the contract's."""
    if "status" in batch.jobs.column_names:
        status = single_array(batch.jobs.column("status")).cast(pa.string())
        unknown = pc.and_(pc.is_valid(status), pc.invert(pc.is_in(status, pa.array(STATUSES))))
        rows = unknown.to_numpy(zero_copy_only=False)
        batch.errors.add_where(rows, f"status is none of {', '.join(STATUSES)}")


def _submitted(jobs: pa.Table, now: datetime) -> pa.Table:
    moment = pa.scalar(now, TIME)
    if "submitted_at" not in jobs.column_names:
        return jobs.append_column("submitted_at", pa.repeat(moment, len(jobs)))
    index = jobs.column_names.index("submitted_at")
    submitted = jobs.column(index)
    if not submitted.null_count:
        return jobs
    return jobs.set_column(index, "submitted_at", submitted.fill_null(moment))


def read_outcomes(batch: Batch, now: datetime | None = None) -> OutcomeReport:
    """The finished jobs of a batch with derived times, and the rejected ones.

    An optional field that cannot be true is left out: the outcome is true all the same.
    """
    errors = batch.errors
    _require(batch, FINISHED_REQUIRED)
    if not batch.jobs.num_rows:
        return OutcomeReport(conform(pd.DataFrame()))
    frame = conform(_with_plain_texts(batch.jobs).to_pandas())
    frame["status"] = frame["status"].fillna("unknown")
    jobs = derive_fields(frame.drop(index=list(errors.essential)) if errors.essential else frame)
    unfinished = jobs["ended_at"].isna() | ~jobs["status"].isin(FINISHED)
    if unfinished.any():
        for index in jobs.index[unfinished]:
            errors.add(index, _UNFINISHED)
        jobs = jobs[~unfinished]
    jobs, reasons = split_valid(jobs, now)
    for index, reason in reasons.items():
        errors.add(int(str(index)), str(reason))
    report = OutcomeReport(jobs)
    for index, reason in sorted(errors.by_row.items()):
        notes = report.rejected if index in errors.essential else report.left_out
        notes.append({"index": index, "reason": reason})
    return report


def _with_plain_texts(jobs: pa.Table) -> pa.Table:
    """The same columns without dictionaries, which pandas would make texts of one by one."""
    fields = [
        field.with_type(pa.string()) if field.type == CODED else field for field in jobs.schema
    ]
    return jobs.cast(pa.schema(fields))


def _require(batch: Batch, names: tuple[str, ...]) -> None:
    """Note the jobs that lack a required field; raises HTTPError (422) for a missing column."""
    table, errors = batch.jobs, batch.errors
    for name in names:
        if name in table.column_names:
            if table.column(name).null_count:
                errors.add_where(pc.is_null(table.column(name)).to_numpy(), f"{name} is missing")
        elif batch.shape == "rows":
            errors.add_where(np.ones(table.num_rows, dtype=bool), f"{name} is missing")
        else:
            raise HTTPError(422, f"the column {name} is missing")
