"""Boosting: the trees, the only place that knows CatBoost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.lessons import Lessons

Array = npt.NDArray[Any]

FEWEST_ROWS = 500
BY_SIZE, MOST_IMPORTANT = 0.25, 10.0
BOOSTING = {"iterations": 60, "depth": 4, "learning_rate": 0.08, "l2_leaf_reg": 10.0, "rsm": 0.3}


@dataclass(frozen=True)
class CatBoostRefiner:
    """A CatBoost classifier over coarse bins that starts from the mixture's masses and goes ``share`` of the way to its own."""

    model: Any
    classes: npt.NDArray[np.int64]
    share: float = 1.0

    def ratio(self, inputs: Array, coarse: Array) -> Array:
        """See Refiner; bins that no training job fell into keep their mass."""
        raw = self.model.predict(inputs, prediction_type="RawFormulaVal", thread_count=2 if len(inputs) > 2000 else 1)
        raw = np.column_stack([-raw, raw]) if raw.ndim == 1 else raw
        known = coarse[:, self.classes]
        bent = known * np.exp(raw - raw.max(axis=1, keepdims=True))
        ratio = np.ones_like(coarse)
        total = bent.sum(axis=1, keepdims=True)
        ratio[:, self.classes] = np.divide(bent * known.sum(axis=1, keepdims=True), total * known, where=known > 0, out=np.ones_like(known))
        return 1 - self.share + self.share * ratio

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


def fit_refiner(lessons: Lessons, boosting: Mapping[str, Any] = BOOSTING) -> CatBoostRefiner | None:
    """Teach CatBoost the coarse bins of the outcomes from what is shown, starting from the mixture's masses; None for too little."""
    pool, classes = _pool(lessons)
    if pool is None:
        return None
    model = _classifier(boosting)
    model.fit(pool)
    return CatBoostRefiner(model, classes)


def rank_inputs(lessons: Lessons, best: int) -> list[int]:
    """The inputs that a refiner reads, the ``best`` first (as CatBoost's own selection finds them), then the last to be given up."""
    from catboost import EFeaturesSelectionAlgorithm

    pool, _ = _pool(lessons)
    if pool is None:
        return list(range(lessons.shown.shape[1]))
    found = _classifier(BOOSTING).select_features(
        pool, features_for_select=list(range(lessons.shown.shape[1])), num_features_to_select=best, steps=4, train_final_model=False,
        algorithm=EFeaturesSelectionAlgorithm.RecursiveByLossFunctionChange, logging_level="Silent",
    )  # fmt: skip
    return [*found["selected_features"], *reversed(found["eliminated_features"])]


def _pool(lessons: Lessons) -> tuple[Any, npt.NDArray[np.int64]]:
    """Lessons as CatBoost takes them, None for too few, and the coarse bins that they tell of."""
    from catboost import Pool

    classes, counts = np.unique(lessons.truth, return_counts=True)
    classes = classes[counts >= 2]
    lessons = lessons.take(np.flatnonzero(np.isin(lessons.truth, classes)))
    if len(lessons.truth) < FEWEST_ROWS or len(classes) < 3:
        return None, classes
    baseline = np.log(np.maximum(lessons.coarse[:, classes], 1e-9))
    pool = Pool(lessons.shown, lessons.truth, baseline=baseline, weight=_importance(lessons.value))
    return pool, np.asarray(classes, dtype=np.int64)


def _classifier(boosting: Mapping[str, Any]) -> Any:
    from catboost import CatBoostClassifier

    return CatBoostClassifier(
        loss_function="MultiClass", thread_count=2, random_seed=0, verbose=False, allow_writing_files=False, **boosting
    )  # fmt: skip


def _importance(values: Array) -> Array:
    """How much each outcome counts: the large ones make most of the error that a broker feels, but there are few of them."""
    return 1 - BY_SIZE + BY_SIZE * np.minimum(np.sqrt(values / max(values.mean(), 1e-9)), MOST_IMPORTANT)


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
