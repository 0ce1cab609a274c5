"""Traffic: what else moved when a transfer was asked for, by server, link, endpoint and file system, as it was known then."""

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
PLACES: dict[str, tuple[str, ...]] = {
    "server": ("source",),
    "link": LINK,
    "from": ("source", "from_endpoint"),
    "to": ("source", "to_endpoint"),
    "file_system": ("source", "file_system"),
}
"""What may be loaded, each with the fields that tell it from others of its kind."""
KINDS = ("transfers", "bytes", "left", "age", "begun", "rate")
"""What is told of each: transfers under way, their bytes and bytes left, their mean age, how many came in the last minute, recent rates."""
TRAFFIC = tuple(f"{place}_{kind}" for place in PLACES for kind in KINDS)
LATELY = 60.0
"""Seconds: files of one data set are asked for within a minute."""
LEAST = 0.5
"""Seconds that a transfer takes at least, for a rate."""


def with_traffic(transfers: pd.DataFrame) -> pd.DataFrame:
    """``transfers`` in order of submission, with the columns of TRAFFIC that their fields allow.

    Of another transfer its size is known from its start, and that it is over from its end. What is left of it is what the latest rate of
    its link, as known when it began, has not moved yet. None is under way longer than a transfer can take.
    """
    transfers = transfers.sort_values("submitted_at", kind="stable", ignore_index=True)
    places = {place: key_of(transfers, fields) for place, fields in _told(transfers).items()}
    return with_surroundings(transfers, traffic_events(transfers), places)


def traffic_now(transfers: pd.DataFrame) -> CurrentSurroundings:
    """What a transfer that comes now would see of the links of ``transfers``, the same columns as ``with_traffic`` has."""
    transfers = transfers.sort_values("submitted_at", kind="stable", ignore_index=True)
    fields = _told(transfers)
    coded = encode_jobs(transfers, {name for group in fields.values() for name in group})
    return CurrentSurroundings.of(coded, traffic_events(transfers), fields)


def traffic_events(transfers: pd.DataFrame) -> Events:
    """What ``transfers``, in order of submission, do to their links."""
    at, begin, end = (
        seconds(transfers[name]) for name in ("submitted_at", "started_at", "ended_at")
    )
    asked = microseconds(transfers["submitted_at"])
    size, took = (transfers[name].to_numpy(dtype=np.float64) for name in ("bytes", "duration"))
    rates = size / np.maximum(took, LEAST)
    known = np.maximum(
        microseconds(transfers["ended_at"]), asked + 1
    )  # one of no length is known only after the instant
    usual = recent(key_of(transfers, LINK), asked, known, rates).average
    return traffic_in(at, begin, end, size, rates, usual, asked, known)


def traffic_in(
    at: Array,
    begin: Array,
    end: Array,
    size: Array,
    rates: Array,
    usual: Array,
    asked: Array,
    known: Array,
) -> Events:
    """``traffic_events`` of arrays: seconds of submission, start and end, bytes, their rate, the rate that each could expect (bytes a
    second), and in microseconds when it was asked for and its end was known (int64[n], NOT_AVAILABLE for not yet)."""
    moves = Interval(
        ("transfers", "bytes", "left", "age", None),
        begin,
        np.fmin(end, begin + LONGEST),
        np.nan_to_num(size),
        np.nan_to_num(usual),
    )
    return Events(at, asked, known, rates, (moves,), LATELY, None, "rate")


def _told(transfers: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """The places that these transfers tell of."""
    return {
        place: fields
        for place, fields in PLACES.items()
        if place == "link" or transfers[fields[-1]].notna().any()
    }


def with_measurements(
    records: pd.DataFrame, series: pd.DataFrame, how: str = "last", span: float = 300.0
) -> pd.DataFrame:
    """``records`` with a column ``measured_<name>`` for each name in ``series`` (measured_at, name, value): network, disk, what a site has.

    A record is given the ``last`` value before its submission, or the ``mean`` of those in the ``span`` seconds before it: the two ways of
    Vazhkudai and Schopf (2003). Raises InputError for another way or a series without these columns.
    """
    missing = {"measured_at", "name", "value"} - set(series.columns)
    if missing or how not in ("last", "mean"):
        raise InputError(
            f"the series has no column {', '.join(sorted(missing))}"
            if missing
            else f"there is no way {how}: last or mean"
        )
    columns = {}
    at = seconds(records["submitted_at"])
    for name, part in series.groupby("name", sort=True):
        columns[f"measured_{name}"] = _joined(at, part, how, span)
    return records.assign(**columns)


def read_series(path: Path) -> pd.DataFrame:
    """A CSV of measurements (measured_at, name, value), gzipped or not; raises InputError for one that cannot be read as such."""
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


def _joined(at: Array, part: pd.DataFrame, how: str, span: float) -> Array:
    times = seconds(pd.to_datetime(part["measured_at"], utc=True))
    order = np.argsort(times, kind="stable")
    times, values = times[order], part["value"].to_numpy(dtype=np.float64)[order]
    end = np.searchsorted(times, at, side="left")
    if how == "last":
        return np.where(end > 0, values[np.maximum(end - 1, 0)], np.nan)
    begin, sums = (
        np.searchsorted(times, at - span, side="left"),
        np.concatenate([[0.0], np.cumsum(values)]),
    )
    return np.where(end > begin, (sums[end] - sums[begin]) / np.maximum(end - begin, 1), np.nan)
