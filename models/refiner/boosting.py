"""CatBoost models: refiners, classifiers, plain regressions and hazards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Integers
from infra.settings import THREADS
from models.refiner.training_rows import TrainingRows
from models.refiner.trees import Trees, first_trees, ratios, read_trees

MIN_ROWS = 500
SIZE_WEIGHT, MAX_SIZE = 0.25, 10.0
"""The part of a row's weight that follows the root of its outcome, and the largest such root."""
CALIBRATION_SHARE = 0.2
"""The share of the rows, the latest, that a classifier's probabilities are calibrated on."""
BOOSTING = {"iterations": 60, "depth": 4, "learning_rate": 0.08, "l2_leaf_reg": 10.0, "rsm": 0.3}
CATEGORICAL: dict[str, Any] = {
    "max_ctr_complexity": 1,
    "simple_ctr": ["BinarizedTargetMeanValue"],
    "combinations_ctr": ["BinarizedTargetMeanValue"],
}
"""Settings of refiners with texts among their inputs: the mean coarse bin of earlier rows with a
text, as the bins are ordered; CatBoost's default statistics, one a class, take twice as long."""
TREES = {"classes": 200, "several": 200, "regression": 200, "baseline": 300, "hazard": 300}
"""How many trees the other models have, by kind."""
AVERAGED = 3
_NEGLIGIBLE = 1e-300
_QUIET: dict[str, Any] = {
    "thread_count": THREADS,
    "verbose": False,
    "metric_period": 10_000,  # the error on the training rows, which nobody reads, costs 8 %
    "allow_writing_files": False,
}


@dataclass(frozen=True)
class CatBoostRefiner:
    """A CatBoost classifier over coarse bins, which starts from the mixture's masses.

    Attributes:
        model: The classifier.
        classes: The coarse bins that it knows.
        share: How far it goes from the mixture's masses to its own.
        categories: How many of its inputs, the last ones, stand for texts.
    """

    model: Any
    classes: Integers
    share: float = 1.0
    categories: int = 0

    def ratio(self, inputs: Array, coarse: Array) -> Array:
        """See ``Refiner.ratio``; coarse bins without training jobs keep their mass."""
        if self.trees is None:
            return self.ratio_by_catboost(inputs, coarse)
        out = np.empty_like(coarse)
        ratios(self.trees, inputs, coarse, self.classes, self.share, out)
        return out

    @cached_property
    def trees(self) -> Trees | None:
        """The trees as arrays; None for a model that only CatBoost evaluates."""
        return read_trees(self.model, len(self.classes))

    def ratio_by_catboost(self, inputs: Array, coarse: Array) -> Array:
        """Compute ``ratio`` by CatBoost itself."""
        threads = THREADS if len(inputs) > 2000 else 1
        features = _features(inputs, self.categories)
        raw = self.model.predict(features, prediction_type="RawFormulaVal", thread_count=threads)
        raw = np.column_stack([-raw, raw]) if raw.ndim == 1 else raw
        raw -= raw.max(axis=1, keepdims=True)
        factor, before = np.exp(raw, out=raw), coarse[:, self.classes]
        after = np.einsum("ij,ij->i", before, factor)
        factor *= (self.share * before.sum(axis=1) / np.maximum(after, _NEGLIGIBLE))[:, None]
        factor += 1 - self.share
        ratio = np.ones_like(coarse)
        ratio[:, self.classes] = np.where(before > 0, factor, 1.0)
        return ratio

    def contributions(self, inputs: Array, coarse_bin: int) -> Array:
        """Compute what each input of one job added to the logarithm of a coarse bin's mass.

        Args:
            inputs: float32[1, m].
            coarse_bin: The coarse bin.

        Returns:
            SHAP values against the mean of all bins (float64[m]); zeros for a bin without training
            jobs.
        """
        position = np.flatnonzero(self.classes == coarse_bin)
        if not len(position):
            return np.zeros(inputs.shape[1])
        [values] = self.shap_values(inputs)
        return np.asarray(self.share * (values[position[0]] - values.mean(axis=0)))

    def shap_values(self, inputs: Array) -> Array:
        """Compute the SHAP values of inputs for all classes (float64[n, classes, m])."""
        from catboost import Pool

        pool = Pool(_features(inputs, self.categories))
        values = self.model.get_feature_importance(pool, type="ShapValues", thread_count=1)
        return np.asarray(values)[:, :, :-1]

    def first(self, count: int) -> CatBoostRefiner:
        """Return the same with its first ``count`` trees, as a shorter training would give."""
        splits = np.log2(self.model.get_tree_leaf_counts()).sum()
        # CatBoost 1.2 refuses to shrink to more trees than there are splits.
        if count >= min(self.model.tree_count_, splits):
            return self
        model = self.model.copy()
        model.shrink(count)
        return self._with(self.trees and first_trees(self.trees, count), model=model)

    def to_share(self, share: float) -> CatBoostRefiner:
        """Return the same that goes so far from the mixture's masses to its own."""
        return self._with(self.trees, share=share)

    def _with(self, trees: Trees | None, **changes: Any) -> CatBoostRefiner:
        """Return the same with other fields, whose trees need not be read from CatBoost again."""
        refiner = replace(self, **changes)
        refiner.__dict__["trees"] = trees
        return refiner

    def save(self, path: Path) -> None:
        """Write the model as a .cbm file."""
        self.model.save_model(str(path))


