"""Boosting: the trees, the only place that knows CatBoost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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

    def save(self, path: Path) -> None:
        """Write the model as CatBoost's own .cbm."""
        self.model.save_model(str(path))


def load_refiner(path: Path, share: float) -> CatBoostRefiner:
    """Read a refiner that goes ``share`` of the way from a .cbm file."""
    from catboost import CatBoostClassifier

    model = CatBoostClassifier()
    model.load_model(str(path))
    return CatBoostRefiner(model, np.asarray(model.classes_, dtype=np.int64), share)


def fit_refiner(lessons: Lessons) -> CatBoostRefiner | None:
    """Teach CatBoost the coarse bins of the outcomes from what is shown, starting from the mixture's masses; None for too little."""
    from catboost import CatBoostClassifier, Pool

    classes, counts = np.unique(lessons.truth, return_counts=True)
    classes = classes[counts >= 2]
    lessons = lessons.take(np.flatnonzero(np.isin(lessons.truth, classes)))
    if len(lessons.truth) < FEWEST_ROWS or len(classes) < 3:
        return None
    baseline = np.log(np.maximum(lessons.coarse[:, classes], 1e-9))
    model = CatBoostClassifier(
        loss_function="MultiClass", thread_count=2, random_seed=0, verbose=False, allow_writing_files=False, **BOOSTING
    )  # fmt: skip
    model.fit(Pool(lessons.shown, lessons.truth, baseline=baseline, weight=_importance(lessons.value)))
    return CatBoostRefiner(model, np.asarray(model.classes_, dtype=np.int64))


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
