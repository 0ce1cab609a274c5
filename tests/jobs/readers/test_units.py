"""Durations, sizes and times as batch systems print them."""

import doctest
from datetime import datetime
from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.readers import ReadError, columns, contract, slurm_words, units


@pytest.mark.parametrize("module", [units, columns, contract, slurm_words])
def test_the_examples_in_the_docstrings_are_true(module):
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted > 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:00:00", 0.0),
        ("01:02:03", 3723.0),
        ("10-00:00:01", 864_001.0),
        ("100:00:00", 360_000.0),
        ("02:03", 123.0),
        ("02:03.250", 123.25),
        ("45", 45.0),
        ("1.5", 1.5),
        ("350ms", 0.35),
        ("25s", 25.0),
        ("1h 3m 5s", 3785.0),
        ("2d 4h", 187_200.0),
        ("1day 2hours", 93_600.0),
        ("0ms", 0.0),
        ("-1", -1.0),
    ],
)
def test_durations(text, seconds):
    assert units.duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0.0),
        ("10436K", 10436 * 1024.0),
        ("1.5G", 1.5 * 1024**3),
        ("2.1 GB", 2.1 * 1024**3),
        ("2.1 GiB", 2.1 * 1024**3),
        ("1024kb", 1024.0**2),
        ("7b", 7.0),
        ("3T", 3 * 1024.0**4),
        ("1e3", 1000.0),
        ("5 bytes", 5.0),
        ("-5", -5.0),
    ],
)
def test_sizes(text, size):
    assert units.size(text) == size


@pytest.mark.parametrize(
    "parse", [units.duration, units.size, units.number, units.timestamp, units.percent]
)
@pytest.mark.parametrize("text", ["", "-", " none ", "N/A", "Unknown", "NaN", "null"])
def test_words_for_unknown_are_missing(parse, text):
    assert isnan(parse(text))


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (units.duration, "soon"),
        (units.duration, "1:2:3:4"),
        (units.duration, "5 parsecs"),
        (units.size, "5X"),
        (units.size, "G5"),
        (units.number, "1_000"),
        (units.number, "0x10"),
        (units.number, "١"),
        (units.timestamp, "13/13/2023"),
        (units.timestamp, "1e30"),
        (units.calendar, "2023-02-30"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_shows_it(parse, text):
    with pytest.raises(ValueError, match=r"is (not )?a "):
        parse(text)


@given(st.integers(0, 10**7))
def test_a_clock_reads_back_what_it_shows(seconds):
    days, rest = divmod(seconds, 86400)
    assert (
        units.duration(f"{days}-{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}") == seconds
    )


@given(
    st.datetimes(min_value=datetime(1981, 1, 1), max_value=datetime(2100, 1, 1)),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
)
def test_no_reading_of_local_times_turns_a_duration_negative(moment, wait, run):
    import zoneinfo

    zone = zoneinfo.ZoneInfo("Europe/Paris")
    start = int(moment.replace(tzinfo=zone).timestamp())
    instants = [start, start + wait, start + wait + run]
    printed = [datetime.fromtimestamp(instant, zone).replace(tzinfo=None) for instant in instants]
    submitted, started, ended = units.to_utc(printed, "Europe/Paris", float(run))
    assert submitted <= started <= ended
    assert ended - started == run


def test_an_hour_that_does_not_exist_is_what_the_clock_would_have_shown():
    # On 31 March 2024 Paris went from 02:00 to 03:00.
    (moment,) = units.to_utc([datetime(2024, 3, 31, 2, 30)], "Europe/Paris")
    assert moment == datetime.fromisoformat("2024-03-31T01:30:00+00:00").timestamp()


def test_an_unknown_zone_is_named():
    with pytest.raises(ReadError, match="there is no time zone Europe/Atlantis"):
        units.to_utc([None], "Europe/Atlantis")


def test_times_that_no_calendar_holds_are_missing():
    moments = units.times(np.array([0.25, np.nan, 1e18, -1e18, np.inf]))
    assert moments.isna().tolist() == [False, True, True, True, True]
    assert moments[0].microsecond == 250_000


def test_text_is_fit_for_every_database():
    assert units.words(" a\0b\ud800c ") == "ab?c"
    assert units.words(7) == "7"
    assert units.words(None) is None
