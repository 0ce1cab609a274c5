"""The state of one predictor process: the active model and how far its history reaches.

A new model learns the store's history beside the active one, then replaces it in one assignment.
Every outcome is in the store before it is in the history, so the store alone can rebuild the
state, after a restart or in another process.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from jobs.coded_jobs import encode_jobs
from jobs.schema import OUTCOMES
from jobs.store import AddResult, StoreError, has_ended_after, read_ended, read_latest
from services.http.errors import HTTPError
from services.live.active_model import BULK_ROWS, LEARN_ROWS, ActiveModel
from services.live.shard_exchange import ShardExchange
from services.live.snapshots import HistoryPosition, Snapshots

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from infra.mapped_arrays import StoredArray

log = logging.getLogger("bentoml.gridcast")

WARM_UP_JOBS = 100
SLICE_ROWS = 10 * BULK_ROWS
"""Outcomes that are learned at the start until ``waits_for`` says so."""
GC_THRESHOLD = 100_000
"""New objects before a garbage collection: a thousand jobs of JSON are several thousand, all in
use."""


class PredictorState:
    """The active model and its history; every change goes through one lock.

    Args:
        store: Gives the engine of the store, opened at first use; raises StoreError.
        snapshots: The copy of the history on disk.
        troubles: What is wrong, by what it concerns; the state sets and clears ``store``.
        on_change: Called after the history or the active model has changed.
    """

    def __init__(
        self,
        store: Callable[[], Engine],
        snapshots: Snapshots,
        troubles: dict[str, str],
        on_change: Callable[[PredictorState], None] = lambda state: None,
    ) -> None:
        self.history: dict[str, Any] = {"jobs": 0, "newest_ended_at": None}
        self.built_at = datetime.now(UTC)
        self._store, self._snapshots, self._troubles = store, snapshots, troubles
        self._on_change = on_change
        self._active: ActiveModel | None = None
        # Held while outcomes enter the history, and for the instant of a swap.
        self._lock = threading.Lock()
        # Reports that arrive during a rebuild, for the model that is being built.
        self._missed: list[AddResult] | None = None
        # All outcomes up to this revision of the store are in the history, ...
        self._revision = 0
        # ... those of these later ones, which were reported here, ...
        self._own_revisions: set[int] = set()
        # ... and those up to this one are being learned by catch_up.
        self._catching_up_to = 0
        self._exchange: ShardExchange | None = None
        # Whether a slice was learned only half: such a history is never saved.
        self._torn = False
        self.waits_for = "it asks the registry for the champion"
        """What a predictor that is not ready does."""

    @property
    def ready(self) -> bool:
        """Whether a forecaster with the store's history answers."""
        return self._active is not None

    @property
    def revision(self) -> int:
        """The newest revision of the store that the history may hold."""
        return max((self._revision, self._catching_up_to, *self._own_revisions))

    @property
    def active(self) -> ActiveModel:
        """The active model; raises HTTPError (503) while the first one is being prepared."""
        if self._active is None:
            raise HTTPError(503, f"the predictor is starting: {self.waits_for}", retry_after=2)
        return self._active

    def learn(self, added: AddResult) -> None:
        """Add stored outcomes to the history at once."""
        with self._lock:
            if self._missed is not None:
                self._missed.append(added)
            if self._active is not None:
                self._active.learn(added.ended)
            # Else catch_up was quicker, or nothing had ended.
            if added.revision > max(self._revision, self._catching_up_to):
                self._own_revisions.add(added.revision)
                self._count(added.ended)

    def catch_up(self) -> None:
        """Learn the outcomes that others stored since the last call.

        The revision moves on once all of them are learned: a call that fails is simply repeated.
        Raises StoreError when the store cannot be read.
        """
        if not self.ready:
            return
        with self._lock:
            # What was reported here is not read again, up to the first revision of another writer.
            while self._revision + 1 in self._own_revisions:
                self._revision += 1
                self._own_revisions.discard(self._revision)
        if not has_ended_after(self._store(), after=self._revision):
            return
        ended = read_ended(self._store(), after=self._revision)
        if ended.empty:  # the revision of a transaction that was rolled back
            return
        with self._lock:
            new = ended[~ended["revision"].isin(self._own_revisions)]
            self._catching_up_to = newest = int(ended["revision"].max())
        try:
            for start in range(0, len(new), LEARN_ROWS):
                # A report waits for one slice at most.
                with self._lock:
                    self.active.learn(new.iloc[start : start + LEARN_ROWS])
        except BaseException:
            self._torn = True
            self._catching_up_to = 0
            raise
        with self._lock:
            self._revision, self._catching_up_to = newest, 0
            self._own_revisions = {own for own in self._own_revisions if own > newest}
            self._count(new)

    def follow_store(self) -> None:
        """Catch up, and then exchange with other shards what was learned, if that is due.

        Raises StoreError when the store cannot be read or written.
        """
        self.catch_up()
        if self._exchange is not None and self._exchange.is_due:
            self._exchange.run()

    def save_history(self) -> None:
        """Write the history to disk if due, so that a restart learns only what came later.

        Raises StoreError when the store cannot be read.
        """
        from models.engine.snapshot import describe_snapshot, snapshot_target

        with self._lock:
            position = HistoryPosition(
                self._revision,
                frozenset(self._own_revisions),
                self.history["jobs"],
                self.history["newest_ended_at"],
                self.built_at,
            )
            partial = self._torn or self._catching_up_to
            if not self.ready or partial or not self._snapshots.is_due(position):
                return
            forecaster = self.active.forecaster
            about = describe_snapshot(forecaster)

        def parts() -> Iterator[dict[str, StoredArray]]:
            # Outcomes wait while one target is copied, not while it is written.
            for name in forecaster.names:
                with self._lock:
                    arrays = snapshot_target(forecaster, name)
                yield arrays

        self._snapshots.save(about, parts(), position, self._store)

    def rebuild(self, active: ActiveModel) -> None:
        """Teach ``active`` the store's history and make it the active model.

        Outcomes that arrive meanwhile are in it too. The first model of a process goes on from
        the history on disk, if that is its own.
        """
        first = not self.ready
        with self._lock:
            self._missed = []
        try:
            exchange = ShardExchange(active, self._store, self._lock)
            start, ended, complete = self._teach(active, exchange, first)
        except BaseException:
            with self._lock:
                self._missed = None
            raise
        with self._lock:
            # Others' outcomes between the own ones are in the history only if the store was read.
            newest = max(start.revision, int(ended["revision"].max()) if len(ended) else 0)
            self._revision = newest if complete else start.revision
            # Smaller ones than these may still be in a transaction of another writer.
            own = {revision for revision in start.own if revision > self._revision}
            missed = [
                added
                for added in self._missed or ()
                if added.revision > self._revision and added.revision not in own
            ]
            self._own_revisions = {*own, *(added.revision for added in missed)}
            self._missed, self.built_at, self._torn = None, start.built_at, False
            for added in missed:
                active.learn(added.ended)
            self._active, self._exchange = active, exchange
            self.history = {"jobs": start.jobs, "newest_ended_at": start.newest_ended_at}
            for frame in (ended, *(added.ended for added in missed)):
                self._count(frame)
        if first:
            # What is in memory now stays: looking through it again would stop requests for 0.1 s.
            gc.collect()
            gc.freeze()
            gc.set_threshold(GC_THRESHOLD)
        self._on_change(self)

    def _teach(
        self, active: ActiveModel, exchange: ShardExchange, from_disk: bool
    ) -> tuple[HistoryPosition, pd.DataFrame, bool]:
        """Let ``active`` learn the store's history and predict once, which compiles its kernels.

        Returns where the history on disk ended, the outcomes read after that, and whether the
        store could be read: a model that knows no history is better than none.
        """
        start, ended, complete = HistoryPosition(), pd.DataFrame(), False
        try:
            engine = self._store()
            with self._snapshots.trial() if from_disk else nullcontext():
                if from_disk:
                    self.waits_for = "it reads the history on disk"
                    start = self._snapshots.restore(active.forecaster, engine) or start
                self.waits_for = "it reads the outcomes in the store"
                ended = read_ended(engine, after=start.revision)
                ended, complete = ended[~ended["revision"].isin(start.own)], True
                for first in range(0, len(ended), SLICE_ROWS):
                    self.waits_for = f"it has learned {first:,} of {len(ended):,} stored outcomes"
                    active.learn(ended.iloc[first : first + SLICE_ROWS], rows=BULK_ROWS)
                self.waits_for = "it predicts for the first time, which compiles"
                latest = read_latest(engine, WARM_UP_JOBS).drop(columns=list(OUTCOMES))
                active.forecaster.predict(latest.tail(WARM_UP_JOBS))
                active.forecaster.explain(encode_jobs(latest.tail(1), latest.columns))
                exchange.run()
            self._troubles.pop("store", None)
        except StoreError as error:
            self._troubles["store"] = str(error)
        return start, ended, complete

    def _count(self, ended: pd.DataFrame) -> None:
        if not len(ended):
            return
        newest, before = ended["ended_at"].max(), self.history["newest_ended_at"]
        self.history = {
            "jobs": self.history["jobs"] + len(ended),
            "newest_ended_at": newest if before is None else max(before, newest),
        }
        self._on_change(self)
