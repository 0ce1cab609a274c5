"""Scouting: what PanDA would have learned of each task from its jobs, as a table, and as records that the engine learns from.

PanDA's own names and units: MB and kB, HS06·s. Of a task only jobs that completed tell what it needs; the failed ones raise it.
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
    """What PanDA's formulas say of each task of ``jobs`` that has a completed job: a dict a task, None for what cannot be told.

    ``walltime`` is that of a job of as many events as the task's jobs had, on cores of 10 HS06; ``exhausted`` the reasons for which PanDA
    would stop the task. Raises InputError where no job names a task.
    """
    return [_scout(task) for task in _tasks(jobs)]


def label_tasks(jobs: pd.DataFrame) -> pd.DataFrame:
    """A record a task of ``jobs``, known once the last of its jobs has ended: TARGETS_OF_TASKS of it are what PanDA's formulas say.

    Fields known at submission are those of its first job; ``events`` are a job's.
    """
    labelled = []
    for task in _tasks(jobs):
        first, found = task.iloc[0], _scout(task)
        told = {name: np.nan if value is None else value for name, value in found.items()}
        per_event = told["cpu_time"] / (1000 if found["cpu_time_unit"] == MILLI else 1)
        labelled.append(
            first.to_dict()
            | {name: told[name] for name in ("cores", "events", "walltime")}
            | {
                "job_id": first["task_id"],
                "ended_at": task["ended_at"].max(),
                "host_power": scout.CORE_POWER,
                "cpu_time": per_event * told["events"] / scout.CORE_POWER,
                "peak_memory": told["ram_count"] * MEGABYTE * told["cores"],
                "read_bytes": told["io_intensity"] * 1024 * told["cores"] * told["walltime"],
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
        raise InputError(
            "no job that ran names its task (task_id): there is nothing that scouts could tell"
        )
    return [
        task
        for _, task in ran.groupby(["source", "task_id"], sort=False)
        if task["status"].eq("completed").any()
    ]


def _scout(task: pd.DataFrame) -> dict[str, Any]:
    done = _numbers(task[task["status"] == "completed"])
    cores, walltime = done["cores"], done["walltime"]
    told = np.isfinite(done["cpu_time"])
    efficiency = (
        _percent(scout.cpu_efficiency(done["cpu_time"][told], cores[told], walltime[told]))
        if told.any()
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
    found = {name: jobs[name].to_numpy(np.float64) for name in _FIELDS}
    found["cores"] = np.where(np.isnan(found["cores"]), 1.0, found["cores"])
    found["host_power"] = np.array(
        [
            scout.core_power(None if np.isnan(power) else power, None, None)
            for power in found["host_power"]
        ]
    )
    return found


def _memory(task: pd.DataFrame, done: Numbers) -> int | None:
    """``ramCount``, on the next rung of the ladder where more of the task's jobs ran out of memory than raise it."""
    known = np.isfinite(done["peak_memory"])
    if not known.any():
        return None
    found = scout.ram_count(done["peak_memory"][known] / 1024, done["cores"][known])
    raised = (
        scout.next_ram(found)
        if scout.raises_task(int(task["status"].eq("out_of_memory").sum()), len(task))
        else None
    )
    return found if raised is None else int(raised)


def _moved(done: Numbers) -> dict[str, Any]:
    known = np.isfinite(done["read_bytes"])
    if not known.any():
        return {"io_intensity": None, "disk_io": None, "out_disk": None}
    read, walltime, cores, events = (
        done[name][known] for name in ("read_bytes", "walltime", "cores", "events")
    )
    written = np.nan_to_num(done["written_bytes"][known])
    per = np.where(events > 0, events, np.maximum(read / MEGABYTE, 1.0))
    return {
        "io_intensity": scout.io_intensity(read / MEGABYTE, written, walltime, cores),
        "disk_io": scout.disk_io((read + written) / 1024, walltime),
        "out_disk": scout.out_disk(written, per),
    }


def _exhausted(done: Numbers, per_event: float | None) -> list[str]:
    """Every reason that a job of the task gives, in the order of PanDA's list."""
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
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None
