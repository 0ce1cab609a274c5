"""The live state of one predictor process: the champion that answers, and the history it answers from.

What answers is one immutable ``ActiveModel``; a new champion is fetched, verified and taught the store's history beside it, then
takes its place in one assignment. Every outcome is in the store before it is in the history, so that the store alone can
rebuild the state, after a restart or in another process.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from infra.settings import Settings
from jobs.coded_jobs import encode_jobs
from jobs.schema import OUTCOMES
from jobs.store import (
    AddResult,
    StoreError,
    add_jobs,
    has_ended_after,
    open_store,
    read_ended,
    read_latest,
)
from models.releases.versions import STALE_AFTER
from services.http.columns import to_coded_jobs
from services.http.contract import Options, PredictRequest
from services.http.errors import HTTPError
from services.http.explanations import name_similar_jobs
from services.http.metrics import Metrics
from services.live.active_model import AT_ONCE, LEARN_SLICE, NO_MODEL, ActiveModel
from services.live.idle import IdleDetector
from services.live.prediction_log import Answer, PredictionLog
from services.live.ranker_cache import RankerCache
from services.live.snapshots import Point, Snapshots

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from models.engine.advice import Advice
    from models.engine.predictions import Answers
    from models.ranking.ranker import Ranked
    from models.releases.versions import Version
    from services.http.rank import RankRequest
    from services.http.task import TaskRequest

log = logging.getLogger("bentoml.gridcast")

WARM_UP = 100
MAX_EXPLAINED_JOBS = 100
"""Jobs; each takes some milliseconds, which others wait for."""
YOUNG = 100_000
"""New objects after which Python looks for garbage: a thousand jobs of JSON are several thousand, and none of them is garbage yet."""
TROUBLES = ("champion", "history", "registry", "store")
"""What may be amiss with what a predictor stands on."""


class PredictorState:
    """The state, and the only ways to change it."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.idle = IdleDetector()
        self.log = PredictionLog(
            lambda: self.engine,
            lambda result, jobs: metrics.log_answers.labels(result).inc(jobs),
            self.idle,
        )
        self.troubles: dict[str, str] = {}
        metrics.log_waiting.set_function(lambda: self.log.waiting)
        metrics.model_degraded.set_function(lambda: float("champion" in self.troubles))
        for what in TROUBLES:
            metrics.trouble.labels(what).set_function(
                lambda what=what: float(what in self.troubles)
            )
        self._active: ActiveModel | None = None
        self.history: dict[str, Any] = {"jobs": 0, "newest_ended_at": None}
        self._engine: Engine | None = None
        self._ranker_cache = RankerCache(self)
        # Held while outcomes enter the history, and for the instant of a swap.
        self._turn = threading.Lock()
        self._missed: list[AddResult] | None = None
        # The store's revision up to which all is in the history, and the later ones that are in it because they were reported here.
        self._revision = 0
        self._own: set[int] = set()
        self._built = datetime.now(UTC)
        # Outcomes of a revision are being learned; where that failed half-way, the history is never kept, and a restart heals it.
        self._learning = False
        self._snapshots = Snapshots(settings.folder("predictor"))
        self.also_asked: Callable[[pa.Table, datetime | None], None] = lambda jobs, at: None
        """Told what callers ask, after they have been answered: the challenger's."""

    @property
    def advice(self) -> Advice:
        """What the operator wants of allocations."""
        from models.engine.advice import Advice

        return Advice.of(self.settings.failure_price, self.settings.left_alone)

    @property
    def ready(self) -> bool:
        """Whether a forecaster with the store's history answers."""
        return self._active is not None

    @property
    def revision(self) -> int:
        """The newest revision of the store that the history may hold."""
        return max((self._revision, *self._own))

    @property
    def active(self) -> ActiveModel:
        """What answers now; raises HTTPError (503) while the first one is being prepared."""
        if self._active is None:
            raise HTTPError(
                503, "the predictor is starting: it reads its model and its history", retry_after=2
            )
        return self._active

    # -- predictions

    def predict(self, asked: PredictRequest, options: Options) -> tuple[Answers, dict[str, Any]]:
        """Predictions for the jobs asked about, and which model made them."""
        active = self.active
        if options.explain and len(asked.jobs) > MAX_EXPLAINED_JOBS:
            raise HTTPError(
                422,
                f"at most {MAX_EXPLAINED_JOBS} jobs are explained at once, these are {len(asked.jobs)}",
            )
        tails = (
            ()
            if options.coverage == 0.9
            else (round((1 - options.coverage) / 2, 6), round((1 + options.coverage) / 2, 6))
        )
        quantiles = tuple(dict.fromkeys((*options.quantiles, *tails)))
        answers = replace(
            active.forecaster.answer(
                to_coded_jobs(asked.jobs), quantiles, options.at, options.classes
            ),
            model_version=active.label,
        )
        if options.keep:
            self.log.add(
                Answer(
                    asked.jobs.select(["source", "job_id"]),
                    answers,
                    datetime.now(UTC),
                    self.revision,
                )
            )
            self.also_asked(asked.jobs, options.at)
        self._count(answers)
        if tails:
            answers = _with_range(answers, tails, options.quantiles)
        about: dict[str, Any] = {"model_version": active.label, "coverage": options.coverage}
        if options.explain:
            about["explanations"] = name_similar_jobs(
                active.forecaster.explain(to_coded_jobs(asked.jobs), options.at), self.engine
            )
        return answers, about

    def task(self, asked: TaskRequest) -> dict[str, Any]:
        """What a task needs, and which model says so."""
        from models.tasks.needs import task_needs

        active = self.active
        found = task_needs(
            active.forecaster, to_coded_jobs(asked.job.jobs), asked.jobs, asked.at_once, asked.at
        )
        return {**found, "model_version": active.label}

    def rank(self, asked: RankRequest) -> tuple[Ranked, str]:
        """Candidates in the order asked for, and which model foresaw their run times."""
        active = self.active
        return self._ranker_cache.rank(asked, active.forecaster), active.label

    def _count(self, answers: Answers) -> None:
        jobs = np.bincount(answers.which, minlength=len(answers.cold_start))
        self.metrics.cold_starts.inc(int(jobs[answers.cold_start].sum()))
        for cluster in {*answers.cluster}:
            self.metrics.clusters.labels(cluster).inc(int(jobs[answers.cluster == cluster].sum()))

    # -- outcomes

    def report(self, ended: pd.DataFrame) -> dict[str, int]:
        """Store finished jobs durably, then add them to the history; counts of added, updated and unchanged.

        Raises HTTPError (503) when the store cannot take them: nothing of them is kept then.
        """
        if not len(ended):
            return {"added": 0, "updated": 0, "unchanged": 0}
        try:
            with self.engine.begin() as connection:
                added = add_jobs(connection, ended)
        except StoreError as error:
            self.troubles["store"] = str(error)
            self.metrics.outcomes.labels("refused").inc(len(ended))
            raise HTTPError(
                503,
                "the store cannot take outcomes now; nothing of these was kept, so send them again",
                retry_after=5,
            ) from error
        self.troubles.pop("store", None)
        self.learn(added)
        return {"added": added.added, "updated": added.updated, "unchanged": added.unchanged}

    def learn(self, added: AddResult) -> None:
        """Add stored outcomes to the history at once."""
        with self._turn:
            if self._missed is not None:
                self._missed.append(added)
            if self._active is not None:
                self._active.learn(added.ended)
            if added.revision > self._revision:  # else catching up was quicker, or nothing ended
                self._own.add(added.revision)
                self._note(added.ended)

    def catch_up(self) -> None:
        """Learn the outcomes that others stored since the last look; raises StoreError when the store cannot be read."""
        if not self.ready or not has_ended_after(self.engine, after=self._revision):
            return
        found = read_ended(self.engine, after=self._revision)
        with self._turn:
            news = found[~found["revision"].isin(self._own)]
            self._revision = int(found["revision"].max())
            self._own = {revision for revision in self._own if revision > self._revision}
            whole, self._learning = not self._learning, True
        for start in range(0, len(news), LEARN_SLICE):
            # A report waits for one slice at most.
            with self._turn:
                self.active.learn(news.iloc[start : start + LEARN_SLICE])
                self._note(news.iloc[start : start + LEARN_SLICE])
        self._learning = not whole

    def save_history(self) -> None:
        """Write the history to disk where that is due, so that a restart learns only what came later; raises StoreError."""
        from models.engine.snapshot import arrays_of

        with self._turn:
            known = self.history
            point = Point(
                self._revision,
                frozenset(self._own),
                known["jobs"],
                known["newest_ended_at"],
                self._built,
            )
            if not self.ready or self._learning or not self._snapshots.due(point):
                return
            arrays = arrays_of(self.active.forecaster)
        self._snapshots.keep(arrays, point, self.engine)

    def _note(self, ended: pd.DataFrame) -> None:
        if len(ended):
            newest = ended["ended_at"].max()
            known = self.history["newest_ended_at"]
            self.history = {
                "jobs": self.history["jobs"] + len(ended),
                "newest_ended_at": newest if known is None else max(known, newest),
            }
            self.metrics.history_jobs.set(self.history["jobs"])
            self.metrics.history_newest.set(self.history["newest_ended_at"].timestamp())

    @property
    def engine(self) -> Engine:
        """The store, opened when it is first needed; raises StoreError."""
        if self._engine is None:
            self._engine = open_store(self.settings.store_url)
        return self._engine

    # -- the champion

    def take(self, version: Version | None, tried: bool = False) -> None:
        """Let ``version`` (None: the bare histories) answer from now on, with the whole history of the store.

        A version that has not answered here before (``tried``) is tried out in a child process first, which a bad file may crash.
        Raises GridcastError when it cannot be fetched, is not what its checksums say, or does not predict; nothing changes then.
        """
        from models.engine.forecaster import Forecaster
        from models.engine.model_set import ModelSet
        from models.releases.verification import fetch, verify_in_subprocess

        if version is None:
            self.rebuild(ActiveModel(Forecaster(None, advice=self.advice)))
            return
        folder = fetch(version, self.settings)
        if not tried:
            verify_in_subprocess(folder)
        model_set = ModelSet.load(folder)
        self.rebuild(
            ActiveModel(
                Forecaster(model_set, advice=self.advice),
                version.label,
                version.version,
                version.run_id,
                model_set.card,
            )
        )

    def rebuild(self, active: ActiveModel) -> None:
        """Teach ``active`` the store's history and let it answer; outcomes that arrive meanwhile are in it too.

        The first to answer goes on from the history that was kept on disk, if it is this one's.
        """
        first = not self.ready
        with self._turn:
            self._missed = []
        start, ended, read = Point(), pd.DataFrame(), False
        try:
            start = (
                self._snapshots.recall(active.forecaster, self.engine) if first else None
            ) or start
            ended = read_ended(self.engine, after=start.revision)
            ended, read = ended[~ended["revision"].isin(start.own)], True
            active.learn(ended, rows=AT_ONCE)
            # The first prediction compiles and loads what the others then find; no caller should wait for that.
            waiting = read_latest(self.engine, WARM_UP).drop(columns=list(OUTCOMES)).tail(WARM_UP)
            active.forecaster.predict(waiting)
            active.forecaster.explain(encode_jobs(waiting.tail(1), waiting.columns))
            self.troubles.pop("store", None)
        except StoreError as error:
            # A model that knows no history is better than none; it catches up when the store is back.
            self.troubles["store"] = str(error)
        with self._turn:
            # What others stored between one's own outcomes is in the history only where the store could be read.
            newest = max(start.reached, int(ended["revision"].max()) if len(ended) else 0)
            self._revision, own = (newest, set[int]()) if read else (start.revision, set(start.own))
            missed = [
                added
                for added in self._missed or ()
                if added.revision > self._revision and added.revision not in own
            ]
            self._own = own | {added.revision for added in missed}
            self._missed, self._built = None, start.built
            for added in missed:
                active.learn(added.ended)
            self._active = active
            self.history = {"jobs": start.jobs, "newest_ended_at": start.newest_ended_at}
            for part in (ended, *(added.ended for added in missed)):
                self._note(part)
        if first:
            # What is here now stays; looking through it again and again for garbage would stop requests for a tenth of a second.
            gc.collect()
            gc.freeze()
            gc.set_threshold(YOUNG)
        self.metrics.model_version.set(active.number)
        self.metrics.model_trained.set(active.card.window.until_us / 1e6 if active.card else 0)

    def describe(self) -> dict[str, Any]:
        """What serves, since when, on what history, and what is wrong: the answer of ``GET /model``."""
        active = self._active
        until = active.card.window.until_us if active and active.card else None
        trained_until = None if until is None else datetime.fromtimestamp(until / 1e6, UTC)
        return {
            "model_version": active.label if active else NO_MODEL,
            "state": "starting" if active is None else "degraded" if self.troubles else "serving",
            "serving_since": active.since.isoformat(timespec="seconds") if active else None,
            "trained_until": _text(trained_until),
            "stale": trained_until is not None and datetime.now(UTC) - trained_until > STALE_AFTER,
            "card": active.card.to_json() if active and active.card else {},
            "history": {
                **self.history,
                "newest_ended_at": _text(self.history["newest_ended_at"]),
                "built_at": _text(self._built),
            },
            "troubles": dict(self.troubles),
        }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _with_range(answers: Answers, tails: tuple[float, float], wanted: tuple[float, ...]) -> Answers:
    """Put the asked range in the place of the 90 % one; its quantiles stay only where they were asked for by themselves."""
    numbers = dict(answers.numbers)
    for low in [name for name in numbers if name.endswith("_low")]:
        target = low.removesuffix("_low")
        for name, level in ((low, tails[0]), (f"{target}_high", tails[1])):
            column = f"{target}_q{level:g}"
            numbers[name] = numbers[column] if level in wanted else numbers.pop(column)
    return replace(answers, numbers=numbers)
