"""Background load: the other records in progress when a record was submitted.

A record is known to be in progress from its start and to be over from its end; its duration is not
known before it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.aliases import Array
from infra.compiled import compiled
from jobs.coded_jobs import encode_column


def in_progress(
    keys: Array, at: Array, begin: Array, end: Array, amount: Array, speed: Array
) -> Array:
    """Summarise the other records with a record's key that are in progress at its submission.

    Args:
        keys: Key of each record, rows in order of ``at``.
        at: Submission, s; records that begin at that very instant do not count yet.
        begin: Start, s; infinite or NaN for not yet.
        end: End, s; infinite or NaN for not yet.
        amount: Total amount of each record (bytes, core seconds).
        speed: Amount done a second.

    Returns:
        float64[n, 5]: number, amount, remaining amount, mean age (s), speed.

    >>> zero, when = np.zeros(3), np.array([0.0, 5.0, 9.0])
    >>> ends, amount = np.array([8.0, 20.0, 30.0]), np.full(3, 10.0)
    >>> in_progress(zero, when, when, ends, amount, np.ones(3)).tolist()
    [[0.0, 0.0, 0.0, nan, 0.0], [1.0, 10.0, 5.0, 5.0, 1.0], [1.0, 10.0, 6.0, 4.0, 1.0]]
    """
    end_or_never = np.where(np.isnan(end), np.inf, end)
    order = np.flatnonzero(np.isfinite(begin))
    order = order[np.argsort(begin[order], kind="stable")]
    out = np.zeros((len(at), 5))
    codes = pd.factorize(keys)[0].astype(np.int64)
    _in_progress(
        codes, at, begin, end_or_never, np.nan_to_num(amount), np.nan_to_num(speed), order, out
    )
    with np.errstate(invalid="ignore"):
        out[:, 3] /= out[:, 0]
    return out


@compiled
def _in_progress(
    keys: Array,
    at: Array,
    begin: Array,
    end: Array,
    amount: Array,
    speed: Array,
    order: Array,
    out: Array,
) -> None:
    active = np.empty(len(order), np.int64)
    count, position = 0, 0
    for row in range(len(at)):
        now = at[row]
        while position < len(order) and begin[order[position]] < now:
            active[count] = order[position]
            count += 1
            position += 1
        remaining = 0
        for index in range(count):
            neighbour = active[index]
            if end[neighbour] <= now:
                continue
            active[remaining] = neighbour
            remaining += 1
            if neighbour != row and keys[neighbour] == keys[row]:
                out[row, 0] += 1
                out[row, 1] += amount[neighbour]
                out[row, 2] += max(
                    0.0,
                    amount[neighbour] - speed[neighbour] * (now - begin[neighbour]),
                )
                out[row, 3] += now - begin[neighbour]
                out[row, 4] += speed[neighbour]
        count = remaining


def seconds(times: pd.Series[Any]) -> Array:
    """Times as seconds since 1970 (float64[n], NaN for missing)."""
    return ((times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)).to_numpy(
        dtype=np.float64
    )


def microseconds(times: pd.Series[Any]) -> npt.NDArray[np.int64]:
    """Times in microseconds since 1970 (int64[n], NOT_AVAILABLE for missing)."""
    return np.asarray(encode_column(times))


def key_of(records: pd.DataFrame, fields: Sequence[str]) -> Array:
    """One code for each combination of ``fields`` (int64[n]); a missing value is one of its own."""
    codes = np.zeros(len(records), dtype=np.int64)
    for name in fields:
        if name in records:
            more, values = pd.factorize(records[name], use_na_sentinel=False)
            codes = pd.factorize(codes * max(len(values), 1) + more)[0].astype(np.int64)
    return codes


def started_recently(keys: Array, at: Array, span: float) -> Array:
    """Count the other records with a record's key in the ``span`` seconds before it.

    Args:
        keys: Key of each record, rows in order of ``at``.
        at: Submission, s.
        span: Length of the window, s.
    """
    out = np.zeros(len(at))
    for key in np.unique(keys):
        rows = np.flatnonzero(keys == key)
        times = at[rows]
        until = np.searchsorted(times, times, side="left")
        out[rows] = until - np.searchsorted(times, times - span, side="left")
    return out
