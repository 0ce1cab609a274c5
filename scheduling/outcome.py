"""The outcome of a replay: waits, slowdowns, utilisation, fairness across users, late starts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Floats
from models.quantities.metrics import point_errors
from scheduling.machine import Machine
from scheduling.orders import TAU
from scheduling.policies import Policy
from scheduling.state import (
    Records,
)
from scheduling.trace import Trace, field_texts

RECORDED = "recorded"
"""The policy of the row with the log's own waits."""


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
        return bounded_slowdowns(self.waits, self.trace.length)

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
            **slowdown_statistics(self.slowdowns),
            **wait_statistics(self.waits),
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


def bounded_slowdowns(waits: Array, run: Array) -> Floats:
    """Compute bounded slowdowns from waits and run times in s, float64[n] each."""
    return np.asarray(np.maximum(1.0, (waits + run) / np.maximum(run, TAU)))


def slowdown_statistics(slowdowns: Array) -> dict[str, float]:
    """Return the mean and the 95th percentile of bounded slowdowns."""
    return {
        "mean_bounded_slowdown": float(slowdowns.mean()),
        "p95_bounded_slowdown": float(np.percentile(slowdowns, 95)),
    }


def wait_statistics(waits: Array) -> dict[str, float]:
    """Return the mean, percentiles and maximum of waits in s."""
    median, p95, p99 = np.percentile(waits, (50, 95, 99))
    return {
        "mean_wait": float(waits.mean()),
        "median_wait": float(median),
        "p95_wait": float(p95),
        "p99_wait": float(p99),
        "max_wait": float(waits.max()),
    }


def recorded_row(trace: Trace) -> dict[str, Any] | None:
    """The waits that the log records, of the replayed jobs, as a row beside those of replays.

    Only jobs with a recorded start count. None where the log does not record waits: no job has a
    start, or every one starts at its submission.
    """
    submitted, started = trace.jobs["submitted_at"], trace.jobs["started_at"]
    waits = (started - submitted).dt.total_seconds().to_numpy(np.float64)
    observed = np.isfinite(waits)
    if not (waits[observed] > 0).any():
        return None
    run = trace.jobs["walltime"].to_numpy(np.float64)
    slowdowns = bounded_slowdowns(waits[observed], run[observed])
    return {
        "policy": RECORDED,
        "predictor": None,
        "corrector": None,
        **slowdown_statistics(slowdowns),
        **wait_statistics(waits[observed]),
        "jobs": int(observed.sum()),
    }
