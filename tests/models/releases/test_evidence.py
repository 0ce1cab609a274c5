"""What MLflow has of a training: a run that spans it, its parts, and the common benchmark."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from infra.errors import InputError
from infra.settings import Settings
from jobs.store import add_jobs, open_store
from jobs.workload import generate
from models.releases import registry, runs
from models.releases.benchmark import jobs_digest
from models.releases.diagnostics import diagnostic_tables, points_by_period
from models.releases.pipeline import Release, TrainingOptions, TrainingPipeline

PARENT = "mlflow.parentRunId"


class Story:
    """Two trainings on one store: on the first days, and again when more jobs have come."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home, dask="off", _env_file=None)
        self.engine = open_store(self.settings.store_url)
        jobs = generate(4500, 12, 11).jobs.assign(source="grid")
        jobs["group"] = np.where(jobs.index % 2, "atlas", "cms")
        first = jobs["ended_at"] <= jobs["submitted_at"].quantile(0.6)
        self.began = datetime.now(UTC)
        self.store(jobs[first])
        self.first = self.train()
        self.store(jobs[~first])
        self.second = self.train()
        self.ended = datetime.now(UTC)

    def store(self, jobs: pd.DataFrame) -> None:
        with self.engine.begin() as connection:
            add_jobs(connection, jobs)

    def train(self, **options: Any) -> Release:
        wanted = TrainingOptions(**{"cluster_by": "group", "by": "gridcast train", **options})
        release = TrainingPipeline(self.engine, self.settings, wanted).run()
        assert release
        return release

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.settings.tracking_url, self.settings.tracking_url)

    def run_of(self, release: Release) -> Any:
        return self.client.get_run(release.version.run_id)

    def children(self, release: Release) -> list[Any]:
        run = self.run_of(release)
        query = f"tags.`{PARENT}` = '{run.info.run_id}'"
        return list(self.client.search_runs([run.info.experiment_id], query))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "SAMPLING_SECONDS", 0.2)
        return Story(tmp_path_factory.mktemp("story"))


def test_a_run_spans_its_training_and_says_where_it_ran(story: Story) -> None:
    run = story.run_of(story.first)
    begin, end = (
        datetime.fromtimestamp(moment / 1000, UTC)
        for moment in (run.info.start_time, run.info.end_time)
    )
    children = story.children(story.first)
    assert story.began.replace(microsecond=0) <= begin < end <= story.ended
    assert children, "a model of all jobs at least"
    assert all(
        run.info.start_time < child.info.start_time < child.info.end_time < run.info.end_time
        for child in children
    ), "the training of the models lies within the run"
    assert run.data.tags["mlflow.source.name"] == "gridcast train"
    assert run.data.tags["host"] and run.data.tags["mlflow.user"]
    if (Path(runs.models.__file__).parents[1] / ".git").exists():
        assert len(run.data.tags["mlflow.source.git.commit"]) == 40
    assert run.data.params["library.catboost"].startswith("1.")
    assert {"refiner.iterations", "walltime.mixture.count_power"} & run.data.params.keys()
    assert [name for name in run.data.metrics if name.startswith("system/cpu")]


def test_each_target_and_cluster_has_a_run_below_with_its_errors(story: Story) -> None:
    children = {child.info.run_name: child for child in story.children(story.first)}
    assert {"walltime: all jobs", "walltime: group atlas", "walltime: group cms"} >= set(children)
    everything = children["walltime: all jobs"]
    assert everything.data.params["cluster"] == "global"
    assert everything.data.metrics["validation.crps"] > 0
    assert all(child.info.status == "FINISHED" for child in children.values())


