"""Quiet: when no request is being answered, so that what can wait does not slow down what cannot.

Python runs one thread at a time: whatever works beside a request takes its time from it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

IDLE_AFTER = 0.05
"""Seconds without a request after which it is quiet: a caller who reads one answer and asks again at once is not done by then."""
LONGEST_WAIT = 0.2
"""Seconds after which whatever waits for quiet makes do with the end of a request: its caller reads the answer then."""
READING = 0.0005
"""Seconds that the answer of a request needs to be on its way."""


class IdleDetector:
    """Knows how many requests are being answered; shared by the threads of one process."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._answering = 0
        self._answered_at = 0.0
        self._ended = False

    @contextmanager
    def answering(self) -> Iterator[None]:
        """A request is being answered meanwhile."""
        with self._change:
            self._answering += 1
        try:
            yield
        finally:
            with self._change:
                self._answering -= 1
                self._answered_at = time.monotonic()
                if not self._answering:
                    self._change.notify_all()

    def end(self) -> None:
        """From now on nothing waits for quiet."""
        with self._change:
            self._ended = True
            self._change.notify_all()

    def wait(self) -> None:
        """Wait until it is quiet, or, after LONGEST_WAIT s of requests without a pause, until one has just ended."""
        latest = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < latest:
            with self._change:
                if self._ended or (
                    not self._answering and time.monotonic() >= self._answered_at + IDLE_AFTER
                ):
                    return
            time.sleep(IDLE_AFTER / 4)
        with self._change:
            self._change.wait_for(lambda: self._ended or not self._answering, LONGEST_WAIT)
        time.sleep(READING)
