"""Boosting: the trees, the only place that knows CatBoost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.aliases import Array
from models.refiner.training_rows import TrainingRows

FEWEST_ROWS = 500
BY_SIZE, MOST_IMPORTANT = 0.25, 10.0
CALIBRATED_ON = 0.2
"""The share of the rows, the latest, that a classifier's probabilities are calibrated on."""
BOOSTING = {"iterations": 60, "depth": 4, "learning_rate": 0.08, "l2_leaf_reg": 10.0, "rsm": 0.3}


@dataclass(frozen=True)
class CatBoostRefiner:
    """A CatBoost classifier over coarse bins that starts from the mixture's masses and goes ``share`` of the way to its own."""

    model: Any
    classes: npt.NDArray[np.int64]
    share: float = 1.0

    def ratio(self, inputs: Array, coarse: Array) -> Array:
        """See Refiner; bins that no training job fell into keep their mass."""
        raw = self.model.predict(
            inputs, prediction_type="RawFormulaVal", thread_count=2 if len(inputs) > 2000 else 1
        )
        raw = np.column_stack([-raw, raw]) if raw.ndim == 1 else raw
        known = coarse[:, self.classes]
        bent = known * np.exp(raw - raw.max(axis=1, keepdims=True))
        ratio = np.ones_like(coarse)
        total = bent.sum(axis=1, keepdims=True)
        ratio[:, self.classes] = np.divide(
            bent * known.sum(axis=1, keepdims=True),
            total * known,
            where=known > 0,
            out=np.ones_like(known),
        )
        return 1 - self.share + self.share * ratio

    def contributions(self, inputs: Array, answered: int) -> Array:
        """What each input of one row (float32[1, m]) added to the logarithm of the coarse bin ``answered``, against the mean of all bins:
        SHAP values (float64[m]), zeros where no training job fell into that bin."""
        from catboost import Pool

        place = np.flatnonzero(self.classes == answered)
        if not len(place):
            return np.zeros(inputs.shape[1])
        values = np.asarray(
            self.model.get_feature_importance(Pool(inputs), type="ShapValues", thread_count=1)
        )[0, :, :-1]
        return np.asarray(self.share * (values[place[0]] - values.mean(axis=0)))

    def first(self, trees: int) -> CatBoostRefiner:
        """The same with its first ``trees`` only: what a shorter training would have made."""
        splits = np.log2(self.model.get_tree_leaf_counts()).sum()
        # CatBoost 1.2 refuses to shrink to more trees than there are splits, as where most trees have none: there is nothing to gain.
        if trees >= min(self.model.tree_count_, splits):
            return self
        model = self.model.copy()
        model.shrink(trees)
        return replace(self, model=model)

    def save(self, path: Path) -> None:
        """Write the model as CatBoost's own .cbm."""
        self.model.save_model(str(path))


def load_refiner(path: Path, share: float) -> CatBoostRefiner:
    """Read a refiner that goes ``share`` of the way from a .cbm file."""
    from catboost import CatBoostClassifier

    model = CatBoostClassifier()
    model.load_model(str(path))
    return CatBoostRefiner(model, np.asarray(model.classes_, dtype=np.int64), share)


def fit_refiner(
    lessons: TrainingRows, boosting: Mapping[str, Any] = BOOSTING
) -> CatBoostRefiner | None:
    """Teach CatBoost the coarse bins of the outcomes from what is shown, starting from the mixture's masses; None for too little."""
    pool, classes = _pool(lessons)
    if pool is None:
        return None
    model = _classifier(boosting)
    model.fit(pool)
    return CatBoostRefiner(model, classes)


def rank_inputs(lessons: TrainingRows, best: int) -> list[int]:
    """The inputs that a refiner reads, the ``best`` first (as CatBoost's own selection finds them), then the last to be given up."""
    from catboost import EFeaturesSelectionAlgorithm

    pool, _ = _pool(lessons)
    if pool is None:
        return list(range(lessons.inputs.shape[1]))
    found = _classifier(BOOSTING).select_features(
        pool, features_for_select=list(range(lessons.inputs.shape[1])), num_features_to_select=best, steps=4, train_final_model=False,
        algorithm=EFeaturesSelectionAlgorithm.RecursiveByLossFunctionChange, logging_level="Silent",
    )  # fmt: skip
    return [*found["selected_features"], *reversed(found["eliminated_features"])]


def _pool(lessons: TrainingRows) -> tuple[Any, npt.NDArray[np.int64]]:
    """TrainingRows as CatBoost takes them, None for too few, and the coarse bins that they tell of."""
    from catboost import Pool

    classes, counts = np.unique(lessons.truth, return_counts=True)
    classes = classes[counts >= 2]
    lessons = lessons.take(np.flatnonzero(np.isin(lessons.truth, classes)))
    if len(lessons.truth) < FEWEST_ROWS or len(classes) < 3:
        return None, classes
    baseline = np.log(np.maximum(lessons.coarse[:, classes], 1e-9))
    pool = Pool(lessons.inputs, lessons.truth, baseline=baseline, weight=_importance(lessons.value))
    return pool, np.asarray(classes, dtype=np.int64)


