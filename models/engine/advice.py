"""Advice: how an operator wants allocations chosen, and the programs exempt from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from infra.aliases import Array, Flags
from infra.settings import split_list
from jobs.coded_jobs import CodedJobs
from models.engine.allocation import FAILURE_PRICE, REPORTED_RUNGS

EXEMPT = "the request: its program is exempt from advice"


@dataclass(frozen=True)
class Advice:
    """``price`` is what a failure for lack of memory costs beside what it wasted, GiB·h; jobs of
    ``exempt_programs`` are allocated what they request."""

    price: float = FAILURE_PRICE
    exempt_programs: frozenset[str] = frozenset()

    @staticmethod
    def of(price: float, exempt_programs: str) -> Advice:
        """Read the settings: programs separated by commas."""
        return Advice(price, frozenset(split_list(exempt_programs)))

    def is_exempt(self, jobs: CodedJobs) -> Flags:
        """Which jobs are exempt (bool[n])."""
        if not self.exempt_programs or "program" not in jobs:
            return np.zeros(len(jobs), dtype=bool)
        program = jobs["program"]
        # The last value is for the code -1: no program.
        exempt = np.array([value in self.exempt_programs for value in program.values] + [False])
        return np.asarray(exempt[program.codes])

    def apply_requests(
        self,
        columns: dict[str, Array],
        names: Iterable[str],
        limits: dict[str, Array],
        exempt: Flags,
    ) -> None:
        """Replace the allocations of exempt jobs by their requests (NaN without), without a risk.

        Args:
            columns: The predicted columns, changed in place.
            names: The targets.
            limits: What each job requested of each target.
            exempt: The exempt jobs.
        """
        if not exempt.any():
            return
        ends = ("", *(f"_{rung + 1}" for rung in range(1, REPORTED_RUNGS)))
        for name in names:
            request = np.where(np.isfinite(limits[name]), limits[name], np.nan)
            for end in ends:
                column = f"{name}_allocation{end}"
                if column in columns:
                    columns[column] = np.where(exempt, request, columns[column])
            if f"{name}_risk" in columns:
                columns[f"{name}_risk"] = np.where(exempt, np.nan, columns[f"{name}_risk"])
