"""The live predictor: answers requests from the active model, and owns the background threads."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from infra.aliases import Floats
from infra.background import FOREVER, BackgroundThread, is_data_error
from infra.settings import Settings
from jobs.owners import NotOwnedError, Owners
from jobs.store import StoreError, add_counted, open_store, write_transaction
from models.quantities.within import Bounds
from models.releases.versions import STALE_AFTER
from services.http.callers import LOCAL, Caller, allows
from services.http.columns import to_coded_jobs
from services.http.contract import MAX_EXPLAINED, Options
from services.http.errors import HTTPError
from services.http.explanations import name_similar_jobs
from services.http.metrics import Metrics
from services.http.ownership import refuse_others
from services.http.requests import PredictRequest
from services.live.active_model import NO_MODEL, ActiveModel, load_active_model
from services.live.canary import CanaryAnswers, canary_rows
from services.live.champion_watcher import ChampionWatcher
from services.live.idle import IdleDetector
from services.live.prediction_log import LoggedAnswer, PredictionLog
from services.live.predictor_state import PredictorState
from services.live.ranker_cache import RankerCache
from services.live.shadow import Shadow
from services.live.snapshots import Snapshots

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from jobs.coded_jobs import CodedJobs
    from models.engine.predictions import Predictions
    from models.ranking.ranker import Ranked
    from services.http.match import MatchRequest, SlotPrediction
    from services.http.rank import RankRequest
    from services.http.task import TaskRequest

log = logging.getLogger("bentoml.gridcast")

START_PERIOD = 0.1
"""Seconds between two looks at the registry, and at the store, while nothing answers yet."""
STORE_SECONDS = 10.0
"""How long a write waits for another writer: who reports outcomes does not wait longer either."""
TROUBLES = ("background", "champion", "history", "registry", "store")
"""What can be wrong with what a predictor depends on."""


class LivePredictor:
    """One predictor process: its state, the parts that keep it current, and the answers."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.troubles: dict[str, str] = {}
        self.idle = IdleDetector()
        self._engine: Engine | None = None
        self._opening = threading.Lock()
        snapshots = Snapshots(settings.folder("predictor"))
        self.state = PredictorState(self._store, snapshots, self.troubles, self._measure)
        self.log = PredictionLog(
            self._store,
            lambda result, jobs: metrics.log_answers.labels(result).inc(jobs),
            self.idle,
            self._count_failure,
        )
        self.shadow = Shadow(
            lambda version: load_active_model(version, settings),
            self._store,
            self.log.add,
            lambda result, jobs: metrics.shadow_jobs.labels(result).inc(jobs),
            self.idle,
            self._count_failure,
            settings.watch_seconds if settings.canary else FOREVER,
        )
        self.watcher = ChampionWatcher(
            self.state,
            settings,
            self.troubles,
            lambda result: metrics.swaps.labels(result).inc(),
            self.shadow.follow,
        )
        self.ranker_cache = RankerCache(self._store, self._count_failure)
        self._one_at_a_time = threading.Lock()
        self._parent = os.getppid()
        self.threads = (
            self._repeating("champion watcher", self._watch_champion),
            self._repeating("challenger watcher", self.watcher.look_for_challenger),
            self._repeating("catch-up", self.catch_up),
            self._repeating("history snapshots", self.state.save_history),
            self.log.thread,
            self.shadow.thread,
            self.ranker_cache.thread,
        )
        self._register_gauges()

    # -- life

    def start(self) -> None:
        """Start the background threads; the first look at the registry makes it ready."""
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """Record the answers that wait to be recorded, and end the threads."""
        self.idle.end()
        for thread in self.threads:
            if thread is not self.log.thread:
                thread.stop()
        self.log.stop()

    @property
    def ready(self) -> bool:
        """Whether a forecaster with the store's history answers."""
        return self.state.ready

    @property
    def engine(self) -> Engine:
        """The store, opened when it is first needed; raises StoreError."""
        if self._engine is None:
            with self._opening:
                if self._engine is None:
                    self._engine = open_store(self.settings.store_url, STORE_SECONDS)
        return self._engine

    def catch_up(self) -> None:
        """Learn what others stored, exchange with other shards; raises StoreError."""
        try:
            self.state.follow_store()
        except StoreError as error:
            self.troubles["history"] = str(error)
            raise
        self.troubles.pop("history", None)

    def _store(self) -> Engine:
        return self.engine

    def _repeating(self, name: str, work: Callable[[], None]) -> BackgroundThread:
        """A thread that does some ``work`` between requests, and none beside another of these."""

        def step() -> float:
            self.idle.wait()
            with self._one_at_a_time:
                work()
            return self.settings.watch_seconds if self.ready else START_PERIOD

        return BackgroundThread(name, step, self._count_failure, longest_pause=15.0)

    def _watch_champion(self) -> None:
        if os.getppid() != self._parent:
            # BentoML's supervisor was killed: an orphan would hold the port and answer from an
            # ageing state.
            log.warning("the process that started this one has ended, so this one ends")
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self.watcher.look()

    # -- requests

    def predict(
        self, request: PredictRequest, options: Options, caller: Caller = LOCAL
    ) -> tuple[Predictions, dict[str, Any]]:
        """Predict the jobs of a request.

        Predictions for a caller who is bound to owners and may not report jobs are not logged:
        their names could be those of jobs of others.

        Args:
            request: The jobs.
            options: The range's coverage, further quantiles, the time, and what else to tell.
            caller: Who asks.

        Returns:
            The predictions, and what is said of all of them: model version, coverage and, where
            asked for, explanations.

        Raises:
            HTTPError: Too many jobs to explain (422), a job of others (403), or no model is ready
                (503).
        """
        active, jobs = self.state.active, request.jobs
        if options.explain and len(jobs) > MAX_EXPLAINED:
            raise HTTPError(
                422,
                f"at most {MAX_EXPLAINED} jobs are explained at once, these are {len(jobs)}",
            )
        tails = () if options.coverage == 0.9 else _tails(options.coverage)
        quantiles = tuple(dict.fromkeys((*options.quantiles, *tails)))
        coded = to_coded_jobs(jobs)
        refuse_others(coded, caller.owners, active.forecaster)
        bounds = _bounds(active, request, options)
        answers = replace(
            active.forecaster.predict_encoded(
                coded, quantiles, options.at, options.classes, bounds
            ),
            model_version=active.label,
        )
        # Only logged answers are judged; those of a local table must be of one version.
        canary = self.canary if options.keep else None
        by_canary = None
        if canary:
            by_canary = self._ask_canary(canary, jobs, coded, quantiles, options, bounds)
        if options.keep and (caller.owners is None or allows(caller.scopes, "report")):
            self._log(jobs, answers, by_canary, caller.owners)
            if canary is None and caller.owners is None:
                self.shadow.ask(jobs, options.at)
        if by_canary:
            answers = answers.with_rows_of(by_canary.predictions, by_canary.rows)
        self._count_predictions(answers)
        if tails:
            answers = _with_range(answers, tails, options.quantiles)
        if options.within is not None:
            within = np.round(answers.within["walltime"].probability, 6)
            answers = replace(answers, by_row={"walltime_within": within})
        summary: dict[str, Any] = {"model_version": active.label, "coverage": options.coverage}
        if by_canary:
            summary["canary"] = {
                "model_version": by_canary.predictions.model_version,
                "jobs": len(by_canary.rows),
            }
        if options.explain:
            explanations = active.forecaster.explain(coded, options.at)
            if canary and by_canary:
                own = canary.forecaster.explain(coded.take(by_canary.rows), options.at)
                for row, explanation in zip(by_canary.rows.tolist(), own, strict=True):
                    explanations[row] = explanation
            summary["explanations"] = name_similar_jobs(explanations, self.engine, caller.owners)
        return answers, summary

    @property
    def canary(self) -> ActiveModel | None:
        """The challenger that answers a share of the jobs; None where none does.

        One that does not predict all that the champion does answers none.
        """
        challenger = self.shadow.challenger if self.settings.canary else None
        if challenger is None or not self.ready:
            return None
        wanted = self.state.active.forecaster.names
        return challenger if set(wanted) <= set(challenger.forecaster.names) else None

    def _ask_canary(
        self,
        canary: ActiveModel,
        jobs: pa.Table,
        coded: CodedJobs,
        quantiles: tuple[float, ...],
        options: Options,
        bounds: dict[str, Bounds],
    ) -> CanaryAnswers | None:
        """The canary's predictions of its jobs; None where it has none of these, or fails."""
        rows = canary_rows(jobs.column("job_id"), coded, canary.number, self.settings.canary)
        if not len(rows):
            return None
        try:
            predictions = canary.forecaster.predict_encoded(
                coded.take(rows),
                quantiles,
                options.at,
                options.classes,
                {name: own.take(rows) for name, own in bounds.items()},
            )
        except Exception:  # the champion has answered already
            self.metrics.canary_jobs.labels("failed").inc(len(rows))
            log.exception("%s cannot predict %d jobs as canary", canary.label, len(rows))
            return None
        self.metrics.canary_jobs.labels("answered").inc(len(rows))
        return CanaryAnswers(rows, replace(predictions, model_version=canary.label))

    def _log(
        self,
        jobs: pa.Table,
        answers: Predictions,
        by_canary: CanaryAnswers | None,
        owners: Owners | None,
    ) -> None:
        """Log the answers to a request: of the canary's jobs its own and the champion's."""
        names = jobs.select(["source", "job_id"])
        now, revision = datetime.now(UTC), self.state.revision
        if by_canary is None:
            self.log.add(LoggedAnswer(names, answers, now, revision, owners=owners))
            return
        is_champions = np.ones(len(answers), dtype=bool)
        is_champions[by_canary.rows] = False
        rest, theirs = np.flatnonzero(is_champions), names.take(by_canary.rows)
        canary_revision = self.shadow.known_revision
        canary_answers = answers.take(by_canary.rows)
        for answer in (
            LoggedAnswer(names.take(rest), answers.take(rest), now, revision),
            LoggedAnswer(theirs, canary_answers, now, revision, shadow=True),
            LoggedAnswer(theirs, by_canary.predictions, now, canary_revision),
        ):
            self.log.add(replace(answer, owners=owners))

    def task(self, request: TaskRequest, caller: Caller = LOCAL) -> dict[str, Any]:
        """Predict the needs of a task; raises HTTPError (403; 503 while no model is ready)."""
        from models.tasks.needs import task_needs

        active, coded = self.state.active, to_coded_jobs(request.job.jobs)
        refuse_others(coded, caller.owners, active.forecaster)
        needs = task_needs(active.forecaster, coded, request.jobs, request.at_once, request.at)
        return {**needs, "model_version": active.label}

    def in_slot(self, request: MatchRequest, caller: Caller = LOCAL) -> tuple[SlotPrediction, str]:
        """Predict waiting jobs in a slot; returns the model version too.

        Raises:
            HTTPError: The model predicts no walltime (422), a job belongs to others (403), or no
                model is ready (503).
        """
        from services.live.matching import predict_in_slot

        coded = to_coded_jobs(request.jobs.jobs)
        active = self.state.active
        refuse_others(coded, caller.owners, active.forecaster)
        return predict_in_slot(active.forecaster, request, coded), active.label

    def rank(self, request: RankRequest, caller: Caller = LOCAL) -> tuple[Ranked, str]:
        """Rank the candidates of a request; returns the model version too."""
        active = self.state.active
        refuse_others(request.candidates.columns, caller.owners, active.forecaster)
        return self.ranker_cache.rank(request, active.forecaster), active.label

    def report(self, ended: pd.DataFrame, caller: Caller = LOCAL) -> dict[str, int]:
        """Store finished jobs durably, then add them to the history.

        Args:
            ended: The jobs.
            caller: Who reports them.

        Returns:
            Counts of added, updated and unchanged jobs.

        Raises:
            HTTPError: A job belongs to others (403), or the store cannot take them now (503), or
                never (422); none is kept then.
        """
        if not len(ended):
            return {"added": 0, "updated": 0, "unchanged": 0}
        try:
            added = write_transaction(
                self.engine,
                lambda c: add_counted(c, ended, "outcomes", _sources(ended), owners=caller.owners),
            )
        except NotOwnedError as error:
            raise HTTPError(403, str(error)) from None
        except Exception as error:
            self.metrics.outcomes.labels("refused").inc(len(ended))
            if is_data_error(error):
                raise HTTPError(
                    422, f"the store refuses these outcomes; none was kept: {str(error)[:300]}"
                ) from error
            self.troubles["store"] = str(error)
            raise HTTPError(
                503,
                "the store cannot take outcomes now; nothing of these was kept, so send them again",
                retry_after=5,
            ) from error
        self.troubles.pop("store", None)
        try:
            self.state.learn(added)
        except Exception:
            log.exception("stored outcomes could not be learned yet; catching up will do so")
        if self.settings.canary:
            self.shadow.thread.wake()
        return {"added": added.added, "updated": added.updated, "unchanged": added.unchanged}

    def describe(self, caller: Caller = LOCAL) -> dict[str, Any]:
        """Give the answer of ``GET /model``: the active model, its history, and what is wrong.

        The card and the troubles may name groups and jobs of others: a caller who is bound to
        owners gets neither.
        """
        active = self.state.active if self.ready else None
        card = active.card if active else None
        trained_until = card.window.until if card else None
        troubles = {**self.troubles}
        if background := "; ".join(filter(None, (t.status.trouble for t in self.threads))):
            troubles["background"] = background
        history, canary, is_bound = self.state.history, self.canary, caller.owners is not None
        return {
            "model_version": active.label if active else NO_MODEL,
            "state": "starting" if active is None else "degraded" if troubles else "serving",
            "serving_since": active.since.isoformat(timespec="seconds") if active else None,
            "trained_until": _text(trained_until),
            "stale": trained_until is not None and datetime.now(UTC) - trained_until > STALE_AFTER,
            "shard": self.settings.shard or None,
            "card": card.to_json() if card and not is_bound else {},
            "history": {
                **history,
                "newest_ended_at": _text(history["newest_ended_at"]),
                "built_at": _text(self.state.built_at),
            },
            "troubles": {} if is_bound else troubles,
            "threads": {}
            if is_bound
            else {thread.name: thread.status.to_json() for thread in self.threads},
            "set_aside": {
                "answers": self.log.set_aside,
                "last_reason": "" if is_bound else self.log.last_reason,
            },
            "canary": {"model_version": canary.label, "share": self.settings.canary}
            if canary
            else None,
        }

    # -- metrics

    def _register_gauges(self) -> None:
        metrics = self.metrics
        metrics.log_waiting.set_function(lambda: self.log.waiting)
        metrics.canary_version.set_function(lambda: self.canary.number if self.canary else 0)
        metrics.model_degraded.set_function(lambda: float("champion" in self.troubles))
        for name in TROUBLES:
            metrics.trouble.labels(name).set_function(lambda name=name: self._has_trouble(name))
        for thread in self.threads:
            metrics.thread_failing.labels(thread.name).set_function(
                lambda thread=thread: float(bool(thread.status.trouble))
            )

    def _has_trouble(self, name: str) -> float:
        if name == "background":
            return float(any(thread.status.trouble for thread in self.threads))
        return float(name in self.troubles)

    def _count_failure(self, thread: str) -> None:
        self.metrics.thread_failures.labels(thread).inc()

    def _measure(self, state: PredictorState) -> None:
        if not state.ready:
            return
        history, active = state.history, state.active
        self.metrics.history_jobs.set(history["jobs"])
        if history["newest_ended_at"] is not None:
            self.metrics.history_newest.set(history["newest_ended_at"].timestamp())
        self.metrics.model_version.set(active.number)
        self.metrics.model_trained.set(active.card.window.until_us / 1e6 if active.card else 0)

    def _count_predictions(self, answers: Predictions) -> None:
        jobs = np.bincount(answers.context_of_row, minlength=len(answers.cold_start))
        self.metrics.cold_starts.inc(int(jobs[answers.cold_start].sum()))
        codes, clusters = pd.factorize(answers.cluster)
        for cluster, count in zip(clusters, np.bincount(codes, weights=jobs), strict=True):
            self.metrics.clusters.labels(cluster).inc(count)


