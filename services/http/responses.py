"""Answers: predictions as the JSON or Arrow body that the caller asked for; pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa

from infra.aliases import Array
from services.http.bodies import Shape
from services.http.contract import ARROW_TYPE, JSON_TYPE

if TYPE_CHECKING:
    from models.engine.predictions import Predictions

_BLOCK_ROWS = 2_000
"""Rows that are Python objects at a time."""


def write_answer(
    answers: Predictions, job_ids: pa.Array, about: Mapping[str, Any], shape: Shape
) -> tuple[str, bytes]:
    """Content type and body of predictions, a row a job in the order of ``job_ids``.

    ``{"rows": […], **about}``, ``{"columns": {…}, **about}`` or an Arrow stream with ``about`` in
    its metadata. A missing number is null in every form.

    Args:
        answers: The predictions.
        job_ids: What each job is called.
        about: The rest of the answer.
        shape: The form of the request.
    """
    if shape == "arrow":
        return ARROW_TYPE, write_arrow(answers, job_ids, about)
    rest = orjson.dumps(about)
    rest = b"," + rest[1:] if about else rest[1:]
    if shape == "rows":
        return JSON_TYPE, b"".join((b'{"rows":[', *_rows(answers, job_ids), b"]", rest))
    unique_row = answers.context_of_row
    columns = {
        "job_id": job_ids.to_pylist(),
        **{name: values[unique_row] for name, values in answers.numbers.items()},
        **answers.by_row,
        "cluster": answers.cluster[unique_row].tolist(),
        "model_version": answers.versions[unique_row].tolist(),
        "cold_start": answers.cold_start[unique_row],
    }
    # One column at a time: between two calls of C code other threads have their turn.
    members = joined(
        b"%b:%b" % (orjson.dumps(name), orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY))
        for name, values in columns.items()
    )
    return JSON_TYPE, b"".join((b'{"columns":{', *members, b"}", rest))


def _rows(answers: Predictions, job_ids: pa.Array) -> list[bytes]:
    """The rows of a JSON list: the members that all jobs alike share are written once."""
    unique_rows = len(answers.cold_start)
    columns = {
        **answers.numbers,
        "cluster": answers.cluster,
        "model_version": answers.versions,
        "cold_start": answers.cold_start,
    }
    members = row_members({name: _taking(values) for name, values in columns.items()}, unique_rows)
    ids = map(orjson.dumps, job_ids.to_pylist())
    last = [b"}"] * len(answers)
    if answers.by_row:
        own = {name: _taking(values) for name, values in answers.by_row.items()}
        last = [b"," + text + b"}" for text in row_members(own, len(answers))]
    return joined(
        b'{"job_id":' + job_id + b"," + members[row] + end
        for job_id, row, end in zip(ids, answers.context_of_row.tolist(), last, strict=True)
    )


def _taking(values: Array) -> Callable[[slice], list[Any]]:
    return lambda rows: values[rows].tolist()


def row_members(columns: Mapping[str, Callable[[slice], list[Any]]], rows: int) -> list[bytes]:
    """The members of a JSON object for each row, without its braces.

    Args:
        columns: By name, what gives the Python values of some rows.
        rows: How many there are; a block of them is Python values at a time.
    """
    names, members = tuple(columns), list[bytes]()
    for start in range(0, rows, _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        values = zip(*(column(block) for column in columns.values()), strict=True)
        members += [orjson.dumps(dict(zip(names, row, strict=True)))[1:-1] for row in values]
    return members


def joined(items: Iterable[bytes]) -> list[bytes]:
    """Items of a JSON list with commas before all but the first."""
    pieces = [b"," + item for item in items]
    return [pieces[0][1:], *pieces[1:]] if pieces else []


def write_arrow(answers: Predictions, job_ids: pa.Array, about: Mapping[str, Any]) -> bytes:
    """An Arrow IPC stream of one batch; its metadata holds ``about`` as JSON under ``gridcast``.

    Args:
        answers: The predictions.
        job_ids: The ids of the jobs.
        about: What is said of all predictions.
    """
    unique_row = answers.context_of_row
    columns = {
        "job_id": job_ids,
        **{name: _numbers(values, unique_row) for name, values in answers.numbers.items()},
        **{name: pa.array(values) for name, values in answers.by_row.items()},
        "cluster": _texts(answers.cluster, unique_row),
        "model_version": pa.DictionaryArray.from_arrays(
            np.zeros(len(unique_row), np.int32), pa.array([answers.model_version], pa.string())
        )
        if answers.version_of_context is None
        else _texts(answers.versions, unique_row),
        "cold_start": pa.array(answers.cold_start[unique_row]),
    }
    return write_stream(columns, {"gridcast": orjson.dumps(about)})


def write_stream(columns: Mapping[str, pa.Array], metadata: Mapping[str, Any]) -> bytes:
    """An Arrow IPC stream of one batch with metadata."""
    batch = pa.record_batch(dict(columns)).replace_schema_metadata(dict(metadata))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue())


def _texts(values: Array, rows: Array) -> pa.Array:
    """The text of each row as a code, of few distinct ones."""
    texts = {text: code for code, text in enumerate(dict.fromkeys(values.tolist()))}
    codes = np.array([texts[text] for text in values.tolist()], dtype=np.int32)
    return pa.DictionaryArray.from_arrays(codes[rows], pa.array(list(texts), pa.string()))


def _numbers(values: Array, rows: Array) -> pa.Array:
    missing = np.isnan(values)
    return pa.array(values[rows], mask=missing[rows] if missing.any() else None)


def write_json(answer: Mapping[str, Any]) -> bytes:
    """Any small answer as JSON."""
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
