"""Scouting: PanDA's formulas applied to the jobs of each task, as a table and as records.

PanDA's own names and units: MB and kB, HS06·s. The needs of a task come from its completed jobs;
its failed ones raise them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.errors import InputError
from jobs.schema import conform
from models.quantities import scout
from models.quantities.classes import MEGABYTE

TARGETS_OF_TASKS = ("memory_per_core", "cpu_per_event", "io_per_core", "walltime")
"""PanDA's ramCount, cpuTime, ioIntensity and walltime."""
MILLI = "mHS06sPerEvent"
_FIELDS = (
    "cores",
    "walltime",
    "events",
    "cpu_time",
    "peak_memory",
    "read_bytes",
    "written_bytes",
    "host_power",
    "requested_memory",
)

Numbers = dict[str, npt.NDArray[np.float64]]


def scout_tasks(jobs: pd.DataFrame) -> list[dict[str, Any]]:
    """PanDA's formulas for each task with a completed job: a dict a task, None if unknown.

    ``walltime`` is that of a job with the median events of the task, on cores of 10 HS06;
    ``exhausted`` the reasons for which PanDA would stop the task. Raises InputError where no job
    has a task.
    """
    return [_scout(task) for task in _tasks(jobs)]


def label_tasks(jobs: pd.DataFrame) -> pd.DataFrame:
    """A record a task with TARGETS_OF_TASKS by the formulas, available once its jobs have ended.

    Fields known at submission are those of its first job; ``events`` are those of one job.
    """
    labelled = []
    for task in _tasks(jobs):
        first, needs = task.iloc[0], _scout(task)
        numbers = {name: np.nan if value is None else value for name, value in needs.items()}
        per_event = numbers["cpu_time"] / (1000 if needs["cpu_time_unit"] == MILLI else 1)
        labelled.append(
            first.to_dict()
            | {name: numbers[name] for name in ("cores", "events", "walltime")}
            | {
                "job_id": first["task_id"],
                "ended_at": task["ended_at"].max(),
                "host_power": scout.CORE_POWER,
                "cpu_time": per_event * numbers["events"] / scout.CORE_POWER,
                "peak_memory": numbers["ram_count"] * MEGABYTE * numbers["cores"],
                "read_bytes": numbers["io_intensity"]
                * 1024
                * numbers["cores"]
                * numbers["walltime"],
                "written_bytes": np.nan,
            }
        )
    return conform(pd.DataFrame(labelled)).sort_values(
        "submitted_at", kind="stable", ignore_index=True
    )


def _tasks(jobs: pd.DataFrame) -> list[pd.DataFrame]:
    """The jobs that ran, a frame a task that has a completed one, by submission."""
    ran = jobs[jobs["task_id"].notna() & jobs["walltime"].gt(0)].sort_values(
        "submitted_at", kind="stable"
    )
    if ran.empty:
        raise InputError("no job that ran has a task (task_id): there is nothing to scout")
    return [
        task
        for _, task in ran.groupby(["source", "task_id"], sort=False)
        if task["status"].eq("completed").any()
    ]


def _scout(task: pd.DataFrame) -> dict[str, Any]:
    done = _numbers(task[task["status"] == "completed"])
    cores, walltime = done["cores"], done["walltime"]
    measured = np.isfinite(done["cpu_time"])
    efficiency = (
        _percent(
            scout.cpu_efficiency(done["cpu_time"][measured], cores[measured], walltime[measured])
        )
        if measured.any()
        else scout.EFFICIENCY
    )
    events, wide = _median(done["events"]), float(np.median(cores))
    needed = scout.cpu_time(
        scout.Ran(walltime, cores, np.nan_to_num(done["events"]), done["host_power"]), efficiency
    )
    per_event = None if needed is None else needed[0] / (1000 if needed[1] == MILLI else 1)
    return {
        "task_id": task["task_id"].iloc[0],
        "jobs": len(task),
        "events": events,
        "cores": wide,
        "ram_count": _memory(task, done),
        "cpu_time": needed and needed[0],
        "cpu_time_unit": needed and needed[1],
        "cpu_efficiency": efficiency,
        "walltime": None
        if per_event is None or events is None
        else scout.walltime_of(per_event, events, wide, scout.CORE_POWER, efficiency),
        **_moved(done),
        "exhausted": "; ".join(_exhausted(done, per_event)),
    }


def _numbers(jobs: pd.DataFrame) -> Numbers:
    numbers = {name: jobs[name].to_numpy(np.float64) for name in _FIELDS}
    numbers["cores"] = np.where(np.isnan(numbers["cores"]), 1.0, numbers["cores"])
    numbers["host_power"] = np.array(
        [
            scout.core_power(None if np.isnan(power) else power, None, None)
            for power in numbers["host_power"]
        ]
    )
    return numbers


def _memory(task: pd.DataFrame, done: Numbers) -> int | None:
    """``ramCount``, on the ladder's next rung if enough of the task's jobs ran out of memory."""
    measured = np.isfinite(done["peak_memory"])
    if not measured.any():
        return None
    ram_count = scout.ram_count(done["peak_memory"][measured] / 1024, done["cores"][measured])
    raised = (
        scout.next_ram(ram_count)
        if scout.raises_task(int(task["status"].eq("out_of_memory").sum()), len(task))
        else None
    )
    return ram_count if raised is None else int(raised)


def _moved(done: Numbers) -> dict[str, Any]:
    measured = np.isfinite(done["read_bytes"])
    if not measured.any():
        return {"io_intensity": None, "disk_io": None, "out_disk": None}
    read, walltime, cores, events = (
        done[name][measured] for name in ("read_bytes", "walltime", "cores", "events")
    )
    written = np.nan_to_num(done["written_bytes"][measured])
    per = np.where(events > 0, events, np.maximum(read / MEGABYTE, 1.0))
    return {
        "io_intensity": scout.io_intensity(read / MEGABYTE, written, walltime, cores),
        "disk_io": scout.disk_io((read + written) / 1024, walltime),
        "out_disk": scout.out_disk(written, per),
    }


def _exhausted(done: Numbers, per_event: float | None) -> list[str]:
    """Every reason that applies to a job of the task, in PanDA's order."""
    reasons: dict[str, None] = {}
    for row in range(len(done["walltime"])):
        job = {name: float(np.nan_to_num(values[row])) for name, values in done.items()}
        spent = job["cpu_time"] * job["host_power"] / max(job["events"], 1.0)
        reasons |= dict.fromkeys(
            scout.exhausted(
                cpu_time=spent,
                requested_cpu_time=per_event or np.inf,
                walltime=job["walltime"],
                ram_mb=job["peak_memory"] / MEGABYTE / job["cores"],
                requested_ram_mb=job["requested_memory"] / MEGABYTE / job["cores"] or np.inf,
                cpu_seconds=job["cpu_time"],
                cores=job["cores"],
            )
        )
    return list(reasons)


def _percent(efficiency: float) -> float:
    return float(np.clip(efficiency, 1.0, 100.0))


def _median(values: npt.NDArray[np.float64]) -> float | None:
    measured = values[np.isfinite(values)]
    return float(np.median(measured)) if len(measured) else None
