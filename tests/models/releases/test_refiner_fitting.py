"""Refiners fitted side by side by Dask are those that one process fits."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import httpx
import numpy as np
import psutil
import pytest

from infra import dask_workers
from infra.dask_workers import DaskError
from infra.settings import Settings
from models.quantities.targets import TARGETS
from models.refiner.boosting import CatBoostRefiner
from models.refiner.refinement import coarse_bins
from models.refiner.selection import fit_here, select_refiners
from models.refiner.training_rows import TrainingRows
from models.releases.refiner_fitting import refiner_fitting

GRID = TARGETS["walltime"].grid
COARSE = int(coarse_bins(GRID)[-1]) + 1
ROWS = 4000


def lessons() -> tuple[TrainingRows, np.ndarray]:
    """Jobs of two clusters, of which one reads the number that it is told the other way round."""
    rng = np.random.default_rng(1)
    number, is_second = rng.integers(0, 3, ROWS), rng.random(ROWS) < 0.35
    truth = 8 + 3 * np.where(is_second, 2 - number, number)
    coarse = np.full((ROWS, COARSE), 0.04 / (COARSE - 3))
    coarse[:, [8, 11, 14]] = 0.32
    at = np.arange(ROWS, dtype=np.int64) * 60_000_000
    inputs = np.repeat(number[:, None], 3, axis=1).astype(np.float32)
    return TrainingRows(
        inputs, coarse, truth, 2.0 ** (truth * 0.75), at, at + 10_000_000
    ), np.where(is_second, "b", "a").astype(object)


def test_a_scheduler_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_workers, "CONNECT_SECONDS", 1)
    with (
        pytest.raises(DaskError, match="no Dask scheduler with a worker answers at tcp://127"),
        refiner_fitting(Settings(dask="tcp://127.0.0.1:1"), "site"),
    ):
        pytest.fail("there is no worker to fit anything")


def listening_addresses() -> set[tuple[str, int]]:
    """Where this process and its children listen: address and port."""
    process = psutil.Process()
    return {
        (connection.laddr.ip, connection.laddr.port)
        for running in (process, *process.children(recursive=True))
        for connection in running.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def greets_without_certificate(address: tuple[str, int]) -> bool:
    """Whether a server speaks first, as Dask's does to anyone without TLS."""
    with socket.create_connection(address) as caller:
        caller.settimeout(2)
        try:
            return bool(caller.recv(1))
        except OSError:
            return False


def page_of(address: tuple[str, int]) -> bool:
    """Whether a server shows one of Dask's pages."""
    paths = ("status", "info/main/workers.html", "json/identity.json", "metrics", "health")
    for path in paths:
        try:
            url = f"http://{address[0]}:{address[1]}/{path}"
            answer = httpx.get(url, timeout=60, trust_env=False)
        except httpx.TransportError:
            continue
        if answer.status_code == 200:
            return True
    return False


def test_without_clusters_or_with_dask_off_nothing_is_started() -> None:
    with refiner_fitting(Settings(), None) as fits:
        assert fits is fit_here
    with refiner_fitting(Settings(dask="off"), "site") as fits:
        assert fits is fit_here


def test_clusters_trained_by_dask_are_as_those_trained_in_one_process() -> None:
    training_rows, clusters = lessons()
    at_once: list[int] = []
    before = listening_addresses()  # of other tests' servers

    with refiner_fitting(Settings(dask="local:2"), "site") as fits:

        def counted(batch: Sequence[TrainingRows]) -> list[CatBoostRefiner | None]:
            at_once.append(len(batch))
            return fits(batch)

        fits([training_rows.take(np.arange(600)), training_rows.take(np.arange(600, 1200))])
        opened = listening_addresses() - before
        assert {address for address, _ in opened} == {"127.0.0.1"}, "no port beyond this machine"
        open_to_all = {address for address in opened if greets_without_certificate(address)}
        assert not open_to_all, "any account could run code in the workers"
        assert not any(page_of(address) for address in opened), "Dask's pages need no login"
        apart = select_refiners(training_rows, clusters, GRID, fits=counted).refiners
    in_process = select_refiners(training_rows, clusters, GRID).refiners
    assert at_once == [6, 2, 2, 2], "all jobs, their windows, clusters by window; the winners"
    assert set(apart) == set(in_process) > {"b"}
    for name, refiner in apart.items():
        sample = training_rows.take(np.arange(200))
        np.testing.assert_array_equal(
            refiner.ratio(sample.inputs, sample.coarse),
            in_process[name].ratio(sample.inputs, sample.coarse),
        )
