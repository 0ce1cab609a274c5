"""Whose jobs are answered: of a token's owners only, and of a shard's users only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from infra.shards import shard_of_slots
from jobs.coded_jobs import CodedJobs
from jobs.owners import Owners
from models.engine.sharding import job_slots
from services.http.errors import HTTPError

if TYPE_CHECKING:
    from models.engine.forecaster import Forecaster


def refuse_others(jobs: CodedJobs, owners: Owners | None, forecaster: Forecaster) -> None:
    """Refuse a request about a job of others.

    Args:
        jobs: The jobs of the request.
        owners: Whose jobs the caller may ask about; None: everybody's.
        forecaster: Answers; it may hold the histories of one shard's users only.

    Raises:
        HTTPError: 403, or 421 where another shard answers, naming the first such job by its index.
    """
    if owners is not None and not (own := owners.own_coded(jobs)).all():
        index = int(np.argmin(own))
        raise HTTPError(
            403, f"job {index}: the token is bound to {owners}, and this job is none of theirs"
        )
    if forecaster.shard is not None and not (own := forecaster.owns(jobs)).all():
        index, count = int(np.argmin(own)), forecaster.shard.count
        holder = shard_of_slots(count)[job_slots(jobs)[index]]
        raise HTTPError(
            421,
            f"job {index}: its user's histories are those of shard {holder}/{count}, and this is "
            f"the predictor of {forecaster.shard} (GRIDCAST_SHARD)",
        )
