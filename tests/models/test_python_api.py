"""The Python interface answers as the engine beneath it, from frames and from mappings alike."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gridcast import Forecaster, backtest, read_log
from infra.errors import InputError
from models.engine.forecaster import Forecaster as Engine

Jobs = Callable[..., pd.DataFrame]
CSV = (
    "id,submit,run,who\n"
    "1,2026-01-01T00:00:00,60,ann\n2,2026-01-01T02:00:00,120,ann\n3,2026-01-01T01:00:00,-5,ben\n"
)
MAP = ("id=job_id", "submit=submitted_at", "run=walltime:min", "who=user")


def test_a_log_is_read_as_ingest_reads_it(tmp_path: Path) -> None:
    log = tmp_path / "jobs.csv"
    log.write_text(CSV, encoding="utf-8")
    jobs = read_log(log, mapping=MAP, timezone="Europe/Paris")
    assert jobs["walltime"].tolist()[0] == 3600
    assert jobs["submitted_at"].tolist()[0] == pd.Timestamp("2025-12-31T23:00:00", tz="UTC")
    with pytest.raises(InputError, match=r"absent\.csv"):
        read_log(tmp_path / "absent.csv")
    log.write_text(CSV.replace("60", "-1").replace("120", "-1"), encoding="utf-8")
    with pytest.raises(InputError, match="3 of 3 records were rejected, the first because "):
        read_log(log, mapping=MAP)


def test_predictions_are_those_of_the_engine(habits: Jobs) -> None:
    jobs = habits()
    ended, waiting = jobs.head(800), jobs.tail(100)
    engine = Engine()
    engine.learn(ended[ended["ended_at"].notna()])
    predictions = Forecaster().learn(ended).predict(waiting, quantiles=[0.25])
    expected = engine.predict(waiting, (0.25,)).set_axis(waiting.index)
    pd.testing.assert_frame_equal(predictions, expected)
    low, median, high = (predictions[f"walltime_{end}"] for end in ("low", "median", "high"))
    assert ((low <= median) & (median <= high) & (high <= predictions["walltime_kill_limit"])).all()


def test_a_mapping_is_a_job_of_the_only_source_submitted_now(habits: Jobs) -> None:
    jobs = habits()
    forecaster = Forecaster().learn(jobs)
    latest = jobs["ended_at"].max() + pd.Timedelta(days=1)
    row = {"user": "u11", "group": "g3", "requested_walltime": 86400, "requested_cores": 4}
    full = {**row, "source": "made", "job_id": "x", "submitted_at": latest}
    predictions = forecaster.predict([row, full])
    assert predictions["job_id"].tolist() == ["0", "x"]
    assert not predictions["cold_start"].any()
    numbers = predictions.drop(columns="job_id")
    assert numbers.iloc[0].equals(numbers.iloc[1])
    earlier = forecaster.predict([row], at=jobs["submitted_at"].min())
    assert earlier["cold_start"].all()


def test_outcomes_of_the_jobs_to_predict_are_not_read(habits: Jobs) -> None:
    jobs = habits()
    forecaster = Forecaster.train(jobs.head(800))
    waiting = jobs.tail(100)
    changed = waiting.assign(walltime=1e6, ended_at=waiting["submitted_at"], host="far")
    predictions = forecaster.predict(waiting)
    pd.testing.assert_frame_equal(predictions, forecaster.predict(changed))


def test_a_job_of_an_unclear_source_is_refused(habits: Jobs) -> None:
    jobs = habits()
    with pytest.raises(InputError, match="needs a source"):
        Forecaster().predict([{"user": "u1"}])
    forecaster = Forecaster().learn(jobs).learn(jobs.assign(source="second"))
    with pytest.raises(InputError, match="made, second"):
        forecaster.predict([{"user": "u1"}])
    assert len(forecaster.predict([{"user": "u1", "source": "made"}])) == 1


def test_a_trained_forecaster_names_its_version_and_targets(habits: Jobs) -> None:
    jobs = habits().assign(peak_memory=2e9)
    forecaster = Forecaster.train(jobs, targets=["walltime", "peak_memory"])
    assert forecaster.targets == ("walltime", "peak_memory")
    assert forecaster.version != Forecaster().version == "none"
    with pytest.raises(InputError, match="no target 'speed'"):
        Forecaster(targets=["speed"])


def test_a_backtest_compares_with_the_baselines_and_has_its_calibration(habits: Jobs) -> None:
    result = backtest(habits(), warm_up=0.2, predictors=["gridcast", "template"])
    assert {row["predictor"] for row in result.rows} == {"gridcast", "template"}
    assert sum(result.deciles) == pytest.approx(1)
    assert len(result.reliability) == len(np.linspace(0.05, 0.95, 19))
    assert result.reliability == sorted(result.reliability)
    assert {"actual", "gridcast", "low", "high"} <= set(result.jobs)
