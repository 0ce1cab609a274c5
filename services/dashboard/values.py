"""Values that the page's API gives and takes: frames as JSON, and what a query may say."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pandas as pd

from services.http.errors import HTTPError

MAX_ROWS = 200
"""Rows of a page of a list."""
RANGES = (24, 72, 168, 336)
"""Hours that a page may show."""
Query = dict[str, str]


def as_json(value: Any) -> bytes:
    """Encode plain values; NaN and missing times become null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Give the rows of a frame as JSON values: times as text, missing values as None."""
    columns = {}
    for name in frame.columns:
        column = frame[name]
        if isinstance(column.dtype, pd.DatetimeTZDtype):
            columns[name] = [None if pd.isna(value) else value.isoformat() for value in column]
        else:
            columns[name] = [_plain(value) for value in column.tolist()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value if isinstance(value, list | dict) else None if pd.isna(value) else value


def whole_number(query: Query, name: str, default: int, largest: int) -> int:
    """Read a number of a query.

    Args:
        query: The query.
        name: Its name.
        default: Its value if it is not named.
        largest: The largest that is allowed; the smallest is 1, of a page 0.

    Raises:
        HTTPError: It is no such number (422).
    """
    text = query.get(name, str(default))
    smallest = 0 if name == "page" else 1
    if not text.isdecimal() or len(text) > 9 or not smallest <= int(text) <= largest:
        raise HTTPError(422, f"{name} must be a whole number of at most {largest:,}")
    return int(text)


def page_of(query: Query, size: int = 50) -> slice:
    """The rows that a query's ``page`` (from 0) and ``size`` mean; raises HTTPError (422)."""
    page, size = whole_number(query, "page", 0, 10**6), whole_number(query, "size", size, MAX_ROWS)
    return slice(page * size, (page + 1) * size)


def hours_of(query: Query, default: int = 168) -> int:
    """How many hours a query wants to see; raises HTTPError (422) unless one of RANGES."""
    hours = whole_number(query, "hours", default, RANGES[-1])
    if hours not in RANGES:
        raise HTTPError(422, f"hours must be one of {', '.join(map(str, RANGES))}")
    return hours


def sort_rows(frame: pd.DataFrame, query: Query, fields: tuple[str, ...]) -> pd.DataFrame:
    """Sort by a query's ``sort``: a field, with a minus for the largest first; missing last.

    Args:
        frame: The rows, in the order that is kept without ``sort``.
        query: The query.
        fields: The fields that may be sorted by.

    Raises:
        HTTPError: The field is none of these (422).
    """
    order = query.get("sort", "")
    field = order.removeprefix("-")
    if not order:
        return frame
    if field not in fields:
        raise HTTPError(422, f"sort must be one of {', '.join(fields)}, or -FIELD")
    return frame.sort_values(field, ascending=field == order, kind="stable", na_position="last")