def _classifier(boosting: Mapping[str, Any]) -> Any:
    from catboost import CatBoostClassifier

    return CatBoostClassifier(
        loss_function="MultiClass", thread_count=2, random_seed=0, verbose=False, allow_writing_files=False, **boosting
    )  # fmt: skip


def _importance(values: Array) -> Array:
    """How much each outcome counts: the large ones make most of the error that a broker feels, but there are few of them."""
    return (
        1
        - BY_SIZE
        + BY_SIZE * np.minimum(np.sqrt(values / max(values.mean(), 1e-9)), MOST_IMPORTANT)
    )


@dataclass(frozen=True)
class CatBoostClasses:
    """A CatBoost classifier weighted by class, and the line over its logarithms that makes probabilities of what it says again."""

    model: Any
    classes: npt.NDArray[np.int64]
    slopes: Array
    shifts: Array

    def probabilities(self, inputs: pd.DataFrame, count: int) -> Array:
        """The probability of each of ``count`` classes, from 1 (float64[n, count]); 0 for one that training never saw."""
        found = np.zeros((len(inputs), count))
        found[:, self.classes - 1] = _softmax(
            _logarithms(self.model, inputs) @ self.slopes.T + self.shifts
        )
        return found


def fit_classes(inputs: pd.DataFrame, labels: npt.NDArray[np.int64]) -> CatBoostClasses | None:
    """Teach CatBoost classes, from 1, of rows in the order of time; columns of text are categories. None for fewer than two classes.

    Rare classes weigh as much as common ones, as in the paper on PanDA's learned resource prediction; weights spoil probabilities, so
    these are calibrated on the later fifth of the rows, by a logistic regression over the logarithms of what the classifier says.
    """
    from catboost import CatBoostClassifier

    learned = int(len(labels) * (1 - CALIBRATED_ON))
    classes = np.unique(labels[:learned])
    if len(classes) < 2:
        return None
    names = list(inputs.columns[inputs.dtypes == "object"])
    model = CatBoostClassifier(
        loss_function="MultiClass", auto_class_weights="Balanced", iterations=200, depth=6, learning_rate=0.1, max_ctr_complexity=1,
        cat_features=names, thread_count=2, random_seed=0, verbose=False, allow_writing_files=False,
    )  # fmt: skip
    model.fit(inputs.iloc[:learned], labels[:learned])
    later = np.flatnonzero(np.isin(labels, classes) & (np.arange(len(labels)) >= learned))
    slopes, shifts = _calibrate(_logarithms(model, inputs.iloc[later]), labels[later], classes)
    return CatBoostClasses(model, classes, slopes, shifts)


def _calibrate(
    logarithms: Array, labels: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]
) -> tuple[Array, Array]:
    """The line (slopes, shifts) whose softmax makes ``labels`` likeliest; classes that are not among them keep what was said of them."""
    from sklearn.linear_model import LogisticRegression

    slopes, shifts = np.eye(len(classes)), np.zeros(len(classes))
    told = np.flatnonzero(np.isin(classes, labels))
    if len(told) == len(classes):
        line = LogisticRegression(max_iter=1000).fit(logarithms, labels)
        two = (
            len(classes) == 2
        )  # scikit-learn keeps one row for two classes, by which the second is likelier
        slopes = np.vstack([0 * line.coef_, line.coef_]) if two else line.coef_
        shifts = np.concatenate([0 * line.intercept_, line.intercept_]) if two else line.intercept_
    return slopes, shifts


def _logarithms(model: Any, inputs: pd.DataFrame) -> Array:
    return np.log(np.maximum(model.predict_proba(inputs), 1e-6))


def _softmax(scores: Array) -> Array:
    grown = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=1, keepdims=True))


def fit_plain(inputs: pd.DataFrame, logs: Array) -> Callable[[pd.DataFrame], Array]:
    """A plain CatBoost regression by absolute error, for the baseline of that name: columns of text are categories.

    Returns the function that predicts float64[n] for rows with the same columns.
    """
    from catboost import CatBoostRegressor

    names = list(inputs.columns[inputs.dtypes == "object"])
    model = CatBoostRegressor(
        loss_function="MAE", iterations=300, depth=6, learning_rate=0.1, max_ctr_complexity=1, cat_features=names,
        thread_count=2, random_seed=0, verbose=False, allow_writing_files=False,
    )  # fmt: skip
    model.fit(inputs, logs)
    return lambda asked: np.asarray(model.predict(asked), dtype=np.float64)


def fit_hazard(inputs: Array, labels: Array) -> Callable[[Array], Array] | None:
    """Teach CatBoost the probability of each row's label, 0 or 1 (int64[n]); None where there is only one of them.

    The settings were chosen on LCG-2005's tasks at their definition; shallower or shorter models were worse, deeper ones no better.
    """
    from catboost import CatBoostClassifier

    if len(np.unique(labels)) < 2:
        return None
    model = CatBoostClassifier(
        iterations=300,
        depth=5,
        learning_rate=0.06,
        rsm=0.3,
        thread_count=2,
        random_seed=1,
        verbose=False,
        allow_writing_files=False,
    )
    model.fit(inputs, labels)
    return lambda asked: model.predict_proba(asked)[:, 1]
