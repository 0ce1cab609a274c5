"""Owners: on whose accounts a job's cores are booked, how many each may hold at once, and what each one's fair share is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from infra.aliases import Integers
from scheduling.machine import MachineError
from scheduling.state import (
    ACCOUNT,
    Records,
)


@dataclass(frozen=True)
class Owners:
    """Accounts at several levels.

    ``levels`` are fields of the job record; fair share and quota order by the first. ``caps`` are cores a level: a number for each
    account of the level alike, or one an account by name. ``shares`` are the weights of accounts of the first level, 1 where not
    named.
    """

    levels: tuple[str, ...] = ("user",)
    caps: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    def book(self, jobs: pd.DataFrame, cores: Integers) -> tuple[Records, Integers]:
        """The accounts of ``jobs``, nothing booked yet, and the number of each job's account a level (int64[jobs, levels]).

        Raises MachineError when a level is no field of the jobs, a share is not above 0, or a job is wider than a quota of its own.
        """
        numbers: list[Integers] = []
        tables: list[Records] = []
        for place, level in enumerate(self.levels):
            if level not in jobs:
                raise MachineError(
                    f"{level!r} is no field of a job, so no quota or share can go by it"
                )
            codes, names = pd.factorize(jobs[level].astype(str))
            account = np.zeros(len(names), dtype=ACCOUNT)
            caps = self.caps.get(level, np.inf)
            account["cap"] = (
                [caps.get(str(name), np.inf) for name in names]
                if isinstance(caps, Mapping)
                else caps
            )
            account["share"] = [
                self.shares.get(str(name), 1.0) if place == 0 else 1.0 for name in names
            ]
            if not (account["share"] > 0).all():
                raise MachineError(f"shares of {level!r} must be above 0")
            wide = np.flatnonzero(cores > account["cap"][codes])
            if len(wide):
                job = jobs["job_id"].iloc[wide[0]]
                raise MachineError(
                    f"job {job} needs {cores[wide[0]]} cores, more than the quota of its {level} ever allows"
                )
            numbers.append(codes + sum(len(table) for table in tables))
            tables.append(account)
        return np.concatenate(tables), np.column_stack(numbers).astype(np.int64)
