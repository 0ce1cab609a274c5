"""Answers: a frame of predictions as the JSON or Arrow body that the caller's door promises; pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa

from services.bodies import ARROW_TYPE, JSON_TYPE, Shape


def write_answer(predictions: pd.DataFrame, about: Mapping[str, Any], shape: Shape) -> tuple[str, bytes]:
    """Content type and body: ``{"rows": […], **about}``, ``{"columns": {…}, **about}`` or an Arrow stream with ``about`` as metadata.

    A number that is not known is null, in every shape.
    """
    if shape == "arrow":
        return ARROW_TYPE, write_arrow(predictions, about)
    columns = {str(name): _plain(values) for name, values in predictions.items()}
    if shape == "columns":
        return JSON_TYPE, orjson.dumps({"columns": columns, **about}, option=orjson.OPT_SERIALIZE_NUMPY)
    lists = [values.tolist() if isinstance(values, np.ndarray) else values for values in columns.values()]
    names = list(columns)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]
    return JSON_TYPE, orjson.dumps({"rows": rows, **about})


def _plain(values: pd.Series[Any]) -> Any:
    """Numbers as an array (orjson writes NaN as null), all else as a list."""
    if values.dtype == bool or np.issubdtype(values.dtype if isinstance(values.dtype, np.dtype) else object, np.number):
        return np.ascontiguousarray(values.to_numpy())
    return [None if value is None or value != value else str(value) for value in values.tolist()]


def write_arrow(predictions: pd.DataFrame, about: Mapping[str, Any]) -> bytes:
    """An Arrow IPC stream of one batch; the schema's metadata holds ``about`` as JSON under ``gridcast``."""
    columns = {str(name): _array(values) for name, values in predictions.items()}
    table = pa.table(columns).replace_schema_metadata({"gridcast": orjson.dumps(about)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def _array(values: pd.Series[Any]) -> pa.Array:
    if isinstance(values.dtype, np.dtype) and np.issubdtype(values.dtype, np.floating):
        return pa.array(values.to_numpy(dtype=np.float64), from_pandas=True)
    if values.dtype == bool:
        return pa.array(values.to_numpy())
    return pa.array(values, pa.string(), from_pandas=True)


def write_json(answer: Mapping[str, Any]) -> bytes:
    """Any small answer as JSON."""
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
