"""A predictor on a restored backup, asked over HTTP as a broker asks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from infra.settings import Settings
from models.engine.model_set import ModelSet
from models.releases.backup import back_up, restore
from tests.services.conftest import Predictor, new_home, publish, running


def asked(predictor: Predictor, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers by all that the store told a predictor when it began."""
    answer = predictor.http.post("/predict", json={"jobs": jobs, "quantiles": [0.1, 0.99], "keep": False})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["predictions"])


def test_a_backup_restored_into_an_empty_postgresql_serves_the_same_answers(
    grid_jobs: pd.DataFrame, model_set: ModelSet, waiting: list[dict[str, Any]], postgres_url: str, tmp_path: Path
) -> None:
    home = new_home(tmp_path / "first", grid_jobs.head(1200))
    publish(model_set, home)
    with running(home) as first:
        said = asked(first, waiting)
    back_up(Settings(home=home), tmp_path / "gridcast.tar")
    restore(Settings(home=tmp_path / "second", database_url=postgres_url), tmp_path / "gridcast.tar")
    with running(tmp_path / "second", GRIDCAST_DATABASE_URL=postgres_url) as second:
        assert asked(second, waiting) == said
    assert len(said) == 400 and len({row["walltime_median"] for row in said}) > 20, "many answers, not one for all"
