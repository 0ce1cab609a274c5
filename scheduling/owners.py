"""Owners: the accounts that a job's cores are booked on, with their quotas and fair shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from infra.aliases import Integers
from scheduling.machine import MachineError
from scheduling.state import ACCOUNT, Records
from scheduling.trace import field_texts


@dataclass(frozen=True)
class Owners:
    """Accounts at several levels.

    Args:
        levels: Fields of the job record; the orders fair-share and quota go by the first.
        caps: The most cores by level: one number for all accounts of the level, or by account.
        shares: The weights of accounts of the first level, by name; 1 where not given.
    """

    levels: tuple[str, ...] = ("user",)
    caps: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    def book(self, jobs: pd.DataFrame, cores: Integers) -> tuple[Records, Integers]:
        """The accounts of ``jobs``, with nothing booked on them, and those of each job.

        Jobs that name no account at a level share one, called "".

        Returns:
            Records of ACCOUNT, and the index of each job's account by level, int64[jobs, levels].

        Raises:
            MachineError: A level is no field of the jobs, a share is not above 0, or a job is wider
                than its quota.
        """
        indices: list[Integers] = []
        tables: list[Records] = []
        for depth, level in enumerate(self.levels):
            if level not in jobs:
                raise MachineError(
                    f"{level!r} is no field of a job, so no quota or share can go by it"
                )
            codes, names = pd.factorize(field_texts(jobs, level))
            account = np.zeros(len(names), dtype=ACCOUNT)
            caps = self.caps.get(level, np.inf)
            account["cap"] = (
                [caps.get(str(name), np.inf) for name in names]
                if isinstance(caps, Mapping)
                else caps
            )
            account["share"] = [
                self.shares.get(str(name), 1.0) if depth == 0 else 1.0 for name in names
            ]
            if not (account["share"] > 0).all():
                raise MachineError(f"shares of {level!r} must be above 0")
            wide = np.flatnonzero(cores > account["cap"][codes])
            if len(wide):
                job = jobs["job_id"].iloc[wide[0]]
                raise MachineError(
                    f"job {job} needs {cores[wide[0]]} cores, "
                    f"more than the quota of its {level} ever allows"
                )
            indices.append(codes + sum(len(table) for table in tables))
            tables.append(account)
        return np.concatenate(tables), np.column_stack(indices).astype(np.int64)
