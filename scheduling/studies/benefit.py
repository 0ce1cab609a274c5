"""The benefit of predictions on a log: replays in all combinations, and their record in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from infra.aliases import Progress
from infra.settings import prepare_environment
from scheduling.correctors import corrector_named
from scheduling.machine import Machine
from scheduling.outcome import Replay
from scheduling.policies import Policy, PolicyError, policy_named
from scheduling.predictors import predictor_named
from scheduling.replay import replay
from scheduling.state import Records
from scheduling.studies.comparison import compare_with_first
from scheduling.trace import trace_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from infra.dask_workers import Workers
    from infra.settings import Settings
    from jobs.partitions import Partition
    from models.engine.model_set import ModelSet

HOUR = 3600.0
COLUMNS = (
    "policy", "predictor", "corrector", "mean_bounded_slowdown", "ratio", "p95_bounded_slowdown",
    "mean_wait", "median_wait", "p95_wait", "p99_wait", "max_wait", "utilisation",
    "corrected", "seconds",
)  # fmt: skip
"""The columns of the table in a terminal; the page and --json have all."""


@dataclass(frozen=True)
class Combination:
    """A policy, a predictor and a corrector."""

    policy: Policy
    predictor: str
    corrector: str


def combinations(
    policies: Sequence[str] | None = None,
    predictors: Sequence[str] | None = None,
    correctors: Sequence[str] | None = None,
    bound: float | None = None,
) -> list[Combination]:
    """Every combination of policies, predictors and correctors.

    Args:
        policies: Names; default: EASY and the recommended one.
        predictors: Names; default: the request and Gridcast.
        correctors: Names; default: the request.
        bound: The wait in s beyond which a job is served first; default: each policy's.

    Raises:
        PolicyError: There is no policy, predictor or corrector of that name.
    """
    names = (
        policies or ("easy", "gridcast"),
        predictors or ("request", "gridcast"),
        correctors or ("request",),
    )
    return [
        Combination(
            policy_named(policy).with_settings(bound),
            predictor_named(predictor).name,
            corrector_named(corrector).name,
        )
        for policy, predictor, corrector in product(*names)
    ]


@dataclass(frozen=True)
class TrainedVersion:
    """A version of the model, and the jobs that had ended before the log begins."""

    model: ModelSet
    past: pd.DataFrame


def trained_version(
    number: int, jobs: pd.DataFrame, engine: Engine, settings: Settings
) -> TrainedVersion:
    """A registered version, with the stored jobs of its sources submitted before ``jobs``.

    Args:
        number: The version.
        jobs: The log to replay.
        engine: The store.
        settings: Where the registry is.

    Raises:
        RegistryError: There is no such version.
    """
    from jobs.store import read_jobs
    from models.releases import registry
    from models.releases.verification import load_model_set

    model = load_model_set(registry.get(number, settings), settings)
    return TrainedVersion(
        model,
        read_jobs(engine, sources=model.card.sources, until=jobs["submitted_at"].min(), ended=True),
    )


@dataclass(frozen=True)
class ReplayTask:
    """The replay of a partition in one combination.

    Attributes:
        partition: The log.
        machine: The machine.
        way: The combination.
        version: The number of the model's version that the predictor gridcast answers by, if any.
    """

    partition: Partition
    machine: Machine
    way: Combination
    version: int | None = None


def run_replay(task: ReplayTask) -> tuple[Records, float]:
    """Read the log and replay it; returns the kernel's records and the time that it took (s)."""
    from jobs.store import open_store

    jobs, learned = task.partition.read(), None
    if task.version is not None and task.way.predictor == "gridcast":
        settings = prepare_environment()
        learned = trained_version(task.version, jobs, open_store(settings.store_url), settings)
    (done,) = replay_each(jobs, task.machine, [task.way], version=learned)
    return done.table, done.seconds


