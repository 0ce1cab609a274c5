"""Query time: when the jobs of a log are predicted, and what is known of their inputs by then."""

from __future__ import annotations

from typing import Literal

import pandas as pd

Moment = Literal["submission", "start"]


def at_query_time(
    jobs: pd.DataFrame, at: Moment = "submission", input_known: bool = False
) -> pd.DataFrame:
    """Return ``jobs`` in the order in which they are predicted, with that time as ``submitted_at``.

    Args:
        jobs: The jobs.
        at: "start" predicts each when it starts, by what has ended until then (late binding).
        input_known: Takes the bytes that a job read for the size of its input, known beforehand, as
            the Sizey paper does (Bader et al., IEEE CLUSTER 2024).
    """
    if at == "start":
        jobs = jobs.assign(submitted_at=jobs["started_at"].fillna(jobs["submitted_at"]))
    if input_known:
        jobs = jobs.assign(input_bytes=jobs["input_bytes"].fillna(jobs["read_bytes"]))
    return jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
