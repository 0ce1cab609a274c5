"""Whether a log has the outcomes that a training, an evaluation or a replay needs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from models.engine.training import TrainingError, find_target
from models.quantities.subjects import TRANSFERS


def require_outcomes(
    jobs: pd.DataFrame, targets: Iterable[str] = ("walltime",), log: str = "the store"
) -> None:
    """Refuse jobs none of which has ended with a known outcome.

    Args:
        jobs: The jobs, or transfers.
        targets: What is predicted of them; each must be known of some.
        log: What they were read from, for the message.

    Raises:
        TrainingError: With what is missing, in one sentence.
    """
    for target in map(find_target, targets):
        kind = "transfer" if target.subject.name == TRANSFERS.name else "job"
        time = target.subject.outcome_time
        if time not in jobs or jobs[time].isna().all():
            verb = "started" if time == "started_at" else "ended"
            raise TrainingError(
                f"none of the {len(jobs):,} {kind}s of {log} has {verb}: there are no outcomes to "
                "learn from"
            )
        if not np.isfinite(target.value(jobs)).any():
            raise TrainingError(
                f"none of the {len(jobs):,} {kind}s of {log} reports its {target.name}: there are "
                "no outcomes to learn from"
            )
