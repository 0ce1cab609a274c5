"""What predictions are worth on one log: every way that is asked about replayed, and the comparison left in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from infra.aliases import Progress
from scheduling.correctors import corrector_named
from scheduling.machine import Machine
from scheduling.outcome import Replay
from scheduling.policies import Policy, PolicyError, policy_named
from scheduling.predictors import predictor_named
from scheduling.replay import replay
from scheduling.studies.comparison import compare_with_first

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from infra.settings import Settings
    from models.engine.model_set import ModelSet

HOUR = 3600.0
COLUMNS = (
    "policy", "predictor", "corrector", "mean_bounded_slowdown", "ratio", "p95_bounded_slowdown", "mean_wait", "p99_wait", "max_wait",
    "utilisation", "corrected", "seconds",
)  # fmt: skip
"""What a person is shown of a row; the rest is in the page and for programs."""


@dataclass(frozen=True)
class Combination:
    """A way to run the site: policy, predictor and corrector."""

    policy: Policy
    predictor: str
    corrector: str


def combinations(
    policies: Sequence[str] | None = None,
    predictors: Sequence[str] | None = None,
    correctors: Sequence[str] | None = None,
    bound: float | None = None,
) -> list[Combination]:
    """Every combination of what is named, in the order named; ``bound`` (s, default each policy's own) is how long anyone may wait.

    Unnamed policies are EASY and the recommended one, unnamed predictors the request and Gridcast. Raises PolicyError.
    """
    named = (
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
        for policy, predictor, corrector in product(*named)
    ]


@dataclass(frozen=True)
class TrainedVersion:
    """A version of the model, and the jobs that had ended before it is asked."""

    model: ModelSet
    past: pd.DataFrame


def trained_version(
    number: int, jobs: pd.DataFrame, engine: Engine, settings: Settings
) -> TrainedVersion:
    """Version ``number`` of the registered model, with the stored jobs of its sources that were submitted before ``jobs``.

    Raises RegistryError where there is no such version.
    """
    from jobs.store import read_jobs
    from models.releases import registry
    from models.releases.verification import load_model_set

    model = load_model_set(registry.get(number, settings), settings)
    return TrainedVersion(
        model,
        read_jobs(engine, sources=model.card.sources, until=jobs["submitted_at"].min(), ended=True),
    )


def replay_each(
    jobs: pd.DataFrame,
    machine: Machine,
    asked: Sequence[Combination],
    progress: Progress | None = None,
    version: TrainedVersion | None = None,
) -> list[Replay]:
    """Replay ``jobs`` on ``machine`` in each of the combinations, in their order; raises PolicyError, MachineError or TraceError.

    With ``version`` the predictor gridcast is that version, which must have been trained on what ended before the log begins.
    """
    if version and all(way.predictor != "gridcast" for way in asked):
        raise PolicyError(
            "a version of the model answers as the predictor gridcast, and that is not among those asked about"
        )
    done = []
    for place, way in enumerate(asked):

        def tell(share: float, place: int = place, way: Combination = way) -> None:
            if progress is not None:
                progress(f"{way.policy.name}, {way.predictor}", (place + share) / len(asked))

        tell(0.0)
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
                progress=tell,
                **learned,  # type: ignore[arg-type]
            )
        )
    return done


def record_replays(
    replays: Sequence[Replay], log: str, settings: Settings, version: TrainedVersion | None = None
) -> str:
    """Log replays of ``log`` to MLflow, table and plots, beside the models that they judge; returns the run's id. Raises RegistryError."""
    from models.releases import registry
    from models.releases.versions import Evidence
    from scheduling.studies import plots

    rows = compare_with_first(replays)
    first = replays[0]
    metrics = {
        f"{row['policy']}.{row['predictor']}.{row['corrector']}.{name}": float(value)
        for row in rows
        for name, value in row.items()
        if isinstance(value, int | float) and np.isfinite(value)
    }
    evidence = Evidence(
        card=f"# Replay of {log}\n\n{len(first.trace):,} jobs on {first.machine.processors:,} processors, {len(rows)} combinations.",
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
