"""Fitting: the refiners of clusters side by side by Dask, on this machine or by a given scheduler's workers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from prefect import task

from flows.retrying import TASK_OPTIONS
from infra.errors import GridcastError
from infra.settings import Settings
from models.refiner.boosting import CatBoostRefiner, fit_refiner
from models.refiner.clusters import By
from models.refiner.selection import Fits, fit_here
from models.refiner.training_rows import TrainingRows

LOCAL, OFF = "local", "off"
# No page of Dask's own, and no door beyond this machine.
_LOCAL: dict[str, Any] = {"host": "127.0.0.1", "dashboard_address": None, "threads_per_worker": 1}
_AWAY: dict[str, Any] = {"timeout": 10}


@task(task_run_name="fit a refiner to {jobs} jobs", **TASK_OPTIONS)
def fit_one(lessons: TrainingRows, jobs: int) -> CatBoostRefiner | None:
    """Fit one refiner to the ``lessons`` of so many ``jobs``."""
    return fit_refiner(lessons)


@contextmanager
def refiner_fitting(settings: Settings, cluster_by: By | None) -> Iterator[Fits]:
    """Where refiners are fitted: here where there are no clusters or Dask is off, else by its workers, which end with the block.

    Raises GridcastError when the scheduler of ``settings.dask`` cannot be reached.
    """
    if cluster_by is None or settings.dask == OFF:
        yield fit_here
        return
    from prefect_dask.task_runners import DaskTaskRunner

    local = _LOCAL | {"n_workers": os.cpu_count()}
    runner: Any = (
        DaskTaskRunner(cluster_kwargs=local)
        if settings.dask == LOCAL
        else DaskTaskRunner(address=settings.dask, client_kwargs=_AWAY)
    )

    def side_by_side(many: Sequence[TrainingRows]) -> list[CatBoostRefiner | None]:
        futures = [
            runner.submit(fit_one, {"lessons": lessons, "jobs": len(lessons.truth)})
            for lessons in many
        ]
        return [future.result() for future in futures]

    with ExitStack() as stack:
        try:
            stack.enter_context(runner).client  # noqa: B018
        except (OSError, ValueError) as error:
            raise GridcastError(
                f"no Dask scheduler answers at {settings.dask} (GRIDCAST_DASK): {error}"
            ) from error
        yield side_by_side
