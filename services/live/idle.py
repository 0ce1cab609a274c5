"""The idle detector: tells background work when no request is being answered.

Python runs one thread at a time: work beside a request takes its time from it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

IDLE_AFTER = 0.05
"""Seconds without a request: a caller who reads one answer and asks again at once needs less."""
LONGEST_WAIT = 0.2
"""Seconds after which the end of a request is enough: its caller then reads the answer."""
SENDING = 0.0005
"""Seconds that the answer of a request needs to be on its way."""


class IdleDetector:
    """Counts the requests that are being answered; shared by the threads of one process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._answering = 0
        self._answered_at = 0.0
        self._disabled = False

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count a request while the block runs."""
        with self._changed:
            self._answering += 1
        try:
            yield
        finally:
            with self._changed:
                self._answering -= 1
                self._answered_at = time.monotonic()
                if not self._answering:
                    self._changed.notify_all()

    def end(self) -> None:
        """From now on ``wait`` returns at once."""
        with self._changed:
            self._disabled = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until idle, but LONGEST_WAIT s of requests at most, then until one has ended."""
        latest = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < latest:
            with self._changed:
                idle_since = self._answered_at + IDLE_AFTER
                if self._disabled or (not self._answering and time.monotonic() >= idle_since):
                    return
            time.sleep(IDLE_AFTER / 4)
        with self._changed:
            self._changed.wait_for(lambda: self._disabled or not self._answering, LONGEST_WAIT)
        time.sleep(SENDING)