def replay_side_by_side(
    jobs: pd.DataFrame,
    tasks: Sequence[ReplayTask],
    workers: Workers,
    progress: Progress | None = None,
) -> list[Replay]:
    """Replay a log in several combinations by workers, each of which reads it.

    Args:
        jobs: The jobs of the log, read here.
        tasks: The combinations.
        workers: Who replays.
        progress: Is called with the share done.

    Raises:
        PolicyError: No combination uses the version, or it was trained on later jobs.
    """
    _check_version(tasks[0].version, [task.way for task in tasks])
    trace = trace_of(jobs, tasks[0].machine)
    return [
        Replay(
            trace,
            task.machine,
            task.way.policy,
            task.way.predictor,
            task.way.corrector,
            table,
            seconds,
        )
        for task, (table, seconds) in zip(
            tasks, workers.map(run_replay, tasks, progress=progress), strict=True
        )
    ]


def _check_version(version: TrainedVersion | int | None, chosen: Sequence[Combination]) -> None:
    if version is not None and all(way.predictor != "gridcast" for way in chosen):
        raise PolicyError(
            "a version of the model answers as the predictor gridcast, "
            "which is not among the predictors"
        )


def replay_each(
    jobs: pd.DataFrame,
    machine: Machine,
    chosen: Sequence[Combination],
    progress: Progress | None = None,
    version: TrainedVersion | None = None,
) -> list[Replay]:
    """Replay ``jobs`` in each of the combinations, in their order.

    Args:
        jobs: Conformed records of jobs that ran.
        machine: The machine.
        chosen: The combinations.
        progress: Is called with the combination and the share done.
        version: The model of the predictor gridcast, trained on jobs that ended before the log.

    Raises:
        PolicyError: No combination uses the version, or it was trained on later jobs.
        MachineError: A quota is too small.
        TraceError: No job can be replayed.
    """
    _check_version(version, chosen)
    done = []
    for index, way in enumerate(chosen):

        def report(share: float, index: int = index, way: Combination = way) -> None:
            if progress is not None:
                progress(f"{way.policy.name}, {way.predictor}", (index + share) / len(chosen))

        report(0.0)
        learned = (
            {"model": version.model, "past": version.past}
            if version and way.predictor == "gridcast"
            else {}
        )
        done.append(
            replay(
                jobs,
                machine,
                way.policy,
                way.predictor,
                way.corrector,
                progress=report,
                **learned,  # type: ignore[arg-type]
            )
        )
    return done


def record_replays(
    replays: Sequence[Replay], log: str, settings: Settings, version: TrainedVersion | None = None
) -> str:
    """Log the table and the plots of replays to MLflow.

    Args:
        replays: The replays.
        log: The name of the log.
        settings: Where MLflow is.
        version: The model of the predictor gridcast.

    Returns:
        The id of the run.

    Raises:
        RegistryError: MLflow cannot be reached.
    """
    from models.releases import registry
    from models.releases.versions import Evidence
    from scheduling.studies import plots

    rows = compare_with_first(replays)
    first = replays[0]
    metrics = {
        ".".join(filter(None, (row["policy"], row["predictor"], row["corrector"], name))): float(
            value
        )
        for row in rows
        for name, value in row.items()
        if isinstance(value, int | float) and np.isfinite(value)
    }
    evidence = Evidence(
        card=f"# Replay of {log}\n\n{len(first.trace):,} jobs on {first.machine.processors:,} "
        f"processors, {len(rows)} combinations.",
        metrics=metrics,
        tags={"model_version": version.model.version} if version else {},
        parameters={"log": log, "jobs": len(first.trace), "processors": first.machine.processors},
        tables={"replay": pd.DataFrame(rows)},
        figures={
            "waits": plots.waits(replays),
            "utilisation": plots.utilisation(replays),
            "frontier": plots.frontier(replays),
            "day": plots.gantt(replays[-1], plots.busiest_day(replays[-1])),
        },
    )
    return registry.log_run(evidence, run_name=f"replay of {log}", settings=settings)
