"""Sustained load for ``benchmarks/serving.py``: predictions, outcomes, swaps, a killed worker.

It counts wrong answers (another number of jobs, or other names), accepted outcomes that are not
stored, and requests that were refused or not answered, and measures the predictor's memory at the
beginning and at the end.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ASKED, REPORTED = 1_000, 20
SWAPS = 3


@dataclass
class Seen:
    """What the callers saw; each has its own, so that none needs a lock."""

    answers: Counter[str] = field(default_factory=Counter)
    versions: dict[str, float] = field(
        default_factory=dict
    )  # when each was first seen to answer, s
    taken: list[str] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)


def sustain(address: str, jobs: Any, minutes: float) -> dict[str, Any]:
    """Load the predictor at ``address`` with ``jobs`` for ``minutes``, and return the counts."""
    import numpy as np

    done, asking, telling = threading.Event(), Seen(), Seen()
    threads = [
        threading.Thread(target=_ask, args=(address, jobs, done, asking)),
        threading.Thread(target=_report, args=(address, done, telling)),
    ]
    worker = _worker(address)
    for thread in threads:
        thread.start()
    memory, swaps = [], list[float]()
    began, end = time.monotonic(), time.monotonic() + 60 * minutes
    killed = False
    while (now := time.monotonic()) < end:
        time.sleep(1)
        with_worker = _worker(address)
        if with_worker:
            memory.append(with_worker.memory_info().rss / 2**20)
        share = (now - began) / (60 * minutes)
        if len(swaps) < SWAPS and share > (len(swaps) + 1) / (SWAPS + 2):
            _publish_again(f"{len(swaps) + 1} of {SWAPS}")
            swaps.append(time.monotonic())
        if not killed and share > SWAPS / (SWAPS + 1) and worker is not None:
            killed = True
            (with_worker or worker).kill()
    done.set()
    for thread in threads:
        thread.join()
    counts = asking.answers + telling.answers
    total = sum(counts.values())
    return {
        "door": "sustained",
        "jobs": ASKED,
        "minutes": minutes,
        "p50_ms": round(float(np.percentile(asking.milliseconds, 50)), 3),
        "p99_ms": round(float(np.percentile(asking.milliseconds, 99)), 3),
        "calls": total,
        "wrong_answers": counts["wrong"],
        "lost_outcomes": _lost(telling.taken),
        "outcomes": len(telling.taken),
        "error_share": round((counts["refused"] + counts["unanswered"]) / total, 6),
        "versions": list(asking.versions),
        "swap_seconds": [
            round(seen - moved, 1)
            for seen, moved in zip(list(asking.versions.values())[1:], swaps, strict=False)
        ],
        "workers_killed": int(killed),
        "memory_mb": [round(memory[min(30, len(memory) // 4)]), round(memory[-1])],
    }


def _ask(address: str, jobs: Any, done: threading.Event, seen: Seen) -> None:
    import numpy as np

    from services.client import Gridcast

    chance = np.random.default_rng(1)
    with Gridcast(address, timeout=30) as broker:
        while not done.is_set():
            batch = jobs.slice(int(chance.integers(0, max(len(jobs) - ASKED, 1))), ASKED)
            began = time.perf_counter()
            answer = broker.predict_arrow(batch, at="now")
            versions = set(answer["model_version"].unique().to_pylist())
            if versions == {"request"}:
                seen.answers["unanswered"] += 1
                time.sleep(0.2)  # as a broker would, which has the users' own requests meanwhile
                continue
            seen.milliseconds.append((time.perf_counter() - began) * 1000)
            for version in versions:
                seen.versions.setdefault(version, time.monotonic())
            right = (
                len(versions) == 1
                and answer["job_id"].to_pylist() == batch["job_id"].to_pylist()
                and not answer["walltime_median"].null_count
            )
            seen.answers["right" if right else "wrong"] += 1


def _report(address: str, done: threading.Event, seen: Seen) -> None:
    from services.client import Gridcast, UnavailableError

    with Gridcast(address, timeout=30) as broker:
        run = time.time_ns()
        while not done.wait(0.1):
            now = time.time()
            jobs = [
                {
                    "job_id": f"{run}-{len(seen.taken) + number}",
                    "source": "sustained",
                    "user": f"u{number % 7}",
                    "site": "here",
                    "submitted_at": now - 900,
                    "started_at": now - 600,
                    "ended_at": now,
                    "status": "completed",
                    "walltime": 600.0,
                }
                for number in range(REPORTED)
            ]
            try:
                reported = broker.report(jobs, patience=60)
            except UnavailableError:
                seen.answers["unanswered"] += 1
                continue
            seen.answers["right" if not reported["rejected"] else "wrong"] += 1
            seen.taken += [str(job["job_id"]) for job in jobs]


def _publish_again(label: str) -> None:
    """Register the champion's files again, and promote the copy."""
    from infra.settings import read_settings
    from models.releases import registry
    from models.releases.versions import Evidence

    settings = read_settings()
    champion = registry.champion(settings)
    assert champion is not None
    folder = registry.fetch(champion, settings=settings)
    version = registry.publish(
        Path(folder), Evidence(card=f"the champion again, swap {label}"), settings=settings
    )
    registry.promote(
        version.version, by="benchmark", why="a hot swap under load", settings=settings
    )


def _lost(taken: list[str]) -> int:
    from infra.settings import read_settings
    from jobs.store import open_store, read_jobs

    engine = open_store(read_settings().store_url)
    stored_ids = set(read_jobs(engine, sources=["sustained"], columns=["job_id"])["job_id"])
    engine.dispose()
    return len(set(taken) - stored_ids)


def _worker(address: str) -> Any:
    """The process that answers, None while there is none."""
    import psutil

    port = address.rpartition(":")[2]
    for process in psutil.process_iter(["cmdline"]):
        try:
            words = process.info["cmdline"] or []
            if (
                "_bentoml_impl.worker.service" in words
                and process.environ().get("GRIDCAST_PREDICTOR_PORT") == port
            ):
                return process
        except psutil.Error:
            continue
    return None
