"""What the service knows of queues and links, by which it ranks candidates: read from the store now and then, off the request path."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.store import StoreError
from services.http.errors import HTTPError

if TYPE_CHECKING:
    from models.engine.forecaster import Forecaster
    from models.ranking.ranker import Ranked, Ranker
    from services.http.rank import RankRequest
    from services.live.predictor_state import PredictorState

log = logging.getLogger("bentoml.gridcast")

AGE = 60.0
"""Seconds for which what is known of queues and links is taken to hold."""


class RankerCache:
    """The ranker of one live state. Only who asks first waits for it: later it is read anew beside the requests."""

    def __init__(self, live: PredictorState) -> None:
        self.live = live
        self._first = threading.Lock()
        self._reading = threading.Lock()
        self._known: tuple[float, Ranker] | None = None

    def rank(self, asked: RankRequest, runs: Forecaster) -> Ranked:
        """Candidates in the order asked for; raises HTTPError (422, 503)."""
        from models.ranking.order import RankingError

        with self._first:
            if self._known is None:
                self._read(runs)
        assert self._known is not None  # noqa: S101
        read_at, known = self._known
        if time.monotonic() - read_at > AGE and self._reading.acquire(blocking=False):
            threading.Thread(
                target=self._read_again, args=(runs,), name="read-queues", daemon=True
            ).start()
        try:
            return replace(known, runs=runs).rank(asked.candidates, asked.rule, asked.at)
        except RankingError as error:
            raise HTTPError(422, str(error)) from None

    def _read(self, runs: Forecaster) -> None:
        from models.ranking.ranker import build_ranker

        try:
            found = build_ranker(self.live.engine, runs, self._known[1] if self._known else None)
        except StoreError as error:
            raise HTTPError(
                503,
                "the store cannot be read, so nothing is known of queues and links",
                retry_after=5,
            ) from error
        self._known = time.monotonic(), found

    def _read_again(self, runs: Forecaster) -> None:
        try:
            self._read(runs)
        except HTTPError as error:
            # What was known goes on answering; who asks a minute later tries again.
            log.warning("queues and links are as they were: %s", error.message)
            assert self._known is not None  # noqa: S101
            self._known = time.monotonic(), self._known[1]
        finally:
            self._reading.release()
