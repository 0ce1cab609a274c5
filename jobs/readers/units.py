"""Durations, sizes, times and numbers as batch systems print them, in the schema's units.

These are seconds, bytes and seconds since 1970 UTC. Every function gives NaN (or None) where the
text says that nothing is known, and raises ValueError where it cannot be read.
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
from jobs.schema import TEXT_BYTES

Moment: TypeAlias = datetime | float | None
"""A time as printed: a datetime without zone, seconds since 1970 where the zone is known, None."""

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
        "nat",
        "<na>",
        "#n/a",
        "nil",
        "\\n",
    }
)
NOMINAL_START = 946_684_800.0
"""2000-01-01 UTC, in seconds: taken as the start of a log that has none; only differences count."""
LATEST = 1e11
"""Seconds since 1970 (the year 5138) above which a time is not stored."""

AT_THE_LIMIT = 0.99
"""Share of the requested walltime from which a job that did not complete was killed at it."""

WORDS = {
    "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0,
    "h": 3600.0, "hr": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0,
}  # fmt: skip
# Each pattern takes linear time: no two repetitions that stand side by side match the same text.
WORD = re.compile(
    r"\s*(\d++(?:\.\d*)?|\.\d+)\s*([uµm]s|secs?|s|mins?|m|hours?|hrs?|h|days?|d)", re.ASCII
)
CLOCK = re.compile(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)(\.\d+)?", re.ASCII)
DAYS = re.compile(r"(-?\d{1,9})\s{1,9}days?,?(?:\s{1,9}([+-]?[\d:.]+))?", re.ASCII)
"""How pandas and Python print a timedelta: ``1 days 02:03:04.5``, ``-1 days +23:59:54``."""
UNPADDED = re.compile(
    r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?:[T ](\d{1,2}):(\d{1,2})(?::(\d{1,2}))?)?"
    r"((?:[.,]\d+)?)\s?((?:Z|[+-][\d:]+)?)",
    re.ASCII,
)
SIZE = re.compile(
    r"(-?\d++(?:\.\d*)?(?:e[+-]?\d+)?)\s*([kmgtpe]?)i?(b|w|bytes?)?", re.ASCII | re.IGNORECASE
)
NUMBER = re.compile(
    r"[+-]?(?:\d++(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|[+-]?inf(?:inity)?",
    re.ASCII | re.IGNORECASE,
)
SENTINELS = frozenset(
    float(value + offset) for value in (2**31, 2**32, 2**63, 2**64) for offset in (-2, -1)
)
"""Largest integers, NO_VAL and INFINITE of Slurm: how systems write "no limit" or "not set"."""
SENTINEL_LIMIT = 2.0**62
"""From here on a number is a sentinel, such as 2^63 rounded to pages."""
EPOCH, SECOND = datetime(1970, 1, 1), timedelta(seconds=1)
WORD_BYTES = 8
"""Bytes of a word (``w``) of PBS on 64-bit machines."""


def is_missing(text: str) -> bool:
    """Whether the text is one of the usual words for "not known"."""
    return text.strip().lower() in MISSING


def words(value: object) -> str | None:
    """Text without NUL and lone surrogates, None where it is one of the words for unknown.

    A text too long for any field is cut, still too long, so that it takes no memory.
    """
    text = str(value)[: 2 * TEXT_BYTES].strip() if value is not None else ""
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


def amount(value: float) -> float:
    """The value, or NaN where it is a sentinel for "no limit" or, below 0, for "not set".

    >>> amount(4.0), amount(2.0**31 - 1), amount(2.0**63), amount(-1.0)
    (4.0, nan, nan, nan)
    """
    return nan if value in SENTINELS or value >= SENTINEL_LIMIT or value < 0 else value


N = TypeVar("N", float, np.ndarray)


def scaled(amount: N, unit: float) -> N:
    """The amount times the unit; a fraction of a unit is divided by, which rounds better.

    >>> scaled(350.0, 1e-3), 350.0 * 1e-3
    (0.35, 0.35000000000000003)
    """
    return amount / round(1 / unit) if 0 < unit < 1 else amount * unit


def duration(text: str, unit: float = 1.0) -> float:
    """Seconds of a duration as printed, or of a number of ``unit`` seconds.

    Forms are ``[days-]hours:minutes:seconds``, ``minutes:seconds.fraction``, ``1h 3m 5s`` and
    ``2 days 01:00:00``.

    >>> duration("1-02:03:04"), duration("02:03.5"), duration("1h 3m 5s"), duration("90", 1e-3)
    (93784.0, 123.5, 3785.0, 0.09)
    """
    text = text.strip()
    if is_missing(text):
        return nan
    if NUMBER.fullmatch(text):
        return scaled(float(text), unit)
    if "day" in text and (match := DAYS.fullmatch(text)):
        clock = match[2] or "0"
        sign = -1.0 if clock.startswith("-") else 1.0
        return float(match[1]) * 86400.0 + sign * duration(clock.lstrip("+-"))
    if ":" in text and (match := CLOCK.fullmatch(text)):
        days, hours, minutes, seconds, fraction = match.groups()
        return (
            int(days or 0) * 86400.0
            + int(hours or 0) * 3600.0
            + int(minutes or 0) * 60.0
            + int(seconds)
            + float(fraction or 0)
        )
    if text.startswith("-") and len(text) > 1 and text[1] != "-":
        return -duration(text[1:], unit)
    total, end = 0.0, 0
    while match := WORD.match(text, end):
        total += scaled(float(match[1]), WORDS.get(match[2]) or WORDS[match[2].rstrip("s")])
        end = match.end()
    if end != len(text) or not text:
        raise ValueError(f"is not a duration: {text[:60]}")
    return total


def size(text: str, unit: float = 1.0) -> float:
    """Bytes of a size such as ``2.1 GB``, ``4G``, ``1024kb``, ``512mw``, or a number of ``unit``.

    k, m, g are powers of 1024.

    >>> size("2.1 GB"), size("4", unit=1024), size("2kw")
    (2254857830.4, 4096.0, 16384.0)
    """
    text = text.strip()
    if is_missing(text):
        return nan
    match = SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"is not a size: {text[:60]}")
    number, letter, kind = float(match[1]), match[2].lower(), (match[3] or "").lower()
    if not letter and not kind:
        return number * unit
    return number * 1024.0 ** " kmgtpe".index(letter or " ") * (WORD_BYTES if kind == "w" else 1)


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
    """A time as printed: seconds since 1970 where they or a zone are given, else a datetime.

    ``pattern`` is a strptime pattern; without one the text is ISO 8601 (a space may replace the T,
    `` UTC`` may end it) or a number since 1970 in s, ms or µs. None where unknown.
    """
    text = text.strip()
    if is_missing(text) or text.startswith("0000-00-00"):  # MySQL's zero date
        return None
    if not pattern and NUMBER.fullmatch(text) and not re.fullmatch(r"\d{8}", text):
        return epoch_seconds(float(text), text)
    try:
        if pattern:
            return datetime.strptime(text, pattern)
        zoned = text.removesuffix(" UTC").removesuffix(" GMT")
        try:
            moment = datetime.fromisoformat(zoned.rstrip())
        except ValueError:
            moment = datetime.fromisoformat(_padded(zoned.rstrip()))
        if zoned is not text and not moment.tzinfo:
            moment = moment.replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"is not a time: {text[:60]}") from None
    return moment.timestamp() if moment.tzinfo else moment


def _padded(text: str) -> str:
    """A date that begins with its year, with two digits for month, day, hour, minute and second."""
    match = UNPADDED.fullmatch(text)
    if not match:
        return text
    year, month, day, hour, minute, second, fraction, zone_offset = match.groups()
    clock = ":".join(digits.zfill(2) for digits in (hour, minute, second) if digits)
    date = f"{year}-{month.zfill(2)}-{day.zfill(2)}"
    return f"{date}{f'T{clock}' if clock else ''}{fraction}{zone_offset}"


def epoch_seconds(value: float, text: str = "") -> float:
    """Seconds since 1970 of a number of s, ms or µs since then, told apart by its size.

    >>> epoch_seconds(1678703465.5), epoch_seconds(1678703465265), epoch_seconds(1678703465265000)
    (1678703465.5, 1678703465.265, 1678703465.265)
    """
    for unit in (1, 1e3, 1e6):
        if abs(value) <= LATEST * unit:
            return value / unit
    raise ValueError(f"is a time that no calendar holds: {text[:60] or f'{value:g}'}")


def timestamp(text: str) -> float:
    """Seconds since 1970 of a time as ``calendar`` reads it, in UTC where it names no zone.

    >>> timestamp("2023-03-13 10:31:05.265"), timestamp("1678703465265")
    (1678703465.265, 1678703465.265)
    """
    moment = calendar(text)
    if moment is None:
        return nan
    return moment if isinstance(moment, float) else moment.replace(tzinfo=UTC).timestamp()


def to_utc(moments: Sequence[Moment], name: str, elapsed: float = nan) -> list[float]:
    """Seconds since 1970 of one job's submit, start and end as printed in the time zone ``name``.

    When clocks go back an hour is printed twice. Of the possible instants those are taken that are
    in order and whose end - start is nearest to ``elapsed`` seconds, the earlier where both fit.

    Args:
        moments: The moments as printed.
        name: The time zone.
        elapsed: The run time, in s.
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
    naive = _since_1970(moment)
    offsets = [tz.utcoffset(moment.replace(fold=fold)) or timedelta() for fold in (0, 1)]
    instants = [naive - offset.total_seconds() for offset in offsets]
    # In the hour skipped in spring the first fold is what a clock without the jump would show.
    return instants if instants[0] < instants[1] else instants[:1]


