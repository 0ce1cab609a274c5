"""What the two doors ask for: the jobs to predict, how to answer, and the finished jobs that are reported; pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.schema import COLUMNS, QUERY_FIELDS, conform, derive_fields, split_valid
from services.http.bodies import Batch
from services.http.columns import CODED, TIME, RowErrors, read_values
from services.http.errors import HTTPError

REQUIRED = ("job_id", "source")
OPTIONS = ("quantiles", "coverage", "at", "classes", "explain", "keep")
MAX_QUANTILES = 20
FINISHED = ("completed", "failed", "cancelled", "timeout", "out_of_memory", "preempted", "unknown")


@dataclass(frozen=True)
class Options:
    """How to answer: further ``quantiles``, the ``coverage`` of the range (shares), and the time ``at`` which the history is asked.

    Without ``at`` each job is answered by the outcomes known when it was submitted, weighed as is known today. ``classes`` asks for the
    likeliest class of each target, ``explain`` for why each job got its answer. Without ``keep`` nothing is put into the
    prediction log: such jobs are only thought of.
    """

    quantiles: tuple[float, ...] = ()
    coverage: float = 0.9
    at: datetime | None = None
    classes: bool = False
    explain: bool = False
    keep: bool = True


@dataclass(frozen=True)
class PredictRequest:
    """Jobs to predict: typed columns that are known at submission, in schema order, and the fields that were left unread."""

    jobs: pa.Table
    unread: tuple[str, ...]


@dataclass(frozen=True)
class OutcomeReport:
    """Finished jobs: the sane ones as a DataFrame of jobs, and for each other one its index in the request and why."""

    jobs: pd.DataFrame
    rejected: list[dict[str, Any]] = field(default_factory=list)


def read_options(body: Mapping[str, Any], query: Mapping[str, str]) -> Options:
    """The options of a request: keys of a JSON body, or query parameters; raises HTTPError (422)."""
    if twice := [name for name in query if name in body]:
        raise HTTPError(
            422, f"the option {twice[0][:100]} is given twice, in the body and in the address"
        )
    given: dict[str, Any] = {**query, **body}
    unknown = [name for name in given if name not in OPTIONS]
    if unknown:
        raise HTTPError(
            422, f"there is no option {unknown[0][:100]!r}; the options are {', '.join(OPTIONS)}"
        )
    quantiles = given.get("quantiles", ())
    quantiles = quantiles.split(",") if isinstance(quantiles, str) else quantiles
    if not isinstance(quantiles, list | tuple) or len(quantiles) > MAX_QUANTILES:
        raise HTTPError(
            422, f"quantiles must be a list of at most {MAX_QUANTILES} numbers between 0 and 1"
        )
    levels = tuple(_share("quantiles", value) for value in quantiles)
    coverage, at = _share("coverage", given.get("coverage", 0.9)), read_time_option(given.get("at"))
    yes = {
        name: _yes(name, given.get(name, usual))
        for name, usual in (("classes", False), ("explain", False), ("keep", True))
    }
    return Options(tuple(dict.fromkeys(levels)), coverage, at, **yes)


def _yes(name: str, value: Any) -> bool:
    """An option that is true or false, in an address too."""
    found = {"true": True, "false": False}.get(value) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise HTTPError(422, f"{name} must be true or false")
    return found


def read_time_option(value: Any) -> datetime | None:
    """The time of the option ``at``: ISO 8601 text, Unix seconds, or ``now``."""
    if value is None:
        return None
    if value == "now":
        return datetime.now(UTC)
    errors = RowErrors()
    read = read_values("submitted_at", [value], errors)
    if errors.by_row:
        raise HTTPError(
            422,
            f"at is no time to ask the history of: {errors.by_row[0].replace('submitted_at', 'at')}",
        )
    return cast(datetime, read[0].as_py())


def _share(name: str, value: Any) -> float:
    try:
        share = (
            float(value)
            if not isinstance(value, bool) and isinstance(value, str | int | float)
            else np.nan
        )
    except (ValueError, OverflowError):
        share = np.nan
    if not 0.001 <= share <= 0.999:
        raise HTTPError(422, f"{name} must lie between 0.001 and 0.999")
    return round(share, 6)


def read_jobs_to_predict(batch: Batch, now: datetime | None = None) -> PredictRequest:
    """The jobs of a batch as they stand at submission; outcomes that came along are left unread, by the law of time.

    A job without ``submitted_at`` is submitted now. Raises HTTPError (422) naming the first job that cannot be read.
    """
    errors, table = batch.errors, batch.jobs
    _require(batch, REQUIRED)
    unread = tuple(
        name for name in table.column_names if name in COLUMNS and name not in QUERY_FIELDS
    )
    # What is wrong with a field that is not read is still wrong: the caller wants to know.
    if errors.by_row:
        raise HTTPError(422, errors.first)
    jobs = table.select([name for name in QUERY_FIELDS if name in table.column_names])
    for name in REQUIRED:
        if name not in jobs.column_names:  # no rows at all
            jobs = jobs.append_column(name, pa.nulls(0, pa.string() if name == "job_id" else CODED))
    return PredictRequest(_submitted(jobs, now or datetime.now(UTC)), unread)


def _submitted(jobs: pa.Table, now: datetime) -> pa.Table:
    if "submitted_at" not in jobs.column_names:
        return jobs.append_column("submitted_at", pa.repeat(pa.scalar(now, TIME), len(jobs)))
    place = jobs.column_names.index("submitted_at")
    submitted = jobs.column(place)
    return (
        jobs.set_column(place, "submitted_at", submitted.fill_null(pa.scalar(now, TIME)))
        if submitted.null_count
        else jobs
    )


def read_outcomes(batch: Batch, now: datetime | None = None) -> OutcomeReport:
    """The finished jobs of a batch, derived times filled in, and the rejected ones with index and reason."""
    errors = batch.errors
    _require(batch, (*REQUIRED, "submitted_at"))
    if not batch.jobs.num_rows:
        return OutcomeReport(conform(pd.DataFrame()))
    frame = conform(batch.jobs.to_pandas())
    frame["status"] = frame["status"].fillna("unknown")
    jobs = derive_fields(frame.drop(index=list(errors.by_row)))
    unfinished = jobs["ended_at"].isna() | ~jobs["status"].isin(FINISHED)
    errors.add_all_named(
        jobs.index[unfinished],
        "this is no finished job: it needs ended_at, or started_at and walltime, and an end status",
    )
    jobs, reasons = split_valid(jobs[~unfinished], now)
    for index, reason in reasons.items():
        errors.add(int(str(index)), str(reason))
    return OutcomeReport(
        jobs, [{"index": index, "reason": errors.by_row[index]} for index in sorted(errors.by_row)]
    )


def _require(batch: Batch, names: tuple[str, ...]) -> None:
    """Note the jobs that lack a field they must have; a batch of columns that lacks a column is refused whole (422)."""
    table, errors = batch.jobs, batch.errors
    for name in names:
        if name in table.column_names:
            if table.column(name).null_count:
                errors.add_all(
                    pc.is_null(table.column(name)).to_numpy(),
                    lambda _, name=name: f"{name} is missing",
                )
        elif batch.shape == "rows":
            errors.add_all(
                np.ones(table.num_rows, dtype=bool), lambda _, name=name: f"{name} is missing"
            )
        else:
            raise HTTPError(422, f"the column {name} is missing")
