"""Generated scout jobs of production tasks, described as the paper on PanDA's learned resource prediction describes tasks.

Known of a task when it is submitted: processing type (``program``), framework (``job_name``), cores, input files and events; its size of
input stands for the number of input file sets, which a job record has no field for. Tasks come as requests of several alike, which share
what nobody can see of their physics; and each processing type gets a new release every few weeks, which changes what it needs.
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
class Kind:
    """A processing type: its frameworks, cores, HS06·s an event, MB a core, MB of input an event, events a file, events a task, share."""

    name: str
    frameworks: tuple[str, ...]
    cores: tuple[int, ...]
    work: float
    memory: float
    input: float
    file: float
    events: float
    share: float


KINDS = (
    Kind("evgen", ("AthGeneration",), (1, 8), 40.0, 900.0, 0.0005, 1e4, 2e5, 0.10),
    Kind("simul", ("AthSimulation", "Athena"), (8,), 2500.0, 1100.0, 0.02, 1e4, 1e5, 0.20),
    Kind("fastsim", ("AthSimulation",), (1, 8), 250.0, 1300.0, 0.02, 1e4, 4e5, 0.10),
    Kind("recon", ("Athena",), (8,), 220.0, 1900.0, 0.9, 2e3, 1e5, 0.15),
    Kind("reprocessing", ("Athena",), (8, 16), 160.0, 2100.0, 1.0, 3e3, 1e6, 0.05),
    Kind("derivation", ("AthDerivation", "Athena"), (1, 8), 6.0, 2300.0, 0.4, 1e4, 2e6, 0.20),
    Kind("merge", ("Athena", "ROOT"), (1,), 0.4, 1500.0, 0.3, 2e4, 5e5, 0.10),
    Kind("analysis", ("AthAnalysis", "ROOT"), (1,), 2.0, 700.0, 0.1, 5e4, 3e6, 0.10),
)


def generate_scouts(tasks: int = 20_000, days: float = 240.0, seed: int = 1) -> pd.DataFrame:
    """The scout jobs of ``tasks`` tasks submitted over ``days`` days, in the shape of jobs; the same arguments give the same jobs."""
    rng = np.random.default_rng(seed)
    requests = _requests(rng, tasks, days)
    request = np.sort(
        rng.choice(len(requests["kind"]), tasks, p=requests["size"] / requests["size"].sum())
    )
    kind = requests["kind"][request]
    at = np.sort(requests["day"][request] + np.abs(rng.normal(0, 2.0, tasks))) * DAY
    # Tasks of a request differ a little in size, as their samples do.
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
        "files": np.ceil(events / np.array([one.file for one in KINDS])[kind]),
    }
    release = np.floor(at / DAY / requests["pace"][request]).astype(int)
    for name, spread in (("memory", 0.10), ("work", 0.15), ("input", 0.10)):
        walk = np.cumsum(
            np.random.default_rng([seed, len(name)]).normal(0, spread, (len(KINDS), 200)), axis=1
        )
        task[name] = task[name] * np.exp(
            walk[kind, np.minimum(release, 199)] + rng.normal(0, 0.05, tasks)
        )
    return _run(rng, task)


def _requests(rng: np.random.Generator, tasks: int, days: float) -> dict[str, Array]:
    """What each request asks for, and what its physics needs that nobody sees."""
    count = max(tasks // 12, 1)
    kind = rng.choice(len(KINDS), count, p=[one.share for one in KINDS])
    heavy, hidden = rng.lognormal(0, 0.45, count), rng.lognormal(0, 0.12, count)

    def of(field: str) -> Array:
        return np.array([getattr(one, field) for one in KINDS])[kind]

    framework = np.array([rng.choice(KINDS[k].frameworks) for k in kind])
    cores = np.array([float(rng.choice(KINDS[k].cores)) for k in kind])
    other = np.array(
        [KINDS[k].frameworks.index(name) for k, name in zip(kind, framework, strict=True)]
    )
    return {
        "kind": kind,
        "size": rng.lognormal(0, 0.8, count),
        "day": days * rng.random(count),
        "pace": np.array([21.0, 60.0, 45.0, 30.0, 90.0, 28.0, 75.0, 14.0])[kind],
        "framework": framework,
        "cores": cores,
        "events": of("events") * rng.lognormal(0, 1.0, count),
        "work": of("work") * heavy * np.where(other == 1, 0.6, 1.0),
        # More cores share what all threads need once.
        "memory": of("memory")
        * heavy**0.25
        * np.where(cores == 1, 1.5, 1.0)
        * np.where(other == 1, 1.2, 1.0)
        * hidden,
        "input": of("input") * rng.lognormal(0, 0.3, count),
    }


def _run(rng: np.random.Generator, task: dict[str, Array]) -> pd.DataFrame:
    """The scouts of each task: a file or a working day each, at sites of different power."""
    tasks = len(task["at"])
    each = np.minimum(np.maximum(task["files"], 1), SCOUTS).astype(int)
    which = np.repeat(np.arange(tasks), each)
    jobs = len(which)
    power = rng.choice([8.0, 10.0, 11.5, 14.0, 18.0], jobs)
    cores = task["cores"][which]
    usual = {
        name: np.array([getattr(one, name) for one in KINDS])[task["kind"]]
        for name in ("work", "file", "input")
    }
    # A job is cut to a file or to a working day by what its kind usually needs: what this one needs nobody knows yet.
    a_day = np.round(8 * 3600 * REFERENCE_POWER * task["cores"] / usual["work"], -1)
    events = np.maximum(np.minimum(np.minimum(usual["file"], task["events"]), a_day), 10.0)[which]
    ran = np.round(
        600 * rng.lognormal(0, 0.2, jobs)
        + task["work"][which] * events * rng.lognormal(0, 0.08, jobs) / (power * cores * EFFICIENCY)
    )
    at = task["at"][which]
    started = at + rng.lognormal(np.log(2 * 3600), 0.8, jobs)
    read = task["input"][which] * events * MEGABYTE * rng.lognormal(0, 0.1, jobs)
    start = START.as_unit("us")
    return conform(
        pd.DataFrame(
            {
                "job_id": np.arange(jobs).astype(str),
                "task_id": pd.Series(which).astype(str),
                "source": SOURCE,
                "program": np.array([one.name for one in KINDS])[task["kind"]][which],
                "job_name": task["framework"][which],
                "requested_cores": cores,
                "input_bytes": np.round(task["events"] * usual["input"] * MEGABYTE, -6)[which],
                "input_files": task["files"][which],
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
                    task["memory"][which] * MEGABYTE * cores * rng.lognormal(0, 0.06, jobs)
                ),
                "read_bytes": np.round(read),
                "written_bytes": np.round(read * 0.3),
            }
        )
    )
