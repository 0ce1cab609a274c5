"""A steady grid, of which every test changes what it wants found."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from jobs.schema import conform

START = pd.Timestamp("2026-01-01", tz="UTC")
PROGRAMS = {
    "simulate": (8.5, 0.5),
    "reconstruct": (7.5, 0.7),
    "analyse": (5.0, 1.2),
    "merge": (4.0, 0.4),
}


def steady_grid(jobs: int, seed: int, *, day: float = 0.0) -> pd.DataFrame:
    """A steady grid from ``day`` on: a job every ten seconds, in tasks of ten dissimilar jobs."""
    random = np.random.default_rng(seed)
    program = random.choice(list(PROGRAMS), jobs, p=[0.4, 0.3, 0.2, 0.1])
    scale = np.array([PROGRAMS[name] for name in program]).reshape(-1, 2)
    walltime = random.lognormal(scale[:, 0], scale[:, 1])
    submitted = START + pd.to_timedelta(day * 86400 + np.arange(jobs) * 10.0, unit="s")
    return conform(
        pd.DataFrame(
            {
                "job_id": [f"{seed}.{number}" for number in range(jobs)],
                "task_id": [f"{seed}.{number // 10}" for number in range(jobs)],
                "source": "grid",
                "user": [f"u{number}" for number in random.zipf(1.5, jobs) % 100_000],
                "group": random.choice(["atlas", "cms", "lhcb"], jobs, p=[0.5, 0.3, 0.2]),
                "site": random.choice([f"site{number}" for number in range(6)], jobs),
                "program": program,
                "status": random.choice(["completed", "failed"], jobs, p=[0.9, 0.1]),
                "requested_memory": random.choice([1.0, 2.0, 4.0], jobs) * 2**30,
                "walltime": walltime,
                "cpu_time": walltime * random.beta(9, 1, jobs),
                "submitted_at": submitted,
                "ended_at": submitted + pd.to_timedelta(walltime, unit="s"),
            }
        )
    )


@pytest.fixture(scope="session")
def grid() -> Callable[..., pd.DataFrame]:
    """The function that makes ``jobs`` rows of a steady grid from a ``seed``, from ``day`` on."""
    return steady_grid
