"""Needs of a whole task of like jobs before any has run, in place of PanDA's scout jobs.

The jobs of a task are described by one of them. For sums they are taken as fully correlated, so
that ranges are too wide rather than too narrow; for the span their run times are independent.
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
"""The quantiles of a task's span that are returned."""
TENTHS = tuple(round(0.05 + 0.1 * k, 2) for k in range(10))
"""The quantiles whose mean stands for the expectation, which the uniform floor would dominate."""


def task_needs(
    forecaster: Forecaster,
    task: CodedJobs,
    jobs: int,
    at_once: int | None = None,
    at: datetime | None = None,
) -> dict[str, Any]:
    """Predict what a task of like jobs needs.

    Args:
        forecaster: The forecaster.
        task: One job that describes all.
        jobs: Number of jobs.
        at_once: Number of jobs that run at a time; default all.
        at: Predict from what was available at this time; default now.

    Returns:
        ``per_job`` (predictions of one job, with classes), ``task`` and ``scout_prediction``, a
        message in PanDA's names and units. ``task`` has cpu_time (s, with low and high) where CPU
        times are predicted, and with walltimes span and span_late (s): median and 95th percentile
        from the start of the first job to the end of the last, without waiting.
    """
    slots = min(at_once or jobs, jobs)
    # The quantile q of the maximum of k walltimes is the quantile q^(1/k) of one.
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
    numbers = {name: _number(value) for name, value in row.items() if "_q" not in name}
    totals: Numbers = {"jobs": jobs, "at_once": slots}
    if "cpu_time" in usual:
        per_job: Numbers = {
            "cpu_time": usual["cpu_time"],
            "cpu_time_low": numbers["cpu_time_low"],
            "cpu_time_high": numbers["cpu_time_high"],
        }
        totals |= {name: _times(value, jobs) for name, value in per_job.items()}
    if "walltime" in usual:
        before = usual["walltime"] * (jobs - slots) / slots
        totals |= {
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
        "per_job": numbers | about,
        "task": totals,
        "scout_prediction": _message(numbers, max(cores, 1.0)),
    }


def _message(numbers: Numbers, cores: float) -> dict[str, Any]:
    """PanDA's columns as far as predicted: ramCount in MB a core, ioIntensity in kB/s a core."""
    message: dict[str, Any] = {"msg_type": "scout_prediction", "coreCount": int(cores)}
    memory = numbers.get("memory_per_core_allocation") or _times(
        numbers.get("peak_memory_allocation"), 1 / cores
    )
    if memory is not None:
        message |= {"ramCount": int(np.ceil(memory / MEGABYTE)), "ramUnit": "MBPerCore"}
    if numbers.get("cpu_per_event_allocation") is not None:
        message |= {"cpuTime": numbers["cpu_per_event_allocation"], "cpuTimeUnit": "HS06sPerEvent"}
    io = numbers.get("io_per_core_high") or _times(numbers.get("io_high"), 1 / cores)
    if io is not None:
        message |= {"ioIntensity": int(np.ceil(io / 1024)), "ioIntensityUnit": "kBPerS"}
    if numbers.get("walltime_allocation") is not None:
        message |= {
            "walltime": int(np.ceil(numbers["walltime_allocation"] or 0.0)),
            "walltimeUnit": "s",
        }
    classes = {
        name: int(value)
        for name, value in numbers.items()
        if name.endswith("_class") and value is not None
    }
    return message | ({"classes": classes} if classes else {})


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else value.item()


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 3)
