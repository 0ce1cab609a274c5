"""Those who ask and tell all week, and what they saw."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.soaking.week import Week
from services.client import Gridcast, UnavailableError

BROKER_WAITS = 2.0
"""Seconds after which a broker goes on with what the user asked for."""


@dataclass
class Seen:
    """Calls of one caller: moment (day, seconds), duration, and error (empty: none)."""

    calls: list[tuple[float, float, float, str]] = field(default_factory=list)

    def note(self, day: float, took: float, wrong: str) -> None:
        """Add a call."""
        self.calls.append((day, time.monotonic(), took, wrong))

    def stretches(self) -> list[tuple[float, float, int, str]]:
        """Runs of failed calls: day, seconds until one succeeded, number, and the first reason."""
        stretches_found: list[tuple[float, float, int, str]] = []
        since: tuple[float, float, str] | None = None
        many = 0
        for day, at, took, wrong in self.calls:
            if wrong:
                since, many = since or (day, at - took, wrong), many + 1
            elif since:
                stretches_found.append((since[0], at - since[1], many, since[2]))
                since, many = None, 0
        return stretches_found


@dataclass
class Callers:
    """A broker that requests predictions, and one that reports outcomes until acknowledged."""

    week: Week
    address: str
    done: threading.Event = field(default_factory=threading.Event)
    asked: Seen = field(default_factory=Seen)
    reported: Seen = field(default_factory=Seen)
    acknowledged: set[tuple[str, str]] = field(default_factory=set)
    waiting: list[list[dict[str, Any]]] = field(default_factory=list)
    predicted: int = 0
    repeated: int = 0
    disk_refused: int = 0

    def ask(self) -> None:
        """Ask about jobs that wait, as of now, again and again."""
        with Gridcast(self.address, timeout=BROKER_WAITS) as broker:
            while not self.done.wait(0.5):
                jobs = self.week.waiting(20)
                began = time.monotonic()
                if not jobs:
                    continue
                rows = broker.predict(jobs, at=self.week.clock.now.isoformat())
                self.predicted += len(rows)
                wrong = str(rows[0].get("fallback", ""))
                self.asked.note(self.week.clock.day, time.monotonic() - began, wrong)

    def tell(self) -> None:
        """Simulate the batch systems until the week is over, and report their outcomes."""
        clock, over = self.week.clock, False
        with Gridcast(self.address, timeout=20) as broker:
            while (not over or self.waiting) and not self.done.is_set():
                try:
                    ends = clock.day >= clock.days
                    if news := self.week.pass_on():
                        self.waiting.append(news)
                    over = ends
                except OSError:
                    self.disk_refused += 1  # the batch system's own disk: it tells later
                while self.waiting and self._report(broker, self.waiting[0]):
                    self.waiting.pop(0)
                time.sleep(1.0)

    def _report(self, broker: Gridcast, jobs: list[dict[str, Any]]) -> bool:
        began = time.monotonic()
        try:
            answer = broker.report(jobs, patience=0.0)
        except UnavailableError as error:
            self.reported.note(self.week.clock.day, time.monotonic() - began, str(error))
            return False
        self.reported.note(self.week.clock.day, time.monotonic() - began, "")
        assert not answer.get("rejected"), answer
        self.acknowledged |= {(str(job["source"]), str(job["job_id"])) for job in jobs}
        if len(self.reported.calls) % 20 == 0:
            self.repeated += 1
            return False  # as one whose acknowledgement was lost: told again
        return True
