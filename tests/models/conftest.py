"""Jobs that the tests of models share."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from jobs.schema import conform, derive_fields

START = pd.Timestamp("2026-01-01", tz="UTC")


@pytest.fixture(scope="session")
def habits() -> Callable[..., pd.DataFrame]:
    """Makes jobs of users who repeat themselves: ``habits(rows=900, seed=3, days=20)``."""
    return _habits


def _habits(rows: int = 900, seed: int = 3, days: int = 20) -> pd.DataFrame:
    """Jobs of users who repeat themselves, some without a request, some not ended, some of no length."""
    draw = np.random.default_rng(seed)
    user = draw.integers(0, 12, rows)
    cores = draw.choice([1, 4, 16], rows)
    request = np.where(draw.random(rows) < 0.1, np.nan, draw.choice([600.0, 3600.0, 86400.0], rows))
    length = np.exp(draw.normal(3 + user / 3, 0.5 + user / 12))
    walltime = np.minimum(np.floor(length), np.where(np.isnan(request), 1e6, request))
    at = START + pd.to_timedelta(np.sort(draw.integers(0, days * 86400, rows)), unit="s")
    started = at + pd.to_timedelta(
        draw.integers(0, 3600, rows) * draw.integers(0, 2, rows), unit="s"
    )
    jobs = conform(
        pd.DataFrame(
            {
                "job_id": np.arange(rows).astype(str),
                "source": "made",
                "user": [f"u{i}" for i in user],
                "group": [f"g{i % 4}" for i in user],
            }
            | {
                "requested_cores": cores,
                "requested_walltime": request,
                "submitted_at": at,
                "started_at": started,
                "walltime": walltime,
            }
        )
    )
    jobs = derive_fields(jobs)
    running = draw.random(rows) < 0.05
    jobs.loc[running, "walltime"] = np.nan
    jobs.loc[running, "ended_at"] = pd.NaT
    return jobs
