"""Half a megabyte of each kind of text that makes a careless pattern quadratic: every reader is linear."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.readers import READERS, ReadError, ReadOptions, reader_named, units
from tests.jobs.readers.test_conformance import SAMPLES

LENGTH = 500_000
"""Characters: within the longest line that is read; a quadratic pattern takes longer than HANG."""
PIECES = (" ", "9", '"', '\\"', "{\n", "|", "A=", " a='", "[", "1|\n", "1.", "a ")
HANG = 300
"""Seconds of a guard against hanging, not a measurement: a quadratic pattern takes 10^11 steps."""


@pytest.fixture
def hang_guard() -> Iterator[None]:
    def give_up(number: int, frame: object) -> None:
        raise TimeoutError("a reader hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(HANG)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def hostile(piece: str) -> str:
    return piece * (LENGTH // len(piece))


@pytest.mark.slow
@pytest.mark.usefixtures("hang_guard")
@pytest.mark.parametrize("format", [reader.name for reader in READERS])
def test_half_a_megabyte_of_each_hostile_kind_is_read_or_refused(
    format: str, tmp_path: Path
) -> None:
    sample = next(sample for sample in SAMPLES if sample.format == format)
    first, second, third = sample.records
    middle = len(second) // 2
    log = tmp_path / "log"
    for piece in PIECES:
        text = hostile(piece)
        for records in (
            (first, text + "\n", third),
            # Within a record, and short enough not to be refused for its length.
            (first, second[:middle] + text + second[middle:], third),
        ):
            log.write_text(sample.text(records))
            jobs = rejects = 0
            try:
                for batch in reader_named(format).read(log, ReadOptions()):
                    jobs += len(batch.jobs)
                    rejects += len(batch.rejects)
            except ReadError:
                continue
            assert jobs + rejects > 0


@pytest.mark.usefixtures("hang_guard")
@pytest.mark.parametrize("parse", [units.number, units.size, units.duration, units.timestamp])
def test_units_take_linear_time(parse) -> None:
    for piece in PIECES:
        for text in (hostile(piece) + "x", "5" + hostile(piece) + "x"):
            with pytest.raises((ValueError, OverflowError)):
                parse(text)
