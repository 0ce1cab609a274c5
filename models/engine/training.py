"""Training: a prequential replay of a log, then CatBoost refiners of its predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Progress
from infra.errors import InputError
from models.engine.level_selection import select_levels
from models.engine.log_rows import MAX_TRAINING_ROWS, LogRows
from models.engine.model_card import ModelCard, TrainingWindow, data_by_source
from models.engine.model_set import ModelSet, TargetModel
from models.engine.prequential import (
    Predicted,
    RefinerFit,
    TargetReplay,
    validation_rows,
)
from models.engine.target_predictor import TargetPredictor, batches, reweight
from models.histories.components import MixtureSettings
from models.histories.features import NOT_AVAILABLE, encode
from models.quantities.classes import thresholds_of
from models.quantities.distribution import join
from models.quantities.metrics import coverage, lowest_counted, point_errors
from models.quantities.targets import TARGETS, Target
from models.refiner.boosting import BOOSTING
from models.refiner.clusters import By, Clusters
from models.refiner.refinement import factors, input_names
from models.refiner.selection import Fits, fit_here

MAX_SAMPLE = 300
"""So many of the latest training jobs are kept to explain the refiners by."""


class TrainingError(InputError):
    """There is nothing to train on, or a setting is wrong; the message is one sentence."""


def train(
    jobs: pd.DataFrame,
    *,
    targets: tuple[str, ...] = ("walltime",),
    cluster_by: By | None = None,
    settings: MixtureSettings | None = None,
    thresholds: Mapping[str, Sequence[float]] | None = None,
    until: int | None = None,
    progress: Progress | None = None,
    fits: Fits = fit_here,
) -> ModelSet:
    """Train a model set on ``jobs`` in order of time.

    Args:
        jobs: Records of one kind, in any order.
        targets: Names of the quantities to predict, the most important first.
        cluster_by: What clusters are told apart by; None for one model only.
        settings: Of the mixtures; each target's own unless given.
        thresholds: Of classes, by target; quantiles of the outcomes for targets without any.
        until: The time of the training (µs): only outcomes available by then are used. None for
            all outcomes.
        progress: Called before each target.
        fits: Where the refiners of clusters are fitted.

    Raises:
        TrainingError: Where no job has ended with a known outcome.
    """
    chosen = [find_target(name) for name in targets]
    subject = chosen[0].subject
    if any(target.subject != subject for target in chosen):
        raise TrainingError(
            f"{', '.join(targets)} are not quantities of one kind of record: train them apart"
        )
    selected = select_levels(jobs, chosen, until, settings)
    levels = selected.levels
    contexts = encode(jobs, levels)
    logs = {
        target.name: LogRows.of_contexts(contexts, target.value(jobs), target.limit(jobs), until)
        for target in chosen
    }
    available_at = logs[targets[0]].contexts.available_at
    at = until if until is not None else _latest(available_at)
    models: dict[str, TargetModel] = {}
    reports, metrics = {}, {}
    clusters = Clusters()
    for number, target in enumerate(chosen):
        log = logs[target.name]
        if not len(log.outcome_order):
            raise TrainingError(
                f"no job has ended with a known {target.name}: there is nothing to train on"
            )
        if number == 0:
            clusters = log.find_clusters(jobs, cluster_by, at)
        if progress:
            progress(f"training {target.name}", number / len(chosen))
        models[target.name], reports[target.name], metrics[target.name] = _train_target(
            target,
            TargetReplay(TargetPredictor.create(target, levels, settings), log),
            clusters.assign(jobs),
            at,
            fits,
        )
    if progress:
        progress("trained", 1.0)
    window = replace(TrainingWindow.of(jobs, available_at), until_us=at)
    names = tuple(level.name for level in levels.levels)
    card = ModelCard(
        datetime.now(UTC).isoformat(timespec="seconds"),
        len(jobs),
        window,
        by_source=(by_source := data_by_source(jobs, available_at)),
        sources=tuple(by_source),
        levels=names,
        optional_fields={
            name: [gain.to_json() for gain in gains] for name, gains in selected.gains.items()
        },
        features={target.name: input_names(names, levels.inputs, target.grid) for target in chosen},
        settings={
            "mixture": {name: asdict(model.settings) for name, model in models.items()},
            "boosting": BOOSTING,
            "most_rows": MAX_TRAINING_ROWS,
        },
        thresholds={
            target.name: thresholds_of(target.name, logs[target.name].values, thresholds)
            for target in chosen
        },
        cluster_by=cluster_by,
        clusters=reports,
        metrics=metrics,
    )
    return ModelSet(card, levels, clusters, models)


def _latest(available_at: Array) -> int:
    available = available_at[available_at != NOT_AVAILABLE]
    return int(available.max()) if len(available) else 0


def _train_target(
    target: Target, replay: TargetReplay, clusters: Array, at: int, fits: Fits
) -> tuple[TargetModel, list[dict[str, Any]], dict[str, float]]:
    log, mixture = replay.log, replay.predictor.mixture
    latest = log.outcome_order[-MAX_TRAINING_ROWS:]
    in_order = latest[np.argsort(log.contexts.at[latest], kind="stable")]
    predicted = [replay.advance(rows) for rows in batches(in_order)]
    fit = replay.fit(at, clusters, fits=fits)
    metrics = _validation_errors(replay, fit, clusters, predicted)
    replay.learn_rest()
    selection = fit.selection
    settings = replay.predictor.settings
    sample = replay.training_rows.take(fit.rows[-MAX_SAMPLE:]).inputs
    model = TargetModel(
        target.name, settings, mixture.learned(), fit.calibration, selection.refiners, sample
    )
    return (
        model,
        selection.report,
        metrics,
    )


def _validation_errors(
    replay: TargetReplay, fit: RefinerFit, clusters: Array, predicted: list[Predicted]
) -> dict[str, float]:
    """The errors on the last window of the refiners that have not seen it; ranges uncalibrated."""
    training = replay.training_rows.take(fit.rows)
    later = validation_rows(training)
    if not len(later):
        return {"validation_jobs": 0.0}
    rows = np.concatenate([batch.rows for batch in predicted])
    position = np.empty(len(replay.log), np.int64)
    position[rows] = np.arange(len(rows))
    scales = np.concatenate([batch.scales for batch in predicted])
    window = position[fit.rows[later]]
    masses = join([batch.distribution for batch in predicted]).take(window)
    if fit.selection.validation_refiners:
        window_rows, refiners = training.take(later), fit.selection.validation_refiners
        masses = reweight(
            masses,
            factors(window_rows.inputs, window_rows.coarse, refiners, clusters[fit.rows[later]]),
        )
    window_predictions = Predicted(fit.rows[later], masses, scales[window])
    truth = replay.log.values[window_predictions.rows]
    errors = point_errors(truth, replay.points(window_predictions), lowest_counted(masses.grid))
    return {
        "validation_jobs": float(len(truth)),
        **{name: float(errors[name] or 0.0) for name in ("mae", "median_ae", "apa")},
        "crps": float(masses.continuous_ranked_probability(truth).mean()),
        "coverage_90": coverage(truth, *masses.interval(0.9)),
    }


def find_target(name: str) -> Target:
    """The target of a name; raises TrainingError when there is none."""
    if name not in TARGETS:
        raise TrainingError(f"there is no target {name!r}; there are {', '.join(TARGETS)}")
    return TARGETS[name]
