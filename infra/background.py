"""Background threads that survive every error: each backs off, counts its failures and says so.

One thread repeats one step. A step that raises is tried again after a pause that doubles with
every failure in a row; data that no retry can store is told apart by ``is_data_error``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger("bentoml.gridcast.background")

FOREVER = threading.TIMEOUT_MAX
"""A pause that only ``BackgroundThread.wake`` or ``stop`` ends."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the second attempt, and the most between two."""
DATA_SQLSTATES = ("22", "23", "54")
"""SQL's classes of errors in the data: data exception, constraint, program limit (index rows)."""
DATA_SQLITE_ERRORS = ("SQLITE_TOOBIG", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH")
DATA_ERROR_CLASSES = {"DataError", "IntegrityError", "UnicodeEncodeError", "OverflowError"}


@dataclass(frozen=True)
class ThreadStatus:
    """How a background thread does: failures since the start, and the one it fails with now."""

    name: str
    alive: bool
    failures: int
    failing_since: datetime | None
    error: str

    @property
    def trouble(self) -> str:
        """What is wrong, in a sentence; empty while the thread works."""
        if self.failing_since is not None:
            return f"{self.name} fails since {self.failing_since:%Y-%m-%d %H:%M} UTC: {self.error}"
        return "" if self.alive else f"{self.name} has ended"

    def to_json(self) -> dict[str, Any]:
        """As plain values, the name left out."""
        since = self.failing_since
        return {
            "alive": self.alive,
            "failures": self.failures,
            "failing_since": None if since is None else since.isoformat(timespec="seconds"),
            "error": self.error,
        }


class BackgroundThread:
    """A daemon thread that repeats ``step`` until it is stopped, whatever the step raises.

    Args:
        name: What the thread is called in logs, in ``/model`` and in metrics.
        step: Does some work and returns the seconds to wait before the next call; 0 for at once.
        on_failure: Called with the name after each failure, to count it.
        first_pause: Seconds after a first failure; they double with each further one in a row.
        longest_pause: The most seconds between two attempts.
        on_recovery: Called with the name after the first success that follows a failure.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], float],
        on_failure: Callable[[str], None] = lambda name: None,
        first_pause: float = FIRST_PAUSE,
        longest_pause: float = LONGEST_PAUSE,
        on_recovery: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.name = name
        self._step = step
        self._on_failure, self._on_recovery = on_failure, on_recovery
        self._pauses = first_pause, longest_pause
        self._wakeup = threading.Event()
        self._stopping = threading.Event()
        self._failures = self._failures_in_a_row = 0
        self._failing_since: datetime | None = None
        self._error = ""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def stopping(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopping.is_set()

    @property
    def status(self) -> ThreadStatus:
        """How the thread does now; one that was never started or was stopped counts as alive."""
        alive = self._thread.is_alive() or self._thread.ident is None or self.stopping
        return ThreadStatus(self.name, alive, self._failures, self._failing_since, self._error)

    def start(self) -> None:
        """Begin; the first step runs at once."""
        self._thread.start()

    def wake(self) -> None:
        """End the pause that is under way, or the next one."""
        self._wakeup.set()

    def stop(self, patience: float = 0.0) -> None:
        """End after the step that is under way; wait ``patience`` s for that."""
        self._stopping.set()
        self._wakeup.set()
        if patience and self._thread.ident is not None:
            self._thread.join(patience)

    def run_step(self) -> float:
        """Run one step, guarded; returns the seconds to wait before the next one."""
        try:
            pause = self._step()
        except Exception as error:
            return self._failed(error)
        if self._failing_since is not None:
            log.info("%s works again after %d failures", self.name, self._failures_in_a_row)
            self._failures_in_a_row, self._failing_since, self._error = 0, None, ""
            self._on_recovery(self.name)
        return pause

    def _run(self) -> None:
        while not self.stopping:
            pause = self.run_step()
            # New work does not shorten the pause after a failure.
            event = self._wakeup if self._failing_since is None else self._stopping
            if pause > 0:
                event.wait(pause)
            self._wakeup.clear()

    def _failed(self, error: Exception) -> float:
        if self._failing_since is None:
            self._failing_since = datetime.now(UTC)
            log.warning("%s failed and tries again", self.name, exc_info=error)
        self._failures += 1
        self._failures_in_a_row += 1
        self._error = f"{type(error).__name__}: {str(error).strip() or 'no message'}"[:500]
        self._on_failure(self.name)
        first, longest = self._pauses
        return min(first * 2.0 ** min(self._failures_in_a_row - 1, 20), longest)


def is_data_error(error: BaseException) -> bool:
    """Whether ``error`` is about the data itself, so that storing it again can never succeed.

    A database that is away, full, locked or read-only is no such case.
    """
    cause: BaseException | None = error
    while cause is not None:
        sqlstate = str(getattr(cause, "sqlstate", None) or "")
        sqlite_name = str(getattr(cause, "sqlite_errorname", None) or "")
        if sqlstate or sqlite_name:
            return sqlstate.startswith(DATA_SQLSTATES) or sqlite_name.startswith(DATA_SQLITE_ERRORS)
        if type(cause).__name__ in DATA_ERROR_CLASSES:
            return True
        cause = getattr(cause, "orig", None) or cause.__cause__ or cause.__context__
    return isinstance(error, ValueError | TypeError | LookupError | ArithmeticError)
