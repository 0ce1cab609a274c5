"""Classes judged: a whole log lived through in time order, each job's classes foreseen at its submission, by several ways.

The measures are those of the paper on PanDA's learned resource prediction (its Tables 2 to 4), and the logarithmic score, which alone
says whether the probabilities are honest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.aliases import Integers, Progress
from models.baselines.available_history import AvailableHistory, read_history
from models.baselines.regressions import FEWEST_ROWS, inputs_with_categories, latest_outcomes
from models.engine.backtest import backtest
from models.engine.training import (
    TrainingError,
    find_target,
)
from models.evaluation.backtest import OURS, Row
from models.past.recent import last
from models.quantities.classes import PAPER, Thresholds, class_of, likeliest, thresholds_of
from models.quantities.targets import Target

Shares = npt.NDArray[np.float64]

CLASSIFIER, LAST, COMMONEST = "classifier", "last", "commonest"
PREDICTORS = (OURS, CLASSIFIER, LAST, COMMONEST)
"""Read off the predicted distribution; CatBoost on classes; the class of the template's last; the shares of what had ended."""
MORE_NAMES, MORE_NUMBERS = ("project", "job_name"), ("input_files", "events")
FEWEST_PROBABILITY = 1e-4
"""The logarithmic score takes no probability to be less: who says never, and is wrong, has not lost everything."""


@dataclass(frozen=True)
class Judged:
    """One target's classes: ``rows`` (int64[n], positions in the jobs) whose true class is ``truth`` (int64[n], from 1), and what each
    predictor gave each class (float64[n, classes])."""

    thresholds: Thresholds
    rows: Integers
    truth: Integers
    shares: Mapping[str, Shares]


@dataclass(frozen=True)
class ClassEvaluation:
    """What an evaluation of classes found; each list has a dict a row of its table.

    ``rows`` has a row a predictor and target, ``class_rows`` a row a class of these, ``joint_rows`` a row a predictor over the jobs of
    which all targets are known. ``targets`` is what they are made from.
    """

    rows: list[Row]
    class_rows: list[Row]
    joint_rows: list[Row]
    targets: dict[str, Judged]


def evaluate_classes(
    jobs: pd.DataFrame,
    targets: Sequence[str] = PAPER,
    warm_up: float = 0.1,
    thresholds: Mapping[str, Sequence[float]] | None = None,
    progress: Progress | None = None,
    refit_every: float = 0.1,
) -> ClassEvaluation:
    """Live through ``jobs`` and judge the classes foreseen of those after the warm-up; targets that the log does not have are left out.

    Thresholds not given are quantiles of what had ended by the end of the warm-up. Raises TrainingError where no target is left.
    """
    jobs = jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
    found = {}
    for name in targets:
        one = _judge(jobs, find_target(name), warm_up, refit_every, thresholds, progress)
        if one is not None:
            found[name] = one
    if not found:
        raise TrainingError(
            f"none of {', '.join(targets)} is known of enough jobs to cut it into classes: there is nothing to evaluate"
        )
    rows = [measure(name, who, one) for name, one in found.items() for who in PREDICTORS]
    each = [
        row
        for name, one in found.items()
        for who in PREDICTORS
        for row in measure_each(name, who, one)
    ]
    return ClassEvaluation(rows, each, [measure_jointly(who, found) for who in PREDICTORS], found)


def _judge(
    jobs: pd.DataFrame,
    target: Target,
    warm_up: float,
    refit_every: float,
    given: Mapping[str, Sequence[float]] | None,
    progress: Progress | None,
) -> Judged | None:
    first, step = max(int(len(jobs) * warm_up), 1), max(int(len(jobs) * refit_every), 1)
    seen = read_history(jobs, target, range(first, len(jobs), step), warm_up=first)
    values = np.where(np.isfinite(seen.values), seen.values, np.nan)
    cuts = thresholds_of(
        target.name, values[latest_outcomes(seen, int(seen.submitted_at[first]))], given
    )
    if not cuts or not np.isfinite(values[first:]).any():
        return None
    lived = backtest(
        jobs,
        target.name,
        warm_up=warm_up,
        refit_every=refit_every,
        thresholds=cuts,
        progress=progress,
    )
    labels = class_of(values, cuts)
    ways: dict[str, Callable[[Integers], Callable[[Integers], Shares]]] = {
        CLASSIFIER: partial(_classifier, _inputs(seen), labels, len(cuts) + 1),
        COMMONEST: partial(_commonest, labels, len(cuts) + 1),
    }
    shares = {
        OURS: lived.shares,
        LAST: _certain(class_of(seen.finest(last), cuts), len(cuts) + 1)[lived.rows],
    }
    shares |= {name: _refitted(seen, fit, len(cuts) + 1)[lived.rows] for name, fit in ways.items()}
    return Judged(cuts, lived.rows, labels[lived.rows], shares)


