"""Evaluations of several logs, or of a log's clusters by themselves, each read where it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from infra.errors import InputError
from jobs.partitions import Partition
from models.engine.outcomes import require_outcomes
from models.engine.training import find_target
from models.evaluation.backtest import Evaluation, evaluate
from models.evaluation.query_time import at_query_time

MIN_GROUP_JOBS = 50
"""Of fewer jobs neither an interval nor the coverage of 90 % ranges says anything."""


@dataclass(frozen=True)
class EvaluationTask:
    """The evaluation of one partition; see the arguments of ``evaluate`` and ``at_query_time``."""

    partition: Partition
    target: str = "walltime"
    warm_up: float = 0.1
    predictors: Sequence[str] | None = None
    at: Literal["submission", "start"] = "submission"
    input_known: bool = False

    def run(self) -> Evaluation:
        """Read the jobs and evaluate them; raises InputError for jobs without outcomes."""
        jobs = self.partition.read()
        require_outcomes(jobs, (self.target,), self.partition.name)
        if self.at == "start" or self.input_known:
            jobs = at_query_time(jobs, self.at, self.input_known)
        return evaluate(jobs, find_target(self.target), self.warm_up, self.predictors)


def evaluate_partition(task: EvaluationTask) -> Evaluation | str:
    """Run a task; of a cluster that cannot be evaluated, such as one of five jobs, say why."""
    if not task.partition.field:
        return task.run()
    try:
        return task.run()
    except InputError as error:
        return str(error)
