"""The outcome of a replay: waits, slowdowns, utilisation, fairness across users, late starts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Floats
from models.quantities.metrics import point_errors
from scheduling.machine import Machine
from scheduling.orders import TAU
from scheduling.policies import Policy
from scheduling.state import (
    Records,
)
from scheduling.trace import Trace, field_texts


@dataclass(frozen=True)
class Replay:
    """A replayed log: ``table`` is the kernel's records, ``seconds`` the time of the replay."""

    trace: Trace
    machine: Machine
    policy: Policy
    predictor: str
    corrector: str
    table: Records
    seconds: float

    @cached_property
    def waits(self) -> Floats:
        """How long each job waited, s."""
        return self.table["started"] - self.table["submitted"]

    @cached_property
    def slowdowns(self) -> Floats:
        """Bounded slowdowns: max(1, (wait + run) / max(run, tau)), tau 10 s (Feitelson)."""
        run = self.trace.length
        return np.maximum(1.0, (self.waits + run) / np.maximum(run, TAU))

    @property
    def makespan(self) -> float:
        """From the first submission to the last end, s."""
        return float(self.table["ended"].max() - self.table["submitted"].min())

    @property
    def utilisation(self) -> float:
        """Share of the machine's core-seconds that jobs used over the makespan."""
        return float(
            (self.trace.cores * self.trace.length).sum() / (self.machine.processors * self.makespan)
        )

    @property
    def fairness(self) -> float:
        """Jain's index of the users' mean bounded slowdowns: 1 when equal, at least 1/users."""
        means = (
            pd.Series(self.slowdowns)
            .groupby(field_texts(self.trace.jobs, "user").to_numpy())
            .mean()
            .to_numpy()
        )
        return float(means.sum() ** 2 / (len(means) * (means**2).sum()))

    @property
    def late_heads(self) -> float:
        """Share of the jobs with a reservation that started over a second after their first one."""
        is_reserved = np.isfinite(self.table["first_reservation"])
        late = (
            self.table["started"][is_reserved] > self.table["first_reservation"][is_reserved] + 1.0
        )
        return float(late.mean()) if is_reserved.any() else 0.0

    @property
    def accuracy(self) -> float:
        """Accuracy of the quantity that orders the queue: the mean of min(p/a, a/p)."""
        return float(point_errors(self.trace.length, self.table["rank"])["apa"] or 0.0)

    def row(self) -> dict[str, Any]:
        """The line of the table: names, then seconds, shares and counts."""
        return {
            "policy": self.policy.name,
            "predictor": self.predictor,
            "corrector": self.corrector,
            "mean_bounded_slowdown": float(self.slowdowns.mean()),
            "p95_bounded_slowdown": float(np.percentile(self.slowdowns, 95)),
            "mean_wait": float(self.waits.mean()),
            "p99_wait": float(np.percentile(self.waits, 99)),
            "max_wait": float(self.waits.max()),
            "utilisation": self.utilisation,
            "makespan": self.makespan,
            "fairness": self.fairness,
            "accuracy": self.accuracy,
            "late_heads": self.late_heads,
            "jobs": len(self.trace),
            "left_out": int(sum(self.trace.left_out.values())),
            "killed": int(self.trace.killed.sum()),
            "corrected": int((self.table["corrections"] > 0).sum()),
            "bound": self.policy.bound if np.isfinite(self.policy.bound) else None,
            "seconds": self.seconds,
        }
