"""Where the refiners of clusters are fitted: in this process, or side by side by Dask's workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from infra.dask_workers import Workers
from infra.settings import Settings
from models.refiner.boosting import CatBoostRefiner, fit_refiner
from models.refiner.clusters import By
from models.refiner.selection import Fits, fit_here
from models.refiner.training_rows import TrainingRows


@contextmanager
def refiner_fitting(settings: Settings, cluster_by: By | None) -> Iterator[Fits]:
    """Yield what fits refiners: without clusters in this process, else by ``settings.dask``.

    Raises DaskError when the scheduler of ``settings.dask`` cannot be reached.
    """
    if cluster_by is None:
        yield fit_here
        return
    with Workers(settings.dask) as workers:
        if workers.local is None:
            workers.connect()

        def fit_side_by_side(batch: Sequence[TrainingRows]) -> list[CatBoostRefiner | None]:
            return workers.map(fit_refiner, batch, [len(rows.truth) for rows in batch])

        yield fit_here if workers.local == 1 else fit_side_by_side
