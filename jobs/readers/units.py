"""Durations, sizes, times and numbers as batch systems print them, in the schema's units: seconds, bytes, seconds since 1970 UTC.

Every function gives NaN (or None) where the text says that nothing is known, and raises ValueError where it cannot be read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise, product
from math import nan
from typing import TypeAlias, TypeVar
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from jobs.readers.errors import ReadError

Moment: TypeAlias = datetime | float | None
"""A time as printed: a datetime without zone, or seconds since 1970 where the zone is known, or nothing."""

MISSING = frozenset(
    {
        "",
        "-",
        "--",
        "none",
        "null",
        "nan",
        "n/a",
        "na",
        "unknown",
        "undefined",
        "invalid",
        "(null)",
        "not set",
    }
)
LATEST = 1e11
"""Seconds since 1970 (the year 5138) above which a time is not stored."""

AT_THE_LIMIT = 0.99
"""A job that did not complete and used this share of its request was killed at the limit: systems kill some seconds off it."""

WORDS = {
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
    "d": 86400.0,
    "day": 86400.0,
}
WORD = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ms|secs?|s|mins?|m|hours?|h|days?|d)", re.ASCII)
CLOCK = re.compile(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)(\.\d+)?", re.ASCII)
SIZE = re.compile(
    r"(-?\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*([kmgtpe]?)i?(b|w|bytes?)?", re.ASCII | re.IGNORECASE
)
NUMBER = re.compile(
    r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?inf(?:inity)?", re.ASCII | re.IGNORECASE
)
EPOCH, SECOND = datetime(1970, 1, 1), timedelta(seconds=1)
WORD_BYTES = 8
"""What PBS counts as a word (``w``) on today's machines."""


def is_missing(text: str) -> bool:
    """Whether the text is one of the usual words for "not known"."""
    return text.strip().lower() in MISSING


def words(value: object) -> str | None:
    """Text that a database can hold (no NUL, no half of a surrogate pair), or None where it is one of the words for unknown."""
    text = str(value).strip() if value is not None else ""
    if is_missing(text):
        return None
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8") or None


def number(text: str) -> float:
    """A plain number.

    >>> number(" 1.5e3 ")
    1500.0
    """
    text = text.strip()
    if is_missing(text):
        return nan
    if not NUMBER.fullmatch(text):
        raise ValueError(f"is not a number: {text[:60]}")
    return float(text)


N = TypeVar("N", float, np.ndarray)


def scaled(amount: N, unit: float) -> N:
    """The amount times the unit; milliseconds are divided by 1000, which rounds right where 0.001 does not.

    >>> scaled(350.0, 1e-3), 350.0 * 1e-3
    (0.35, 0.35000000000000003)
    """
    return amount / round(1 / unit) if 0 < unit < 1 else amount * unit


def duration(text: str, unit: float = 1.0) -> float:
    """Seconds of ``[days-]hours:minutes:seconds``, ``minutes:seconds.fraction``, ``1h 3m 5s``, or a number of ``unit`` seconds.

    >>> duration("1-02:03:04"), duration("02:03.5"), duration("1h 3m 5s"), duration("90", unit=0.001)
    (93784.0, 123.5, 3785.0, 0.09)
    """
    text = text.strip()
    if is_missing(text):
        return nan
    if NUMBER.fullmatch(text):
        return scaled(float(text), unit)
    if ":" in text and (found := CLOCK.fullmatch(text)):
        days, hours, minutes, seconds, fraction = found.groups()
        return (
            int(days or 0) * 86400.0
            + int(hours or 0) * 3600.0
            + int(minutes or 0) * 60.0
            + int(seconds)
            + float(fraction or 0)
        )
    total, end = 0.0, 0
    while found := WORD.match(text, end):
        total += scaled(
            float(found[1]), WORDS[found[2] if found[2] in ("ms", "s") else found[2].rstrip("s")]
        )
        end = found.end()
    if end != len(text) or not text:
        raise ValueError(f"is not a duration: {text[:60]}")
    return total


def size(text: str, unit: float = 1.0) -> float:
    """Bytes of a size such as ``2.1 GB``, ``4G``, ``1024kb``, ``512mw``, or a number of ``unit`` bytes; k, m, g are powers of 1024.

    >>> size("2.1 GB"), size("4", unit=1024), size("2kw")
    (2254857830.4, 4096.0, 16384.0)
    """
    text = text.strip()
    if is_missing(text):
        return nan
    found = SIZE.fullmatch(text)
    if not found:
        raise ValueError(f"is not a size: {text[:60]}")
    amount, letter, kind = float(found[1]), found[2].lower(), (found[3] or "").lower()
    if not letter and not kind:
        return amount * unit
    return amount * 1024.0 ** " kmgtpe".index(letter or " ") * (WORD_BYTES if kind == "w" else 1)


