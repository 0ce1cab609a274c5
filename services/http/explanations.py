"""Explanations as callers see them: similar jobs, known to the engine by hash, get their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from jobs.coded_jobs import encode_jobs
from jobs.store import StoreError, read_ended_at
from models.histories.features import identities

if TYPE_CHECKING:
    from sqlalchemy import Engine

Explanation = dict[str, dict[str, Any]]


def name_similar_jobs(explanations: list[Explanation], engine: Engine) -> list[Explanation]:
    """Replace the hash of each similar job by ``source``, ``job_id`` and ``ended_at``.

    Args:
        explanations: For each job by target, changed in place.
        engine: The store; where it cannot be read, names are null.
    """
    similar = [
        job
        for explanation in explanations
        for of_target in explanation.values()
        for job in of_target["similar"]
    ]
    names = _names({job["known"] for job in similar}, engine) if similar else {}
    for job in similar:
        source, job_id = names.get(job.pop("ident"), (None, None))
        ended_at = pd.Timestamp(job.pop("known"), unit="us", tz="UTC").isoformat()
        job |= {"source": source, "job_id": job_id, "ended_at": ended_at}
    return explanations


def _names(available_at: set[int], engine: Engine) -> dict[int, tuple[str, str]]:
    """Source and job_id by hash of the jobs whose outcomes became available at some times."""
    try:
        # The outcome of a job that took no time is available a microsecond after its end.
        ended = read_ended_at(engine, available_at | {moment - 1 for moment in available_at})
    except StoreError:
        return {}
    if not len(ended):
        return {}
    hashes = identities(encode_jobs(ended, ("source", "job_id"))).tolist()
    return dict(zip(hashes, zip(ended["source"], ended["job_id"], strict=True), strict=True))
