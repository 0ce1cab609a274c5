"""The training pipeline: from stored jobs to a version that serves, as one list of steps.

``gridcast train``, the flow ``train`` and the flow ``retrain`` run the same steps. Each can be
repeated: what was published stays, and the alias moves only in the last step.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pandas as pd

from infra.aliases import Progress
from infra.lineage import LineageRun, lineage, model_version, stored_jobs
from infra.settings import THREADS, Settings
from jobs.store import add_measurements, count_jobs, read_jobs, read_revision
from models.engine.model_set import FormatError, ModelSet
from models.engine.outcomes import require_outcomes
from models.engine.training import TrainingError, train
from models.quantities.classes import parse_thresholds
from models.refiner.boosting import import_catboost
from models.refiner.clusters import By, default_cluster_by
from models.refiner.selection import Fits, fit_here
from models.releases import registry
from models.releases.alias_moves import BY_TRAIN_COMMAND
from models.releases.benchmark import Benchmark, jobs_digest, measure_earlier_versions
from models.releases.candidate import (
    CandidateComparison,
    compare_candidate,
    no_comparison,
    split_sources,
)
from models.releases.evidence import TRAINING_DIGEST_TAG, TrainingRecord, version_evidence
from models.releases.refiner_fitting import refiner_fitting
from models.releases.registry import OvertakenError
from models.releases.runs import OpenRun, git_commit, library_parameters, training_run
from models.releases.verification import load_model_set
from models.releases.versions import Version

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = logging.getLogger(__name__)
ClusterBy = By | Literal["none"]
MAX_JOBS_TRAINED_BESIDE = 1_000_000
"""With more jobs two trainings at once would take too much memory, half a GB a million each."""
RunStep = Callable[[str, Callable[[], None]], None]


@dataclass(frozen=True)
class TrainingOptions:
    """What to train.

    Attributes:
        targets: Predicted quantities, the most important first; empty: the champion's, or walltime.
        cluster_by: What tells clusters apart, "none" for one model of all jobs; None: the
            champion's, or what ``default_cluster_by`` finds in the jobs.
        sources: The sources to train on; empty: the champion's selection, or all that are stored.
        why: The reason, kept with the version.
        by: Who trains, kept with a promotion.
        only_if_comparable: Stop where too few jobs are new to compare with the champion.
    """

    targets: Sequence[str] = ()
    cluster_by: ClusterBy | None = None
    sources: Sequence[str] = ()
    why: str = "asked for"
    by: str = BY_TRAIN_COMMAND
    only_if_comparable: bool = False


@dataclass(frozen=True)
class Release:
    """The published version, whether it was promoted, why or why not, and its comparison.

    ``is_new`` is False where an earlier version had been trained on the same jobs with the same
    settings: nothing was trained, and that version is returned.
    """

    version: Version
    promoted: bool
    why: str
    comparison: CandidateComparison
    is_new: bool = True

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The comparison on later jobs, a row a source, target and predictor."""
        return self.comparison.table.to_dict("records")  # type: ignore[return-value]

    @property
    def source_rows(self) -> list[dict[str, Any]]:
        """What was trained and compared on, a row a source."""
        return [
            {
                "source": split.source,
                "jobs": split.jobs,
                "new_jobs": split.fresh,
                "compared_on": split.later,
                "mae_against_champion": excess.share
                if (excess := self.comparison.by_source.get(split.source))
                else None,
            }
            for split in self.comparison.splits
        ]


class _Trained(NamedTuple):
    """What was trained on all jobs, and when that began and ended."""

    model_set: ModelSet
    began: datetime
    ended: datetime