def percent(text: str) -> float:
    """A share of one from ``85.3%`` or ``85.3``.

    >>> percent("50%")
    0.5
    """
    return number(text.strip().removesuffix("%")) / 100


@lru_cache(maxsize=16)
def zone(name: str) -> ZoneInfo:
    """The time zone of that name; raises ReadError where there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ReadError(f"there is no time zone {name}: give a name such as Europe/Paris") from None


def calendar(text: str, pattern: str = "") -> Moment:
    """A time as printed: seconds since 1970 where they or a zone are given, else a datetime without zone, None where unknown.

    ``pattern`` is a strptime pattern; without one the text is ISO 8601 (a space may stand for the T) or a number.
    """
    text = text.strip()
    if is_missing(text):
        return None
    try:
        if pattern:
            return datetime.strptime(text, pattern)
        if NUMBER.fullmatch(text) and not re.fullmatch(r"\d{8}", text):
            return _possible(float(text), text)
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"is not a time: {text[:60]}") from None
    return _possible(moment.timestamp(), text) if moment.tzinfo else moment


def timestamp(text: str, unit: float = 1.0) -> float:
    """Seconds since 1970 of an ISO time (UTC where it names no zone) or of a number of ``unit`` seconds.

    >>> timestamp("2023-03-13 10:31:05.265"), timestamp("1678703465265", unit=0.001)
    (1678703465.265, 1678703465.265)
    """
    text = text.strip()
    if NUMBER.fullmatch(text):
        return _possible(scaled(float(text), unit), text)
    moment = calendar(text)
    if moment is None:
        return nan
    return moment if isinstance(moment, float) else moment.replace(tzinfo=UTC).timestamp()


def _possible(seconds: float, text: str) -> float:
    if abs(seconds) > LATEST:
        raise ValueError(f"is a time that no calendar holds: {text[:60]}")
    return seconds


def to_utc(moments: Sequence[Moment], name: str, elapsed: float = nan) -> list[float]:
    """Seconds since 1970 of one job's submit, start and end as printed in the time zone ``name``.

    When clocks go back an hour is printed twice. Of the readings of such times the one is taken in which the three are in
    order and end - start is nearest to ``elapsed`` seconds, the earlier one where both fit.
    """
    if name == "UTC":
        return [
            nan if moment is None else moment if isinstance(moment, float) else _since_1970(moment)
            for moment in moments
        ]
    tz = zone(name)
    readings = [_readings(moment, tz) for moment in moments]
    choices: list[tuple[float, ...]] = list(product(*readings))
    misfits = [_misfit(choice, elapsed) for choice in choices]
    return list(choices[misfits.index(min(misfits))])


def _readings(moment: Moment, tz: ZoneInfo) -> list[float]:
    if moment is None:
        return [nan]
    if isinstance(moment, float):
        return [moment]
    # Years 1 and 9999 lie outside what timestamp() can move into UTC.
    epoch = datetime(1970, 1, 1)
    naive = (moment - epoch) / timedelta(seconds=1)
    offsets = [tz.utcoffset(moment.replace(fold=fold)) or timedelta() for fold in (0, 1)]
    instants = [naive - offset.total_seconds() for offset in offsets]
    # In the hour that is skipped in spring both folds are guesses; the first one is what the clock would have shown without the jump.
    return instants if instants[0] < instants[1] else instants[:1]


def _since_1970(moment: datetime) -> float:
    """Seconds from 1970 to a datetime without zone, by the calendar; timestamp() cannot do the years 1 and 9999."""
    return (moment - EPOCH) / SECOND


def _misfit(choice: tuple[float, ...], elapsed: float) -> tuple[int, float]:
    known = [moment for moment in choice if moment == moment]
    disorder = sum(later < earlier for earlier, later in pairwise(known))
    off = abs(choice[-1] - choice[-2] - elapsed) if len(choice) > 1 else 0.0
    return disorder, off if off == off else 0.0


def times(seconds: np.ndarray) -> pd.Series:
    """Seconds since 1970 as UTC times; NaN and those that no calendar holds are missing."""
    possible = np.abs(seconds) <= LATEST
    micros = np.round(np.where(possible, seconds, 0) * 1e6).astype("int64")
    moments = micros.astype("datetime64[us]")
    moments[~possible] = np.datetime64("NaT")
    return pd.Series(moments).dt.tz_localize("UTC")
