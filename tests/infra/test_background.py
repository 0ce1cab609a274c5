"""Background threads: whatever a step raises, the thread goes on, waits longer, and says so."""

import sqlite3
import threading

import pytest

from infra.background import BackgroundThread, is_data_error


class AwayError(Exception):
    """A database that is away, as psycopg says it."""

    sqlstate = "25006"


class TooLongError(Exception):
    """An index row that is too long, as psycopg says it."""

    sqlstate = "54000"


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), OSError("disk"), KeyError("y")])
def test_a_thread_survives_every_error_backs_off_counts_and_recovers(error: Exception) -> None:
    errors: list[Exception] = [error] * 3
    counted: list[str] = []

    def step() -> float:
        if errors:
            raise errors.pop()
        return 7.0

    thread = BackgroundThread("worker", step, counted.append, first_pause=1.0, longest_pause=3.0)
    assert thread.status.trouble == ""
    assert [thread.run_step() for _ in range(3)] == [1.0, 2.0, 3.0]
    assert thread.status.failures == 3 and counted == ["worker"] * 3
    assert thread.status.trouble.startswith("worker fails since 2")
    assert type(error).__name__ in thread.status.error
    assert thread.run_step() == 7.0
    assert thread.status.trouble == "" and thread.status.failures == 3
    assert thread.status.to_json()["failing_since"] is None


def test_a_running_thread_goes_on_after_a_failure_and_ends_when_stopped() -> None:
    steps: list[int] = []
    again, release = threading.Event(), threading.Event()

    def step() -> float:
        steps.append(len(steps))
        if len(steps) == 1:
            raise RuntimeError("once")
        again.set()
        release.wait(240)
        return 60.0

    thread = BackgroundThread("worker", step, first_pause=0.01)
    thread.start()
    assert again.wait(240)
    assert thread.status.alive and thread.status.failures == 1
    release.set()
    thread.stop(60)
    assert not thread._thread.is_alive()
    assert thread.status.trouble == "", "one that was stopped is no trouble"


def test_new_work_does_not_shorten_the_pause_after_a_failure() -> None:
    steps: list[int] = []
    first = threading.Event()

    def step() -> float:
        steps.append(1)
        first.set()
        raise RuntimeError("always")

    thread = BackgroundThread("worker", step, first_pause=600.0)
    thread.start()
    assert first.wait(240)
    for _ in range(100):
        thread.wake()
    thread.stop(60)
    assert len(steps) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AwayError(), False),
        (TooLongError(), True),
        (OSError("disk"), False),
        (MemoryError(), False),
        (ValueError("a NUL"), True),
        (sqlite3.OperationalError("disk I/O error"), False),
    ],
)
def test_data_that_can_never_be_stored_is_told_from_a_store_that_is_away(
    error: Exception, expected: bool
) -> None:
    wrapped = RuntimeError("the store cannot be used")
    wrapped.__cause__ = error
    assert is_data_error(wrapped if not isinstance(error, ValueError) else error) == expected


def test_sqlites_constraint_is_about_the_data() -> None:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE t (a INTEGER NOT NULL)")
    with pytest.raises(sqlite3.IntegrityError) as caught:
        database.execute("INSERT INTO t VALUES (NULL)")
    assert is_data_error(caught.value)
    database.close()
