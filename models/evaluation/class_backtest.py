"""Backtest of classes: the class of each job's outcome, predicted at its submission.

The metrics are those of the paper on PanDA's learned resource prediction (its Tables 2 to 4), and
the logarithmic score, which shows whether the probabilities are honest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from infra.aliases import Floats, Integers, Progress
from models.baselines.available_history import AvailableHistory, read_history
from models.baselines.regressions import FEWEST_ROWS, inputs_with_categories, latest_outcomes
from models.engine.backtest import backtest
from models.engine.training import TrainingError, find_target
from models.evaluation.backtest import OURS, Row
from models.past.recent import last
from models.quantities.classes import PAPER, Thresholds, class_of, likeliest, thresholds_of
from models.quantities.targets import Target

CLASSIFIER, LAST, COMMONEST = "classifier", "last", "commonest"
PREDICTORS = (OURS, CLASSIFIER, LAST, COMMONEST)
"""By the predicted distribution; CatBoost on classes; the class of the template's last outcome; the
shares of the outcomes so far."""
MORE_NAMES, MORE_NUMBERS = ("project", "job_name"), ("input_files", "events")
MIN_PROBABILITY = 1e-4
"""The logarithmic score clips probabilities here, so that one confident error is not infinite."""


@dataclass(frozen=True)
class ClassPredictions:
    """The predicted classes of one target.

    Attributes:
        thresholds: Between the classes.
        rows: Positions in the jobs, int64[n].
        truth: The true class of each, from 1, int64[n].
        shares: What each predictor gave each class, float64[n, classes].
    """

    thresholds: Thresholds
    rows: Integers
    truth: Integers
    shares: Mapping[str, Floats]


@dataclass(frozen=True)
class ClassEvaluation:
    """The tables of an evaluation of classes; each list has a dict a row.

    Attributes:
        rows: A row a predictor and target.
        class_rows: A row a class of these.
        joint_rows: A row a predictor, over the jobs of which all targets are known.
        targets: The predictions that they are computed from.
    """

    rows: list[Row]
    class_rows: list[Row]
    joint_rows: list[Row]
    targets: dict[str, ClassPredictions]


def evaluate_classes(
    jobs: pd.DataFrame,
    targets: Sequence[str] = PAPER,
    warm_up: float = 0.1,
    thresholds: Mapping[str, Sequence[float]] | None = None,
    progress: Progress | None = None,
    refit_every: float = 0.1,
) -> ClassEvaluation:
    """Backtest ``jobs`` and evaluate the predicted classes of those after the warm-up.

    Args:
        jobs: The log, in any order.
        targets: Names of the targets; those that the log does not have are left out.
        warm_up: The share of the jobs, by submission, that is not counted.
        thresholds: Of the classes, by target; quantiles of what had ended by the end of the warm-up
            for targets without any.
        progress: Called as jobs are predicted.
        refit_every: The share of the jobs between two refits.

    Raises:
        TrainingError: Where no target is left.
    """
    jobs = jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
    predictions = {}
    for name in targets:
        of_target = _predict_classes(
            jobs, find_target(name), warm_up, refit_every, thresholds, progress
        )
        if of_target is not None:
            predictions[name] = of_target
    if not predictions:
        raise TrainingError(
            f"none of {', '.join(targets)} is known of enough jobs to cut it into classes: "
            "there is nothing to evaluate"
        )
    pairs = [(name, predictor) for name in predictions for predictor in PREDICTORS]
    return ClassEvaluation(
        [class_metrics(name, predictor, predictions[name]) for name, predictor in pairs],
        [
            row
            for name, predictor in pairs
            for row in per_class_metrics(name, predictor, predictions[name])
        ],
        [joint_metrics(predictor, predictions) for predictor in PREDICTORS],
        predictions,
    )


def _predict_classes(
    jobs: pd.DataFrame,
    target: Target,
    warm_up: float,
    refit_every: float,
    thresholds: Mapping[str, Sequence[float]] | None,
    progress: Progress | None,
) -> ClassPredictions | None:
    first, step = max(int(len(jobs) * warm_up), 1), max(int(len(jobs) * refit_every), 1)
    history = read_history(jobs, target, range(first, len(jobs), step), warm_up=first)
    values = np.where(np.isfinite(history.values), history.values, np.nan)
    warm_up_rows = latest_outcomes(history, int(history.submitted_at[first]))
    cuts = thresholds_of(target.name, values[warm_up_rows], thresholds)
    if not cuts or not np.isfinite(values[first:]).any():
        return None
    ours = backtest(
        jobs,
        target.name,
        warm_up=warm_up,
        refit_every=refit_every,
        thresholds=cuts,
        progress=progress,
    )
    labels, count = class_of(values, cuts), len(cuts) + 1
    fitted: dict[str, Callable[[Integers], Callable[[Integers], Floats]]] = {
        CLASSIFIER: partial(_classifier, _inputs(history), labels, count),
        COMMONEST: partial(_commonest, labels, count),
    }
    shares = {
        OURS: ours.shares,
        LAST: _certain(class_of(history.finest(last), cuts), count)[ours.rows],
    }
    shares |= {name: _refitted(history, fit, count)[ours.rows] for name, fit in fitted.items()}
    return ClassPredictions(cuts, ours.rows, labels[ours.rows], shares)


def _inputs(history: AvailableHistory) -> pd.DataFrame:
    """The inputs of the plain CatBoost, and what tells tasks apart in the paper."""
    names = [
        name
        for name in MORE_NAMES
        if 1 < history.jobs[name].nunique() < max(0.1 * len(history.jobs), 20)
    ]
    more = history.jobs[names].fillna("").astype(object).reset_index(drop=True)
    sizes = history.jobs[list(MORE_NUMBERS)].reset_index(drop=True)
    return pd.concat([inputs_with_categories(history), more, sizes], axis=1)


def _refitted(
    history: AvailableHistory, fit: Callable[[Integers], Callable[[Integers], Floats]], count: int
) -> Floats:
    """Compute the class shares of a predictor refitted at each of ``history.refits``.

    Args:
        history: What was available at each submission.
        fit: Fits to the rows that had ended, and returns a function of rows.
        count: Of classes.

    Returns:
        float64[n, count], equal shares before the first fit.
    """
    shares = np.full((len(history.submitted_at), count), 1 / count)
    for start, stop in zip(history.refits, (*history.refits[1:], len(shares)), strict=True):
        ended = latest_outcomes(history, int(history.submitted_at[start]))
        if len(ended) >= FEWEST_ROWS:
            shares[start:stop] = fit(ended)(np.arange(start, stop))
    return shares


def _commonest(labels: Integers, count: int, ended: Integers) -> Callable[[Integers], Floats]:
    shares = np.bincount(labels[ended] - 1, minlength=count) / len(ended)
    return lambda rows: np.tile(shares, (len(rows), 1))


def _classifier(
    inputs: pd.DataFrame, labels: Integers, count: int, ended: Integers
) -> Callable[[Integers], Floats]:
    from models.refiner.boosting import fit_classes

    model = fit_classes(inputs.iloc[ended], labels[ended])
    if model is None:
        return _commonest(labels, count, ended)
    return lambda rows: model.probabilities(inputs.iloc[rows], count)


def _certain(classes: Integers, count: int) -> Floats:
    return np.eye(count)[classes - 1]


def class_metrics(target: str, predictor: str, predictions: ClassPredictions) -> Row:
    """Compute accuracy, macro F1, areas under micro-averaged curves, and the logarithmic score.

    Args:
        target: Name of the target.
        predictor: Name of the predictor.
        predictions: Of the target.

    Returns:
        A row; ``roc_auc`` and ``pr_auc`` are the areas under the receiver operating characteristic
        and the precision-recall curve, ``log_score`` is in nats.
    """
    from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

    shares, truth = predictions.shares[predictor], predictions.truth
    best, count = likeliest(shares)[0], shares.shape[1]
    hit = _certain(truth, count)
    of_truth = np.maximum(shares[np.arange(len(truth)), truth - 1], MIN_PROBABILITY)
    return {
        "predictor": predictor,
        "target": target,
        "jobs": len(truth),
        "accuracy": float((best == truth).mean()),
        "macro_f1": float(f1_score(truth, best, average="macro", zero_division=0)),
        "roc_auc": float(roc_auc_score(hit.ravel(), shares.ravel())),
        "pr_auc": float(average_precision_score(hit.ravel(), shares.ravel())),
        "log_score": float(-np.log(of_truth).mean()),
    }


def per_class_metrics(target: str, predictor: str, predictions: ClassPredictions) -> list[Row]:
    """Compute precision, recall and F1 of each class, with its bounds and how many jobs it has.

    Args:
        target: Name of the target.
        predictor: Name of the predictor.
        predictions: Of the target.
    """
    from sklearn.metrics import precision_recall_fscore_support

    best = likeliest(predictions.shares[predictor])[0]
    edges = (0.0, *predictions.thresholds, np.inf)
    classes = np.arange(1, len(edges))
    scores = precision_recall_fscore_support(
        predictions.truth, best, labels=classes, zero_division=0
    )
    return [
        {
            "predictor": predictor,
            "target": target,
            "class": int(k),
            "above": edges[k - 1],
            "up_to": edges[k] if k < len(classes) else None,
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "jobs": int(jobs),
        }
        for k, precision, recall, f1, jobs in zip(classes, *scores, strict=True)
    ]


def joint_metrics(predictor: str, targets: Mapping[str, ClassPredictions]) -> Row:
    """Compute the mean accuracy over the targets, and how often at least k of them are right.

    Args:
        predictor: Name of the predictor.
        targets: The predictions by target; counted are the jobs of which all targets are known.
    """
    common = set.intersection(*(set(target.rows.tolist()) for target in targets.values()))
    rows: Integers = np.sort(np.array(list(common), dtype=np.int64))
    right = np.zeros(len(rows), np.int64)
    for target in targets.values():
        positions = np.searchsorted(target.rows, rows)
        best = likeliest(target.shares[predictor][positions])[0]
        right += best == target.truth[positions]
    row: Row = {
        "predictor": predictor,
        "jobs": len(rows),
        "targets": len(targets),
        "average_accuracy": None,
    }
    if len(rows):
        row["average_accuracy"] = float(right.mean() / len(targets))
        row |= {
            f"at_least_{least}": float((right >= least).mean())
            for least in range(1, len(targets) + 1)
        }
    return row
