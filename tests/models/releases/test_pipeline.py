"""The training pipeline: its options, its steps, and how it compares sources of their own times."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from infra.settings import Settings
from jobs.store import add_jobs, open_store
from jobs.workload import generate
from models.engine.model_set import FormatError, ModelSet
from models.engine.training import TrainingError, train
from models.refiner.boosting import fit_here
from models.refiner.training_rows import TrainingRows
from models.releases import candidate, pipeline, registry
from models.releases.candidate import compare_by_source, is_promotable, split_sources
from models.releases.pipeline import (
    Release,
    TrainingOptions,
    TrainingPipeline,
    complete_options,
    decide,
)
from models.releases.verification import load_model_set
from models.releases.versions import Evidence


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, dask="off")


@pytest.fixture
def store(settings: Settings) -> Iterator[Any]:
    engine = open_store(settings.store_url)
    yield engine
    engine.dispose()


def fill(store: Any, *frames: pd.DataFrame) -> None:
    with store.begin() as connection:
        for frame in frames:
            add_jobs(connection, frame)


def run(store: Any, settings: Settings, **options: Any) -> Release:
    release = TrainingPipeline(store, settings, TrainingOptions(**options)).run()
    assert release
    return release


def publish(model_set: ModelSet, settings: Settings) -> None:
    folder = settings.folder("tmp") / "set"
    model_set.save(folder)
    version = registry.publish(folder, Evidence(card="a champion"), settings=settings)
    registry.promote(version.version, by="flow train", why="a test", settings=settings)


def test_a_training_is_as_the_champions_and_no_version_serves_by_itself_that_foresees_less(
    settings: Settings, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = generate(1600, 8, 5, sites=3, users=8).jobs
    nothing = complete_options(TrainingOptions(), None)
    assert (nothing.targets, nothing.cluster_by) == (("walltime",), None)
    champion = train(jobs.iloc[:900], targets=("walltime", "peak_memory"), cluster_by="group")
    publish(champion, settings)

    def completed(**options: Any) -> tuple[Any, Any]:
        done = complete_options(TrainingOptions(**options), champion)
        return done.targets, done.cluster_by

    assert completed() == (("walltime", "peak_memory"), "group")
    assert completed(targets=["cpu_time"]) == (("cpu_time",), "group")
    assert completed(cluster_by="site") == (("walltime", "peak_memory"), "site")

    fill(store, jobs)
    monkeypatch.setattr(candidate, "is_promotable", lambda excess: True)
    less = run(store, settings, targets=["walltime"])
    assert not less.promoted and "does not predict peak_memory, which" in less.why
    as_much = run(store, settings)
    assert as_much.promoted and {row["target"] for row in as_much.rows} == {
        "walltime",
        "peak_memory",
    }


def test_a_champion_of_another_format_is_replaced_as_if_there_were_none(
    settings: Settings, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = generate(900, 8, 5, sites=3, users=8).jobs
    fill(store, jobs)
    with monkeypatch.context() as earlier:
        earlier.setattr("models.engine.model_set.FORMAT", 1)
        publish(train(jobs.iloc[:400], targets=("walltime",)), settings)
    old = registry.champion(settings)
    with pytest.raises(FormatError, match="has format 1, this Gridcast reads"):
        load_model_set(old, settings)

    ask = settings.model_copy(update={"promotion": "ask"})
    waiting = run(store, ask, cluster_by="none")
    assert not waiting.promoted and "this Gridcast cannot read gridcast-1" in waiting.why
    assert "waits for a person" in waiting.why and registry.champion(settings).version == 1

    release = decide(waiting.version, waiting.comparison, settings, by="a test", unreadable=old)
    assert release.promoted and "cannot read gridcast-1" in release.why
    assert registry.champion(settings).version == 2


def test_clusters_are_found_from_the_fields_of_the_jobs_unless_none_are_wanted(
    settings: Settings, store: Any
) -> None:
    jobs = generate(1500, 8, 5, sites=3, users=8).jobs
    fill(store, jobs.assign(group=None))
    by_site = load_model_set(run(store, settings).version, settings).card
    assert by_site.cluster_by == "site"
    reports = by_site.clusters["walltime"]
    assert {row["cluster"] for row in reports} == {"global", *("site " + jobs["site"].unique())}
    assert all(row["answers"] and ("crps" in row or "why" in row) for row in reports)
    assert all("crps_global" in row for row in reports[1:])

    one_model = run(store, settings, cluster_by="none")
    assert load_model_set(one_model.version, settings).card.cluster_by is None
    card = one_model.version.card
    assert "CatBoost models: one for all jobs" in card
    # A champion without clusters by choice is followed; one that predates the choice is not.
    chosen = load_model_set(one_model.version, settings)
    assert complete_options(TrainingOptions(), chosen).cluster_by == "none"


def test_sources_of_different_years_are_compared_each_on_its_own_later_jobs(
    settings: Settings, store: Any
) -> None:
    old = generate(1300, 8, 5).jobs.assign(source="old")
    for name in ("submitted_at", "started_at", "ended_at"):
        old[name] -= pd.Timedelta(days=3000)
    fill(store, old, generate(1600, 8, 6).jobs.assign(source="new"))
    release = run(store, settings, cluster_by="none")
    compared = {row["source"]: row["compared_on"] for row in release.source_rows}
    assert min(compared.values()) >= 200
    card = load_model_set(release.version, settings).card
    assert {name: data.jobs for name, data in card.by_source.items()} == {
        row["source"]: row["jobs"] for row in release.source_rows
    }
    assert {row["source"] for row in release.rows} == {"all", "old", "new"}
    assert "| old |" in release.version.card and "| new |" in release.version.card


def test_a_source_that_got_worse_blocks_the_promotion() -> None:
    random = np.random.default_rng(0)
    sources = pd.Series(np.where(random.random(1200) < 0.75, "a", "b"))
    truth = pd.Series(np.zeros(1200))
    champion = pd.Series(random.exponential(100.0, 1200))
    candidate = champion * sources.map({"a": 0.7, "b": 1.2})
    overall, by_source, better = compare_by_source(truth, candidate, champion, sources)
    assert is_promotable(overall), "all sources together, it would be promoted"
    assert by_source["a"].high < 0 < by_source["b"].low
    assert not better
    assert compare_by_source(truth, champion * 0.8, champion, sources)[2]
    only = pd.Series(["a"] * 1200)
    assert compare_by_source(truth, candidate, champion, only)[2]


def test_jobs_of_another_source_are_no_news_to_a_champion_trained_on_one(
    settings: Settings,
) -> None:
    mine = generate(1500, 8, 5).jobs.assign(source="mine")
    of_others = generate(1500, 8, 6).jobs.assign(source="theirs")
    for name in ("submitted_at", "started_at", "ended_at"):
        of_others[name] += pd.Timedelta(days=100)
    champion = train(mine)
    splits, _, _, later = split_sources(pd.concat([mine, of_others], ignore_index=True), champion)
    by_name = {split.source: split for split in splits}
    assert (by_name["mine"].fresh, by_name["mine"].later) == (0, 0)
    assert set(later["source"]) == {"theirs"}


def test_a_retraining_stops_before_it_trains_where_nothing_is_new(
    settings: Settings, store: Any
) -> None:
    fill(store, generate(1500, 8, 5).jobs)
    first = run(store, settings)
    again = TrainingPipeline(store, settings, TrainingOptions(only_if_comparable=True))
    assert again.run() is None
    assert again.comparison.sentence.startswith(
        f"Nothing to compare by: only 0 jobs that ended were submitted since {first.version.label}"
    )
    assert len(registry.versions(settings)) == 1


def test_a_store_that_teaches_nothing_is_refused_in_one_sentence(
    settings: Settings, store: Any
) -> None:
    def refusal(**options: Any) -> str:
        with pytest.raises(TrainingError) as error:
            run(store, settings, **options)
        return str(error.value)

    assert refusal().startswith("nothing is stored: ingest a log first")
    jobs = generate(300, 4, 5).jobs
    waiting = jobs.assign(started_at=pd.NaT, ended_at=pd.NaT, walltime=None, cpu_time=None)
    fill(store, waiting)
    assert refusal().startswith("none of the 300 stored jobs has ended")
    assert refusal(sources=["nobody"]).startswith(
        "no source called nobody is stored; there are generated (gridcast jobs"
    )
    fill(store, jobs.assign(source="blank", walltime=None, cpu_time=None, started_at=pd.NaT))
    assert refusal(sources=["blank"]).startswith(
        "none of the 300 jobs of the store reports its walltime"
    )


def test_a_dropped_source_does_not_stop_the_trainings_of_a_champion_that_was_trained_on_it(
    settings: Settings, store: Any
) -> None:
    from sqlalchemy import text

    fill(store, *(generate(1500, 8, 5).jobs.assign(source=name) for name in ("a", "b")))
    chosen = run(store, settings, sources=["a"])
    assert load_model_set(chosen.version, settings).card.selected_sources == ("a",)
    pipeline = TrainingPipeline(store, settings, TrainingOptions(only_if_comparable=True))
    assert pipeline.run() is None and set(pipeline.jobs["source"]) == {"a"}
    with store.begin() as connection:
        connection.execute(text("delete from jobs where source = 'a'"))
    pipeline = TrainingPipeline(store, settings, TrainingOptions(only_if_comparable=True))
    pipeline.run()
    assert set(pipeline.jobs["source"]) == {"b"}


def test_an_error_of_the_comparison_ends_the_training_on_all_jobs_beside_it(
    settings: Settings, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refiners whose fit has not begun are given up, and no thread is left."""

    def fail(*_arguments: object) -> None:
        raise ArithmeticError

    monkeypatch.setattr(pipeline, "compare_candidate", fail)
    monkeypatch.setattr(pipeline, "THREADS", 2)
    fill(store, generate(1500, 8, 5).jobs)
    training = TrainingPipeline(store, settings)
    with pytest.raises(ArithmeticError):
        training.run()
    assert training.started is not None
    assert training.started.done()


def test_fits_that_are_no_longer_wanted_do_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.refiner.boosting.THREADS", 2)
    rows = TrainingRows(*(np.zeros((600, 1)) for _ in range(6)))
    with pytest.raises(CancelledError):
        fit_here([rows, rows], is_cancelled=lambda: True)
