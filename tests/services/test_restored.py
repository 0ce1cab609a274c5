"""A predictor on a restored backup, asked over HTTP as a broker asks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from infra.settings import Settings
from jobs.schema import OUTCOMES
from jobs.store import open_store
from models.engine.model_set import ModelSet
from models.releases.backup import back_up, restore
from models.releases.champion import load_forecaster
from tests.services.conftest import new_home, publish, running

SAID = (
    "walltime",
    "walltime_low",
    "walltime_high",
    "walltime_q0.99",
    "peak_memory",
    "peak_memory_allocation",
)


def test_a_backup_restored_into_an_empty_postgresql_serves_the_same_answers(
    grid_jobs: pd.DataFrame,
    model_set: ModelSet,
    waiting: list[dict[str, Any]],
    postgres_url: str,
    tmp_path: Path,
) -> None:
    home = new_home(tmp_path / "first", grid_jobs.head(1200))
    publish(model_set, home)
    settings = Settings(home=home)
    said = load_forecaster(open_store(settings.store_url), settings).predict(
        grid_jobs.tail(400).drop(columns=list(OUTCOMES)), (0.99,)
    )
    back_up(settings, tmp_path / "gridcast.tar")
    restore(
        Settings(home=tmp_path / "second", database_url=postgres_url), tmp_path / "gridcast.tar"
    )
    with running(tmp_path / "second", GRIDCAST_DATABASE_URL=postgres_url) as restored:
        answer = restored.http.post(
            "/predict", json={"jobs": waiting, "quantiles": [0.99], "keep": False}
        )
    rows = pd.DataFrame(answer.json()["rows"])
    assert rows["job_id"].tolist() == said["job_id"].tolist() and rows["walltime"].nunique() > 20
    for name in SAID:
        np.testing.assert_allclose(
            rows[name].astype(float), said[name].astype(float), rtol=1e-6, err_msg=name
        )
