"""Background load: what else waited or was under way when a record was submitted, as it was known then.

That something is under way is known from its beginning, that it is over from its end, and how long it will take is not known before.
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


def under_way(
    keys: Array, at: Array, begin: Array, end: Array, amount: Array, speed: Array
) -> Array:
    """Of the others with a record's key that were under way at its time: number, amount, amount left, mean age, speed (float64[n, 5]).

    ``at``, ``begin`` and ``end`` are seconds (float64[n]; infinite or NaN: not yet), rows in order of ``at``; what begins at the very
    instant is not known yet. ``amount`` is what each takes in all (bytes, seconds of cores), of which ``speed`` a second is done.

    >>> zero, when = np.zeros(3), np.array([0.0, 5.0, 9.0])
    >>> under_way(zero, when, when, np.array([8.0, 20.0, 30.0]), np.full(3, 10.0), np.ones(3)).tolist()
    [[0.0, 0.0, 0.0, nan, 0.0], [1.0, 10.0, 5.0, 5.0, 1.0], [1.0, 10.0, 6.0, 4.0, 1.0]]
    """
    never = np.where(np.isnan(end), np.inf, end)
    order = np.flatnonzero(np.isfinite(begin))
    order = order[np.argsort(begin[order], kind="stable")]
    out = np.zeros((len(at), 5))
    codes = pd.factorize(keys)[0].astype(np.int64)
    _under_way(codes, at, begin, never, np.nan_to_num(amount), np.nan_to_num(speed), order, out)
    with np.errstate(invalid="ignore"):
        out[:, 3] /= out[:, 0]
    return out


@compiled
def _under_way(
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
    count, place = 0, 0
    for row in range(len(at)):
        now = at[row]
        while place < len(order) and begin[order[place]] < now:
            active[count] = order[place]
            count += 1
            place += 1
        kept = 0
        for index in range(count):
            other = active[index]
            if end[other] <= now:
                continue
            active[kept] = other
            kept += 1
            if other != row and keys[other] == keys[row]:
                out[row, 0] += 1
                out[row, 1] += amount[other]
                out[row, 2] += max(0.0, amount[other] - speed[other] * (now - begin[other]))
                out[row, 3] += now - begin[other]
                out[row, 4] += speed[other]
        count = kept


def seconds(times: pd.Series[Any]) -> Array:
    """Times as seconds since 1970 (float64[n], NaN for missing)."""
    return ((times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)).to_numpy(
        dtype=np.float64
    )


def microseconds(times: pd.Series[Any]) -> npt.NDArray[np.int64]:
    """Times as the engine has them (int64[n], NOT_AVAILABLE for missing)."""
    return np.asarray(encode_column(times))


def key_of(records: pd.DataFrame, fields: Sequence[str]) -> Array:
    """One code for each combination of ``fields`` (int64[n]); a missing value is one of its own."""
    codes = np.zeros(len(records), dtype=np.int64)
    for name in fields:
        if name in records:
            more, values = pd.factorize(records[name], use_na_sentinel=False)
            codes = pd.factorize(codes * max(len(values), 1) + more)[0].astype(np.int64)
    return codes


def begun_lately(keys: Array, at: Array, span: float) -> Array:
    """How many others with a record's key came in the last ``span`` seconds before it (float64[n]); rows in order of ``at``."""
    out = np.zeros(len(at))
    for key in np.unique(keys):
        rows = np.flatnonzero(keys == key)
        here = at[rows]
        out[rows] = np.searchsorted(here, here, side="left") - np.searchsorted(
            here, here - span, side="left"
        )
    return out
