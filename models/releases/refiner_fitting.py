"""Where the refiners of clusters are fitted: in this process, or side by side by Dask's workers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from infra.errors import GridcastError
from infra.settings import Settings
from models.refiner.boosting import CatBoostRefiner, fit_refiner
from models.refiner.clusters import By
from models.refiner.selection import Fits, fit_here
from models.refiner.training_rows import TrainingRows

LOCAL, OFF = "local", "off"
FIT_THREADS = 2
"""The threads of one fit (``models.refiner.boosting``): a local worker needs as many cores."""
CONNECT_SECONDS = 10
NO_PAGES: dict[str, Any] = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
"""Dask's settings without pages of its scheduler and workers."""


@contextmanager
def refiner_fitting(settings: Settings, cluster_by: By | None) -> Iterator[Fits]:
    """Yield what fits refiners: without clusters, or with Dask off, one after the other here.

    Else Dask's workers fit them side by side. Local ones start with the first batch that has
    several, where the machine has cores for two fits, and end with the block. Raises GridcastError
    when the scheduler of ``settings.dask`` cannot be reached.
    """
    if cluster_by is None or settings.dask == OFF:
        yield fit_here
        return
    with ExitStack() as stack:
        clients: list[Any] = []

        def client() -> Any:
            if not clients:
                clients.append(_connect(settings.dask, stack))
            return clients[0]

        if settings.dask != LOCAL:
            client()

        def fit_side_by_side(batch: Sequence[TrainingRows]) -> list[CatBoostRefiner | None]:
            if len(batch) < 2 or (settings.dask == LOCAL and local_workers() < 2):
                return fit_here(batch)
            dask = client()
            # The longest first, so that no worker waits for it at the end.
            order = sorted(range(len(batch)), key=lambda row: -len(batch[row].truth))
            futures = {row: dask.submit(fit_refiner, batch[row], pure=False) for row in order}
            return [futures[row].result() for row in range(len(batch))]

        yield fit_side_by_side


def local_workers() -> int:
    """Return how many fits this machine runs side by side."""
    return (os.cpu_count() or 1) // FIT_THREADS


def _connect(address: str, stack: ExitStack) -> Any:
    import distributed

    dask: Any = distributed
    logging.getLogger("distributed").setLevel(logging.WARNING)  # it logs every connection

    try:
        if address == LOCAL:
            # Over TCP without certificates any local account could run code in the workers. Dask
            # opens ports for its pages always, here without any page.
            stack.enter_context(dask.dask.config.set(NO_PAGES))
            cluster = dask.LocalCluster(
                n_workers=local_workers(),
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                security=True,
                silence_logs=logging.ERROR,
            )
            return stack.enter_context(dask.Client(stack.enter_context(cluster)))
        return stack.enter_context(dask.Client(address, timeout=CONNECT_SECONDS))
    except (OSError, ValueError) as error:
        raise GridcastError(
            f"no Dask scheduler answers at {address} (GRIDCAST_DASK): {error}"
        ) from error