def _since_1970(moment: datetime) -> float:
    """Seconds from 1970 to a datetime without zone; timestamp() fails in the years 1 and 9999."""
    return (moment - EPOCH) / SECOND


def _misfit(choice: tuple[float, ...], elapsed: float) -> tuple[int, float]:
    instants = [instant for instant in choice if instant == instant]
    disorder = sum(later < earlier for earlier, later in pairwise(instants))
    error = abs(choice[-1] - choice[-2] - elapsed) if len(choice) > 1 else 0.0
    return disorder, error if error == error else 0.0


def times(seconds: np.ndarray) -> pd.Series:
    """Seconds since 1970 as UTC times; NaN and those that no calendar holds are missing."""
    possible = np.abs(seconds) <= LATEST
    micros = np.round(np.where(possible, seconds, 0) * 1e6).astype("int64")
    moments = micros.astype("datetime64[us]")
    moments[~possible] = np.datetime64("NaT")
    return pd.Series(moments).dt.tz_localize("UTC")


def first_known(*numbers: float) -> float:
    """The first number that is not NaN."""
    return next((number for number in numbers if number == number), nan)


def first_nonzero(*numbers: float) -> float:
    """The first number that is neither NaN nor 0, which many systems write for "unknown"."""
    return next((number for number in numbers if number == number and number != 0), nan)
