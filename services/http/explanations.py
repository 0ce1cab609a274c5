"""Explanations as callers see them: similar jobs, known to the engine by hash, get their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from jobs.coded_jobs import encode_jobs
from jobs.owners import Owners, select_owned
from jobs.store import StoreError, read_ended_at, read_owners
from models.histories.features import identities

if TYPE_CHECKING:
    from sqlalchemy import Engine

Explanation = dict[str, dict[str, Any]]


def name_similar_jobs(
    explanations: list[Explanation], engine: Engine, owners: Owners | None = None
) -> list[Explanation]:
    """Replace the hash of each similar job by ``source``, ``job_id`` and ``ended_at``.

    Args:
        explanations: For each job by target, changed in place.
        engine: The store; where it cannot be read, names are null.
        owners: Whose jobs are named (None: everybody's); of others only the value and the day of
            the end remain.
    """
    similar = [
        job
        for explanation in explanations
        for of_target in explanation.values()
        for job in of_target["similar"]
    ]
    names = _names({job["known"] for job in similar}, engine, owners) if similar else {}
    for job in similar:
        source, job_id = names.get(job.pop("ident"), (None, None))
        ended_at = pd.Timestamp(job.pop("known"), unit="us", tz="UTC")
        if owners is not None and job_id is None:
            ended_at = ended_at.floor("D")
        job |= {"source": source, "job_id": job_id, "ended_at": ended_at.isoformat()}
    return explanations


def hide_others(
    similar: list[dict[str, Any]], engine: Engine, owners: Owners | None
) -> list[dict[str, Any]]:
    """Take the names of others' jobs from similar jobs, as ``name_similar_jobs`` does.

    Args:
        similar: The similar jobs by name.
        engine: The store.
        owners: Whose jobs keep their names; None: everybody's.
    """
    named = [job for job in similar if job["job_id"] is not None]
    if owners is None:
        return similar
    with engine.begin() as connection:
        identities = pd.DataFrame(named, columns=["source", "job_id"])
        stored = select_owned(read_owners(connection, identities), owners)
    own = set(zip(stored["source"], stored["job_id"], strict=True))
    nameless = {"source": None, "job_id": None}
    return [
        job
        if (job["source"], job["job_id"]) in own
        else {**job, **nameless, "ended_at": f"{job['ended_at'][:10]}T00:00:00+00:00"}
        for job in similar
    ]


def _names(
    available_at: set[int], engine: Engine, owners: Owners | None
) -> dict[int, tuple[str, str]]:
    """Source and job_id by hash of the jobs whose outcomes became available at some times."""
    try:
        # The outcome of a job that took no time is available a microsecond after its end.
        ended = read_ended_at(engine, available_at | {moment - 1 for moment in available_at})
    except StoreError:
        return {}
    ended = select_owned(ended, owners)
    if not len(ended):
        return {}
    hashes = identities(encode_jobs(ended, ("source", "job_id"))).tolist()
    return dict(zip(hashes, zip(ended["source"], ended["job_id"], strict=True), strict=True))