class TrainingPipeline:
    """One training: its options, and what its steps hand on to each other.

    Raises TrainingError where there is nothing to train on, RegistryError or ModelError where the
    champion cannot be read, StoreError where the store cannot.
    """

    champion: tuple[Version, ModelSet] | None
    unreadable: Version | None
    jobs: pd.DataFrame
    cluster_by: By | None
    comparison: CandidateComparison
    model_set: ModelSet
    version: Version
    release: Release | None = None
    training_run: OpenRun | None = None
    started: Future[_Trained] | None = None
    record: TrainingRecord
    jobs_digest: str
    training_digest: str

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        options: TrainingOptions | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.engine, self.settings, self.progress = engine, settings, progress
        self.options = options or TrainingOptions()
        self.fits: Fits = fit_here
        self.workers = ExitStack()
        self.is_stopped = False
        self.began = datetime.now(UTC)

    @property
    def steps(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        """The steps in their order, by title."""
        return (
            ("read the champion", self.read_champion),
            ("read the jobs", self.read_jobs),
            ("compare on later jobs", self.compare),
            ("train on all jobs", self.fit),
            ("publish", self.publish),
            ("decide", self.decide),
        )

    def run(self, run_step: RunStep = lambda _title, step: step()) -> Release | None:
        """Run the steps, each by ``run_step``; None where ``only_if_comparable`` stopped it."""
        with self.workers, lineage(self.settings, "train") as run:
            for title, step in self.steps:
                run_step(title, step)
                if self.is_stopped:
                    break
            if run.is_sent and self.release and self.release.is_new:
                self._describe(run)
        return self.release

    def _describe(self, run: LineageRun) -> None:
        """Say in a lineage event which jobs and champion gave which version."""
        revision = str(read_revision(self.engine))
        sources = sorted(self.jobs["source"].unique())
        run.inputs += [stored_jobs(self.settings, source, revision) for source in sources]
        if self.champion:
            run.inputs.append(model_version(self.settings, self.champion[0].version))
        run.outputs.append(model_version(self.settings, self.version.version))

    def read_champion(self) -> None:
        """Read the champion, and take from it what the options leave open.

        One of another format is replaced without a comparison.
        """
        version = registry.reconcile(self.settings)
        self.champion, self.unreadable = None, None
        if version:
            try:
                self.champion = version, load_model_set(version, self.settings)
            except FormatError as error:
                log.warning("nothing is compared with the champion: %s", error)
                self.unreadable = version
        self.options = complete_options(self.options, self.champion[1] if self.champion else None)

    def read_jobs(self) -> None:
        """Read the jobs that have ended, find what tells clusters apart, and who fits these."""
        sources = tuple(self.options.sources) or self._sources_of_champion()
        self.jobs = training_jobs(self.engine, self.options.targets, sources)
        self.options = replace(self.options, sources=sources)
        chosen = self.options.cluster_by or default_cluster_by(self.jobs)
        self.cluster_by = None if chosen == "none" else chosen
        self.fits = self.workers.enter_context(refiner_fitting(self.settings, self.cluster_by))

    def _sources_of_champion(self) -> tuple[str, ...]:
        """The sources that the champion was told to train on, of those that are still stored."""
        chosen = self.champion[1].card.selected_sources if self.champion else ()
        stored = set(count_jobs(self.engine)["source"]) if chosen else set()
        return tuple(source for source in chosen if source in stored)

    def compare(self) -> None:
        """Open the training's run, train on the earlier jobs and compare on the later ones.

        Nothing is trained where the same jobs and settings have made a version already, nor where
        ``only_if_comparable`` finds too few new jobs.
        """
        splits, _, _, later = split_sources(self.jobs, self.champion[1] if self.champion else None)
        if len(later) or not (self.options.only_if_comparable and self.champion):
            self._measure_digests()
            if earlier := self._earlier_version():
                why = (
                    f"nothing new to learn: {earlier.label} was trained on the same "
                    f"{len(self.jobs):,} jobs with the same settings"
                )
                champion = self.champion[0] if self.champion else None
                comparison = no_comparison(splits, later, champion, why)
                self.release = Release(earlier, False, why, comparison, is_new=False)
                self.is_stopped = True
                return
            if self.training_run is None:  # a step may be tried again
                name = f"train {self.began:%Y-%m-%d %H:%M}"
                run = training_run(self.settings, name, self.options.by, self.began)
                self.training_run = self.workers.enter_context(run)
                self._start_fit()
        self.comparison = compare_candidate(
            self.jobs,
            tuple(self.options.targets),
            self.cluster_by,
            self.champion,
            self.progress,
            self.fits,
        )
        self.is_stopped = (
            self.options.only_if_comparable
            and self.champion is not None
            and self.comparison.better is None
        )

    def _measure_digests(self) -> None:
        self.jobs_digest = jobs_digest(self.jobs)
        settings = (
            sorted(library_parameters().items()),
            git_commit(),
            list(self.options.targets),
            self.cluster_by,
            self.settings.thresholds,
        )
        text = f"{self.jobs_digest} {settings}"
        self.training_digest = hashlib.sha256(text.encode()).hexdigest()[:12]

    def _earlier_version(self) -> Version | None:
        """The newest finished version of the same jobs and settings, if any."""
        return next(
            (
                version
                for version in registry.versions(self.settings)
                if version.tags.get(TRAINING_DIGEST_TAG) == self.training_digest
                and version.state != "unfinished"
            ),
            None,
        )

    def _start_fit(self) -> None:
        """Train on all jobs beside the comparison: each computes where the other one waits.

        Not where Dask's workers fit, which have enough to do, nor on one core or many jobs.
        """
        if self.fits is not fit_here or THREADS == 1 or len(self.jobs) > MAX_JOBS_TRAINED_BESIDE:
            return
        import_catboost()
        pool, is_ended = self.workers.enter_context(ThreadPoolExecutor(1)), Event()
        self.workers.callback(is_ended.set)
        self.started = pool.submit(self._train, partial(fit_here, is_cancelled=is_ended.is_set))

    def fit(self) -> None:
        """Train on all jobs."""
        if self.progress:
            self.progress("training on all jobs", 0.0)
        started, self.started = self.started, None  # a step may be tried again
        model_set, began, ended = started.result() if started else self._train(self.fits)
        card = replace(model_set.card, selected_sources=tuple(self.options.sources))
        self.model_set = replace(model_set, card=card)
        self.record = TrainingRecord(
            self.options.why, self.jobs_digest, self.training_digest, began, ended
        )

    def _train(self, fits: Fits) -> _Trained:
        began = datetime.now(UTC)
        model_set = train(
            self.jobs,
            targets=tuple(self.options.targets),
            cluster_by=self.cluster_by,
            thresholds=parse_thresholds(self.settings.thresholds),
            fits=fits,
        )
        return _Trained(model_set, began, datetime.now(UTC))

    def publish(self) -> None:
        """Register the model set with its evidence, and measure earlier versions on its jobs."""
        evidence = version_evidence(self.model_set, self.jobs, self.comparison, self.record)
        with TemporaryDirectory(dir=self.settings.folder("tmp")) as folder:
            self.model_set.save(Path(folder) / "set")
            self.version = registry.publish(
                Path(folder) / "set",
                evidence,
                run=self.training_run,
                settings=self.settings,
            )
        store_comparison(self.engine, self.version, self.comparison)
        if benchmark := Benchmark.of(self.comparison, self.options.targets[0]):
            measure_earlier_versions(
                benchmark, self.jobs, self.comparison, self.version, self.settings
            )

    def decide(self) -> None:
        """Promote, refuse, or leave it to a person."""
        self.release = decide(
            self.version,
            self.comparison,
            self.settings,
            by=self.options.by,
            unreadable=self.unreadable,
        )


def complete_options(options: TrainingOptions, champion: ModelSet | None) -> TrainingOptions:
    """Fill in what ``options`` leave open: as the champion was trained; without one, walltime."""
    if champion is None:
        return replace(options, targets=tuple(options.targets) or ("walltime",))
    card = champion.card
    # A card before version 2 says nothing of clusters where there were none: nobody had chosen.
    by_champion: ClusterBy | None = card.cluster_by or ("none" if card.card_version > 1 else None)
    return replace(
        options,
        targets=tuple(options.targets) or card.targets or ("walltime",),
        cluster_by=options.cluster_by or by_champion,
    )


def training_jobs(
    engine: Engine, targets: Sequence[str], sources: Sequence[str] = ()
) -> pd.DataFrame:
    """Read the stored jobs that have ended; raises TrainingError where they teach nothing.

    Args:
        engine: The store.
        targets: What is to be predicted; each must be known of some job.
        sources: Only these sources; empty: all that are stored.
    """
    counts = count_jobs(engine).set_index("source")
    if counts.empty:
        raise TrainingError("nothing is stored: ingest a log first (gridcast ingest FILE)")
    if missing := [source for source in sources if source not in counts.index]:
        raise TrainingError(
            f"no source called {', '.join(missing)} is stored; there are "
            f"{', '.join(counts.index)} (gridcast jobs counts their jobs)"
        )
    chosen = counts.loc[list(sources)] if sources else counts
    if not chosen["ended"].sum():
        raise TrainingError(
            f"none of the {chosen['jobs'].sum():,} stored jobs has ended: a training needs jobs "
            "with their outcomes (gridcast ingest FILE)"
        )
    jobs = read_jobs(engine, sources=sources or None, ended=True)
    require_outcomes(jobs, targets)
    return jobs


def decide(
    version: Version,
    comparison: CandidateComparison,
    settings: Settings,
    *,
    by: str,
    unreadable: Version | None = None,
) -> Release:
    """Promote the first version and a better one, refuse a worse one, else ask a person.

    A champion that this Gridcast cannot read is replaced as if there were none.
    With GRIDCAST_CANARY a version that is not refused becomes the canary, unless there is one.

    Args:
        version: The published candidate.
        comparison: How it did beside the champion.
        settings: Whose registry, and whether promotion asks first.
        by: Who promotes.
        unreadable: The champion where its format is another Gridcast's; nothing was compared then.
    """
    champion = comparison.champion or unreadable
    if champion and comparison.better is False:
        registry.mark_refused(version, why=comparison.sentence, settings=settings)
        refused = registry.get(version.version, settings)
        return Release(refused, False, f"refused: {comparison.sentence}", comparison)
    pinned = registry.pinned(settings)
    is_asked = settings.promotion == "ask" or pinned
    sentence = comparison.sentence
    if unreadable:
        sentence = (
            f"this Gridcast cannot read {unreadable.label}, which is of another version of it"
        )
    elif settings.canary or comparison.better is None:
        is_asked = True
    if champion and is_asked:
        canary = registry.challenger(settings) if settings.canary else None
        if canary:
            why = f"stays a candidate while {canary.label} is the canary: {sentence}"
        else:
            registry.set_challenger(version, settings)
            waits = (
                f"answers {settings.canary:.0%} of the jobs as the canary"
                if settings.canary
                else "waits for a person"
            )
            why = f"{waits}: {f'{pinned}. ' if pinned else ''}{sentence}"
        return Release(registry.get(version.version, settings), False, why, comparison)
    why = sentence if champion else "the first version"
    expected = champion.version if champion else None
    try:
        promoted = registry.promote(
            version.version, by=by, why=why, expected=expected, settings=settings
        )
    except OvertakenError as error:
        registry.reconcile(settings)  # a person may have moved the alias meanwhile
        return Release(registry.get(version.version, settings), False, str(error), comparison)
    return Release(promoted, True, why, comparison)


def store_comparison(engine: Engine, version: Version, comparison: CandidateComparison) -> None:
    """Store the comparison as measurements, of which trends are read.

    Their kind is ``evaluation``, their segment the version and predictor, with the source where
    several were compared.

    Args:
        engine: The store.
        version: The candidate's version.
        comparison: Its comparison with the champion.
    """
    measured = comparison.table.melt(
        ["source", "target", "predictor"], ["mae", "median_ae", "apa", "coverage_90"], "metric"
    ).dropna()
    if measured.empty:
        return
    first = comparison.table["source"].iloc[0]
    suffix = (" of " + measured["source"]).where(measured["source"] != first, "")
    frame = pd.DataFrame(
        {
            "measured_at": pd.Timestamp(version.created_at),
            "kind": "evaluation",
            "name": measured["target"] + " " + measured["metric"],
            "segment": version.label + " " + measured["predictor"] + suffix,
            "value": measured["value"].astype(float),
        }
    )
    with engine.begin() as connection:
        add_measurements(connection, frame)
