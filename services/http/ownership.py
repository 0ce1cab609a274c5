"""Rights by owner: a token bound to owners asks about their jobs only."""

from __future__ import annotations

import numpy as np

from jobs.coded_jobs import CodedJobs
from jobs.owners import Owners
from services.http.errors import HTTPError


def refuse_others(jobs: CodedJobs, owners: Owners | None) -> None:
    """Refuse a request about a job that does not belong to some owners.

    Args:
        jobs: The jobs of the request.
        owners: Whose jobs the caller may ask about; None: everybody's.

    Raises:
        HTTPError: 403, naming the first such job by its index.
    """
    if owners is None:
        return
    own = owners.own_coded(jobs)
    if not own.all():
        index = int(np.argmin(own))
        raise HTTPError(
            403, f"job {index}: the token is bound to {owners}, and this job is none of theirs"
        )
