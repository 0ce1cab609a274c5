"""The challenger in the shadow: it predicts what callers ask, and its answers are only recorded.

A thread of its own loads it, teaches it the store's history and lets it answer between requests.
No caller waits for it; what it cannot keep up with is dropped and counted. Its history takes as
much memory as the champion's.
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
from jobs.store import read_ended
from services.http.columns import to_coded_jobs
from services.live.active_model import BULK_ROWS, ActiveModel, same_version
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
    """

    def __init__(
        self,
        load: Callable[[Version], ActiveModel],
        store: Callable[[], Engine],
        record: Callable[[LoggedAnswer], None],
        count: Callable[[str, int], None],
        idle: IdleDetector,
        on_failure: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.thread = BackgroundThread("shadow", self.step, on_failure)
        self._load, self._store, self._record = load, store, record
        self._count, self._idle = count, idle
        self._lock = threading.Lock()
        self._queries: deque[_Query] = deque()
        self._waiting = 0
        self._wanted: Version | None = None
        self._loaded: Version | None = None
        self._challenger: ActiveModel | None = None
        self._revision = 0
        self._retry_at = 0.0

    def follow(self, version: Version | None) -> None:
        """Let ``version`` (None: no challenger) predict from now on; returns at once."""
        if not same_version(version, self._wanted):
            self._wanted, self._retry_at = version, 0.0
            self.thread.wake()

    def ask(self, jobs: pa.Table, at: datetime | None) -> None:
        """Have the challenger predict later what a caller asked; returns at once."""
        if self._challenger is None or not jobs.num_rows:
            return
        with self._lock:
            if self._waiting + jobs.num_rows > MAX_WAITING_JOBS:
                self._count("dropped", jobs.num_rows)
                return
            self._waiting += jobs.num_rows
            self._queries.append(_Query(jobs, at))
        self.thread.wake()

    def step(self) -> float:
        """Load the wanted challenger, or answer one query; seconds until there may be more."""
        if not same_version(self._wanted, self._loaded):
            wait = self._retry_at - time.monotonic()
            if wait > 0:
                return wait
            self._take(self._wanted)
            return 0.0
        with self._lock:
            if not self._queries:
                return FOREVER
            query = self._queries.popleft()
            self._waiting -= query.jobs.num_rows
        try:
            self._answer(query)
        except Exception:
            self._count("dropped", query.jobs.num_rows)
            raise
        return 0.0

    def _take(self, version: Version | None) -> None:
        """Replace the challenger; a version counts as loaded only when it answers."""
        with self._lock:
            self._challenger, self._loaded, self._waiting = None, None, 0
            self._queries.clear()
        if version is None:
            return
        self._retry_at = time.monotonic() + RETRY_SECONDS
        challenger = self._load(version)
        self._revision = self._teach(challenger, 0)
        self._challenger, self._loaded = challenger, version
        log.info("%s predicts in the shadow", version.label)

    def _teach(self, challenger: ActiveModel, after: int) -> int:
        """Let it learn what the store learned after a revision; returns the newest revision."""
        ended = read_ended(self._store(), after=after)
        challenger.learn(ended, rows=BULK_ROWS)
        return int(ended["revision"].max()) if len(ended) else after

    def _answer(self, query: _Query) -> None:
        challenger = self._challenger
        if challenger is None:
            return
        self._idle.wait()
        # Outcomes that came after the query are learned too; they only change how far histories
        # are trusted, and no score is made of this.
        self._revision = self._teach(challenger, self._revision)
        predictions = replace(
            challenger.forecaster.predict_encoded(to_coded_jobs(query.jobs), (), query.at),
            model_version=challenger.label,
        )
        jobs = query.jobs.select(["source", "job_id"])
        now = datetime.now(UTC)
        self._record(LoggedAnswer(jobs, predictions, now, self._revision, shadow=True))
        self._count("scored", len(predictions))
