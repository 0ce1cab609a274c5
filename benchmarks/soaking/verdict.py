"""The final checks: every row once, no run stuck, no growth without reason, nothing left behind."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pandas as pd

from benchmarks.soaking.callers import Callers
from benchmarks.soaking.site import Site
from benchmarks.soaking.watch import Watch, history
from benchmarks.soaking.week import Week

SETTLING = 420.0
"""Seconds that a training which is at work may still take."""
LONG = 75.0
"""Seconds after which a run that nothing ended is stuck: the dead are marked after 60."""


@dataclass(frozen=True)
class Check:
    """One thing that must hold, whether it did, and what was found."""

    what: str
    holds: bool
    found: str


def rows(watch: Watch, week: Week, callers: Callers) -> list[Check]:
    """Each job that was told is stored once, as it was told; each nonsense is kept once."""
    with watch.database() as connection:
        stored = connection.execute(
            "SELECT source, job_id, ended_at, walltime FROM jobs"
        ).fetchall()
        refused = connection.execute(
            "SELECT reason, raw, count(*) FROM rejects GROUP BY 1, 2"
        ).fetchall()
    times = Counter((source, job) for source, job, *_ in stored)
    reported_jobs = week.jobs
    ended = reported_jobs["ended_at"].astype("datetime64[us, UTC]").astype("int64").tolist()
    expected = dict(
        zip(
            zip(reported_jobs["source"], reported_jobs["job_id"], strict=True),
            zip(ended, reported_jobs["walltime"], strict=True),
            strict=True,
        )
    )
    found = {(source, job): outcome for source, job, *outcome in stored}
    wrong = {
        "missing": len(expected.keys() - found.keys()),
        "acknowledged and missing": len(callers.acknowledged - found.keys()),
        "twice": sum(many > 1 for many in times.values()),
        "of nobody": len(found.keys() - expected.keys()),
        "not as told": sum(
            tuple(found[job]) != outcome for job, outcome in expected.items() if job in found
        ),
    }
    summary = ", ".join(f"{many} {name}" for name, many in wrong.items())
    once = len(refused) == week.garbled and all(many == 1 for *_, many in refused)
    return [
        Check(
            "every row once",
            not any(wrong.values()),
            f"{len(expected):,} told, {len(callers.acknowledged):,} acknowledged: {summary}",
        ),
        Check(
            "nonsense kept once, with its reason",
            once,
            f"{week.garbled} told, {sum(many for *_, many in refused)} kept",
        ),
    ]


def histories(site: Site, watch: Watch) -> Check:
    """Both predictors know every job that ended, once."""
    deadline = time.monotonic() + 60
    while True:
        look = watch.look()
        learned_jobs = [history(address) for address in site.predictors]
        ended = look.stored[0] if look.stored else None
        if all(item == ended for item in learned_jobs) or time.monotonic() > deadline:
            return Check(
                "both predictors know all that ended",
                all(item == ended for item in learned_jobs),
                f"{learned_jobs} of {ended}",
            )
        time.sleep(2)


def stuck(site: Site) -> list[Check]:
    """No run of Prefect that nothing works on, after a while of settling."""
    deadline = time.monotonic() + SETTLING
    while (left := unfinished(site)) and time.monotonic() < deadline:
        time.sleep(5)
    limits = site.prefect("POST", "/v2/concurrency_limits/filter", limit=200)
    active_slots = sum(item["active_slots"] for item in limits)
    kinds = Counter(f"{item['state_name']}: {item['name']}" for item in left)
    tasks = site.prefect(
        "POST",
        "/task_runs/filter",
        task_runs={"state": {"type": {"any_": ["RUNNING", "PENDING"]}}},
        limit=200,
    )
    learned_jobs = Counter(f"{item['state_type']}" for item in all_runs(site))
    hang = Counter(item["name"] for item in tasks)
    return [
        Check("no run of Prefect stuck", not left, f"{dict(learned_jobs)}; stuck: {dict(kinds)}"),
        Check(
            "no slot of a deployment held by a dead run",
            bool(left) or not active_slots,
            f"{active_slots} of {len(limits)} held",
        ),
        Check(
            "no task of a run stuck", not tasks, f"{len(tasks)} in Running or Pending {dict(hang)}"
        ),
    ]


def all_runs(site: Site) -> list[dict[str, Any]]:
    """Every run there was, page by page."""
    found: list[dict[str, Any]] = []
    while page := site.prefect(
        "POST", "/flow_runs/filter", limit=200, offset=len(found), sort="ID_DESC"
    ):
        found += page
    return found


def unfinished(site: Site) -> list[dict[str, Any]]:
    """Runs that neither wait nor have ended for longer than any should take."""
    try:
        runs = [
            item
            for item in all_runs(site)
            if item["state_type"] in ("RUNNING", "PENDING", "CANCELLING", "SCHEDULED")
        ]
    except httpx.HTTPError as error:
        return [{"state_name": "Prefect does not answer", "name": str(error)}]
    now = datetime.now(UTC)
    due = [
        item
        for item in runs
        if item["state_type"] != "SCHEDULED" or _age(item["expected_start_time"], now) > LONG
    ]
    return [
        item
        for item in due
        if _age(item["state"]["timestamp"], now) > LONG or item["state_type"] == "SCHEDULED"
    ]


def _age(moment: str, now: datetime) -> float:
    return (now - pd.Timestamp(moment).to_pydatetime()).total_seconds()


def left_behind(site: Site) -> Check:
    """``gridcast down`` leaves nothing."""
    done = site.run("down")
    if site.process:
        site.process.wait(60)
    left, temporary = site.left_behind(), len(list(site.temporary.iterdir()))
    found = f"{', '.join(left) or 'nothing'} (in the temporary folder {temporary} entries of processes that were killed)"
    return Check(
        "gridcast down leaves no process, record, socket or taken port",
        done.returncode == 0 and not left,
        found,
    )