def test_the_datasets_and_the_experiments_kind_are_logged(story: Story) -> None:
    run = story.run_of(story.first)
    by_context = {entry.tags[0].value: entry.dataset for entry in run.inputs.dataset_inputs}
    assert set(by_context) == {"training", "evaluation"}
    assert json.loads(by_context["training"].profile)["num_rows"] == int(run.data.params["jobs"])
    assert json.loads(by_context["training"].source)["tags"]["sources"] == "grid"
    assert by_context["evaluation"].digest == story.first.version.tags["benchmark_digest"]
    experiment = story.client.get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_errors_over_time_are_steps_whose_mean_is_the_error(story: Story) -> None:
    run_id = story.first.version.run_id
    history = story.client.get_metric_history(run_id, "by_period/walltime.candidate.mae")
    assert [metric.step for metric in history] == list(range(len(history)))
    assert len(history) > 1
    times = [metric.timestamp for metric in history]
    assert times == sorted(times) and times[0] < story.began.timestamp() * 1000
    table = read_table(story, story.first, "errors-by-period")
    mean = np.average(table["mae"], weights=table["jobs"])
    assert mean == pytest.approx(registry.metrics(story.first.version, story.settings)[
        "walltime.candidate.mae"
    ])  # fmt: skip


def read_table(story: Story, release: Release, name: str) -> pd.DataFrame:
    path = story.client.download_artifacts(release.version.run_id, f"tables/{name}.json")
    return pd.read_json(path, orient="split")


def test_the_tables_are_of_the_later_jobs_and_shap_names_inputs_readably(story: Story) -> None:
    jobs = registry.metrics(story.first.version, story.settings)["walltime.candidate.jobs"]
    for name in ("errors-by-size", "errors-by-cluster", "errors-by-period"):
        assert read_table(story, story.first, name)["jobs"].sum() == jobs
    calibration = read_table(story, story.first, "calibration")
    assert calibration["share_below"].is_monotonic_increasing
    shap = read_table(story, story.first, "shap")
    assert (shap["mean_abs_shap"] >= 0).all() and shap["direction"].between(-1, 1).all()
    assert not shap["input"].str.match(r"mass_|quantile_").any()
    plots = {item.path for item in story.client.list_artifacts(story.first.version.run_id, "plots")}
    assert {"plots/errors-walltime.png", "plots/predicted-walltime.png"} <= plots


def test_versions_are_measured_on_the_same_later_jobs(story: Story) -> None:
    first, second = (
        registry.get(release.version.version, story.settings)
        for release in (story.first, story.second)
    )
    assert second.tags["benchmark_digest"] == first.tags["benchmark_digest"]
    assert first.tags["benchmark_digest"] != story.first.version.tags["benchmark_digest"]
    history = story.client.get_metric_history(first.run_id, "benchmark_mae_s")
    assert [metric.step for metric in history] == [0, second.version]
    measured = registry.metrics(second, story.settings)
    assert measured["benchmark_mae_s"] == pytest.approx(measured["walltime.candidate.mae"])
    assert history[-1].value == pytest.approx(measured["walltime.champion.mae"])
    assert float(first.tags["benchmark_mae_s"]) == pytest.approx(history[-1].value, rel=1e-4)
    assert float(first.tags["benchmark_baseline_mae_s"]) == pytest.approx(
        min(measured[f"walltime.{rule}.mae"] for rule in ("median-10", "last-two", "request")
            if f"walltime.{rule}.mae" in measured), rel=1e-4
    )  # fmt: skip


def test_the_same_jobs_and_settings_make_no_second_version(story: Story) -> None:
    before = len(registry.versions(story.settings))
    again = story.train()
    assert (again.is_new, again.promoted) == (False, False)
    assert again.version.version == story.second.version.version
    assert again.why.startswith("nothing new to learn")
    assert len(registry.versions(story.settings)) == before


