"""Optional facts and labels: those that lower the error are used, others change nothing."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from jobs.coded_jobs import encode_jobs, in_microseconds
from jobs.labels import write_labels
from jobs.schema import conform
from models.engine.backtest import backtest
from models.engine.forecaster import Forecaster
from models.engine.level_selection import select_levels
from models.engine.model_set import ModelSet
from models.engine.training import train
from models.histories.features import Levels, choose_levels, encode, optional_fields
from models.quantities.targets import TARGETS
from models.refiner.clusters import GLOBAL
from tests.models.engine.test_prequential import scrambled_after

Jobs = Callable[..., pd.DataFrame]
WALLTIME = TARGETS["walltime"]


def with_labels(jobs: pd.DataFrame, **labels: object) -> pd.DataFrame:
    columns = pd.DataFrame(labels, index=jobs.index)
    return jobs.assign(labels=write_labels(columns)[0])


def slowed(jobs: pd.DataFrame, factor: np.ndarray) -> pd.DataFrame:
    """The jobs, without requests, as if each had run ``factor`` times as long."""
    ran = np.floor(jobs["walltime"] * factor) + 1
    ended = jobs["started_at"] + pd.to_timedelta(ran, unit="s")
    return jobs.assign(walltime=ran, ended_at=ended, requested_walltime=np.nan)


@pytest.fixture(scope="module")
def labelled(habits: Jobs) -> pd.DataFrame:
    """Jobs of four releases, each 6 times as slow as the last, with labels that tell nothing."""
    jobs, draw = habits(rows=2400, seed=5), np.random.default_rng(1)
    release = draw.integers(0, 4, len(jobs))
    return with_labels(
        slowed(jobs, 6.0**release),
        release=[f"r{number}" for number in release],
        shift=[f"s{number}" for number in draw.integers(0, 3, len(jobs))],
        note=[f"job {number}" for number in range(len(jobs))],
        same="always",
        temperature=draw.normal(20, 5, len(jobs)).round(1),
    )


@pytest.fixture(scope="module")
def model_set(labelled: pd.DataFrame) -> ModelSet:
    return train(labelled.iloc[:2000])


def error(jobs: pd.DataFrame) -> float:
    """The mean error in octaves after the warm-up."""
    tested = backtest(jobs, warm_up=0.4, refined=False)
    return float(np.abs(np.log2((tested.point + 1) / (tested.truth + 1))).mean())


def test_only_the_label_that_matters_is_used(labelled: pd.DataFrame) -> None:
    selected = select_levels(labelled.iloc[:1500], [WALLTIME])
    gains = {gain.field: gain for gain in selected.gains["walltime"]}
    assert [name for name, gain in gains.items() if gain.used] == ["label:release"]
    assert gains["label:release"].gain > 0.2  # type: ignore[operator]
    # A label that is constant or names each job is not even tried.
    assert gains.keys() == {"label:release", "label:shift", "label:temperature"}
    assert "user+label:release" in [level.name for level in selected.levels.levels]
    assert selected.levels.categories == ("label:release",)


def test_the_error_falls_by_half_with_the_label_and_not_at_all_with_useless_ones(
    labelled: pd.DataFrame,
) -> None:
    draw = np.random.default_rng(2)
    without = labelled.assign(labels=None)
    useless = with_labels(without, shift=[f"s{n}" for n in draw.integers(0, 3, len(without))])
    assert error(labelled) < 0.5 * error(without)
    assert error(useless) == error(without)


def test_a_number_is_used_by_bins_of_earlier_jobs(habits: Jobs) -> None:
    jobs, draw = habits(rows=2400, seed=6), np.random.default_rng(1)
    reads = np.exp(draw.normal(12, 1.5, len(jobs)))
    numbered = with_labels(slowed(jobs, reads / 1e4), input_reads=reads)
    levels = select_levels(numbered.iloc[:960], [WALLTIME]).levels
    assert levels.numbers[-1] == "label:input_reads"
    cuts = levels.cuts["label:input_reads"]
    assert reads[:960].min() <= cuts[0] < cuts[-1] <= reads[:960].max()
    assert error(numbered) < 0.6 * error(numbered.assign(labels=None))


def test_facts_of_gpus_and_nodes_are_used_where_they_matter(habits: Jobs) -> None:
    jobs, draw = habits(rows=2400, seed=7), np.random.default_rng(1)
    gpus, qos = draw.choice([0.0, 1.0, 4.0], len(jobs)), draw.choice(["low", "high"], len(jobs))
    told = slowed(jobs, 20.0 ** (gpus / 2)).assign(requested_gpus=gpus, qos=qos)
    selected = select_levels(told.iloc[:1500], [WALLTIME])
    assert [gain.field for gain in selected.gains["walltime"] if gain.used] == ["requested_gpus"]
    numbers = encode(told, selected.levels).numbers[:, -1]
    np.testing.assert_array_equal(numbers, gpus)


def test_jobs_without_optional_fields_get_the_levels_that_they_had(habits: Jobs) -> None:
    jobs = habits()
    selected = select_levels(jobs, [WALLTIME])
    assert selected.levels == choose_levels(jobs)
    assert not selected.gains
    assert not optional_fields(jobs)


def test_levels_with_labels_are_the_same_after_a_restart(model_set: ModelSet) -> None:
    levels = model_set.levels
    assert Levels.from_json(levels.to_json()) == levels
    older = {
        name: value
        for name, value in levels.to_json().items()
        if name not in ("categories", "cuts")
    }
    assert Levels.from_json(older).levels == levels.levels


def test_no_prediction_moves_when_the_future_does(labelled: pd.DataFrame) -> None:
    """Neither the choice of labels nor what follows from it knows of later outcomes."""
    moment = labelled["submitted_at"].iloc[int(0.4 * len(labelled))]
    now, scrambled = (
        backtest(jobs, warm_up=0.4, refit_every=0.3)
        for jobs in (labelled, scrambled_after(labelled, moment))
    )
    before = labelled["submitted_at"].iloc[now.rows] <= moment
    assert before.any()
    np.testing.assert_array_equal(now.point[before], scrambled.point[: before.sum()])
    known_at = in_microseconds(moment)
    earlier = labelled["submitted_at"] <= moment
    selections = [
        select_levels(jobs[earlier], [WALLTIME], known_at)
        for jobs in (labelled, scrambled_after(labelled, moment))
    ]
    assert selections[0] == selections[1]


def test_the_card_tells_which_labels_are_used_and_what_they_are_worth(
    model_set: ModelSet,
) -> None:
    rows = {row["field"]: row for row in model_set.card.optional_fields["walltime"]}
    assert rows["label:release"]["used"]
    assert rows["label:release"]["gain"] > 0.2
    assert not rows["label:shift"]["used"]
    assert model_set.card.features["walltime"][-1] == "label:release"


def test_a_model_set_with_labels_predicts_the_same_after_it_was_saved(
    model_set: ModelSet, labelled: pd.DataFrame, tmp_path
) -> None:
    assert GLOBAL in model_set.targets["walltime"].refiners
    model_set.save(tmp_path)
    loaded = ModelSet.load(tmp_path)
    past, queries = labelled.iloc[:2000], labelled.iloc[2000:]
    predictions = []
    for version in (model_set, loaded):
        forecaster = Forecaster(version)
        forecaster.learn(past)
        predictions.append(forecaster.predict(queries))
    pd.testing.assert_frame_equal(*predictions)
    release = encode_jobs(queries, ["labels"])["labels"]
    assert len(release.values) == len(queries)
    [explanation] = forecaster.explain(
        encode_jobs(queries.iloc[:1], ("submitted_at", "source", "job_id", *forecaster.fields))
    )
    assert any("label:release" in item["alike"] for item in explanation["walltime"]["similar"])


def test_models_with_and_without_labels_predict_jobs_without_and_with_them(
    model_set: ModelSet, labelled: pd.DataFrame
) -> None:
    plain = labelled.assign(labels=None)
    queries = labelled.iloc[2000:]
    unlabelled = train(plain.iloc[:2000])
    assert not unlabelled.card.optional_fields
    forecasters = [Forecaster(model_set), Forecaster(unlabelled)]
    for forecaster in forecasters:
        forecaster.learn(labelled.iloc[:2000])
    for forecaster in forecasters:
        with_them, without = (forecaster.predict(jobs) for jobs in (queries, plain.iloc[2000:]))
        assert np.isfinite(with_them["walltime"]).all()
        assert np.isfinite(without["walltime"]).all()
    pd.testing.assert_frame_equal(with_them, without)  # that model reads no labels
    dropped = conform(queries).drop(columns=["labels"])
    pd.testing.assert_frame_equal(
        forecasters[0].predict(dropped), forecasters[0].predict(plain.iloc[2000:])
    )


def test_a_forecaster_without_a_model_takes_labels_up(labelled: pd.DataFrame) -> None:
    forecaster = Forecaster()
    forecaster.learn(labelled.iloc[:2000])
    assert "label:release" in forecaster.levels.columns
    assert "labels" in forecaster.fields
    queries = labelled.iloc[2000:]
    by_release = forecaster.predict(queries)["walltime"].groupby(
        queries["labels"].str.extract('"release":"(r.)"')[0].to_numpy()
    )
    assert by_release.median().is_monotonic_increasing
