"""Generated scout jobs of production tasks, with the features of PanDA's learned predictions.

At submission a task has a processing type (``program``), a framework (``job_name``), cores, input
files and events; its input size stands for the number of input file sets, which jobs have no field
for. Tasks belong to requests of several similar ones, which share hidden physics. Each processing
type gets a new release every few weeks, which changes its resource needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from infra.aliases import Array
from jobs.schema import TIME_TYPE, conform

SOURCE = "generated-production"
START = pd.Timestamp("2026-01-05", tz="UTC")
DAY, MEGABYTE = 86400.0, 2.0**20
SCOUTS = 10
EFFICIENCY, REFERENCE_POWER = 0.9, 11.0


@dataclass(frozen=True)
class ProcessingType:
    """A processing type.

    ``work`` is HS06·s per event, ``memory`` MB per core, ``input`` MB per event, ``file`` events
    per file, ``events`` events per task, ``share`` the share of tasks.
    """

    name: str
    frameworks: tuple[str, ...]
    cores: tuple[int, ...]
    work: float
    memory: float
    input: float
    file: float
    events: float
    share: float


TYPES = (
    ProcessingType("evgen", ("AthGeneration",), (1, 8), 40.0, 900.0, 0.0005, 1e4, 2e5, 0.10),
    ProcessingType(
        "simul", ("AthSimulation", "Athena"), (8,), 2500.0, 1100.0, 0.02, 1e4, 1e5, 0.20
    ),
    ProcessingType("fastsim", ("AthSimulation",), (1, 8), 250.0, 1300.0, 0.02, 1e4, 4e5, 0.10),
    ProcessingType("recon", ("Athena",), (8,), 220.0, 1900.0, 0.9, 2e3, 1e5, 0.15),
    ProcessingType("reprocessing", ("Athena",), (8, 16), 160.0, 2100.0, 1.0, 3e3, 1e6, 0.05),
    ProcessingType(
        "derivation", ("AthDerivation", "Athena"), (1, 8), 6.0, 2300.0, 0.4, 1e4, 2e6, 0.20
    ),
    ProcessingType("merge", ("Athena", "ROOT"), (1,), 0.4, 1500.0, 0.3, 2e4, 5e5, 0.10),
    ProcessingType("analysis", ("AthAnalysis", "ROOT"), (1,), 2.0, 700.0, 0.1, 5e4, 3e6, 0.10),
)


def generate_scouts(tasks: int = 20_000, days: float = 240.0, seed: int = 1) -> pd.DataFrame:
    """Generate the scout jobs of production tasks; the same arguments give the same jobs.

    Args:
        tasks: number of tasks.
        days: time over which they are submitted.
        seed: seed of all random numbers.
    """
    rng = np.random.default_rng(seed)
    requests = _requests(rng, tasks, days)
    request = np.sort(
        rng.choice(len(requests["kind"]), tasks, p=requests["size"] / requests["size"].sum())
    )
    kind = requests["kind"][request]
    at = np.sort(requests["day"][request] + np.abs(rng.normal(0, 2.0, tasks))) * DAY
    # The tasks of a request differ in size, as their samples do.
    events = np.maximum(
        np.round(requests["events"][request] * rng.choice([0.25, 0.5, 1.0, 1.0, 2.0], tasks), -3),
        1000.0,
    )
    task = {
        name: values[request]
        for name, values in requests.items()
        if name not in ("size", "day", "events")
    }
    task |= {
        "at": at,
        "events": events,
        "files": np.ceil(events / _of_type("file", kind)),
    }
    release = np.floor(at / DAY / requests["pace"][request]).astype(int)
    for name, spread in (("memory", 0.10), ("work", 0.15), ("input", 0.10)):
        walk = np.cumsum(
            np.random.default_rng([seed, len(name)]).normal(0, spread, (len(TYPES), 200)), axis=1
        )
        task[name] = task[name] * np.exp(
            walk[kind, np.minimum(release, 199)] + rng.normal(0, 0.05, tasks)
        )
    return _run(rng, task)


def _requests(rng: np.random.Generator, tasks: int, days: float) -> dict[str, Array]:
    """Draw the requests: arrays of features, and of needs that depend on hidden physics."""
    count = max(tasks // 12, 1)
    kind = rng.choice(len(TYPES), count, p=[processing.share for processing in TYPES])
    heavy, hidden = rng.lognormal(0, 0.45, count), rng.lognormal(0, 0.12, count)
    framework = np.array([rng.choice(TYPES[k].frameworks) for k in kind])
    cores = np.array([float(rng.choice(TYPES[k].cores)) for k in kind])
    is_second = np.array(
        [TYPES[k].frameworks.index(name) == 1 for k, name in zip(kind, framework, strict=True)]
    )
    return {
        "kind": kind,
        "size": rng.lognormal(0, 0.8, count),
        "day": days * rng.random(count),
        "pace": np.array([21.0, 60.0, 45.0, 30.0, 90.0, 28.0, 75.0, 14.0])[kind],
        "framework": framework,
        "cores": cores,
        "events": _of_type("events", kind) * rng.lognormal(0, 1.0, count),
        "work": _of_type("work", kind) * heavy * np.where(is_second, 0.6, 1.0),
        # With more cores, shared memory counts once.
        "memory": _of_type("memory", kind)
        * heavy**0.25
        * np.where(cores == 1, 1.5, 1.0)
        * np.where(is_second, 1.2, 1.0)
        * hidden,
        "input": _of_type("input", kind) * rng.lognormal(0, 0.3, count),
    }


def _of_type(field: str, types: Array) -> Array:
    return np.array([getattr(processing, field) for processing in TYPES])[types]


def _run(rng: np.random.Generator, task: dict[str, Array]) -> pd.DataFrame:
    """Run the scouts of each task, of one file or 8 hours each, on hosts of different power."""
    tasks = len(task["at"])
    scouts = np.minimum(np.maximum(task["files"], 1), SCOUTS).astype(int)
    task_index = np.repeat(np.arange(tasks), scouts)
    jobs = len(task_index)
    power = rng.choice([8.0, 10.0, 11.5, 14.0, 18.0], jobs)
    cores = task["cores"][task_index]
    usual = {name: _of_type(name, task["kind"]) for name in ("work", "file", "input")}
    # Jobs are sized to a file or 8 hours by the usual needs: the true ones are not known yet.
    work_day = np.round(8 * 3600 * REFERENCE_POWER * task["cores"] / usual["work"], -1)
    events = np.maximum(np.minimum(np.minimum(usual["file"], task["events"]), work_day), 10.0)[
        task_index
    ]
    ran = np.round(
        600 * rng.lognormal(0, 0.2, jobs)
        + task["work"][task_index]
        * events
        * rng.lognormal(0, 0.08, jobs)
        / (power * cores * EFFICIENCY)
    )
    at = task["at"][task_index]
    started = at + rng.lognormal(np.log(2 * 3600), 0.8, jobs)
    read = task["input"][task_index] * events * MEGABYTE * rng.lognormal(0, 0.1, jobs)
    start = START.as_unit("us")
    return conform(
        pd.DataFrame(
            {
                "job_id": np.arange(jobs).astype(str),
                "task_id": pd.Series(task_index).astype(str),
                "source": SOURCE,
                "program": _of_type("name", task["kind"])[task_index],
                "job_name": task["framework"][task_index],
                "requested_cores": cores,
                "input_bytes": np.round(task["events"] * usual["input"] * MEGABYTE, -6)[task_index],
                "input_files": task["files"][task_index],
                "events": events,
                "host_power": power,
                "cores": cores,
                "submitted_at": (start + pd.to_timedelta(np.round(at), unit="s")).astype(TIME_TYPE),
                "started_at": (start + pd.to_timedelta(np.round(started), unit="s")).astype(
                    TIME_TYPE
                ),
                "ended_at": (start + pd.to_timedelta(np.round(started) + ran, unit="s")).astype(
                    TIME_TYPE
                ),
                "status": "completed",
                "walltime": ran,
                "cpu_time": np.round(ran * cores * EFFICIENCY * rng.uniform(0.95, 1.0, jobs)),
                "peak_memory": np.round(
                    task["memory"][task_index] * MEGABYTE * cores * rng.lognormal(0, 0.06, jobs)
                ),
                "read_bytes": np.round(read),
                "written_bytes": np.round(read * 0.3),
            }
        )
    )
