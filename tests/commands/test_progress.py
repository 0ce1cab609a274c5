"""Progress: the time left is told from the start, and a pipe gets a line a phase."""

import pytest

from commands.progress import TimeLeft
from commands.tables import progress_bar


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_usually_takes_three_minutes_says_so_before_anything_is_done() -> None:
    assert str(TimeLeft(180.0, Clock())) == "about 3 min left"
    assert str(TimeLeft(None, Clock())) == "estimating the time left"


def test_the_time_left_follows_from_the_speed_so_far() -> None:
    clock = Clock()
    left = TimeLeft(None, clock)
    clock.now += 10
    left.advance(0.25)
    assert str(left) == "30 s left"
    clock.now += 5
    assert str(left) == "25 s left"
    clock.now += 3600
    assert str(left) == "estimating the time left"


def test_a_second_step_has_a_speed_of_its_own() -> None:
    clock = Clock()
    left = TimeLeft(None, clock)
    clock.now += 10
    left.advance(0.9)
    left.advance(0.0)
    assert str(left) == "estimating the time left"
    clock.now += 100
    left.advance(0.5)
    assert str(left) == "about 2 min left"


def test_a_second_step_of_what_usually_takes_100_s_has_the_rest_of_them() -> None:
    clock = Clock()
    left = TimeLeft(100.0, clock)
    clock.now += 40
    left.advance(1.0)
    left.advance(0.0)
    assert str(left) == "60 s left"


def test_an_expected_time_gives_way_to_the_speed_as_the_work_goes_on() -> None:
    clock = Clock()
    left = TimeLeft(100.0, clock)
    clock.now += 50
    left.advance(0.1)  # by its speed 450 s are left, usually 90
    assert str(left) == "about 2 min left"
    clock.now += 50
    left.advance(1.0)
    assert str(left) == "0 s left"


def test_a_pipe_gets_a_line_a_phase(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("reading") as report:
        for number in range(1000):
            report(f"reading: {number:,} records", number / 1000)
        report("training", 0.0)
        report("training", 0.5)
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["reading", "reading: 0 records", "training"]
    assert not printed.out
