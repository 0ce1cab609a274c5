"""The lock of the engine: several readers at once, a writer alone."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from time import sleep

import pytest

from infra.shared_lock import SharedLock

PATIENCE = 30


def test_readers_hold_the_lock_at_the_same_time() -> None:
    lock, together = SharedLock(), Barrier(3)

    def read(_: int) -> int:
        with lock.reading():
            return together.wait(PATIENCE)

    with ThreadPoolExecutor(3) as threads:
        assert sorted(threads.map(read, range(3))) == [0, 1, 2]


def test_what_writers_change_is_never_seen_half_changed() -> None:
    lock, pair = SharedLock(), [0, 0]

    def write(number: int) -> bool:
        with lock.writing():
            pair[0] = number
            sleep(0.001)
            pair[1] = number
        return True

    def read(_: int) -> bool:
        with lock.reading():
            first = pair[0]
            sleep(0.001)
            return first == pair[1]

    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(write if n % 3 == 0 else read, n) for n in range(120)]
        assert all(call.result(PATIENCE) for call in calls)


def test_a_waiting_writer_goes_before_new_readers() -> None:
    lock, order = SharedLock(), []
    held, release = Event(), Event()

    def hold() -> None:
        with lock.reading():
            held.set()
            assert release.wait(PATIENCE)

    def write() -> None:
        with lock.writing():
            order.append("written")

    def read() -> None:
        with lock.reading():
            order.append("read")

    with ThreadPoolExecutor(3) as threads:
        holder = threads.submit(hold)
        assert held.wait(PATIENCE)
        writer = threads.submit(write)
        while not lock._waiting_writers:
            sleep(0.001)
        reader = threads.submit(read)
        release.set()
        for call in (holder, writer, reader):
            call.result(PATIENCE)
    assert order == ["written", "read"]


def test_a_writer_who_writes_again_and_again_lets_those_in_who_wait_to_read() -> None:
    lock, order = SharedLock(), []
    lock.let_readers_in()

    def read(number: int) -> None:
        with lock.reading():
            order.append(number)

    with ThreadPoolExecutor(3) as threads:
        with lock.writing():
            readers = [threads.submit(read, number) for number in range(3)]
            while lock._waiting_readers < 3:
                sleep(0.001)
        lock.let_readers_in()
        with lock.writing():
            read_before = sorted(order)
        for reader in readers:
            reader.result(PATIENCE)
    assert read_before == [0, 1, 2]


@pytest.mark.parametrize("mode", ["reading", "writing"])
def test_an_error_frees_the_lock(mode: str) -> None:
    lock = SharedLock()
    with pytest.raises(ZeroDivisionError), getattr(lock, mode)():
        _ = 1 / 0
    with lock.writing(), pytest.raises(AssertionError):
        raise AssertionError
    with lock.reading():
        pass
