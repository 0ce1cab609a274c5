"""The champion's predictions against outcomes: alarms, their clusters, and open jobs."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine

from jobs.schema import OUTCOMES
from jobs.store import add_jobs, add_predictions, open_store, read_measurements
from jobs.workload import generate
from models.engine.model_card import ModelCard, TrainingWindow
from models.quantities.targets import TARGETS
from models.releases.versions import Version
from monitoring.decay.champion import _figures, watch_champion
from monitoring.decay.triggers import reason_to_retrain
from monitoring.drift.report import DriftReport

CARD = ModelCard(
    "",
    0,
    TrainingWindow("", "", 0),
    levels=("user+program",),
    features={"walltime": ["requested_cores"]},
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_store(f"sqlite:///{tmp_path / 'jobs.db'}")
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def jobs() -> pd.DataFrame:
    return generate(6000, 30, 3).jobs.sort_values("submitted_at", kind="stable", ignore_index=True)


def predict(
    engine: Engine,
    jobs: pd.DataFrame,
    off: np.ndarray,
    label: str = "gridcast-1",
    shadow: bool = False,
) -> None:
    """Log predictions that are ``off`` by a factor."""
    point = np.maximum(jobs["walltime"].fillna(60) * off, 1.0).to_numpy()
    told = jobs[["source", "job_id"]].assign(
        asked_at=jobs["submitted_at"], target="walltime", model_version=label, cluster="global"
    )
    told = told.assign(
        point=point,
        median=point,
        low=point / 3,
        high=point * 3,
        cold_start=False,
        known_revision=0,
        shadow=shadow,
    )
    with engine.begin() as connection:
        add_predictions(connection, told)


def store(engine: Engine, jobs: pd.DataFrame) -> datetime:
    with engine.begin() as connection:
        add_jobs(connection, jobs)
    return (jobs["submitted_at"].max() + pd.Timedelta(days=4)).to_pydatetime()


def test_good_predictions_do_not_decay_and_bad_ones_do_whatever_the_shadow_says(
    engine: Engine, jobs: pd.DataFrame
) -> None:
    later = jobs[jobs["submitted_at"] > jobs["submitted_at"].iloc[1000]]
    noise = np.random.default_rng(0).lognormal(0, 0.1, len(later))
    now = store(engine, jobs)
    predict(engine, later, noise)
    predict(engine, later, noise * 50, "gridcast-2", shadow=True)
    good = watch_champion(engine, "gridcast-1", now)
    assert good.sentence.startswith("No decay of gridcast-1, ")
    assert good.answers > 4000

    bad = np.where(np.arange(len(later)) > len(later) // 2, 8.0, 1.0) * noise
    predict(engine, later, bad, "gridcast-3")
    found = watch_champion(engine, "gridcast-3", now)
    assert found.sentence.startswith("Decay of gridcast-3, ")
    assert {alarm.kind for alarm in found.alarms} & {"rose", "worse"}
    kept = (
        read_measurements(engine, kind="decay", segment="all")
        .drop_duplicates("name", keep="last")
        .set_index("name")
    )
    assert set(kept.index) >= {
        f"walltime {name}"
        for name in ("mae", "baseline_mae", "bias", "under", "coverage_90", "width", "open")
    }


def test_too_few_answers_say_nothing_and_change_nothing(engine: Engine, jobs: pd.DataFrame) -> None:
    now = store(engine, jobs)
    predict(engine, jobs.tail(50), np.ones(50))
    assert (
        watch_champion(engine, "gridcast-1", now).sentence
        == "Too few answers to judge gridcast-1 by: 50, and 200 are needed."
    )
    assert read_measurements(engine, kind="decay").empty


def test_outcomes_that_never_come_are_counted_and_stop_nothing(
    engine: Engine, jobs: pd.DataFrame
) -> None:
    later = jobs.tail(2000).copy()
    lost = np.arange(2000) % 2 == 0
    later.loc[later.index[lost], list(OUTCOMES)] = None
    now = store(engine, pd.concat([jobs.head(4000), later]))
    predict(engine, later, np.ones(2000))
    found = watch_champion(engine, "gridcast-1", now)
    assert found.answers <= 1000
    assert read_measurements(engine, "walltime open", kind="decay")["value"].iloc[
        0
    ] == pytest.approx(0.5, abs=0.05)


def test_recent_figures_are_those_of_all_jobs_and_not_of_the_short_ones_that_ended() -> None:
    now = pd.Timestamp("2026-01-10", tz="UTC")
    hours = np.linspace(0.01, 40, 4000)[::-1]
    walltime = np.where(np.arange(4000) % 2 == 0, 3600.0, 72_000.0)
    submitted = now - pd.to_timedelta(hours, unit="h")
    ended = (submitted + pd.to_timedelta(walltime, unit="s")).where(hours * 3600 > walltime)
    answers = pd.DataFrame(
        {
            "submitted_at": submitted,
            "ended_at": ended,
            "walltime": np.where(pd.isna(ended), np.nan, walltime),
        }
    )
    answers = answers.assign(
        point=7200.0, baseline=3600.0, low=1.0, high=10_000.0, cluster="group a"
    )
    figures = _figures(answers, TARGETS["walltime"], now)
    value = figures[figures["segment"] == "all"].set_index("name")["value"]
    # By what has ended alone, two jobs of three would be short ones.
    assert value["walltime mae"] == pytest.approx((3600 + 64_800) / 2, rel=0.01)
    assert value["walltime coverage_90"] == pytest.approx(0.5, abs=0.01)


def test_jobs_that_retention_drops_do_not_count_against_those_that_came(
    engine: Engine, jobs: pd.DataFrame
) -> None:
    from jobs.store import add_measurements, count_jobs
    from monitoring.decay.champion import DecayReport
    from monitoring.decay.detection import Alarm

    with engine.begin() as connection:
        add_jobs(connection, jobs)
    known, now = int(count_jobs(engine)["ended"].sum()), pd.Timestamp.now(tz="UTC")
    trained = now - pd.Timedelta(hours=10)
    latest = Version(
        "gridcast",
        1,
        "",
        "champion",
        ("champion",),
        trained.to_pydatetime(),
        "",
        {"jobs": str(known)},
    )
    decay_report = DecayReport(
        "worse", alarms=(Alarm(int(trained.timestamp() * 1e6), "worse", "all", 0.0, 0.1),)
    )

    def reason() -> str:
        return reason_to_retrain(
            engine, CARD, decay_report, DriftReport("none", "", ()), latest, now, 3600.0
        )

    assert reason() == ""
    gone = {
        "measured_at": now - pd.Timedelta(hours=1),
        "kind": "retention",
        "name": "jobs",
        "value": float(known),
    }
    with engine.begin() as connection:
        add_measurements(connection, pd.DataFrame([gone]))
    assert reason().startswith("decay")


def test_drift_is_a_reason_once_and_only_where_it_matters(
    engine: Engine, jobs: pd.DataFrame
) -> None:
    from jobs.store import add_measurements
    from monitoring.decay.champion import DecayReport

    now = pd.Timestamp.now(tz="UTC")
    trained = now - pd.Timedelta(hours=10)
    latest = Version(
        "gridcast", 1, "", "champion", ("champion",), trained.to_pydatetime(), "", {"jobs": "0"}
    )

    def reason(*drifted: str, cooldown: float = 3600.0) -> str:
        return reason_to_retrain(
            engine,
            CARD,
            DecayReport("fine"),
            DriftReport("drift", "it moved", drifted),
            latest,
            now,
            cooldown,
        )

    assert reason("walltime", "host") == "drift of walltime"
    assert reason("program") == "drift of program"
    assert reason("host") == ""
    assert reason("walltime", cooldown=86_400.0) == ""
    seen = {
        "measured_at": trained - pd.Timedelta(hours=1),
        "kind": "drift",
        "name": "verdict",
        "segment": "all",
        "value": 1.0,
    }
    with engine.begin() as connection:
        add_measurements(connection, pd.DataFrame([seen | {"details": {"drifted": ["walltime"]}}]))
    assert reason("walltime") == ""
    assert reason("walltime", "peak_memory") == "drift of peak_memory"
