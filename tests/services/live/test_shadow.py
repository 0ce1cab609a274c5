"""The challenger in the shadow: its predictions are recorded, never returned or counted."""

from pathlib import Path
from typing import Any

import pandas as pd

from jobs.store import open_store, read_predictions
from models.engine.model_set import ModelSet
from models.releases.registry import promote, set_challenger
from monitoring.drift.check import answers
from tests.services.conftest import Predictor, new_home, publish, running, wait_for

Rows = list[dict[str, Any]]


def recorded(predictor: Predictor) -> pd.DataFrame:
    engine = open_store(predictor.settings.store_url)
    rows = read_predictions(engine, target="walltime")
    engine.dispose()
    return rows


def test_a_challenger_is_asked_what_callers_ask_and_no_caller_sees_it(
    tmp_path: Path, grid_jobs: pd.DataFrame, model_set: ModelSet, waiting: Rows, finished: Rows
) -> None:
    home = new_home(tmp_path / "shadow", grid_jobs.head(1200))
    publish(model_set, home)
    rival = publish(model_set, home, promote=False)
    with running(home) as predictor:
        assert not len(recorded(predictor))
        set_challenger(rival, settings=predictor.settings)
        seen = set()

        def scored() -> bool:
            for row in predictor.http.post("/predict", json={"jobs": waiting[:30]}).json()["rows"]:
                seen.add(row["model_version"])
            return (
                'gridcast_shadow_jobs_total{result="scored"}' in predictor.http.get("/metrics").text
            )

        wait_for(scored, "the challenger to be asked", predictor)
        wait_for(lambda: recorded(predictor)["shadow"].any(), "its answers to be recorded")
        rows = recorded(predictor)
        assert seen == {"gridcast-1"}
        assert set(rows.loc[rows["shadow"], "model_version"]) == {"gridcast-2"}
        assert set(rows.loc[~rows["shadow"], "model_version"]) == {"gridcast-1"}

        # The same model on the same history foresees the same.
        ours, theirs = (
            rows[rows["shadow"] == shadow].drop_duplicates("job_id").set_index("job_id")["point"]
            for shadow in (False, True)
        )
        pd.testing.assert_series_equal(ours[theirs.index], theirs)

        # Accuracy is the champion's alone.
        assert predictor.http.post("/outcomes", json={"jobs": finished[:30]}).status_code == 200
        engine = open_store(predictor.settings.store_url)
        judged = answers(engine, pd.Timestamp("1990-01-01", tz="UTC"))
        engine.dispose()
        assert len(judged) and set(judged["model_version"]) == {"gridcast-1"}

        # Once it is champion it answers, and nobody stands in the shadow.
        promote(rival.version, by="test", why="test", settings=predictor.settings)
        wait_for(
            lambda: predictor.http.get("/model").json()["model_version"] == "gridcast-2",
            "the new champion",
            predictor,
        )
