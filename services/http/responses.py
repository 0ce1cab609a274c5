"""Answers: what was foreseen as the JSON or Arrow body that the caller's door promises; pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa

from services.http.bodies import ARROW_TYPE, JSON_TYPE, Shape

if TYPE_CHECKING:
    from models.engine.predictions import Answers


def write_answer(
    answers: Answers, job_ids: pa.Array, about: Mapping[str, Any], shape: Shape
) -> tuple[str, bytes]:
    """Content type and body: ``{"rows": […], **about}``, ``{"columns": {…}, **about}`` or an Arrow stream with ``about`` as metadata.

    A row a job, in the order of ``job_ids``: the numbers of ``answers``, cluster, model_version and cold_start. A number that is not
    known is null, in every shape.
    """
    if shape == "arrow":
        return ARROW_TYPE, write_arrow(answers, job_ids, about)
    which = answers.which
    numbers = {name: values[which] for name, values in answers.numbers.items()}
    if shape == "columns":
        columns = {
            "job_id": job_ids.to_pylist(),
            **numbers,
            "cluster": answers.cluster[which].tolist(),
            "model_version": [answers.model_version] * len(which),
            "cold_start": answers.cold_start[which],
        }
        return JSON_TYPE, orjson.dumps(
            {"columns": columns, **about}, option=orjson.OPT_SERIALIZE_NUMPY
        )
    return JSON_TYPE, orjson.dumps({"rows": [], **about}).replace(
        b"[]", b"[" + b",".join(_rows(answers, job_ids)) + b"]", 1
    )


def _rows(answers: Answers, job_ids: pa.Array) -> list[bytes]:
    """Each job's row as JSON: its own beginning, and the end that all jobs of its kind share, which is written once."""
    names = (*answers.numbers, "cluster", "model_version", "cold_start")
    numbers = (values.tolist() for values in answers.numbers.values())
    kinds = zip(
        *numbers,
        answers.cluster.tolist(),
        repeat(answers.model_version),
        answers.cold_start.tolist(),
        strict=False,
    )
    ends = [orjson.dumps(dict(zip(names, kind, strict=True)))[1:] for kind in kinds]
    ids = map(orjson.dumps, job_ids.to_pylist())
    return [
        b'{"job_id":' + job + b"," + ends[kind]
        for job, kind in zip(ids, answers.which.tolist(), strict=True)
    ]


def write_arrow(answers: Answers, job_ids: pa.Array, about: Mapping[str, Any]) -> bytes:
    """An Arrow IPC stream of one batch; the schema's metadata holds ``about`` as JSON under ``gridcast``."""
    which = answers.which
    places = {name: place for place, name in enumerate(dict.fromkeys(answers.cluster.tolist()))}
    codes = np.array([places[name] for name in answers.cluster.tolist()], dtype=np.int32)
    columns = {
        "job_id": job_ids,
        **{name: _numbers(values, which) for name, values in answers.numbers.items()},
        "cluster": pa.DictionaryArray.from_arrays(
            codes[which], pa.array(list(places), pa.string())
        ),
        "model_version": pa.DictionaryArray.from_arrays(
            np.zeros(len(which), np.int32), pa.array([answers.model_version], pa.string())
        ),
        "cold_start": pa.array(answers.cold_start[which]),
    }
    batch = pa.record_batch(columns).replace_schema_metadata({"gridcast": orjson.dumps(about)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue())


def _numbers(values: np.ndarray[Any, Any], which: np.ndarray[Any, Any]) -> pa.Array:
    missing = np.isnan(values)
    return pa.array(values[which], mask=missing[which] if missing.any() else None)


def write_json(answer: Mapping[str, Any]) -> bytes:
    """Any small answer as JSON."""
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
