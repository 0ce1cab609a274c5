"""From stored jobs to a version that serves: train, judge on later jobs, publish with the evidence, and promote what is better.

Each step can be repeated at any time: what was published stays, and the alias moves only at the very end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.aliases import Progress
from infra.errors import InputError
from infra.settings import Settings
from jobs.coded_jobs import in_microseconds
from jobs.store import add_measurements, read_jobs
from models.engine.backtest import predict_in_time
from models.engine.forecaster import Forecaster
from models.engine.model_set import ModelSet
from models.engine.training import TrainingError, train
from models.quantities.classes import parse_thresholds
from models.refiner.clusters import By
from models.refiner.selection import Fits, fit_here
from models.releases import registry
from models.releases.alias_moves import BY_TRAIN_COMMAND
from models.releases.comparison import Difference, difference, outcomes, table
from models.releases.evidence import (
    importance,
    metrics_of,
    plot_importance,
    plot_predicted,
    write_model_card,
)
from models.releases.registry import OvertakenError
from models.releases.verification import fetch, verify_in_subprocess
from models.releases.versions import Evidence, Version

if TYPE_CHECKING:
    from sqlalchemy import Engine


EVALUATION_SHARE = 0.2
"""The share of the jobs, the latest by submission, that a candidate is judged on."""
MAX_EVALUATION_JOBS = 10_000
"""More later jobs than this would take minutes and tell no more."""
MIN_EVALUATION_JOBS = 200
"""Fewer later jobs than this decide nothing."""
MAX_REGRESSION = 0.02
"""A candidate is not promoted while the 95 % interval still allows it to be worse by more than this."""


@dataclass(frozen=True)
class Judgement:
    """How a candidate did on later jobs beside the champion and the baselines; ``since`` is None where too few were left.

    ``better`` is None where nothing could be compared.
    """

    since: pd.Timestamp | None
    table: pd.DataFrame
    answers: pd.DataFrame
    against: Version | None
    difference: Difference | None
    better: bool | None
    sentence: str


@dataclass(frozen=True)
class Release:
    """What a release did: the version it published, the champion after it, whether it was promoted, and why or why not."""

    version: Version
    promoted: bool
    why: str
    judgement: Judgement

    @property
    def rows(self) -> list[dict[str, object]]:
        """The comparison on later jobs, a row a target and predictor."""
        return self.judgement.table.to_dict("records")  # type: ignore[return-value]


def training_jobs(engine: Engine, sources: Sequence[str] | None = None) -> pd.DataFrame:
    """The stored jobs that have ended; raises TrainingError where there are none."""
    jobs = read_jobs(engine, sources=sources, ended=True)
    if jobs.empty:
        raise TrainingError(
            "no job in the store has ended: ingest some finished jobs first (gridcast ingest FILE)"
        )
    return jobs


def training_options(
    settings: Settings, targets: Sequence[str] | None = None, cluster_by: By | None = None
) -> tuple[tuple[str, ...], By | None]:
    """Targets, the most important first, and what clusters are told apart by: as told, and what is not told as the champion was trained.

    Without a champion it is walltimes, without clusters. Raises RegistryError or ModelError where the champion cannot be read.
    """
    champion = registry.champion(settings)
    card = load_model_set(champion, settings).card if champion else None
    names = targets or (card.targets if card else ()) or ("walltime",)
    return tuple(names), cluster_by or (card.cluster_by if card else None)


def judge(
    jobs: pd.DataFrame,
    targets: tuple[str, ...],
    cluster_by: By | None,
    settings: Settings,
    progress: Progress | None = None,
    fits: Fits = fit_here,
) -> Judgement:
    """Train on the earlier jobs, live through the later ones, and set the errors beside the champion's and the baselines'.

    The later jobs are those of ``evaluation_start``: neither the candidate nor the champion has seen them. ``fits`` as ``train``'s.
    """
    champion = registry.champion(settings)
    rival = load_model_set(champion, settings) if champion else None
    until = rival.card.window.until_us if rival else None
    submitted = np.asarray(jobs["submitted_at"].astype("int64"), dtype=np.int64)
    since = pd.Timestamp(evaluation_start(submitted, until), unit="us", tz="UTC")
    ended, later = jobs["ended_at"] <= since, jobs[jobs["submitted_at"] > since]
    nothing = pd.DataFrame(
        columns=["target", "predictor", "jobs", "mae", "median_ae", "apa", "coverage_90"]
    )
    if len(later) < MIN_EVALUATION_JOBS or ended.sum() < MIN_EVALUATION_JOBS:
        new, needed = (
            (len(submitted) if until is None else int((submitted > until).sum())),
            MIN_EVALUATION_JOBS * (5 if until is None else 2),
        )
        told = f"{new:,} jobs that ended were submitted{f' since {champion.label}' if champion else ''}, and {needed:,} are needed"
        return Judgement(
            None,
            nothing,
            pd.DataFrame(),
            champion,
            None,
            None,
            f"Nothing to compare by: only {told}.",
        )
    since = later["submitted_at"].min()
    asked = jobs[jobs["submitted_at"] >= since]
    answers = {
        "candidate": predict_in_time(
            train(
                jobs[jobs["submitted_at"] < since],
                targets=targets,
                cluster_by=cluster_by,
                until=in_microseconds(since),
                fits=fits,
            ),
            jobs,
            asked,
            progress=progress,
        )
    }
    target = targets[0]
    if rival is None or champion is None or target not in rival.targets:
        rows = table(jobs, since, answers, targets)
        return Judgement(
            since,
            rows,
            answers["candidate"],
            champion,
            None,
            None,
            f"There was no champion of {target} to compare with.",
        )
    answers["champion"] = predict_in_time(rival, jobs, asked, progress=progress)
    compared = tuple(name for name in targets if name in rival.targets)
    rows = table(jobs, since, answers, compared)
    found = difference(
        outcomes(jobs, since, target), answers["candidate"][target], answers["champion"][target]
    )
    better: bool | None = is_promotable(found)
    sentence = f"On {len(later):,} later jobs its mean absolute error of {target} is {found} than that of {champion.label}."
    if better and (lacking := [name for name in rival.targets if name not in targets]):
        better, sentence = (
            None,
            f"{sentence} It does not foresee {', '.join(lacking)}, which {champion.label} does.",
        )
    return Judgement(since, rows, answers["candidate"], champion, found, better, sentence)


def evaluation_start(submitted: npt.NDArray[np.int64], champion_until: int | None) -> int:
    """From when on (after it) jobs judge a candidate: the last EVALUATION_SHARE of those ``submitted`` (microseconds), at most MAX_EVALUATION_JOBS.

    Of the jobs that came since the champion was trained only the later half judges: on the earlier half a candidate learns what the
    champion does not know, or it would be no better than the champion.
    """
    ordered = np.sort(submitted)
    since = int(ordered[-min(int(len(ordered) * EVALUATION_SHARE) + 1, MAX_EVALUATION_JOBS)])
    if champion_until is None:
        return since
    fresh = ordered[ordered > champion_until]
    return max(since, int(fresh[len(fresh) // 2]) if len(fresh) else champion_until)


def is_promotable(found: Difference) -> bool:
    """Whether a candidate may be promoted: its error is less, and surely not larger by more than MAX_REGRESSION."""
    return found.share < 0 and found.high <= MAX_REGRESSION


def release(
    engine: Engine,
    settings: Settings,
    *,
    targets: Sequence[str] | None = None,
    cluster_by: By | None = None,
    sources: Sequence[str] | None = None,
    why: str = "asked for",
    by: str = BY_TRAIN_COMMAND,
    progress: Progress | None = None,
) -> Release:
    """Train on all stored jobs, publish the result with its evidence, and promote it where it is better or the first.

    What is not told of ``targets`` and clusters is as the champion's (see ``training_options``). Raises TrainingError where there is nothing to
    train on, RegistryError where MLflow cannot be reached.
    """
    jobs = training_jobs(engine, sources)
    names, by_what = training_options(settings, targets, cluster_by)
    judgement = judge(jobs, names, by_what, settings, progress)
    model_set = train(
        jobs,
        targets=names,
        cluster_by=by_what,
        thresholds=parse_thresholds(settings.thresholds),
        progress=progress,
    )
    version = publish(model_set, jobs, judgement, settings, why=why)
    store_comparison(engine, version, judgement)
    return decide(version, judgement, settings, by=by)


def publish(
    model_set: ModelSet, jobs: pd.DataFrame, judgement: Judgement, settings: Settings, *, why: str
) -> Version:
    """Register ``model_set`` with the card, tables and plots that say how it did."""
    card, targets = model_set.card, tuple(model_set.targets)
    shares = importance(model_set)
    figures = {
        f"importance-{name}": plot_importance(shares, name)
        for name in targets
        if (shares["target"] == name).any()
    }
    if judgement.since is not None:
        figures |= {
            f"predicted-{name}": plot_predicted(jobs, judgement.since, judgement.answers, name)
            for name in targets
        }
    clusters = [{"target": name, **row} for name, rows in card.clusters.items() for row in rows]
    evidence = Evidence(
        card=write_model_card(card, judgement.table, judgement.sentence, judgement.since),
        metrics=metrics_of(judgement.table)
        | {
            f"{name}.validation.{key}": value
            for name, part in card.metrics.items()
            for key, value in part.items()
        },
        parameters={
            "targets": ", ".join(targets),
            "jobs": card.rows,
            "sources": ", ".join(card.sources)[:500],
            "cluster_by": card.cluster_by or "none",
            "trained_from": card.window.first_submission,
            "trained_until": card.window.last_submission,
        },
        tags={
            "jobs": str(card.rows),
            "trained_from": card.window.first_submission,
            "trained_until": card.window.last_submission,
            "why_trained": why,
            "compared": judgement.sentence,
        },
        tables={
            "comparison": judgement.table,
            "clusters": pd.DataFrame(clusters),
            "importance": shares,
        },
        figures=figures,
        inputs=jobs.tail(5),
        outputs=judgement.answers.head(5) if len(judgement.answers) else None,
    )
    with TemporaryDirectory(dir=settings.folder("tmp")) as place:
        model_set.save(Path(place) / "set")
        return registry.publish(
            Path(place) / "set",
            evidence,
            run_name=f"train {datetime.now(UTC):%Y-%m-%d %H:%M}",
            settings=settings,
        )


def decide(version: Version, judgement: Judgement, settings: Settings, *, by: str) -> Release:
    """Promote the first version and one that is better, refuse one that is worse, leave the rest as challenger for a person."""
    expected = judgement.against.version if judgement.against else None
    first = judgement.against is None
    if not first and judgement.better is False:
        registry.mark_refused(version, why=judgement.sentence, settings=settings)
        return Release(
            registry.get(version.version, settings),
            False,
            f"refused: {judgement.sentence}",
            judgement,
        )
    pinned = registry.pinned(settings)
    if not first and (judgement.better is None or settings.promotion == "ask" or pinned):
        registry.set_challenger(version, settings)
        why = f"waits for a person: {f'{pinned}. ' if pinned else ''}{judgement.sentence}"
        return Release(registry.get(version.version, settings), False, why, judgement)
    try:
        why = "the first version" if first else judgement.sentence
        promoted = registry.promote(
            version.version, by=by, why=why, expected=expected, settings=settings
        )
    except OvertakenError as error:
        registry.reconcile(settings)  # a person may have moved the alias meanwhile
        return Release(registry.get(version.version, settings), False, str(error), judgement)
    return Release(promoted, True, why, judgement)


def store_comparison(engine: Engine, version: Version, judgement: Judgement) -> None:
    """Keep the comparison in the store, where trends are read: kind evaluation, segment the version and predictor."""
    measured = judgement.table.melt(
        ["target", "predictor"], ["mae", "median_ae", "apa", "coverage_90"], "metric"
    ).dropna()
    if len(measured):
        with engine.begin() as connection:
            add_measurements(
                connection,
                pd.DataFrame(
                    {
                        "measured_at": pd.Timestamp(version.created_at),
                        "kind": "evaluation",
                        "name": measured["target"] + " " + measured["metric"],
                        "segment": version.label + " " + measured["predictor"],
                        "value": measured["value"].astype(float),
                    }
                ),
            )


def load_model_set(version: Version, settings: Settings) -> ModelSet:
    """The model set of ``version``, its checksums checked; a spoiled copy in the data folder is fetched again."""
    return ModelSet.load(fetch(version, settings))


def verify(version: Version, settings: Settings) -> None:
    """Raise ModelError unless ``version`` loads and answers, tried in a process of its own; what the folder holds is not trusted before."""
    verify_in_subprocess(fetch(version, settings))


def promote(version: int | None, settings: Settings, *, by: str, why: str) -> Version:
    """Make a version that a person chose (None: the challenger) champion, if it loads and answers; the champion stays where it does not.

    Raises ModelError or RegistryError, InputError where no challenger waits.
    """
    chosen = registry.challenger(settings) if version is None else registry.get(version, settings)
    if chosen is None:
        raise InputError("no challenger waits: name a version (gridcast history shows them)")
    verify(chosen, settings)
    return registry.promote(chosen.version, by=by, why=why, settings=settings)


def predict_jobs(
    engine: Engine,
    settings: Settings,
    jobs: pd.DataFrame,
    quantiles: tuple[float, ...] = (),
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Predict ``jobs`` with the champion (without one: by the histories alone), whose histories are those at each submission.

    Returns the rows of ``Forecaster.predict`` under the index of ``jobs``, with the version's label, and as ``in_training`` whether
    the job was submitted before the champion had learned all that it has: such answers are no measure of it.
    """
    champion = registry.champion(settings)
    model_set = load_model_set(champion, settings) if champion else None
    history = read_jobs(engine, until=jobs["submitted_at"].max(), ended=True)
    answers = predict_in_time(model_set, history, jobs, quantiles, progress).loc[jobs.index]
    if champion is None or model_set is None:
        return answers.assign(in_training=False)
    until = model_set.card.window.until
    return answers.assign(
        model_version=champion.label, in_training=(jobs["submitted_at"] <= until).to_numpy()
    )


def load_forecaster(engine: Engine, settings: Settings) -> Forecaster:
    """The champion, or without one the bare histories, taught all that has ended in the store: for jobs submitted from now on."""
    champion = registry.champion(settings)
    taught = Forecaster(load_model_set(champion, settings) if champion else None)
    taught.learn(read_jobs(engine, ended=True))
    return taught
