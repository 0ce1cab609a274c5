"""The challenger in the shadow: it is asked what callers ask, and its answers are recorded beside the champion's, never returned.

A thread of its own loads it, teaches it the store's history and lets it answer between requests. No caller waits for it, and what
it cannot keep up with is dropped and counted. Its history takes as much memory as the champion's.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from infra.errors import GridcastError
from jobs.store import read_ended
from services.http.columns import to_coded_jobs
from services.live.active_model import AT_ONCE, ActiveModel
from services.live.prediction_log import Answer
from services.live.predictor_state import PredictorState

if TYPE_CHECKING:
    import pyarrow as pa

    from models.releases.versions import Version

log = logging.getLogger("bentoml.gridcast")

MAX_WAITING_JOBS = 100_000
"""Jobs that may wait to be asked about again."""


@dataclass(frozen=True)
class _Question:
    jobs: pa.Table
    at: datetime | None


class Shadow:
    """The challenger of one predictor process, if there is one."""

    def __init__(self, live: PredictorState) -> None:
        self._live = live
        self._change = threading.Condition()
        self._questions: deque[_Question] = deque()
        self._waiting = 0
        self._wanted: Version | None = None
        self._seen: Version | None = None
        self._active: ActiveModel | None = None
        self._revision = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Begin to wait for a challenger."""
        self._thread.start()

    def stop(self) -> None:
        """End; what waits is not asked about any more."""
        with self._change:
            self._stopping = True
            self._change.notify()

    def follow(self, version: Version | None) -> None:
        """Let ``version`` (None: nobody) be asked from now on; returns at once."""
        with self._change:
            if not _same(version, self._wanted):
                self._wanted = version
                self._change.notify()

    def ask(self, jobs: pa.Table, at: datetime | None) -> None:
        """Ask the challenger too, some time later, about what a caller asked; returns at once."""
        if self._active is None or not jobs.num_rows:
            return
        with self._change:
            if self._waiting + jobs.num_rows > MAX_WAITING_JOBS:
                self._live.metrics.shadow_jobs.labels("dropped").inc(jobs.num_rows)
                return
            self._waiting += jobs.num_rows
            self._questions.append(_Question(jobs, at))
            self._change.notify()

    def _run(self) -> None:
        while not self._stopping:
            with self._change:
                self._change.wait_for(
                    lambda: self._stopping or self._questions or not _same(self._wanted, self._seen)
                )
                wanted, changed = self._wanted, not _same(self._wanted, self._seen)
                question = self._questions.popleft() if self._questions and not changed else None
            try:
                if changed:
                    self._take(wanted)
                elif question:
                    self._answer(question)
            except GridcastError as error:
                log.warning("the challenger could not be asked: %s", error)
            except Exception:
                log.exception("the challenger could not be asked")

    def _take(self, version: Version | None) -> None:
        from models.engine.forecaster import Forecaster
        from models.engine.model_set import ModelSet
        from models.releases.verification import fetch, verify_in_subprocess

        with self._change:
            self._active, self._seen, self._waiting = None, version, 0
            self._questions.clear()
        if version is None:
            return
        folder = fetch(version, self._live.settings)
        verify_in_subprocess(folder)
        active = ActiveModel(
            Forecaster(ModelSet.load(folder)), version.label, version.version, version.run_id
        )
        self._revision = self._teach(active, 0)
        self._active = active
        log.info("%s is asked in the shadow", version.label)

    def _teach(self, active: ActiveModel, after: int) -> int:
        """Let it learn what the store learned after a revision; returns the newest."""
        ended = read_ended(self._live.engine, after=after)
        active.learn(ended, rows=AT_ONCE)
        return int(ended["revision"].max()) if len(ended) else after

    def _answer(self, question: _Question) -> None:
        with self._change:
            self._waiting -= question.jobs.num_rows
        active = self._active
        if active is None:
            return
        self._live.idle.wait()
        # What ended since the question is learned too, and not looked at but in how far histories are trusted: no score is made of it.
        self._revision = self._teach(active, self._revision)
        answers = replace(
            active.forecaster.answer(to_coded_jobs(question.jobs), (), question.at),
            model_version=active.label,
        )
        self._live.log.add(
            Answer(
                question.jobs.select(["source", "job_id"]),
                answers,
                datetime.now(UTC),
                self._revision,
                shadow=True,
            )
        )
        self._live.metrics.shadow_jobs.labels("scored").inc(len(answers))


def _same(one: Version | None, other: Version | None) -> bool:
    return (one and (one.version, one.run_id)) == (other and (other.version, other.run_id))
