"""The machine that a log is replayed on: pools of hosts with cores and memory.

A job runs on one host; a pool given as a number of processors is one big host. A job belongs to the
pool that its ``site`` names; a machine with one pool takes all jobs.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from infra.errors import InputError
from jobs.readers import ReadError, detect
from jobs.readers.swf import read_header
from scheduling.state import HOST, Records
from scheduling.trace import check_run_times


class MachineError(InputError):
    """The machine cannot be understood; the message is one sentence."""


@dataclass(frozen=True)
class Pool:
    """``hosts`` equal hosts of ``cores`` cores and ``memory`` bytes each."""

    name: str
    cores: int
    hosts: int = 1
    memory: float = float("inf")

    def __post_init__(self) -> None:
        """Raise MachineError unless there is at least one core."""
        if self.cores < 1 or self.hosts < 1 or not self.memory > 0:
            raise MachineError(
                f"the pool {self.name!r} needs at least one host, one core and some memory"
            )

    @property
    def processors(self) -> int:
        """All cores of the pool."""
        return self.cores * self.hosts

    def free(self) -> Records:
        """The idle hosts as the kernel holds them."""
        free = np.zeros(self.hosts, dtype=HOST)
        free["cores"], free["memory"] = self.cores, self.memory
        return free


@dataclass(frozen=True)
class Machine:
    """The pools; with more than one, a job runs in the pool of its ``site``."""

    pools: tuple[Pool, ...]

    @property
    def processors(self) -> int:
        """All cores of the machine."""
        return sum(pool.processors for pool in self.pools)

    def pool_names(self, jobs: pd.DataFrame) -> pd.Series:
        """The name of each job's pool; missing where its site has none."""
        if len(self.pools) == 1:
            return pd.Series(self.pools[0].name, index=jobs.index)
        return jobs["site"].where(jobs["site"].isin([pool.name for pool in self.pools]))


def processors(count: int) -> Machine:
    """A machine of one pool of ``count`` processors that any job may spread over."""
    return Machine((Pool("all", count),))


def read_machine(description: Mapping[str, Any]) -> Machine:
    """A machine from a mapping of pools with ``cores`` and maybe ``hosts`` and ``memory``.

    >>> read_machine({"CERN": {"hosts": 20, "cores": 8, "memory": 16e9}, "LYON": 64}).processors
    224
    """
    pools = []
    for name, pool in description.items():
        fields = {"cores": pool} if isinstance(pool, int) else pool
        if (
            not isinstance(fields, Mapping)
            or not set(fields) <= {"cores", "hosts", "memory"}
            or "cores" not in fields
        ):
            raise MachineError(
                f"the pool {name!r} must be a number of processors, "
                "or have cores and maybe hosts and memory"
            )
        try:
            pools.append(
                Pool(
                    str(name),
                    int(fields["cores"]),
                    int(fields.get("hosts", 1)),
                    float(fields.get("memory", "inf")),
                )
            )
        except (TypeError, ValueError):
            raise MachineError(
                f"the pool {name!r} has a field that is no number: {dict(fields)}"
            ) from None
    if not pools:
        raise MachineError("the machine has no pool")
    return Machine(tuple(pools))


def machine_of(jobs: pd.DataFrame, header_processors: int | None = None) -> Machine:
    """The machine of a log: as its header says, else the most processors in use at once.

    Raises TraceError where no job has run, MachineError where starts and ends are unknown.
    """
    check_run_times(jobs)
    if header_processors:
        return processors(header_processors)
    ran = jobs[jobs["started_at"].notna() & jobs["ended_at"].notna()]
    cores = ran["cores"].fillna(ran["requested_cores"]).fillna(1).to_numpy()
    if not len(ran):
        raise MachineError(
            "no job of the log reports both its start and its end, "
            "so the machine's size is unknown: say how many processors it has"
        )
    times = np.concatenate(
        [ran["ended_at"].astype("int64").to_numpy(), ran["started_at"].astype("int64").to_numpy()]
    )
    # Ends come before starts at the same moment.
    in_use = np.cumsum(np.concatenate([-cores, cores])[np.argsort(times, kind="stable")])
    return processors(max(int(in_use.max()), int(cores.max())))


def find_machine(description: str | None, log: Path | None, jobs: pd.DataFrame) -> Machine:
    """The machine to replay ``jobs`` on.

    Args:
        description: A number of processors, or a TOML or JSON file of pools; None: the log's.
        log: The log file, whose header may say how many processors there are.
        jobs: The jobs.

    Raises:
        MachineError: The description cannot be read, or the size is unknown.
        TraceError: No job of the log has run.
    """
    check_run_times(jobs)
    if description is None:
        return machine_of(jobs, _header_processors(log) if log else None)
    if description.isdecimal():
        return processors(int(description))
    try:
        text = Path(description).read_text(encoding="utf-8")
        pools = json.loads(text) if description.endswith(".json") else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise MachineError(
            f"the machine {description} is no number of processors "
            f"and no TOML or JSON file of pools: {error}"
        ) from None
    if not isinstance(pools, Mapping):
        raise MachineError(f"{description} holds no pools: it must name each with its cores")
    return read_machine(pools)


def _header_processors(log: Path) -> int | None:
    try:
        return read_header(log).max_procs if detect(log).name == "swf" else None
    except ReadError:  # no format is recognised, so there is no header to read
        return None
