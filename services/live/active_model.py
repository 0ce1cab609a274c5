"""What answers: a forecaster with the store's history, and which model set it is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from models.engine.forecaster import Forecaster
    from models.engine.model_card import ModelCard
    from models.releases.versions import Version

LEARN_SLICE = 200
"""Outcomes learned at a time: a prediction waits for one slice at most, some milliseconds."""
AT_ONCE = 20_000
"""The same for a forecaster that does not answer yet."""
NO_MODEL = "none"


@dataclass(frozen=True)
class ActiveModel:
    """What answers: a forecaster, whose history grows under its own lock, and what is known of it, which does not change."""

    forecaster: Forecaster
    label: str = NO_MODEL
    number: int = 0
    run_id: str = ""
    card: ModelCard | None = None
    since: datetime = field(default_factory=lambda: datetime.now(UTC))

    def is_of(self, version: Version | None) -> bool:
        """Whether this is the model set of ``version`` (None: of no version)."""
        return (self.number, self.run_id) == (
            (version.version, version.run_id) if version else (0, "")
        )

    def learn(self, ended: pd.DataFrame, rows: int = LEARN_SLICE) -> None:
        """Add finished jobs to the history, ``rows`` at a time; predictions go on in between."""
        for start in range(0, len(ended), rows):
            self.forecaster.learn(ended.iloc[start : start + rows])
            # The lock is not a fair one: without a pause the next slice would have it before a waiting prediction.
            time.sleep(0.0005)
