"""``sacct --json`` of Slurm 21.08 to 25.05 as the rows that ``sacct --parsable2`` would print.

Numbers come plain or as ``{"set": true, "infinite": false, "number": 60}``, states as a text or a
list, steps' numbers by kind of resource (``tres``). Limits are in minutes, memory asked for is in
MiB, what steps used is in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.readers.contract import Reject
from jobs.readers.objects import read_objects

MARKS = (
    '"job_id"', '"submission"', '"required"', '"association"', '"allocation_nodes"',
    '"derived_exit_code"', '"elapsed"', '"eligible"',
)  # fmt: skip

Object = dict[str, Any]
Record = tuple[int, str, dict[str, str]] | Reject | str


def read_json(path: Path) -> Iterator[Record]:
    """Stream each job's row and, after it, its steps', with the number of the job's record."""
    for item in read_objects(path):
        if not isinstance(item, tuple):
            yield item
            continue
        number, raw, job = item
        fields = _job(job)
        yield number, raw, fields
        of_job = {"cluster": fields["cluster"]} if "cluster" in fields else {}
        for step in _list(job.get("steps")):
            name = f"{fields.get('jobid')}.{_step_name(step)}"
            yield number, raw, {"jobid": name} | of_job | _step(step)


def _job(job: Object) -> dict[str, str]:
    time, required, user = _dict(job, "time"), _dict(job, "required"), _dict(job, "association")
    allocated = _tres(_dict(job, "tres").get("allocated"))
    fields = {
        "jobid": _name(job),
        "cluster": job.get("cluster") or user.get("cluster"),
        "user": job.get("user") or user.get("user"),
        "account": job.get("account") or user.get("account"),
        "group": job.get("group"),
        "jobname": job.get("name"),
        "partition": job.get("partition"),
        "nodelist": job.get("nodes"),
        "state": _state(job),
        "exitcode": _exit_code(job),
        "timelimitraw": _number(time.get("limit")),
        "elapsedraw": _number(time.get("elapsed")),
        "totalcpu": _cpu_time(time),
        "reqcpus": _number(required.get("CPUs")),
        "alloccpus": allocated.get("cpu"),
        "nnodes": allocated.get("node") or _number(job.get("allocation_nodes")),
        "reqmem": _requested_memory(required),
        "reqtres": _listed(_dict(job, "tres").get("requested"), unit="M"),
        "alloctres": _listed(_dict(job, "tres").get("allocated"), unit="M"),
        "consumedenergyraw": allocated.get("energy"),
        "qos": job.get("qos"),
        "reservation": _dict(job, "reservation").get("name"),
        "constraints": job.get("constraints"),
        "priority": _number(job.get("priority")),
        "submitline": job.get("submit_line"),
        "admincomment": _dict(job, "comment").get("administrator"),
    }
    fields |= {
        name: _time(time.get(key))
        for name, key in (("submit", "submission"), ("start", "start"), ("end", "end"))
    }
    return _texts(fields)


def _name(job: Object) -> str | None:
    """The job's name as sacct prints it: ``12_3`` of an array, ``12+1`` of a heterogeneous job."""
    array, het = _dict(job, "array"), _dict(job, "het")
    array_id, index = _number(array.get("job_id")), _number(array.get("task_id"))
    if array_id and index is not None:
        return f"{array_id}_{index}"
    if array_id and isinstance(array.get("task"), str) and array["task"]:
        return f"{array_id}_[{array['task']}]"
    het_id = _number(het.get("job_id"))
    return (
        f"{het_id}+{_number(het.get('job_offset')) or 0}" if het_id else _number(job.get("job_id"))
    )


def _step_name(step: Object) -> str:
    name = _dict(step, "step").get("id")
    if isinstance(name, dict):
        name = name.get("step_id")
    return str(name).rpartition(".")[2]


def _step(step: Object) -> dict[str, str]:
    requested, consumed = (_dict(_dict(step, "tres"), name) for name in ("requested", "consumed"))
    largest, average = (_tres(requested.get(name)) for name in ("max", "average"))
    return _texts(
        {
            "state": _state(step),
            "exitcode": _exit_code(step),
            "ntasks": _number(_dict(step, "tasks").get("count")),
            "totalcpu": _cpu_time(_dict(step, "time")),
            "elapsedraw": _number(_dict(step, "time").get("elapsed")),
            "consumedenergyraw": _number(
                _dict(_dict(step, "statistics"), "energy").get("consumed")
            ),
            "maxrss": largest.get("mem"),
            "averss": average.get("mem"),
            "tresusageintot": _listed(requested.get("total")),
            "tresusageouttot": _listed(consumed.get("total")),
        }
    )


def _texts(fields: dict[str, Any]) -> dict[str, str]:
    return {
        name: str(value)
        for name, value in fields.items()
        if value is not None and not isinstance(value, dict | list)
    }


def _dict(record: Object, name: str) -> Object:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Object]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _number(value: Any) -> Any:
    """A number as it is, or out of its object; None where it is not set or infinite."""
    if isinstance(value, dict):
        return value.get("number") if value.get("set") and not value.get("infinite") else None
    return value if not isinstance(value, list) else None


def _time(value: Any) -> Any:
    """Seconds since 1970; Slurm writes 0 where there is none."""
    return _number(value) or None


def _state(record: Object) -> Any:
    state = record.get("state")
    if isinstance(state, dict):
        state = state.get("current")
    return state[0] if isinstance(state, list) and state else state


def _exit_code(record: Object) -> str:
    """``code:signal`` as sacct prints it."""
    code = _dict(record, "exit_code")
    signal = _dict(code, "signal")
    number = _number(signal.get("id", signal.get("signal_id"))) or 0
    return f"{_number(code.get('return_code')) or 0}:{number}"


def _cpu_time(time: Object) -> float | None:
    total = _dict(time, "total")
    seconds, micros = _number(total.get("seconds")), _number(total.get("microseconds"))
    try:
        return None if seconds is None else float(seconds) + float(micros or 0) / 1e6
    except (TypeError, ValueError):
        return None


def _requested_memory(required: Object) -> str | None:
    for name, suffix in (("memory_per_cpu", "c"), ("memory_per_node", "n"), ("memory", "")):
        if amount := _number(required.get(name)):
            return f"{amount}M{suffix}"
    return None


def _tres(resources: Any) -> dict[str, Any]:
    """Counts by kind of resource, the kind as sacct writes it (``mem``, ``fs/disk``)."""
    return {
        "/".join(filter(None, (str(item.get("type", "")), str(item.get("name") or "")))): (
            _number(item.get("count"))
        )
        for item in _list(resources)
    }


def _listed(resources: Any, unit: str = "") -> str:
    return ",".join(
        f"{kind}={count}{unit if kind == 'mem' else ''}"
        for kind, count in _tres(resources).items()
        if count is not None
    )
