"""The challenger beside the champion: in the shadow, or as the canary that answers some jobs.

A thread of its own loads it and teaches it the store's history, which takes as much memory as the
champion's. In the shadow it predicts between requests what callers ask, and its predictions are
only recorded: no caller waits for it, and what it cannot keep up with is dropped and counted. As
the canary it learns outcomes as they come, and the requests call it themselves.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from infra.background import FOREVER, BackgroundThread
from jobs.store import has_ended_after, read_ended
from services.http.columns import to_coded_jobs
from services.live.active_model import BULK_ROWS, LEARN_ROWS, ActiveModel, same_version
from services.live.idle import IdleDetector
from services.live.prediction_log import LoggedAnswer

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Engine

    from models.releases.versions import Version

log = logging.getLogger("bentoml.gridcast")

MAX_WAITING_JOBS = 100_000
"""Jobs that may wait for the challenger's prediction."""
RETRY_SECONDS = 60.0
"""Seconds until a challenger that could not be loaded is tried again."""


@dataclass(frozen=True)
class _Query:
    jobs: pa.Table
    at: datetime | None


class Shadow:
    """The challenger of one predictor process, if there is one.

    Args:
        load: Loads a version as a model without history; raises GridcastError.
        store: Gives the engine of the store; raises StoreError.
        record: Takes an answer for the prediction log.
        count: Called with a result (scored, dropped) and a number of jobs.
        idle: Tells when no request is being answered.
        on_failure: Called with the thread's name after a failure.
        learn_seconds: Seconds between two looks for outcomes without requests; FOREVER: it learns
            before it predicts, in the shadow.
    """

    def __init__(
        self,
        load: Callable[[Version], ActiveModel],
        store: Callable[[], Engine],
        record: Callable[[LoggedAnswer], None],
        count: Callable[[str, int], None],
        idle: IdleDetector,
        on_failure: Callable[[str], None] = lambda name: None,
        learn_seconds: float = FOREVER,
    ) -> None:
        self.thread = BackgroundThread("shadow", self.step, on_failure)
        self._load, self._store, self._record = load, store, record
        self._count, self._idle = count, idle
        self._lock = threading.Lock()
        self._queries: deque[_Query] = deque()
        self._waiting = 0
        self._wanted: Version | None = None
        self._loaded: Version | None = None
        self.challenger: ActiveModel | None = None
        # The newest revision of the store that its history may hold, and that it holds whole.
        self.known_revision = self._taught = 0
        self._learn_seconds = learn_seconds
        self._retry_at = 0.0

    def follow(self, version: Version | None) -> None:
        """Let ``version`` (None: no challenger) predict from now on; returns at once."""
        if not same_version(version, self._wanted):
            self._wanted, self._retry_at = version, 0.0
            self.thread.wake()

    def ask(self, jobs: pa.Table, at: datetime | None) -> None:
        """Have the challenger predict later what a caller asked; returns at once."""
        if self.challenger is None or not jobs.num_rows:
            return
        with self._lock:
            if self._waiting + jobs.num_rows > MAX_WAITING_JOBS:
                self._count("dropped", jobs.num_rows)
                return
            self._waiting += jobs.num_rows
            self._queries.append(_Query(jobs, at))
        self.thread.wake()

    def step(self) -> float:
        """Load the wanted challenger, answer a query or learn; seconds until there may be more."""
        if not same_version(self._wanted, self._loaded):
            wait = self._retry_at - time.monotonic()
            if wait > 0:
                return wait
            self._take(self._wanted)
            return 0.0
        with self._lock:
            query = self._queries.popleft() if self._queries else None
            self._waiting -= query.jobs.num_rows if query else 0
        if query is None:
            return self._keep_up()
        try:
            self._answer(query)
        except Exception:
            self._count("dropped", query.jobs.num_rows)
            raise
        return 0.0

    def _take(self, version: Version | None) -> None:
        """Replace the challenger; a version counts as loaded only when it answers."""
        with self._lock:
            self.challenger, self._loaded, self._waiting = None, None, 0
            self.known_revision = self._taught = 0
            self._queries.clear()
        if version is None:
            return
        self._retry_at = time.monotonic() + RETRY_SECONDS
        challenger = self._load(version)
        self._teach(challenger, BULK_ROWS)
        self.challenger, self._loaded = challenger, version
        log.info("%s predicts as challenger", version.label)

    def _keep_up(self) -> float:
        """Let a canary learn what ended meanwhile; seconds until the next look."""
        if self.challenger is None or self._learn_seconds == FOREVER:
            return FOREVER
        if has_ended_after(self._store(), after=self._taught):
            self._idle.wait()
            self._teach(self.challenger, LEARN_ROWS)
        return self._learn_seconds

    def _teach(self, challenger: ActiveModel, rows: int) -> None:
        """Let it learn what it has not yet of the store, ``rows`` outcomes at a time."""
        ended = read_ended(self._store(), after=self._taught)
        if len(ended):
            self.known_revision = newest = int(ended["revision"].max())
            challenger.learn(ended, rows)
            self._taught = newest

    def _answer(self, query: _Query) -> None:
        challenger = self.challenger
        if challenger is None:
            return
        self._idle.wait()
        # Outcomes that came after the query are learned too; they only change how far histories
        # are trusted, and no score is made of this.
        self._teach(challenger, BULK_ROWS)
        predictions = replace(
            challenger.forecaster.predict_encoded(to_coded_jobs(query.jobs), (), query.at),
            model_version=challenger.label,
        )
        jobs = query.jobs.select(["source", "job_id"])
        now = datetime.now(UTC)
        self._record(LoggedAnswer(jobs, predictions, now, self.known_revision, shadow=True))
        self._count("scored", len(predictions))
