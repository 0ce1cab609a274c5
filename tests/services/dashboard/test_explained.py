"""One job and one user's advice, with a real predictor."""

from pathlib import Path

import pandas as pd
import pytest

from infra.settings import Settings
from jobs.store import add_jobs, open_store, read_predictions
from models.engine.model_set import ModelSet
from services.dashboard import jobs
from services.http.errors import HTTPError
from tests.services.conftest import publish, running


def test_a_job_is_explained_and_a_user_advised_without_a_trace_in_the_log(
    tmp_path: Path, model_set: ModelSet, grid_jobs: pd.DataFrame
) -> None:
    settings = Settings(home=tmp_path, _env_file=None)
    engine = open_store(settings.store_url)
    with engine.begin() as connection:
        add_jobs(connection, grid_jobs.assign(labels='{"biome":"soil","reads":2.0}'))
    lost = grid_jobs.tail(1).assign(status="preempted")
    for name in ("submitted_at", "started_at", "ended_at"):
        lost[name] -= pd.Timedelta(days=2)
    with engine.begin() as connection:
        add_jobs(connection, lost)
    publish(model_set, tmp_path)
    row = grid_jobs.iloc[-1]
    now = grid_jobs["ended_at"].max().to_pydatetime()
    with running(tmp_path) as predictor:
        served = settings.model_copy(update={"predictor_port": predictor.port})
        found = jobs.job(engine, served, row["source"], row["job_id"])
        advised = jobs.advice(engine, served, row["user"], now)
        with pytest.raises(HTTPError, match=r"has no job nosuch$"):
            jobs.job(engine, served, "", "nosuch")
        with pytest.raises(HTTPError, match="has ended"):
            jobs.advice(engine, served, "nobody", now)
    assert found["trouble"] == "" and found["job"]["user"] == row["user"]
    assert [attempt["status"] for attempt in found["attempts"]] == ["preempted"]
    words = " ".join(found["sentences"])
    assert (
        "had ended before" in words
        and "not only these: half of such jobs should take under" in words
    )
    similar = [job for job in found["similar"] if job["job_id"]]
    assert similar and all(pd.Timestamp(job["ended_at"]) < row["submitted_at"] for job in similar)
    assert advised["rows"] and advised["sentences"][0].startswith(f"user {row['user']}")
    assert read_predictions(engine).empty
    away = jobs.job(engine, served, row["source"], row["job_id"])
    assert away["sentences"] == [] and "does not answer" in away["trouble"]
    with pytest.raises(HTTPError, match="the predictor does not answer"):
        jobs.advice(engine, served, row["user"], now)
    engine.dispose()