def _sources(jobs: pd.DataFrame) -> str:
    return ", ".join(sorted(map(str, jobs["source"].unique())))


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _bounds(active: ActiveModel, request: PredictRequest, options: Options) -> dict[str, Bounds]:
    """The bounds of a request's walltimes, where any; HTTPError (422) without walltimes.

    Args:
        active: The model that answers.
        request: The jobs.
        options: ``within``, and as of when.
    """
    if options.within is None:
        return {}
    if "walltime" not in active.forecaster.names:
        raise HTTPError(422, "within needs a model that predicts walltime; this one does not")
    upper = np.full(len(request.jobs), options.within, np.float64)
    return {"walltime": Bounds(upper, _ran(request.started_at, options.at))}


def _ran(started_at: pa.ChunkedArray | None, at: datetime | None) -> Floats | None:
    """How long jobs have run by ``at`` (default now), s; 0 where they have not started."""
    if started_at is None:
        return None
    begins = started_at.cast(pa.int64()).to_numpy().astype(np.float64) / 1e6
    return np.nan_to_num(np.maximum((at or datetime.now(UTC)).timestamp() - begins, 0.0))


def _tails(coverage: float) -> tuple[float, float]:
    """The levels at both ends of a range of that coverage."""
    return round((1 - coverage) / 2, 6), round((1 + coverage) / 2, 6)


def _with_range(
    answers: Predictions, tails: tuple[float, float], wanted: tuple[float, ...]
) -> Predictions:
    """Replace the 90 % range by the one between ``tails``.

    Its ends are dropped from the quantiles unless they are among the ``wanted`` ones.
    """
    numbers = dict(answers.numbers)
    for low in [name for name in numbers if name.endswith("_low")]:
        target = low.removesuffix("_low")
        for name, level in ((low, tails[0]), (f"{target}_high", tails[1])):
            column = f"{target}_q{level:g}"
            numbers[name] = numbers[column] if level in wanted else numbers.pop(column)
    return replace(answers, numbers=numbers)
