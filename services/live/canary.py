"""The canary: the jobs that a challenger answers in place of the champion, chosen by their hash.

Every replica chooses the same jobs, and a job has one version in all its calls. The champion
predicts them too: both predictions are logged at one time, and compared when the jobs have ended.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from infra.aliases import Integers
from jobs.coded_jobs import CodedJobs
from models.engine.predictions import Predictions
from models.histories.features import identities
from models.histories.hash_table import mix
from services.http.columns import single_array


@dataclass(frozen=True)
class CanaryAnswers:
    """The predictions of the jobs ``rows`` of a request by the challenger."""

    rows: Integers
    predictions: Predictions


def canary_rows(job_ids: pa.ChunkedArray, coded: CodedJobs, number: int, share: float) -> Integers:
    """Choose the jobs of a request that the canary answers.

    Args:
        job_ids: The id of each job.
        coded: The jobs, with their source.
        number: The number of the canary's version: each chooses other jobs.
        share: The expected share of the jobs.

    Returns:
        Their indices, in order.
    """
    names = np.asarray(single_array(job_ids).to_numpy(zero_copy_only=False), dtype=object)
    named = CodedJobs({"source": coded["source"], "job_id": names}, len(coded))
    hashes = mix((identities(named).astype(np.uint64) << np.uint64(32)) + np.uint64(number))
    return np.flatnonzero(hashes < np.uint64(share * 2.0**64))
