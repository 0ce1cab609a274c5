"""Traffic: other transfers by server, link, endpoint and file system at a transfer's submission."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from infra.aliases import Array
from infra.errors import InputError
from jobs.coded_jobs import encode_jobs
from jobs.transfers import LONGEST
from models.past.load import key_of, microseconds, seconds
from models.past.recent import recent
from models.past.surroundings import CurrentSurroundings, Events, Interval, with_surroundings

LINK = ("source", "link", "from_endpoint", "to_endpoint", "file_system", "direction")
SCOPES: dict[str, tuple[str, ...]] = {
    "server": ("source",),
    "link": LINK,
    "from": ("source", "from_endpoint"),
    "to": ("source", "to_endpoint"),
    "file_system": ("source", "file_system"),
}
"""What may be loaded, each with the fields that identify it."""
KINDS = ("transfers", "bytes", "left", "age", "begun", "rate")
"""Transfers in progress, their bytes, remaining bytes and mean age; transfers submitted in the
last minute; a moving average of rates."""
TRAFFIC = tuple(f"{scope}_{kind}" for scope in SCOPES for kind in KINDS)
RECENT_SPAN = 60.0
"""Seconds; the files of one data set are submitted within a minute."""
LEAST = 0.5
"""Least duration of a transfer for its rate, s."""


def with_traffic(transfers: pd.DataFrame) -> pd.DataFrame:
    """Sort transfers by submission and add the columns of TRAFFIC that their fields allow.

    The size of another transfer is known from its start, its completion from its end. Its
    remaining bytes follow from the recent rate of its link as known when it began. None is in
    progress longer than the longest valid transfer.
    """
    transfers = transfers.sort_values("submitted_at", kind="stable", ignore_index=True)
    keys = {scope: key_of(transfers, fields) for scope, fields in _scopes_of(transfers).items()}
    return with_surroundings(transfers, traffic_events(transfers), keys)


def traffic_now(transfers: pd.DataFrame) -> CurrentSurroundings:
    """The columns of ``with_traffic`` for a transfer that is submitted now."""
    transfers = transfers.sort_values("submitted_at", kind="stable", ignore_index=True)
    fields = _scopes_of(transfers)
    coded = encode_jobs(transfers, {name for group in fields.values() for name in group})
    return CurrentSurroundings.of(coded, traffic_events(transfers), fields)


def traffic_events(transfers: pd.DataFrame) -> Events:
    """The traffic events of ``transfers``, which are in order of submission."""
    at, begin, end = (
        seconds(transfers[name]) for name in ("submitted_at", "started_at", "ended_at")
    )
    submitted = microseconds(transfers["submitted_at"])
    size, took = (transfers[name].to_numpy(dtype=np.float64) for name in ("bytes", "duration"))
    rates = size / np.maximum(took, LEAST)
    # A transfer of length 0 is known only after that instant.
    available_at = np.maximum(microseconds(transfers["ended_at"]), submitted + 1)
    usual = recent(key_of(transfers, LINK), submitted, available_at, rates).average
    return traffic_in(at, begin, end, size, rates, usual, submitted, available_at)


def traffic_in(
    at: Array,
    begin: Array,
    end: Array,
    size: Array,
    rates: Array,
    usual: Array,
    submitted: Array,
    available_at: Array,
) -> Events:
    """``traffic_events`` from arrays, rows in order of submission.

    Args:
        at: Submission, s.
        begin: Start, s, NaN for not yet.
        end: End, s, NaN for not yet.
        size: Bytes.
        rates: Bytes a second.
        usual: Recent rate of the link at submission, bytes a second.
        submitted: Submission, µs.
        available_at: When the end was known, µs, NOT_AVAILABLE for not yet.
    """
    moves = Interval(
        ("transfers", "bytes", "left", "age", None),
        begin,
        np.fmin(end, begin + LONGEST),
        np.nan_to_num(size),
        np.nan_to_num(usual),
    )
    return Events(at, submitted, available_at, rates, (moves,), RECENT_SPAN, None, "rate")


def _scopes_of(transfers: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """The scopes whose fields these transfers report."""
    return {
        scope: fields
        for scope, fields in SCOPES.items()
        if scope == "link" or transfers[fields[-1]].notna().any()
    }


def with_measurements(
    records: pd.DataFrame, series: pd.DataFrame, how: str = "last", span: float = 300.0
) -> pd.DataFrame:
    """Add a column ``measured_<name>`` for each name of a site's own series (network, disk …).

    The two joins of Vazhkudai and Schopf (2003).

    Args:
        records: The records.
        series: Columns measured_at, name, value.
        how: ``last`` value before the submission, or ``mean`` of the ``span`` seconds before it.
        span: Length of that window, s.

    Raises:
        InputError: Another join, or a series without these columns.
    """
    missing = {"measured_at", "name", "value"} - set(series.columns)
    if missing or how not in ("last", "mean"):
        raise InputError(
            f"the series has no column {', '.join(sorted(missing))}"
            if missing
            else f"the join is last or mean, not {how}"
        )
    columns = {}
    at = seconds(records["submitted_at"])
    for name, values in series.groupby("name", sort=True):
        columns[f"measured_{name}"] = _joined(at, values, how, span)
    return records.assign(**columns)


def read_series(path: Path) -> pd.DataFrame:
    """Read a CSV of measurements (measured_at, name, value), gzipped or not; raises InputError."""
    try:
        series = pd.read_csv(path)
        times, values = (
            pd.to_datetime(series["measured_at"], utc=True),
            pd.to_numeric(series["value"]),
        )
    except KeyError as error:
        raise InputError(
            f"{path} has no column {error.args[0]}: a series has measured_at, name and value"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a series of measurements: {str(error).splitlines()[0][:200]}"
        ) from None
    return series.assign(measured_at=times, value=values).dropna(subset=["measured_at", "value"])


def _joined(at: Array, measured: pd.DataFrame, how: str, span: float) -> Array:
    times = seconds(pd.to_datetime(measured["measured_at"], utc=True))
    order = np.argsort(times, kind="stable")
    times, values = times[order], measured["value"].to_numpy(dtype=np.float64)[order]
    end = np.searchsorted(times, at, side="left")
    if how == "last":
        return np.where(end > 0, values[np.maximum(end - 1, 0)], np.nan)
    begin, sums = (
        np.searchsorted(times, at - span, side="left"),
        np.concatenate([[0.0], np.cumsum(values)]),
    )
    return np.where(end > begin, (sums[end] - sums[begin]) / np.maximum(end - begin, 1), np.nan)
