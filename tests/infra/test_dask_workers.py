"""Work by Dask's workers: their results, lost workers and schedulers, and addresses."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import dask_workers
from infra.dask_workers import DaskError, Workers
from infra.errors import InputError
from infra.settings import THREADS


def square(number: int) -> int:
    """A piece of work that says what is wrong with an odd number."""
    if number < 0:
        raise InputError(f"{number} is negative")
    return number * number


def die_once(file: Path) -> int:
    """Kill the own worker, unless the file says that one has died before."""
    if not file.exists():
        file.write_text(str(os.getpid()), encoding="utf-8")
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def threads(_: int) -> int:
    """How many threads a fit has."""
    return THREADS


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers("local:2") as started:
        yield started


def test_results_come_in_the_order_of_the_items_from_one_thread_a_core(workers: Workers) -> None:
    shares: list[float] = []
    results = workers.map(square, [1, 2, 3], [1, 3, 2], lambda _, share: shares.append(share))
    assert results == [1, 4, 9]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])
    assert workers.map(threads, [0, 0]) == [max((os.cpu_count() or 1) // 2, 1)] * 2


def test_an_error_of_the_work_is_the_callers_and_the_workers_go_on(workers: Workers) -> None:
    with pytest.raises(InputError, match="-2 is negative"):
        workers.map(square, [1, -2, 3])
    assert workers.map(square, [4, 5]) == [16, 25]


def test_what_a_lost_worker_computed_is_computed_again(workers: Workers, tmp_path: Path) -> None:
    died = tmp_path / "died"
    first, second = workers.map(die_once, [died, died])
    lost = int(died.read_text(encoding="utf-8"))
    assert lost not in (first, second, os.getpid())


def test_a_scheduler_without_workers_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed

    monkeypatch.setattr(dask_workers, "CONNECT_SECONDS", 0.2)
    with (
        distributed.LocalCluster(
            n_workers=0,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            processes=False,
            protocol="tcp://",
        ) as idle,
        Workers(idle.scheduler_address) as connected,
        pytest.raises(DaskError, match="no Dask scheduler with a worker answers at tcp"),
    ):
        connected.map(square, [1, 2])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("lokal", "is 'lokal': local, local:2, off"),
        ("local:none", "is 'local:none': local"),
        ("local:0", "is 'local:0': local"),
        ("tcp://dask.example:8786", "unencrypted"),
        ("tcp://192.0.2.7:8786", "unencrypted"),
        ("ws://127.0.0.1:8786", "the address of a scheduler"),
    ],
)
def test_an_address_over_which_jobs_go_unencrypted_is_refused(setting: str, words: str) -> None:
    with pytest.raises(DaskError, match=words) as refused:
        Workers(setting)
    assert refused.value.exit_code == 2


def test_loopback_and_certificates_are_taken_and_off_is_this_process() -> None:
    assert Workers("tcp://127.0.0.1:8786").local is None
    assert Workers("tls://dask.example:8786").local is None
    alone = Workers("off")
    assert alone.local == 1
    assert alone.map(square, [1, 2, 3]) == [1, 4, 9]
