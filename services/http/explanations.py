"""Explanations as callers see them: the past jobs that an engine knows by their hashes only, name_similar_jobs from the store."""

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
    """The same with ``source``, ``job_id`` and ``ended_at`` of each similar job in the place of its hash; null where the store is away."""
    similar = [
        each
        for explanation in explanations
        for told in explanation.values()
        for each in told["similar"]
    ]
    known = {each["known"] for each in similar}
    try:
        # What took no time is known a microsecond after its end.
        found = (
            read_ended_at(engine, known | {moment - 1 for moment in known})
            if known
            else pd.DataFrame()
        )
    except StoreError:
        found = pd.DataFrame()
    names: dict[int, tuple[str, str]] = {}
    if len(found):
        hashes = identities(encode_jobs(found, ("source", "job_id"))).tolist()
        names = dict(zip(hashes, zip(found["source"], found["job_id"], strict=True), strict=True))
    for each in similar:
        source, job_id = names.get(each.pop("ident"), (None, None))
        ended_at = pd.Timestamp(each.pop("known"), unit="us", tz="UTC").isoformat()
        each |= {"source": source, "job_id": job_id, "ended_at": ended_at}
    return explanations
