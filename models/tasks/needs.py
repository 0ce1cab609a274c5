"""Task needs: what a whole task of like jobs will use, before any of them has run, in place of PanDA's scouts.

The jobs of a task are described by one of them. They are taken to be as one for sums, since siblings differ less than strangers and no
history tells how much: ranges of sums are too wide rather than too narrow. For the span each job draws its own run time.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.coded_jobs import CodedJobs
from models.quantities.classes import MEGABYTE

if TYPE_CHECKING:
    from models.engine.forecaster import Forecaster

Numbers = dict[str, float | None]

SPAN, LATE = 0.5, 0.95
"""The quantiles told of a task's span."""
TENTHS = tuple(round(0.05 + 0.1 * k, 2) for k in range(10))
"""The quantiles whose mean stands for the expectation: what the engine keeps for the unforeseen, without a limit, would swamp it."""


def task_needs(
    forecaster: Forecaster,
    task: CodedJobs,
    jobs: int,
    at_once: int | None = None,
    at: datetime | None = None,
) -> dict[str, Any]:
    """What ``jobs`` jobs like the one of ``task`` need: ``per_job`` (as ``Forecaster.answer``, with classes), ``task`` and the message
    ``scout_prediction`` in PanDA's names and units.

    ``task`` has cpu_time (s, with low and high) where CPU times are predicted; with walltimes span and span_late (s, the median and
    the 95th percentile from the start of the first job to the end of the last, ``at_once`` of them running at a time, default all),
    waiting left out.
    """
    slots = min(at_once or jobs, jobs)
    # The last of k that run together ends when the slowest of k does: its quantile q is one job's at the k-th root of q.
    roots = tuple(float(share ** (1 / slots)) for share in (SPAN, LATE))
    answers = forecaster.predict_encoded(
        task, tuple(dict.fromkeys((*TENTHS, *roots))), at, classes=True
    )
    row: dict[str, Any] = {
        name: values[answers.context_of_row[0]] for name, values in answers.numbers.items()
    }
    usual = {
        name: float(np.mean([row[f"{name}_q{share:g}"] for share in TENTHS]))
        for name in forecaster.names
    }
    found = {name: _number(value) for name, value in row.items() if "_q" not in name}
    whole: Numbers = {"jobs": jobs, "at_once": slots}
    if "cpu_time" in usual:
        each: Numbers = {
            "cpu_time": usual["cpu_time"],
            "cpu_time_low": found["cpu_time_low"],
            "cpu_time_high": found["cpu_time_high"],
        }
        whole |= {name: _times(value, jobs) for name, value in each.items()}
    if "walltime" in usual:
        before = usual["walltime"] * (jobs - slots) / slots
        whole |= {
            name: round(before + float(row[f"walltime_q{root:g}"]), 3)
            for name, root in zip(("span", "span_late"), roots, strict=True)
        }
    about = {
        "cold_start": bool(answers.cold_start[answers.context_of_row[0]]),
        "cluster": str(answers.cluster[answers.context_of_row[0]]),
    }
    cores = (
        float(np.nan_to_num(task["requested_cores"][0], nan=1.0))
        if "requested_cores" in task
        else 1.0
    )
    return {
        "per_job": found | about,
        "task": whole,
        "scout_prediction": _message(found, max(cores, 1.0)),
    }


def _message(found: Numbers, cores: float) -> dict[str, Any]:
    """PanDA's columns as far as they are predicted: memory in MB a core and I/O in kB/s a core as ramCount and ioIntensity have them."""
    message: dict[str, Any] = {"msg_type": "scout_prediction", "coreCount": int(cores)}
    memory = found.get("memory_per_core_allocation") or _times(
        found.get("peak_memory_allocation"), 1 / cores
    )
    if memory is not None:
        message |= {"ramCount": int(np.ceil(memory / MEGABYTE)), "ramUnit": "MBPerCore"}
    if found.get("cpu_per_event_allocation") is not None:
        message |= {"cpuTime": found["cpu_per_event_allocation"], "cpuTimeUnit": "HS06sPerEvent"}
    io = found.get("io_per_core_high") or _times(found.get("io_high"), 1 / cores)
    if io is not None:
        message |= {"ioIntensity": int(np.ceil(io / 1024)), "ioIntensityUnit": "kBPerS"}
    if found.get("walltime_allocation") is not None:
        message |= {
            "walltime": int(np.ceil(found["walltime_allocation"] or 0.0)),
            "walltimeUnit": "s",
        }
    classes = {
        name: int(value)
        for name, value in found.items()
        if name.endswith("_class") and value is not None
    }
    return message | ({"classes": classes} if classes else {})


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else value.item()


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 3)
