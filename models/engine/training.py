"""Training: live through the log once, then teach CatBoost to bend what the mixture of histories foresaw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Progress
from infra.errors import InputError
from models.engine.model_card import ModelCard, TrainingWindow, data_by_source
from models.engine.model_set import ModelSet, TargetModel
from models.histories.calibration import Calibration
from models.histories.components import MixtureSettings, settings_of
from models.histories.features import Contexts, Levels, choose_levels, encode
from models.histories.mixture import Mixture, PrequentialReplay, outcome_order
from models.quantities.classes import thresholds_of
from models.quantities.distribution import Distribution, join
from models.quantities.metrics import coverage, lowest_counted, point_errors
from models.quantities.targets import TARGETS, Target
from models.refiner.boosting import BOOSTING
from models.refiner.clusters import By, Clusters, find_clusters
from models.refiner.refinement import factors, input_names, refine
from models.refiner.selection import WINDOWS, Fits, before_windows, fit_here, select_refiners
from models.refiner.training_rows import TrainingBuffer, make_training_rows

MAX_TRAINING_ROWS = 30_000
BATCH_ROWS = 4096
"""How many jobs are foreseen at once while living through a log."""


class TrainingError(InputError):
    """There is nothing to train on, or a setting is wrong; the message is one sentence."""


def train(
    jobs: pd.DataFrame,
    *,
    targets: tuple[str, ...] = ("walltime",),
    cluster_by: By | None = None,
    settings: MixtureSettings | None = None,
    thresholds: Mapping[str, Sequence[float]] | None = None,
    progress: Progress | None = None,
    fits: Fits = fit_here,
) -> ModelSet:
    """Train a model set on stored ``jobs`` in time order; raises TrainingError when no job has ended with a known outcome.

    ``thresholds`` of classes by target are taken as given; those of the other targets are quantiles of the outcomes. ``fits`` says where
    the refiners of clusters are fitted.
    """
    chosen = [find_target(name) for name in targets]
    subject = chosen[0].subject
    if any(aim.subject != subject for aim in chosen):
        raise TrainingError(
            f"{', '.join(targets)} are not quantities of one kind of record: train them apart"
        )
    levels = choose_levels(jobs, subject)
    contexts = encode(jobs, levels)
    models, reports, metrics = {}, {}, {}
    clusters = Clusters()
    for place, aim in enumerate(chosen):
        values = aim.value(jobs)
        ended = outcome_order(contexts, values)
        if not len(ended):
            raise TrainingError(
                f"no job has ended with a known {aim.name}: there is nothing to train on"
            )
        if place == 0:
            early = before_windows(ended, MAX_TRAINING_ROWS)
            clusters = find_clusters(jobs.iloc[early], values[early], cluster_by)
        if progress:
            progress(f"training {aim.name}", place / len(chosen))
        model, report, metric = _train_one(
            aim,
            levels,
            settings or settings_of(aim.name),
            contexts,
            values,
            aim.limit(jobs),
            clusters.assign(jobs),
            fits,
        )
        models[aim.name], reports[aim.name], metrics[aim.name] = model, report, metric
    if progress:
        progress("trained", 1.0)
    names = tuple(level.name for level in levels.levels)
    card = ModelCard(
        datetime.now(UTC).isoformat(timespec="seconds"),
        len(jobs),
        TrainingWindow.of(jobs, contexts.available_at),
        by_source=(by_source := data_by_source(jobs, contexts.available_at)),
        sources=tuple(by_source),
        levels=names,
        features={
            target.name: input_names(names, levels.numbers, target.grid.bins) for target in chosen
        },
        settings={
            "mixture": {name: asdict(model.settings) for name, model in models.items()},
            "boosting": BOOSTING,
            "most_rows": MAX_TRAINING_ROWS,
        },
        thresholds={
            target.name: thresholds_of(target.name, target.value(jobs), thresholds)
            for target in chosen
        },
        cluster_by=cluster_by,
        clusters=reports,
        metrics=metrics,
    )
    return ModelSet(card, levels, clusters, models)


def _train_one(
    aim: Target,
    levels: Levels,
    settings: MixtureSettings,
    contexts: Contexts,
    values: Array,
    limits: Array,
    clusters: Array,
    fits: Fits,
) -> tuple[TargetModel, list[dict[str, Any]], dict[str, float]]:
    mixture = new_mixture(aim, levels, settings)
    order = outcome_order(contexts, values)
    latest = order[-MAX_TRAINING_ROWS:]
    rows = latest[np.argsort(contexts.at[latest], kind="stable")]
    walk = PrequentialReplay(mixture, contexts, values, limits)
    notebook, parts = TrainingBuffer(len(rows)), []
    for start in range(0, len(rows), BATCH_ROWS):
        few = np.arange(start, min(start + BATCH_ROWS, len(rows)))
        parts.append(walk.advance(rows[few]))
        notebook.put(
            few,
            make_training_rows(
                mixture, contexts.take(rows[few]), parts[-1][0].mass, values[rows[few]]
            ),
        )
    seen_order = np.lexsort((contexts.ids[rows], contexts.available_at[rows]))
    lessons = notebook.take(seen_order)
    standing = select_refiners(lessons, clusters[rows][seen_order], aim.grid, fits=fits)
    later = lessons.split(int(len(rows) * WINDOWS[-1]))[1]
    after = seen_order[later]
    part = contexts.take(rows[after])
    answer = join([answer for answer, _ in parts]).take(after)
    scales = np.concatenate([scales for _, scales in parts])
    if standing.validation_refiners:
        bent = factors(
            lessons.inputs[later],
            lessons.coarse[later],
            standing.validation_refiners,
            clusters[rows[after]],
        )
        answer = replace(answer, mass=refine(answer.mass, bent))
    calibration = Calibration()
    calibration.learn(*answer.probability_integral(values[rows[after]]))
    metric = _measure(answer, mixture, part, values[rows[after]], scales[after])
    walk.advance(np.empty(0, np.int64))
    return (
        TargetModel(aim.name, settings, mixture.learned(), calibration, standing.refiners),
        standing.report,
        metric,
    )


def _measure(
    answer: Distribution, mixture: Mixture, contexts: Contexts, truth: Array, scales: Array
) -> dict[str, float]:
    if not len(truth):
        return {"validation_jobs": 0.0}
    point = answer.best_point(scales, mixture.last_in_bin(contexts, answer.best_bin(scales)))
    errors = point_errors(truth, point, lowest_counted(mixture.grid))
    return {
        "validation_jobs": float(len(truth)),
        **{name: float(errors[name] or 0.0) for name in ("mae", "median_ae", "apa")},
        "crps": float(answer.continuous_ranked_probability(truth).mean()),
        "coverage_90": coverage(truth, *answer.interval(0.9)),
    }


def find_target(name: str) -> Target:
    """The target of a name; raises TrainingError when there is none."""
    if name not in TARGETS:
        raise TrainingError(f"there is no target {name!r}; there are {', '.join(TARGETS)}")
    return TARGETS[name]


def new_mixture(aim: Target, levels: Levels, settings: MixtureSettings | None = None) -> Mixture:
    """A mixture of a target that has learned nothing yet, by the target's own settings unless others are given."""
    return Mixture(
        aim,
        tuple(level.relative for level in levels.levels),
        levels.owner,
        settings or settings_of(aim.name),
    )
