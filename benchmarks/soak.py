"""A week of an unattended site, compressed: ``gridcast up --site`` on its own disk, with faults.

    uv run python benchmarks/soak.py [--days 7] [--minutes 20] [--jobs 1000] [--port 24000]

Needs root, since it mounts a disk. Three batch systems report jobs: PBS by accounting files, one by
dumps in a folder (late, repeated, with impossible rows), one over HTTP. A broker requests
predictions; both use the proxy. Collections, monitoring, trainings and deployments are runs of
Prefect's deployments. In the first half each component is killed, the disk is filled, and all are
killed at once; the second half shows growth. Ends with 1 if a row is missing or stored twice, a run
of Prefect is stuck, something grows without reason, or is left behind. ``--json FILE`` writes all
samples.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.soaking import table, verdict  # noqa: E402
from benchmarks.soaking.callers import Callers  # noqa: E402
from benchmarks.soaking.faults import Befell, faults  # noqa: E402
from benchmarks.soaking.rounds import Rounds  # noqa: E402
from benchmarks.soaking.site import Site, disk, wait_for  # noqa: E402
from benchmarks.soaking.watch import Watch, serves  # noqa: E402
from benchmarks.soaking.week import Clock, Week, jobs_of, place_whole  # noqa: E402


def main() -> None:
    """Soak, print, and end with 1 where something did not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--days", type=float, default=7.0)
    parser.add_argument("--minutes", type=float, default=20.0, help="of the clock, for the week")
    parser.add_argument("--jobs", type=int, default=1000, help="a day")
    parser.add_argument("--disk", type=float, default=4.0, help="GB")
    parser.add_argument("--port", type=int, default=24000, help="the first of twelve")
    parser.add_argument("--json", type=Path, help="every sample and call, into this file")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("a soak mounts a disk of its own, which takes root")
    with disk(options.disk) as mount, standing(Site(mount, options.port)) as site:
        clock = Clock(options.days, options.minutes)
        week = Week(clock, jobs_of(clock, options.jobs, seed=1), site.accounting, site.dumps)
        watch = Watch(site, clock)
        callers = Callers(week, f"http://127.0.0.1:{site.settings.predictor_port}")
        rounds = Rounds(site, clock)
        before(site, week)
        befell = live(site, week, watch, callers, rounds)
        checks = after(site, week, watch, callers)
        checks.append(
            verdict.Check(
                "every part came back",
                all(event.seconds < math.inf for event in befell),
                f"{len(befell)} faults",
            )
        )
        checks += table.growths(watch.samples, table.calm_from(befell, clock))
        checks.append(verdict.left_behind(site))
    if options.json:
        options.json.write_text(
            json.dumps(
                {
                    "samples": [asdict(event) for event in watch.samples],
                    "asked": callers.asked.calls,
                }
            )
        )
    table.show(clock, week, watch, callers, rounds, befell, checks)
    sys.exit(not all(check.holds for check in checks))


@contextmanager
def standing(site: Site) -> Iterator[Site]:
    """The site, up; down at the end whatever happened."""
    try:
        say("starting the site")
        site.up()
        yield site
    finally:
        site.run("down")
        for process in site.marked_processes():
            process.kill()


def before(site: Site, week: Week) -> None:
    """A week of history through the inbox, and a first champion."""
    inbox = site.settings.home / "inbox"
    inbox.mkdir(exist_ok=True)
    place_whole(week.before, inbox / "before.csv")
    for flow in ("ingest/inbox", "train/train-on-demand"):
        say(f"{flow}: {len(week.before):,} jobs before the week")
        complete(site, flow)


def complete(site: Site, flow: str) -> None:
    """Run a deployment to its end; a run that another one blocks is requested again."""
    state = {"type": "CANCELLED"}
    while state["type"] == "CANCELLED":
        state = wait_for(partial(site.ended, site.start_flow(flow)), flow, 900)
    assert state["type"] == "COMPLETED", state


def live(site: Site, week: Week, watch: Watch, callers: Callers, rounds: Rounds) -> list[Befell]:
    """Let the week pass; the faults befall at even distances in its first half."""
    clock, befell = week.clock, []
    with ThreadPoolExecutor(4) as threads:
        clock.start()
        running: dict[Callable[[], None], Future[None]] = {}
        for work in (watch.run, rounds.run, callers.ask, callers.tell):
            running[work] = threads.submit(work)
        try:
            planned = faults(site)
            for number, (description, befall) in enumerate(planned):
                wait_until(clock, clock.days / 2 * (number + 0.5) / len(planned), running)
                day = clock.day
                say(f"day {day:.2f}: {description}")
                try:
                    befell.append(Befell(description, day, befall()))
                except TimeoutError as error:
                    befell.append(Befell(f"{description}: {error}", day, math.inf))
                say(f"    all up after {befell[-1].seconds:.1f} s")
            swap(site)
            wait_until(clock, clock.days, running)
            rounds.done.set()
            running[callers.tell].result(600)
        finally:
            for event in (rounds.done, watch.done, callers.done):
                event.set()
    return befell


def wait_until(clock: Clock, day: float, running: dict[Callable[[], None], Future[None]]) -> None:
    """Wait for a day of the week; what failed meanwhile is raised."""
    while clock.day < day:
        time.sleep(0.5)
        for future in running.values():
            if future.done():
                future.result()


def swap(site: Site) -> None:
    """Promote a newer version, if there is one, by the promote flow, and wait for the predictors."""

    def newest() -> int:
        return max(
            int(row["version"].rpartition("-")[2])
            for row in json.loads(site.run("history", "--json").stdout)["rows"]
        )

    while (version := newest()) < 2:  # another training may be at work, and be in the way
        wait_for(partial(site.ended, site.start_flow("train/train-on-demand")), "a training", 900)
    say(f"promote version {version}")
    site.start_flow(
        "promote/promote-on-demand",
        version=version,
        by="soak",
        why="so that there is a swap at least",
    )
    wait_for(
        lambda: all(serves(address).endswith(f"-{version}") for address in site.predictors),
        "the swap",
    )
    say("both predictors answer with it")


def after(site: Site, week: Week, watch: Watch, callers: Callers) -> list[verdict.Check]:
    """Collect what is left, and look at what must hold."""
    say("the week is over: the last collection, and settling")
    complete(site, "collect/every-10-minutes")
    return [
        *verdict.rows(watch, week, callers),
        verdict.histories(site, watch),
        *verdict.stuck(site),
    ]


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
