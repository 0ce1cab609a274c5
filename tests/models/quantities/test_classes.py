"""Classes: cut by quantiles, computed from distributions, scored by the paper's measures."""

import doctest

import numpy as np
import pandas as pd
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

import models.quantities.classes
from infra.errors import InputError
from jobs.workload import generate
from models.engine.training import TrainingError
from models.evaluation.backtest import OURS
from models.evaluation.class_backtest import (
    CLASSIFIER,
    ClassPredictions,
    class_metrics,
    evaluate_classes,
    joint_metrics,
    per_class_metrics,
)
from models.quantities.classes import Cuts, class_of, cut, parse_thresholds, thresholds_of
from models.quantities.distribution import Distribution
from models.quantities.targets import TARGETS
from models.refiner.boosting import fit_classes

GRID = TARGETS["walltime"].grid


def test_the_examples_hold():
    assert doctest.testmod(models.quantities.classes).attempted > 0
    assert doctest.testmod(models.quantities.classes).failed == 0


@for_all(st.lists(st.floats(1.0, 1e6), min_size=1, max_size=200), st.integers(2, 6))
def test_classes_rise_with_the_values_and_none_is_empty(values, count):
    thresholds = cut(np.array(values), count, GRID)
    classes = class_of(np.array(values), thresholds)
    assert list(thresholds) == sorted(set(thresholds)) and len(thresholds) < count
    assert set(classes) == set(range(1, len(thresholds) + 2))
    assert (np.diff(classes[np.argsort(values, kind="stable")]) >= 0).all()


def test_equal_quantiles_make_equal_classes_of_values_that_differ():
    counts = np.bincount(
        class_of(np.geomspace(1, 1e5, 1000), cut(np.geomspace(1, 1e5, 1000), 5, GRID))
    )[1:]
    assert len(counts) == 5 and counts.min() > 150


def test_thresholds_that_are_given_are_kept_and_the_ladder_is_a_word_for_pandas():
    chosen = parse_thresholds("memory_per_core=ladder;walltime=60,3600")
    assert chosen["memory_per_core"][:2] == (1000 * 2.0**20, 2000 * 2.0**20)
    assert thresholds_of("walltime", np.array([1.0, 2.0]), chosen) == (60.0, 3600.0)
    for wrong in ("wall=1", "walltime=", "walltime=3,2", "walltime=a", "walltime=1,inf"):
        with pytest.raises(InputError, match="thresholds"):
            parse_thresholds(wrong)


def test_the_mass_between_the_thresholds_is_the_probability_of_the_class():
    values = np.array([30.0, 100.0, 5000.0])
    sure = np.zeros((3, GRID.bins), np.float32)
    sure[np.arange(3), GRID.bin(values)] = 1.0
    foreseen = Distribution(GRID, sure, np.full(3, np.inf))
    thresholds = cut(values, 3, GRID)
    shares = foreseen.shares(Cuts.of(thresholds, GRID))
    np.testing.assert_allclose(shares, np.eye(3)[class_of(values, thresholds) - 1], atol=1e-6)
    halves = Distribution(GRID, np.full((1, GRID.bins), 1 / GRID.bins), np.array([np.inf]))
    cuts = Cuts.of((GRID.edges[GRID.bins // 2], 1e30), GRID)  # in the middle, and beyond the end
    np.testing.assert_allclose(halves.shares(cuts)[0], [0.5, 0.5, 0.0], atol=1e-4)


def test_a_classifier_says_a_class_as_often_as_it_is_right():
    draw = np.random.default_rng(0)
    inputs = pd.DataFrame({"x": draw.random(3000), "who": draw.choice(["a", "b"], 3000)}).astype(
        {"who": object}
    )
    likely = 0.05 + 0.4 * (inputs["x"] > 0.5)
    labels = 1 + (draw.random(3000) < likely).astype(
        np.int64
    )  # the second is rare: balanced weights call it half of all
    fitted = fit_classes(inputs.head(2500), labels[:2500])
    said = fitted.probabilities(inputs.tail(500), 3)
    assert said[:, 2].max() == 0  # never seen
    assert abs(said[:, 1].mean() - likely.tail(500).mean()) < 0.05
    assert fit_classes(inputs, np.ones(3000, np.int64)) is None


def test_the_measures_are_those_of_the_paper():
    truth = np.array([1, 1, 2, 2])
    right, wrong = np.eye(2)[truth - 1], np.eye(2)[[0, 1, 1, 1]]
    one = ClassPredictions((1.0,), np.array([3, 5, 7, 9]), truth, {"a": right})
    two = ClassPredictions((1.0,), np.array([3, 5, 7, 8]), truth, {"a": wrong})
    row = class_metrics("io", "a", two)
    assert row["accuracy"] == 0.75 and row["macro_f1"] == pytest.approx((2 / 3 + 0.8) / 2)
    assert class_metrics("io", "a", one)["roc_auc"] == 1.0 and row["roc_auc"] == 0.75
    first, second = per_class_metrics("io", "a", two)
    assert (first["precision"], first["recall"], second["precision"], second["jobs"]) == (
        1.0,
        0.5,
        pytest.approx(2 / 3),
        2,
    )
    jointly = joint_metrics("a", {"io": one, "walltime": two})  # both are known of 3, 5 and 7
    assert jointly["jobs"] == 3 and jointly["average_accuracy"] == pytest.approx(5 / 6)
    assert (jointly["at_least_1"], jointly["at_least_2"]) == (1.0, pytest.approx(2 / 3))


@pytest.fixture(scope="module")
def made():
    return generate(1200, days=8, seed=3).jobs.sort_values(
        "submitted_at", kind="stable", ignore_index=True
    )


@pytest.mark.usefixtures("few_trees")
def test_what_comes_later_moves_neither_thresholds_nor_probabilities(made):
    middle = made["submitted_at"].iloc[600]
    late = made["ended_at"] > middle
    spoilt = made.assign(
        walltime=made["walltime"].where(~late, made["walltime"].to_numpy()[::-1] + 7.0)
    )
    before, after = (
        evaluate_classes(each, ("walltime",), warm_up=0.3, refit_every=0.3).targets["walltime"]
        for each in (made, spoilt)
    )
    assert before.thresholds == after.thresholds
    early = (before.rows < 600).sum()
    assert early > 100 and (before.rows[:early] == after.rows[:early]).all()
    for who in (OURS, CLASSIFIER):
        np.testing.assert_array_equal(before.shares[who][:early], after.shares[who][:early])


def test_a_log_without_outcomes_cannot_be_cut(made):
    with pytest.raises(TrainingError, match="nothing to evaluate"):
        evaluate_classes(made.assign(walltime=np.nan), ("walltime",))
