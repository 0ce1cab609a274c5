"""The tasks of a workflow's runs as arrays, in time order of the runs."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from infra.aliases import Array, Flags, Floats

MACHINE = r"^(.+?)-container-"
"""The machine of a host: the first group where it matches, else the host itself."""
FEWEST_REPEATS = 10
"""A task that is in fewer runs is compared with all tasks of its program."""


@dataclass(frozen=True)
class WorkflowLog:
    """Rows of tasks, sorted by run and start; times in s since 1970, durations in s.

    ``run``, ``task``, ``program``, ``host`` and ``machine`` are codes (int64[n]). Tasks of one
    code are the same work in each run; hosts of one machine share its disk. ``between`` is the time
    from the end of the stage-in to the begin of the stage-out.
    """

    runs: list[str]
    run: Array
    names: Array
    task: Array
    program: Array
    hosts: list[str]
    host: Array
    machines: list[str]
    machine: Array
    submitted: Floats
    start: Floats
    end: Floats
    stage_in: Floats
    stage_in_end: Floats
    between: Floats
    cpu: Floats
    fault: Array

    @property
    def walltime(self) -> Floats:
        """From start to end (float64[n], s)."""
        return np.asarray(self.end - self.start)

    def rows_of(self, run: int) -> Array:
        """The rows of one run (int64[m])."""
        return np.arange(*np.searchsorted(self.run, [run, run + 1]))

    def has_fault(self, kind: str) -> Flags:
        """Whether each task is labelled with a fault of a kind, ``disk`` or ``cpu`` (bool[n])."""
        prefixes = {"disk": ("hdd", "disk"), "cpu": ("cpu",)}[kind]
        return np.array([str(fault).startswith(prefixes) for fault in self.fault], dtype=bool)


def workflow_log(tasks: pd.DataFrame, machine: str = MACHINE) -> WorkflowLog:
    """Turn the ended tasks of a table (``jobs.workflow_tasks``) into arrays.

    Args:
        tasks: The table.
        machine: A regular expression whose first group is the machine of a host.
    """
    ended = tasks[tasks["started_at"].notna() & tasks["ended_at"].notna()]
    begun = ended.groupby("run_id")["submitted_at"].min().sort_values(kind="stable")
    order = pd.Series(np.arange(len(begun)), index=begun.index)
    ended = ended.assign(run=ended["run_id"].map(order))
    ended = ended.sort_values(["run", "started_at"], kind="stable", ignore_index=True)
    times = {
        name: _seconds(ended[f"{name}_at"])
        for name in ("submitted", "started", "ended", "stage_in_started", "stage_in_ended")
    }
    stage_out = _seconds(ended["stage_out_started_at"])
    hosts = ended["host"].fillna("").astype(str)
    pattern = re.compile(machine)
    matches = {host: pattern.match(host) for host in hosts.unique()}
    machines = hosts.map({host: m.group(1) if m else host for host, m in matches.items()})
    program = ended["program"].fillna("").astype(str)
    names = ended["task_id"].to_numpy(dtype=object)
    repeats = ended.groupby(["program", "task_id"], dropna=False)["run"].transform("size")
    same_task = program + "\0" + ended["task_id"].where(repeats >= FEWEST_REPEATS, "")
    host_codes, host_names = pd.factorize(hosts)
    machine_codes, machine_names = pd.factorize(machines)
    return WorkflowLog(
        runs=begun.index.tolist(),
        run=ended["run"].to_numpy(dtype=np.int64),
        names=names,
        task=pd.factorize(same_task)[0].astype(np.int64),
        program=pd.factorize(program)[0].astype(np.int64),
        hosts=[str(name) for name in host_names],
        host=host_codes.astype(np.int64),
        machines=[str(name) for name in machine_names],
        machine=machine_codes.astype(np.int64),
        submitted=times["submitted"],
        start=times["started"],
        end=times["ended"],
        stage_in=times["stage_in_ended"] - times["stage_in_started"],
        stage_in_end=times["stage_in_ended"],
        between=stage_out - times["stage_in_ended"],
        cpu=ended["cpu_time"].to_numpy(dtype=np.float64),
        fault=ended["fault"].fillna("").to_numpy(dtype=object),
    )


def _seconds(times: pd.Series) -> Floats:
    since = (times - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    return np.asarray(since.to_numpy(dtype=np.float64))
