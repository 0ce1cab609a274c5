"""The faults of a week: killed components, a full disk, a batch system's folder that is missing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import psutil

from benchmarks.soaking.site import Site, wait_for

FULL = 30.0
"""Seconds that the disk is full."""


@dataclass(frozen=True)
class Befell:
    """A fault: when, and the seconds until every part was up again."""

    what: str
    day: float
    seconds: float


def faults(site: Site) -> list[tuple[str, Callable[[], float]]]:
    """All faults in order; each returns the seconds until all components are up again."""
    killed = {
        component: (f"kill -9 of {component}", partial(kill, site, component))
        for component in site.parts()
    }
    return [
        *(killed[component] for component in ("predictor-1", "proxy", "prefect", "mlflow")),
        ("accounting folder away", partial(without_accounting, site)),
        ("kill -9 of the worker at a training", partial(kill_the_worker, site)),
        *(
            killed[component]
            for component in ("postgres", "predictor-2", "prometheus", "dashboard")
        ),
        ("disk full", partial(fill, site)),
        ("kill -9 of everything", partial(kill_everything, site)),
    ]


def kill(site: Site, component: str) -> float:
    """Kill the part's first process, as the kernel does when memory is short."""
    leader = site.leader(component)
    assert leader is not None, f"{component} does not run"
    began = time.monotonic()
    leader.kill()
    wait_for(
        lambda: (now := site.leader(component)) and now.pid != leader.pid and all_up(site),
        f"{component} to be up again",
    )
    return time.monotonic() - began


def all_up(site: Site) -> bool:
    """Whether the supervisor says so of each part."""
    assert site.supervised, f"the supervisor ended: {site.starts[-1].read_text()[-2000:]}"
    return all(
        site.record(component).get("state") == "up" and site.leader(component)
        for component in site.parts()
    )


def kill_the_worker(site: Site) -> float:
    """Kill the worker while it works on a run, which dies with it."""
    working = {
        "flows": {"name": {"any_": ["retrain"]}},
        "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}},
    }
    site.start_flow("retrain/nightly", why="so that the worker has something to die of")
    wait_for(lambda: site.prefect("POST", "/flow_runs/filter", **working), "a training to begin")
    return kill(site, "schedules")


def without_accounting(site: Site) -> float:
    """Take the batch system's folder away for a while, as a file system that is not mounted."""
    away = site.accounting.with_name("away")
    site.accounting.rename(away)
    time.sleep(20)
    away.rename(site.accounting)
    return 0.0


def fill(site: Site) -> float:
    """Let nothing more fit on the disk for a while, then take away what filled it."""
    ballast = site.mount / "ballast"
    end = time.monotonic() + FULL
    with ballast.open("wb") as file:
        while time.monotonic() < end:
            for size in (2**24, 2**20, 2**16, 2**12):
                with suppress(OSError):
                    while True:
                        position = file.seek(0, os.SEEK_END)
                        os.posix_fallocate(file.fileno(), position, size)
            time.sleep(0.2)
    ballast.unlink()
    began = time.monotonic()
    wait_for(lambda: all_up(site), "all parts to be up again")
    return time.monotonic() - began


def kill_everything(site: Site) -> float:
    """Kill supervisor and parts at once, as a power switch does, and start again."""
    everyone = [
        *site.marked_processes(),
        *([psutil.Process(site.process.pid)] if site.process and site.supervised else []),
    ]
    began = time.monotonic()
    for process in everyone:
        with suppress(psutil.Error):
            process.kill()
    if site.process:
        site.process.wait()
    site.up()
    wait_for(lambda: all_up(site), "all parts to be up again")
    return time.monotonic() - began
