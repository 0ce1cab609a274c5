"""Requests that match waiting jobs to a slot: reading ``POST /match``, and writing its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from infra.aliases import Array, Integers
from services.http.bodies import Shape, read_body
from services.http.columns import single_array
from services.http.contract import (
    ARROW_TYPE,
    JSON_TYPE,
    MATCH_FIELDS,
    MatchOptions,
)
from services.http.options import read_options
from services.http.requests import PredictRequest, read_jobs_to_predict
from services.http.responses import joined, row_members, write_stream

_ABSENT = {"count": 1.0, "priority": 1.0, "quota_used": 0.0, "ran": 0.0}
"""The numbers that the broker may send of each job, and what a missing one counts as."""


@dataclass(frozen=True)
class MatchRequest:
    """Waiting jobs, what the broker says of each (float64[n] by field), and the slot."""

    jobs: PredictRequest
    waiting: Mapping[str, Array]
    options: MatchOptions
    shape: Shape


@dataclass(frozen=True)
class Matched:
    """Waiting jobs for a slot.

    Attributes:
        order: The rows of the request, best first (int64[n]).
        columns: The numbers of each row of the request, by column of the answer.
        about: What is said of the choice.
    """

    order: Integers
    columns: Mapping[str, Array]
    about: Mapping[str, float]

    def __len__(self) -> int:
        return len(self.order)


def read_match(content_type: str, body: bytes, query: Mapping[str, str]) -> MatchRequest:
    """Read waiting jobs and the slot.

    Args:
        content_type: The Content-Type header.
        body: Jobs as of ``/predict`` with the further fields, the slot beside them.
        query: The slot and options; the only place for them with an Arrow stream.

    Raises:
        HTTPError: 400, 413, 415 or 422.
    """
    batch = read_body(content_type, body, MatchOptions, MATCH_FIELDS)
    options = read_options(batch.options, query, MatchOptions)
    waiting = {}
    for name, absent in _ABSENT.items():
        values = np.full(batch.jobs.num_rows, absent)
        if name in batch.jobs.column_names:
            column = single_array(batch.jobs.column(name))
            sent = np.asarray(column.to_numpy(zero_copy_only=False))
            values = np.where(np.isnan(sent), values, sent)
        waiting[name] = values
    return MatchRequest(read_jobs_to_predict(batch), waiting, options, batch.shape)


def write_match(matched: Matched, model_version: str, request: MatchRequest) -> tuple[str, bytes]:
    """Content type and body of an answer, the best job first.

    Args:
        matched: The jobs and the choice.
        model_version: Which model predicted.
        request: What is answered; its form is the answer's.
    """
    job_ids = single_array(request.jobs.jobs.column("job_id")).take(pa.array(matched.order))
    columns = {name: values[matched.order] for name, values in matched.columns.items()}
    about: dict[str, Any] = {
        **matched.about,
        "model_version": model_version,
        "unread": list(request.jobs.unread),
    }
    if request.shape == "arrow":
        arrays = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
        return ARROW_TYPE, write_stream(
            {"job_id": job_ids, **arrays}, {"gridcast": orjson.dumps(about)}
        )
    values: dict[str, Callable[[slice], list[Any]]] = {
        "job_id": lambda rows: job_ids[rows].to_pylist(),
        **{name: _taking(column) for name, column in columns.items()},
    }
    rest = orjson.dumps(about)[1:]
    if request.shape == "rows":
        rows = joined(b"{" + row + b"}" for row in row_members(values, len(matched)))
        return JSON_TYPE, b"".join((b'{"rows":[', *rows, b"],", rest))
    rows_of_all = slice(0, len(matched))
    body = orjson.dumps({name: take(rows_of_all) for name, take in values.items()})
    return JSON_TYPE, b'{"columns":' + body + b"," + rest


def _taking(column: Array) -> Callable[[slice], list[Any]]:
    """Python values of some rows of numbers, None for NaN."""
    if column.dtype != np.float64 or not np.isnan(column).any():
        return lambda rows: column[rows].tolist()
    values = np.where(np.isnan(column), None, column)  # type: ignore[call-overload]
    return lambda rows: values[rows].tolist()