def _inputs(seen: AvailableHistory) -> pd.DataFrame:
    """What the classifier looks at: all that the plain CatBoost does, and what else tells tasks apart in the paper."""
    names = [
        name for name in MORE_NAMES if 1 < seen.jobs[name].nunique() < max(0.1 * len(seen.jobs), 20)
    ]
    more = seen.jobs[names].fillna("").astype(object).reset_index(drop=True)
    sizes = seen.jobs[list(MORE_NUMBERS)].reset_index(drop=True)
    return pd.concat([inputs_with_categories(seen), more, sizes], axis=1)


def _refitted(
    seen: AvailableHistory, fit: Callable[[Integers], Callable[[Integers], Shares]], count: int
) -> Shares:
    """What a way fitted anew at each of ``seen.refits`` to what had ended gives each class (float64[n, count]); alike before the first."""
    shares = np.full((len(seen.submitted_at), count), 1 / count)
    for start, stop in zip(seen.refits, (*seen.refits[1:], len(shares)), strict=True):
        rows = latest_outcomes(seen, int(seen.submitted_at[start]))
        if len(rows) >= FEWEST_ROWS:
            shares[start:stop] = fit(rows)(np.arange(start, stop))
    return shares


def _commonest(labels: Integers, count: int, ended: Integers) -> Callable[[Integers], Shares]:
    shares = np.bincount(labels[ended] - 1, minlength=count) / len(ended)
    return lambda asked: np.tile(shares, (len(asked), 1))


def _classifier(
    inputs: pd.DataFrame, labels: Integers, count: int, ended: Integers
) -> Callable[[Integers], Shares]:
    from models.refiner.boosting import fit_classes

    model = fit_classes(inputs.iloc[ended], labels[ended])
    if model is None:
        return _commonest(labels, count, ended)
    return lambda asked: model.probabilities(inputs.iloc[asked], count)


def _certain(classes: Integers, count: int) -> Shares:
    return np.eye(count)[classes - 1]


def measure(target: str, predictor: str, judged: Judged) -> Row:
    """Accuracy, macro F1, areas under the micro-averaged ROC and precision-recall curves, logarithmic score (nats) of one predictor."""
    from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

    shares, truth = judged.shares[predictor], judged.truth
    best, count = likeliest(shares)[0], shares.shape[1]
    hit = _certain(truth, count)
    told = np.maximum(shares[np.arange(len(truth)), truth - 1], FEWEST_PROBABILITY)
    return {
        "predictor": predictor,
        "target": target,
        "jobs": len(truth),
        "accuracy": float((best == truth).mean()),
        "macro_f1": float(f1_score(truth, best, average="macro", zero_division=0)),
        "roc_auc": float(roc_auc_score(hit.ravel(), shares.ravel())),
        "pr_auc": float(average_precision_score(hit.ravel(), shares.ravel())),
        "log_score": float(-np.log(told).mean()),
    }


def measure_each(target: str, predictor: str, judged: Judged) -> list[Row]:
    """Precision, recall and F1 of each class, with what it holds and how many jobs are of it."""
    from sklearn.metrics import precision_recall_fscore_support

    best, edges = likeliest(judged.shares[predictor])[0], (0.0, *judged.thresholds, np.inf)
    classes = np.arange(1, len(edges))
    found = precision_recall_fscore_support(judged.truth, best, labels=classes, zero_division=0)
    return [
        {
            "predictor": predictor,
            "target": target,
            "class": int(k),
            "above": edges[k - 1],
            "up_to": edges[k] if k < len(classes) else None,
        }
        | {
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "jobs": int(jobs),
        }
        for k, precision, recall, f1, jobs in zip(classes, *found, strict=True)
    ]


def measure_jointly(predictor: str, targets: Mapping[str, Judged]) -> Row:
    """Mean accuracy over the targets, and how often at least k of them are right, over the jobs of which all are known."""
    rows: Integers = np.sort(
        np.array(
            list(set.intersection(*(set(one.rows.tolist()) for one in targets.values()))),
            dtype=np.int64,
        )
    )
    right = np.zeros(len(rows), np.int64)
    for one in targets.values():
        place = np.searchsorted(one.rows, rows)
        right += likeliest(one.shares[predictor][place])[0] == one.truth[place]
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
