"""Refused changes in the audit log: who tried what without the scope, in bounded numbers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.actor import Actor, acting
from jobs.store import StoreError, audit

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = logging.getLogger("bentoml.gridcast")

WRITE_SECONDS = 60.0
"""Attempts of one caller, address and action are written that often, and as their count doubles."""
MAX_KEYS = 1000
"""Callers, addresses and actions that are told apart in an hour; the rest are counted together."""
REMAINING_CALLERS = "others"


@dataclass
class _Attempts:
    written_at: float = float("-inf")
    written: int = 0
    waiting: int = 0


class Refusals:
    """Counts refused changes, and writes the counts to the audit log.

    Args:
        store: Gives the store.
        clock: Gives seconds.
    """

    def __init__(
        self, store: Callable[[], Engine], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store, self.clock = store, clock
        self.attempts: dict[tuple[Actor, str, str], _Attempts] = {}
        self.began = clock()
        self._lock = threading.Lock()

    def add(self, actor: Actor, action: str, name: str, why: str) -> None:
        """Count a refused attempt; one that cannot be written is counted with the next.

        Args:
            actor: Who tried it.
            action: The refused change.
            name: What it would have changed, or its address.
            why: The reason.
        """
        with self._lock:
            now = self.clock()
            if now - self.began > 3600:
                # What waits was tried in an hour that is over: nothing follows it any more.
                self.attempts.clear()
                self.began = now
            if (actor, action, name) not in self.attempts and len(self.attempts) >= MAX_KEYS:
                actor = Actor(REMAINING_CALLERS, actor.origin, REMAINING_CALLERS)
            attempts = self.attempts.setdefault((actor, action, name), _Attempts())
            attempts.waiting += 1
            is_recent = now - attempts.written_at < WRITE_SECONDS
            if is_recent and attempts.waiting < attempts.written:
                return
            calls, attempts.waiting = attempts.waiting, 0
            attempts.written = attempts.written + calls if is_recent else calls
            attempts.written_at = attempts.written_at if is_recent else now
        try:
            with acting(actor), self.store().begin() as connection:
                audit.count(connection, action, name, calls=calls, why=why, result=audit.REFUSED)
        except StoreError as error:
            log.warning("%d refused attempts are not in the audit log: %s", calls, error)
            with self._lock:
                attempts.waiting += calls