def test_a_failed_training_leaves_a_failed_run_that_says_why(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.releases import pipeline

    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("no memory left")

    monkeypatch.setattr(pipeline, "train", fail)
    with pytest.raises(RuntimeError):
        story.train(cluster_by="none")
    experiment = story.run_of(story.first).info.experiment_id
    [run] = story.client.search_runs([experiment], "attributes.status = 'FAILED'")
    assert run.data.tags["failed_why"] == "no memory left"


@pytest.fixture
def loaded(story: Story, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The first version, as MLflow loads it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", story.settings.tracking_url)
    with warnings.catch_warnings(action="ignore"):  # of its own type hints
        from mlflow import pyfunc, set_registry_uri, set_tracking_uri

        set_tracking_uri(story.settings.tracking_url)
        set_registry_uri(story.settings.tracking_url)
        yield pyfunc.load_model(f"models:/gridcast/{story.first.version.version}")
        # Both are of the whole process, and other tests have registries of their own.
        set_tracking_uri(None)
        set_registry_uri(None)
        os.environ.pop("MLFLOW_REGISTRY_URI", None)


def test_mlflow_loads_a_version_that_predicts_a_frame_without_a_server(loaded: Any) -> None:
    jobs = generate(300, 3, 5).jobs.assign(source="grid")
    answers = loaded.predict(jobs)
    assert answers["job_id"].tolist() == jobs["job_id"].tolist()
    assert set(loaded.metadata.signature.outputs.input_names()) == set(answers)
    assert (answers["walltime_low"] <= answers["walltime_high"]).all()
    first = jobs["submitted_at"].idxmin()
    # Nothing had ended by then: no later outcome of the frame is used.
    assert answers.loc[first, "cold_start"]
    assert not answers["cold_start"].all()


def test_a_loaded_version_takes_whole_numbers_and_needs_no_more_than_the_source(
    loaded: Any,
) -> None:
    jobs = pd.DataFrame({"source": ["grid"] * 2, "requested_walltime": [3600, 7200]})
    answers = loaded.predict(jobs)
    assert answers["job_id"].tolist() == ["0", "1"]
    assert (answers["walltime"] > 0).all()
    numbered = jobs.assign(job_id=[7, 8], submitted_at="2026-03-01 12:00")
    assert loaded.predict(numbered)["job_id"].tolist() == ["7", "8"]
    assert loaded.predict(numbered.assign(job_id=[7.0, 8.0]))["job_id"].tolist() == ["7", "8"]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"requested_walltime": [3600, "an hour"]}, "requested_walltime of row 1 is no number: an"),
        ({"submitted_at": ["2026-03-01", None]}, "submitted_at of row 1 is missing"),
        ({"ended_at": ["2026-03-01", None]}, "jobs that have ended need submitted_at"),
    ],
)
def test_a_loaded_version_names_what_it_cannot_read(
    loaded: Any, columns: dict[str, list[object]], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        loaded.predict(pd.DataFrame({"source": ["grid"] * 2} | columns))


def test_a_digest_does_not_depend_on_the_order_of_jobs_but_on_their_values() -> None:
    jobs = generate(50, 2, 1).jobs[["job_id", "walltime"]]
    assert jobs_digest(jobs) == jobs_digest(jobs.sample(frac=1, random_state=0))
    assert jobs_digest(jobs) != jobs_digest(jobs.assign(walltime=jobs["walltime"] + 1))


def test_diagnostics_of_three_jobs_are_as_counted_by_hand() -> None:
    times = pd.to_datetime(["2026-01-01T00:00Z", "2026-01-01T12:00Z", "2026-01-03T00:00Z"])
    later = pd.DataFrame({"submitted_at": times, "walltime": [100.0, 200.0, 300.0]})
    answers = pd.DataFrame(
        {
            "walltime": [110.0, 180.0, 300.0],
            "walltime_low": [0.0, 190.0, 250.0],
            "walltime_high": [150.0, 195.0, 350.0],
        }
    )
    tables = diagnostic_tables(later, answers, "walltime", pd.Series(["a", "a", "b"]))
    cluster = tables["errors-by-cluster"].set_index("cluster")
    assert cluster["mae"].to_dict() == {"a": 15.0, "b": 0.0}
    assert cluster["coverage_90"].to_dict() == {"a": 0.5, "b": 1.0}
    assert cluster["bias"].to_dict() == {"a": -5.0, "b": 0.0}
    assert tables["errors-by-period"]["jobs"].tolist() == [2, 1]
    share = tables["calibration"].set_index("level")["share_below"]
    assert share.to_dict() == pytest.approx({0.05: 1 / 3 * 0, 0.95: 2 / 3})
    points = points_by_period(later, {"candidate": answers}, "walltime")
    errors = [point for point in points if point.name.endswith(".mae")]
    assert [(point.step, point.value) for point in errors] == [(0, 15.0), (1, 0.0)]
