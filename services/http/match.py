"""Requests that match waiting jobs to a slot: reading ``POST /match``, choosing, and the answer.

The choice needs no histories: where users are divided among shards, the router makes it, from what
the shards predict (``POST /outlook``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from infra.aliases import Array, Floats, Integers
from jobs.coded_jobs import in_microseconds
from models.ranking.slots import Order, Outlook, Slot, SlotError, choose
from services.http.bodies import Shape, read_body
from services.http.columns import single_array
from services.http.contract import (
    ARROW_TYPE,
    JSON_TYPE,
    MATCH_FIELDS,
    MatchOptions,
)
from services.http.errors import HTTPError
from services.http.options import read_options
from services.http.requests import PredictRequest, read_jobs_to_predict
from services.http.responses import joined, row_members, write_stream

_ABSENT = {"count": 1.0, "priority": 1.0, "quota_used": 0.0, "ran": 0.0}
"""The numbers that the broker may send of each job, and what a missing one counts as."""
_MOST_CHOSEN = float(2**31)
_DECIMALS = 6


@dataclass(frozen=True)
class MatchRequest:
    """Waiting jobs for a slot.

    Attributes:
        jobs: The jobs.
        waiting: What the broker says of each beside their fields (float64[n] by field).
        options: The slot and the options.
        order: How the jobs are ordered.
        at: The time to predict from.
        shape: The form of body and answer.
    """

    jobs: PredictRequest
    waiting: Mapping[str, Array]
    options: MatchOptions
    order: Order
    at: datetime
    shape: Shape

    @property
    def slot(self) -> Slot:
        """The slot."""
        memory = np.inf if self.options.memory is None else self.options.memory
        return Slot(int(self.options.cores), self.options.seconds_left, memory)

    @property
    def cores(self) -> Floats:
        """The cores of each job (float64[n]); one where it does not say."""
        return np.maximum(np.ceil(np.nan_to_num(self.numbers("requested_cores"), nan=1.0)), 1.0)

    @property
    def waited(self) -> Floats:
        """How long each job has waited, s (float64[n])."""
        submitted = single_array(self.jobs.jobs.column("submitted_at")).cast(pa.int64())
        return np.maximum(in_microseconds(self.at) - submitted.to_numpy(), 0) / 1e6

    def numbers(self, name: str) -> Floats:
        """A field of the jobs (float64[n]), NaN where it is missing."""
        if name not in self.jobs.jobs.column_names:
            return np.full(self.jobs.jobs.num_rows, np.nan)
        column = single_array(self.jobs.jobs.column(name))
        return np.asarray(column.to_numpy(zero_copy_only=False))


@dataclass(frozen=True)
class SlotPrediction:
    """What the histories say of each job in the slot.

    Attributes:
        outlook: What starting it would bring.
        fits: The probability that it fits into the slot's memory, NaN for unknown (float64[n]).
        memory: What to set aside, bytes (float64[n]).
    """

    outlook: Outlook
    fits: Floats
    memory: Floats


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
    try:
        order = Order(
            options.policy,
            options.wait_weight,
            options.quota_weight,
            options.priority_weight,
            options.gain_weight,
        )
    except SlotError as error:
        raise HTTPError(422, str(error)) from None
    waiting = {}
    for name, absent in _ABSENT.items():
        values = np.full(batch.jobs.num_rows, absent)
        if name in batch.jobs.column_names:
            column = single_array(batch.jobs.column(name))
            sent = np.asarray(column.to_numpy(zero_copy_only=False))
            values = np.where(np.isnan(sent), values, sent)
        waiting[name] = values
    jobs, at = read_jobs_to_predict(batch), options.at or datetime.now(UTC)
    return MatchRequest(jobs, waiting, options, order, at, batch.shape)


def match(request: MatchRequest, predicted: SlotPrediction) -> Matched:
    """Order waiting jobs, and choose those to start.

    Args:
        request: The jobs and the slot.
        predicted: What was predicted of each job.
    """
    options, waiting, slot = request.options, request.waiting, request.slot
    outlook, cores, waited = predicted.outlook, request.cores, request.waited
    gain = outlook.gain(options.kill_price)
    scores = request.order.scores(
        waited,
        waiting["priority"],
        waiting["quota_used"],
        gain / (cores * slot.seconds),
    )
    ordered = np.lexsort((-waited, -scores))
    eligible = (outlook.ends >= 1 - options.risk) & (gain > 0)
    eligible &= np.nan_to_num(predicted.fits, nan=1.0) >= 1 - options.risk
    choice = choose(
        slot,
        ordered,
        np.minimum(cores, slot.cores + 1).astype(np.int64),
        predicted.memory,
        np.minimum(waiting["count"], _MOST_CHOSEN).astype(np.int64),
        gain,
        eligible,
    )
    columns = {
        "p_ends": np.round(outlook.ends, _DECIMALS),
        "p_fits": np.round(predicted.fits, _DECIMALS),
        "core_seconds_used": np.round(outlook.used, 3),
        "core_seconds_lost": np.round(outlook.lost, 3),
        "gain": np.round(gain, 3),
        "chosen": choice.count,
    }
    about = {
        "cores_chosen": int((choice.count * cores).sum()),
        "gain_of_choice": round(choice.gain, 3),
        "gain_bound": round(choice.bound, 3),
    }
    return Matched(ordered, columns, about)


def write_outlook(predicted: SlotPrediction, model_version: str) -> tuple[str, bytes]:
    """Content type and Arrow stream of what was predicted, not rounded; a row a job.

    Args:
        predicted: The predictions, in the order of the jobs.
        model_version: Which model predicted.
    """
    outlook = predicted.outlook
    columns = {
        "ends": outlook.ends,
        "used": outlook.used,
        "lost": outlook.lost,
        "fits": predicted.fits,
        "memory": predicted.memory,
    }
    arrays = {name: pa.array(values) for name, values in columns.items()}
    return ARROW_TYPE, write_stream(arrays, {"model_version": model_version})


def merge_outlooks(answers: Sequence[tuple[Integers, bytes]]) -> tuple[SlotPrediction, str]:
    """The predictions of all jobs from the streams of ``write_outlook``.

    Args:
        answers: The positions of a shard's jobs, and its stream.

    Returns:
        The predictions, and the model version of most jobs.
    """
    tables = [pa.ipc.open_stream(body).read_all() for _, body in answers]
    order = np.argsort(np.concatenate([jobs for jobs, _ in answers]))
    values = {
        name: pa.concat_tables(tables).column(name).to_numpy()[order]
        for name in tables[0].column_names
    }
    outlook = Outlook(values["ends"], values["used"], values["lost"])
    version = max(tables, key=len).schema.metadata[b"model_version"].decode()
    return SlotPrediction(outlook, values["fits"], values["memory"]), version


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
