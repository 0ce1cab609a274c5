"""Trees read as arrays give what CatBoost itself gives."""

import numpy as np
import pytest
from catboost import CatBoostClassifier

from models.refiner.boosting import CATEGORICAL, CatBoostRefiner
from models.refiner.trees import read_trees

ROWS, INPUTS, COARSE = 400, 6, 12
CLASSES = np.array([1, 2, 4, 5, 8, 9, 10, 11, 3])


def draw_inputs(generator: np.random.Generator, missing: tuple[int, ...]) -> np.ndarray:
    """Inputs of which the columns ``missing`` are sometimes NaN."""
    inputs = generator.lognormal(size=(ROWS, INPUTS)).round(2).astype(np.float32)
    for column in missing:
        inputs[generator.random(ROWS) < 0.3, column] = np.nan
    return inputs


def fit(inputs: np.ndarray, labels: np.ndarray, **settings: object) -> CatBoostRefiner:
    model = CatBoostClassifier(
        loss_function="MultiClass", iterations=12, verbose=False, allow_writing_files=False,
        thread_count=1, random_seed=0, **settings,
    )  # fmt: skip
    classes = CLASSES[np.unique(labels)]
    return CatBoostRefiner(model.fit(inputs, labels), classes, share=0.75)


@pytest.mark.parametrize("nan_mode", ["Min", "Max"])
@pytest.mark.parametrize(("depth", "classes"), [(4, 9), (1, 3), (6, 8)])
def test_trees_give_what_catboost_gives(nan_mode: str, depth: int, classes: int) -> None:
    generator = np.random.default_rng(depth)
    inputs = draw_inputs(generator, missing=(0, 3))
    labels = generator.integers(0, classes, ROWS)
    labels[np.nan_to_num(inputs[:, 0], nan=9) > 2] = 0
    refiner = fit(inputs, labels, depth=depth, nan_mode=nan_mode)
    assert refiner.trees is not None
    later = draw_inputs(generator, missing=(0, 1, 2, 3))  # NaN also where training had none
    split = generator.integers(0, len(refiner.trees.border), ROWS)
    on_border = generator.random(ROWS) < 0.5
    later[on_border, refiner.trees.column[split[on_border]]] = refiner.trees.border[
        split[on_border]
    ]
    coarse = generator.random((ROWS, COARSE)) * (generator.random((ROWS, COARSE)) < 0.8)
    coarse /= coarse.sum(axis=1, keepdims=True)
    ratio = refiner.ratio(later, coarse)
    np.testing.assert_allclose(ratio, refiner.ratio_by_catboost(later, coarse), rtol=1e-9)
    assert np.ptp(ratio[:, refiner.classes], axis=0).max() > 0.01
    np.testing.assert_allclose((ratio * coarse).sum(axis=1), 1.0, rtol=1e-6)
    for rows in (slice(0, 1), slice(7, 40)):
        np.testing.assert_array_equal(refiner.ratio(later[rows], coarse[rows]), ratio[rows])


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("count", [1, 5, 11])
def test_first_trees_are_those_of_a_model_that_is_shrunk(depth: int, count: int) -> None:
    generator = np.random.default_rng(7)
    inputs = draw_inputs(generator, missing=(0,))
    labels = np.searchsorted([0.5, 1.0, 3.0], inputs[:, 1])
    refiner = fit(inputs, labels, depth=depth)
    shrunk = refiner.first(count)
    assert shrunk.model.tree_count_ == count
    expected = read_trees(shrunk.model, len(shrunk.classes))
    assert shrunk.trees is not None and expected is not None
    for trees, of_catboost in zip(shrunk.trees, expected, strict=True):
        np.testing.assert_array_equal(trees, of_catboost)
    assert refiner.to_share(0.5).trees is refiner.trees


def test_very_unlikely_classes_are_no_less_exact() -> None:
    generator = np.random.default_rng(5)
    inputs = draw_inputs(generator, missing=())
    labels = np.searchsorted([1.0, 3.0], inputs[:, 0])
    refiner = fit(inputs, labels, learning_rate=1.0, l2_leaf_reg=0.01)
    coarse = np.full((ROWS, COARSE), 1 / COARSE)
    by_catboost = refiner.ratio_by_catboost(inputs, coarse)
    np.testing.assert_allclose(refiner.ratio(inputs, coarse), by_catboost, rtol=1e-7)


def test_statistics_of_texts_and_two_classes_are_left_to_catboost() -> None:
    generator = np.random.default_rng(6)
    numbers = draw_inputs(generator, missing=())
    texts = generator.integers(0, 5, ROWS).astype(np.float32)
    labels = (texts.astype(int) + (generator.random(ROWS) < 0.1)) % 3
    frame = np.column_stack([numbers.astype(object), texts.astype(int).astype(str)])
    with_texts = CatBoostRefiner(
        fit(frame, labels, cat_features=[INPUTS], one_hot_max_size=2, **CATEGORICAL).model,
        CLASSES[:3],
        categories=1,
    )
    assert with_texts.trees is None
    coarse = np.full((ROWS, COARSE), 1 / COARSE)
    inputs = np.column_stack([numbers, texts])
    by_catboost = with_texts.ratio_by_catboost(inputs, coarse)
    np.testing.assert_array_equal(with_texts.ratio(inputs, coarse), by_catboost)
    two = CatBoostClassifier(iterations=2, verbose=False, allow_writing_files=False)
    binary = CatBoostRefiner(two.fit(numbers, labels > 0), CLASSES[:2])
    assert binary.trees is None
    assert np.isfinite(binary.ratio(numbers, coarse)).all()
