"""Sources are watched apart: another source's jobs and predictions say nothing of the champion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import Engine

from jobs.store import add_jobs, add_predictions, open_store
from jobs.workload import generate
from models.engine.model_card import ModelCard, SourceData, TrainingWindow
from models.releases.versions import Version, jobs_by_source, sources_tag
from monitoring.decay.champion import DecayReport, watch_champion
from monitoring.decay.detection import Alarm
from monitoring.decay.triggers import reason_to_retrain
from monitoring.drift.check import windows
from monitoring.drift.report import DriftReport

NOW = pd.Timestamp("2026-04-01", tz="UTC")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_store(f"sqlite:///{tmp_path / 'jobs.db'}")
    yield engine
    engine.dispose()


def fill(engine: Engine, *frames: pd.DataFrame) -> None:
    with engine.begin() as connection:
        for frame in frames:
            add_jobs(connection, frame)


def of_source(name: str, jobs: int, seed: int, days: int = 0) -> pd.DataFrame:
    frame = generate(jobs, 8, seed).jobs.assign(source=name)
    for column in ("submitted_at", "started_at", "ended_at"):
        frame[column] += pd.Timedelta(days=days)
    return frame


def window_of(jobs: pd.DataFrame, share: float = 0.5) -> TrainingWindow:
    until = jobs["ended_at"].quantile(share).as_unit("us")
    return TrainingWindow(
        jobs["submitted_at"].min().isoformat(),
        jobs["submitted_at"].max().isoformat(),
        int(until.asm8.astype("int64")),
    )


def version(tags: dict[str, str]) -> Version:
    created = (NOW - pd.Timedelta(days=9)).to_pydatetime()
    return Version("gridcast", 1, "", "champion", ("champion",), created, "", tags)


def test_jobs_of_another_source_are_no_news_for_a_retraining(engine: Engine) -> None:
    mine, others = of_source("mine", 500, 1), of_source("theirs", 3000, 2)
    fill(engine, mine, others)
    alarm = Alarm(int((NOW - pd.Timedelta(days=8)).timestamp() * 1e6), "worse", "all", 0.0, 0.1)

    def reason(sources: tuple[str, ...], tags: dict[str, str]) -> str:
        card = ModelCard("", 0, window_of(mine), sources=sources)
        report = DecayReport("worse", alarms=(alarm,))
        drift = DriftReport("none", "", ())
        return reason_to_retrain(
            engine, card, report, drift, version(tags), NOW.to_pydatetime(), 3600.0
        )

    trained = {"jobs": "500", **sources_tag({"mine": 500})}
    assert reason(("mine", "theirs"), trained).startswith("decay")
    assert reason(("mine",), trained) == ""
    assert reason(("mine",), {"jobs": "500"}) == "", "a version of before says only the sum"


def test_a_version_says_what_each_source_gave_unless_there_are_too_many() -> None:
    assert jobs_by_source(version(sources_tag({"a": 3, "b": 4}))) == {"a": 3, "b": 4}
    assert jobs_by_source(version(sources_tag({f"source {i}": i for i in range(999)}))) is None
    assert jobs_by_source(version({"jobs_by_source": "no JSON"})) is None


def test_drift_compares_each_source_with_its_own_window(engine: Engine) -> None:
    old, new = of_source("old", 1500, 1, days=-4000), of_source("new", 1500, 2)
    fill(engine, old, new, of_source("unknown", 900, 3))
    by_source = {name: SourceData(1500, window_of(jobs)) for name, jobs in
                 (("old", old), ("new", new))}  # fmt: skip
    card = ModelCard("", 3000, window_of(new), sources=("old", "new"), by_source=by_source)
    reference, recent = windows(engine, card)
    for name, jobs in (("old", old), ("new", new)):
        until = by_source[name].window.until
        inside = (reference["ended_at"] >= jobs["ended_at"].min()) & (
            reference["ended_at"] <= until
        )
        assert inside.sum() == (jobs["ended_at"] <= until).sum()
        later = (recent["ended_at"] > until) & (recent["ended_at"] <= jobs["ended_at"].max())
        assert later.sum() == (jobs["ended_at"] > until).sum()
    assert len(reference) + len(recent) == 3000, "nothing of a source that it never saw"


def test_the_champion_is_judged_by_predictions_of_its_own_sources(engine: Engine) -> None:
    mine, others = of_source("mine", 900, 1), of_source("theirs", 900, 2)
    later = [jobs.sort_values("submitted_at").tail(300) for jobs in (mine, others)]
    logged = pd.concat(later)[["source", "job_id", "submitted_at"]].assign(
        asked_at=lambda frame: frame["submitted_at"],
        target="walltime",
        model_version="gridcast-1",
        cluster="global",
        point=60.0,
        median=60.0,
        low=1.0,
        high=99.0,
        cold_start=False,
        known_revision=0,
    )
    with engine.begin() as connection:
        add_predictions(connection, logged.drop(columns="submitted_at"))
    fill(engine, mine, others)
    everything = watch_champion(engine, "gridcast-1", NOW.to_pydatetime())
    only = watch_champion(engine, "gridcast-1", NOW.to_pydatetime(), sources=("mine",))
    assert everything.answers - only.answers == 300 and only.answers > 290