def load_refiner(path: Path, share: float) -> CatBoostRefiner:
    """Read a refiner from a .cbm file."""
    from catboost import CatBoostClassifier

    model = CatBoostClassifier()
    model.load_model(str(path))
    categories = len(model.get_cat_feature_indices())
    return CatBoostRefiner(model, np.asarray(model.classes_, dtype=np.int64), share, categories)


def fit_refiner(
    rows: TrainingRows, boosting: Mapping[str, Any] = BOOSTING, threads: int = THREADS
) -> CatBoostRefiner | None:
    """Fit a refiner that starts from the mixture's masses; None for too few rows or classes.

    Args:
        rows: The training rows.
        boosting: CatBoost's settings.
        threads: How many threads fit it.
    """
    pool, classes = _pool(rows)
    if pool is None:
        return None
    model = _classifier({"thread_count": threads, **boosting}, rows.categories)
    model.fit(pool)
    return CatBoostRefiner(model, classes, categories=rows.categories)


def import_catboost() -> None:
    """Import CatBoost, before several threads do at once."""
    import catboost  # noqa: F401


def fit_here(
    batches: Sequence[TrainingRows], is_cancelled: Callable[[], bool] = lambda: False
) -> list[CatBoostRefiner | None]:
    """Fit a refiner to each batch in this process, side by side, each in one thread.

    Two threads of one fit wait for each other at every split, those of two fits never.

    Args:
        batches: The training rows of each.
        is_cancelled: Whether fits that have not begun are no longer wanted.

    Raises:
        CancelledError: They are no longer wanted.
    """
    if min(THREADS, len(batches)) < 2:
        return [fit_refiner(rows) for rows in batches]
    import_catboost()

    def fit(row: int) -> CatBoostRefiner | None:
        if is_cancelled():
            raise CancelledError
        return fit_refiner(batches[row], threads=1)

    longest_first = sorted(range(len(batches)), key=lambda row: -len(batches[row].truth))
    with ThreadPoolExecutor(THREADS) as pool:
        by_row = dict(zip(longest_first, pool.map(fit, longest_first), strict=True))
    return [by_row[row] for row in range(len(batches))]


def _features(inputs: Array, categories: int) -> Any:
    """Return inputs for CatBoost, the last ``categories`` columns as texts."""
    if not categories:
        return inputs
    from catboost import FeaturesData

    texts = inputs[:, -categories:].astype(np.int64).astype("S8").astype(object)
    return FeaturesData(np.ascontiguousarray(inputs[:, :-categories]), texts)


