"""Exchange of what shards learned, through the store; see ``models.engine.shared_learning``."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from math import inf
from typing import TYPE_CHECKING

from jobs.store import StoredPublication, publish, read_publications
from services.live.active_model import ActiveModel

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from models.engine.shared_learning import Publication

log = logging.getLogger("bentoml.gridcast")

FORM = "1"
"""Of what is published: changed with the meaning of its arrays."""
PERIOD = 30.0
"""Seconds between two exchanges."""
NOTHING = -1
"""Outcomes of a publication that is not there."""


class ShardExchange:
    """What one shard has read of the others', and published, for its active model.

    Args:
        active: The model, with a forecaster of a shard.
        store: Gives the engine of the store.
        lock: Held while the forecaster changes.
    """

    def __init__(
        self,
        active: ActiveModel,
        store: Callable[[], Engine],
        lock: AbstractContextManager[object],
    ) -> None:
        self.active = active
        self._store, self._lock = store, lock
        self._read: dict[int, int] = {}
        self._ran_at = -inf

    @property
    def is_due(self) -> bool:
        """Whether the last exchange is a period ago."""
        return time.monotonic() > self._ran_at + PERIOD

    def run(self) -> None:
        """Add what others published since the last call, then publish what was learned here.

        A call that fails, or does not end, is simply repeated. Raises StoreError.
        """
        from models.engine.shared_learning import PublicationError, count_outcomes, pack, unpack

        forecaster, model = self.active.forecaster, self.active.run_id or self.active.label
        shard = forecaster.shard
        if shard is None or not (forecaster.sums.ready and forecaster.levels_final):
            return
        stored = read_publications(self._store(), shard.count, model, self._read)
        published: dict[int, Publication] = {}
        for number, publication in stored.items():
            try:
                about = self._about(number)
                published[number] = unpack(publication.body, about, forecaster.sums.learned)
            except PublicationError as error:
                log.error("what shard %d/%d learned is not used: %s", number, shard.count, error)
        with self._lock:
            forecaster.sums.add(published)
            learned = forecaster.sums.learned
        self._read |= {number: publication.outcomes for number, publication in stored.items()}
        before, outcomes = self._read.get(shard.number, NOTHING), count_outcomes(learned)
        refused = shard.number in stored and shard.number not in published
        if outcomes > max(before, 0) or refused:
            body = StoredPublication(outcomes, pack(learned, self._about(shard.number)))
            if publish(self._store(), (shard.number, shard.count), model, body, before):
                self._read[shard.number] = outcomes
        self._ran_at = time.monotonic()

    def _about(self, number: int) -> dict[str, str]:
        """Whose a publication is."""
        forecaster = self.active.forecaster
        levels = json.dumps(forecaster.levels.to_json(), sort_keys=True)
        return {
            "form": FORM,
            "model": forecaster.model_version,
            "levels": hashlib.sha256(levels.encode()).hexdigest(),
            "shard": f"{number}/{forecaster.shard.count if forecaster.shard else 1}",
        }
