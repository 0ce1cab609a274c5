"""The ranker of a predictor: state of queues and links, read from the store now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from infra.background import FOREVER, BackgroundThread
from jobs.store import StoreError
from services.http.errors import HTTPError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from models.engine.forecaster import Forecaster
    from models.ranking.ranker import Ranked, Ranker
    from services.http.rank import RankRequest

MAX_AGE = 60.0
"""Seconds for which the state of queues and links is used as it is."""


class RankerCache:
    """The ranker, built by the first request; later ones use it while it is built anew.

    Args:
        store: Gives the engine of the store; raises StoreError.
        on_failure: Called with the thread's name when rebuilding fails.
    """

    def __init__(
        self, store: Callable[[], Engine], on_failure: Callable[[str], None] = lambda name: None
    ) -> None:
        self.thread = BackgroundThread("ranker cache", self._refresh, on_failure)
        self._store = store
        self._first = threading.Lock()
        self._cached: tuple[float, Ranker] | None = None
        self._forecaster: Forecaster | None = None

    def rank(self, request: RankRequest, forecaster: Forecaster) -> Ranked:
        """Rank the candidates of a request; raises HTTPError (422, 503)."""
        from models.ranking.order import RankingError

        with self._first:
            if self._cached is None:
                try:
                    self._build(forecaster)
                except StoreError as error:
                    raise HTTPError(
                        503,
                        "the store cannot be read, so nothing is known of queues and links",
                        retry_after=5,
                    ) from error
        assert self._cached is not None  # noqa: S101
        built_at, ranker = self._cached
        self._forecaster = forecaster
        if time.monotonic() - built_at > MAX_AGE:
            self.thread.wake()
        try:
            return replace(ranker, runs=forecaster).rank(
                request.candidates, request.rule, request.at
            )
        except RankingError as error:
            raise HTTPError(422, str(error)) from None

    def _build(self, forecaster: Forecaster) -> None:
        from models.ranking.ranker import build_ranker

        before = self._cached[1] if self._cached else None
        self._cached = time.monotonic(), build_ranker(self._store(), forecaster, before)

    def _refresh(self) -> float:
        cached, forecaster = self._cached, self._forecaster
        if cached and forecaster and time.monotonic() - cached[0] > MAX_AGE:
            self._build(forecaster)
        return FOREVER
