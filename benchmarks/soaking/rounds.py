"""The scheduled work of a site: collections, monitoring, trainings and deployments."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

import httpx

from benchmarks.soaking.site import Site
from benchmarks.soaking.week import Clock

HOURS = {
    "collect/every-10-minutes": 8.0,
    "monitor/monitor-hourly": 36.0,
    "deploy/deploy-hourly": 36.0,
    "retrain/nightly": 48.0,
}
"""Simulated hours between two runs: at a site it is minutes, hours and a day."""


@dataclass
class Rounds:
    """Requests runs from Prefect when they are due; one that cannot be requested is missed."""

    site: Site
    clock: Clock
    done: threading.Event = field(default_factory=threading.Event)
    asked: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Ask until ``done``."""
        due = {
            name: hours / 24 * (0.5 + number / 8)
            for number, (name, hours) in enumerate(HOURS.items())
        }
        while not self.done.wait(1.0):
            for name in [name for name, day in due.items() if self.clock.day >= day]:
                due[name] = self.clock.day + HOURS[name] / 24
                try:
                    self.site.start_flow(name)
                    self.asked[name] += 1
                except (httpx.HTTPError, OSError):
                    self.missed[name] += 1