def rank_inputs(rows: TrainingRows, best: int) -> list[int]:
    """Rank the inputs of a refiner by recursive elimination, the ``best`` first."""
    from catboost import EFeaturesSelectionAlgorithm

    pool, _ = _pool(rows)
    columns = list(range(rows.inputs.shape[1]))
    if pool is None:
        return columns
    ranking = _classifier(BOOSTING, rows.categories).select_features(
        pool,
        features_for_select=columns,
        num_features_to_select=best,
        steps=4,
        train_final_model=False,
        algorithm=EFeaturesSelectionAlgorithm.RecursiveByLossFunctionChange,
        logging_level="Silent",
    )
    return [*ranking["selected_features"], *reversed(ranking["eliminated_features"])]


def _pool(rows: TrainingRows) -> tuple[Any, Integers]:
    """Return training rows as a CatBoost pool, None for too few, and their coarse bins."""
    from catboost import Pool

    classes, counts = np.unique(rows.truth, return_counts=True)
    classes = classes[counts >= 2]
    rows = rows.take(np.flatnonzero(np.isin(rows.truth, classes)))
    if len(rows.truth) < MIN_ROWS or len(classes) < 3:
        return None, classes
    baseline = np.log(np.maximum(rows.coarse[:, classes], 1e-9))
    features = _features(rows.inputs, rows.categories)
    pool = Pool(features, rows.truth, baseline=baseline, weight=_row_weights(rows.value))
    return pool, np.asarray(classes, dtype=np.int64)


def _classifier(boosting: Mapping[str, Any], categories: int) -> Any:
    from catboost import CatBoostClassifier

    boosting = {**boosting, **(CATEGORICAL if categories else {})}
    fixed = {"loss_function": "MultiClass", "random_seed": 0, "leaf_estimation_backtracking": "No"}
    return CatBoostClassifier(**_QUIET | fixed | boosting)


def _row_weights(values: Array) -> Array:
    """Weigh outcomes by size: a few large ones make most of the error."""
    size = np.minimum(np.sqrt(values / max(values.mean(), 1e-9)), MAX_SIZE)
    return 1 - SIZE_WEIGHT + SIZE_WEIGHT * size


@dataclass(frozen=True)
class CatBoostClasses:
    """A classifier weighted by class, and the line over its logits that restores probabilities."""

    model: Any
    classes: Integers
    slopes: Array
    shifts: Array

    def probabilities(self, inputs: pd.DataFrame, count: int) -> Array:
        """Return the probability of each of ``count`` classes, from 1 (float64[n, count]).

        A class that training never saw has none.
        """
        probabilities = np.zeros((len(inputs), count))
        logits = _logits(self.model, inputs) @ self.slopes.T + self.shifts
        probabilities[:, self.classes - 1] = _softmax(logits)
        return probabilities


def fit_classes(inputs: pd.DataFrame, labels: Integers) -> CatBoostClasses | None:
    """Fit a classifier of rows in order of time; None for fewer than two classes.

    Rare classes weigh as much as common ones, as in the paper on PanDA's learned resource
    prediction. That distorts probabilities, so they are calibrated on the last fifth of the rows by
    a logistic regression over the logits.

    Args:
        inputs: Columns of text are categories.
        labels: Classes, from 1.
    """
    from catboost import CatBoostClassifier

    learned = int(len(labels) * (1 - CALIBRATION_SHARE))
    classes = np.unique(labels[:learned])
    if len(classes) < 2:
        return None
    model = CatBoostClassifier(
        loss_function="MultiClass",
        auto_class_weights="Balanced",
        iterations=TREES["classes"],
        depth=6,
        learning_rate=0.1,
        max_ctr_complexity=1,
        cat_features=_text_columns(inputs),
        random_seed=0,
        **_QUIET,
    )
    model.fit(inputs.iloc[:learned], labels[:learned])
    later = np.flatnonzero(np.isin(labels, classes) & (np.arange(len(labels)) >= learned))
    slopes, shifts = _calibrate(_logits(model, inputs.iloc[later]), labels[later], classes)
    return CatBoostClasses(model, classes, slopes, shifts)


