"""Advice: what whoever runs the service wants of allocations, the price of a failure and the programs that it keeps its hands off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from infra.aliases import Array
from infra.settings import split_list
from jobs.coded_jobs import CodedJobs
from models.engine.allocation import PRICE, TOLD

LEFT_ALONE = "the request: its program is left alone"


@dataclass(frozen=True)
class Advice:
    """``price`` is what a failure for lack of memory costs beside what it wasted, in GiB·h; jobs of the programs ``left_alone`` are set
    aside just what they ask for."""

    price: float = PRICE
    left_alone: frozenset[str] = frozenset()

    @staticmethod
    def of(price: float, left_alone: str) -> Advice:
        """As settings have it: programs separated by commas."""
        return Advice(price, frozenset(split_list(left_alone)))

    def leaves(self, jobs: CodedJobs) -> Array:
        """Which jobs are left alone (bool[n])."""
        if not self.left_alone or "program" not in jobs:
            return np.zeros(len(jobs), dtype=bool)
        program = jobs["program"]
        named = np.array(
            [value in self.left_alone for value in program.values] + [False]
        )  # the last for the code -1: no program
        return np.asarray(named[program.codes])

    def leave(
        self, numbers: dict[str, Array], names: Iterable[str], limits: dict[str, Array], rows: Array
    ) -> None:
        """Put the request (NaN without one) in the place of each allocation of ``rows`` (bool[n]), and forget its risk."""
        if not rows.any():
            return
        ends = ("", *(f"_{place + 1}" for place in range(1, TOLD)))
        for name in names:
            asked = np.where(np.isfinite(limits[name]), limits[name], np.nan)
            for column in [
                f"{name}_allocation{end}" for end in ends if f"{name}_allocation{end}" in numbers
            ]:
                numbers[column] = np.where(rows, asked, numbers[column])
            if f"{name}_risk" in numbers:
                numbers[f"{name}_risk"] = np.where(rows, np.nan, numbers[f"{name}_risk"])