def _text_columns(inputs: pd.DataFrame) -> list[str]:
    return list(inputs.columns[inputs.dtypes == "object"])


def _calibrate(logits: Array, labels: Integers, classes: Integers) -> tuple[Array, Array]:
    """Return slopes and shifts whose softmax fits ``labels``; the identity if one is missing."""
    from sklearn.linear_model import LogisticRegression

    slopes, shifts = np.eye(len(classes)), np.zeros(len(classes))
    if np.isin(classes, labels).all():
        line = LogisticRegression(max_iter=1000).fit(logits, labels)
        slopes, shifts = line.coef_, line.intercept_
        if len(classes) == 2:  # scikit-learn keeps one row, that of the second class
            slopes = np.vstack([0 * slopes, slopes])
            shifts = np.concatenate([0 * shifts, shifts])
    return slopes, shifts


def _logits(model: Any, inputs: pd.DataFrame) -> Array:
    return np.log(np.maximum(model.predict_proba(inputs), 1e-6))


def _softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def fit_several(inputs: pd.DataFrame, values: Array) -> Callable[[pd.DataFrame], Array]:
    """Fit several values at once by their squared errors; returns a function of inputs.

    The mean of AVERAGED models on random parts of rows and inputs: on a few hundred rows single
    models differ by more than any setting does.

    Args:
        inputs: Columns of text are categories.
        values: float64[n, values].
    """
    from catboost import CatBoostRegressor, Pool

    pool = Pool(inputs, values, cat_features=_text_columns(inputs))
    models = [
        CatBoostRegressor(
            loss_function="MultiRMSE",
            iterations=TREES["several"],
            depth=6,
            learning_rate=0.06,
            l2_leaf_reg=5,
            rsm=0.7,
            bootstrap_type="Bernoulli",
            subsample=0.8,
            one_hot_max_size=30,
            boosting_type="Plain",
            random_seed=seed,
            **_QUIET,
        ).fit(pool)
        for seed in range(AVERAGED)
    ]
    return lambda rows: np.mean([model.predict(rows) for model in models], axis=0)


def fit_regression(
    inputs: pd.DataFrame, values: Array, loss: str, kind: str = "regression"
) -> Callable[[pd.DataFrame], Array]:
    """Fit a CatBoost regression.

    Args:
        inputs: Columns of text are categories.
        values: The values to predict (float64[n]).
        loss: CatBoost's name of the loss, such as ``MAE`` or ``Quantile:alpha=0.33``.
        kind: Chooses the number of TREES.

    Returns:
        A function that predicts float64[n] for rows with the same columns.
    """
    from catboost import CatBoostRegressor

    model = CatBoostRegressor(
        loss_function=loss,
        iterations=TREES[kind],
        depth=6,
        learning_rate=0.1,
        max_ctr_complexity=1,
        cat_features=_text_columns(inputs),
        random_seed=0,
        **_QUIET,
    )
    model.fit(inputs, values)
    return lambda rows: np.asarray(model.predict(rows), dtype=np.float64)


def fit_hazard(
    inputs: Array, labels: Array, depth: int = 5, l2_leaf_reg: float = 3.0
) -> Callable[[Array], Array] | None:
    """Fit the probability of each row's label, 0 or 1; None if only one occurs.

    The settings were chosen on LCG-2005's tasks at their definition; shallower or shorter models
    were worse, deeper ones no better.

    Args:
        inputs: The rows (float32[n, m]).
        labels: int64[n].
        depth: The depth of the trees.
        l2_leaf_reg: The regularisation of leaves.
    """
    from catboost import CatBoostClassifier

    if len(np.unique(labels)) < 2:
        return None
    model = CatBoostClassifier(
        iterations=TREES["hazard"],
        depth=depth,
        learning_rate=0.06,
        rsm=0.3,
        l2_leaf_reg=l2_leaf_reg,
        random_seed=1,
        **_QUIET,
    )
    model.fit(inputs, labels)
    return lambda rows: model.predict_proba(rows)[:, 1]
