"""The model that answers: a forecaster with the store's history, and which model set it is."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pandas as pd

from infra.background import is_data_error
from infra.settings import Settings
from infra.shards import Shard

if TYPE_CHECKING:
    from models.engine.forecaster import Forecaster
    from models.engine.model_card import ModelCard
    from models.releases.versions import Version

log = logging.getLogger("bentoml.gridcast")

LEARN_ROWS = 200
"""Outcomes learned at a time: a prediction waits for one slice at most, some milliseconds."""
BULK_ROWS = 20_000
"""The same for a forecaster that does not answer yet."""
NO_MODEL = "none"


@dataclass(frozen=True)
class ActiveModel:
    """A forecaster, whose history grows under its own lock, and the version that it belongs to."""

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

    def learn(self, ended: pd.DataFrame, rows: int = LEARN_ROWS) -> None:
        """Add finished jobs to the history, ``rows`` at a time; predictions go on in between.

        A job that the forecaster cannot learn is left out with a line in the log.
        """
        try:
            self.forecaster.learn(ended, rows)
        except Exception as error:
            if not is_data_error(error):
                raise
            # Jobs that are learned twice count once.
            for start in range(0, len(ended), rows):
                self._learn_slice(ended.iloc[start : start + rows])

    def _learn_slice(self, ended: pd.DataFrame) -> None:
        try:
            self.forecaster.learn(ended)
        except Exception as error:
            if not is_data_error(error):
                raise
            if len(ended) == 1:
                source, job_id = ended["source"].iloc[0], ended["job_id"].iloc[0]
                log.exception("the outcome of job %s of %s cannot be learned", job_id, source)
                return
            middle = len(ended) // 2
            self._learn_slice(ended.iloc[:middle])
            self._learn_slice(ended.iloc[middle:])


def load_active_model(
    version: Version | None, settings: Settings, verified: bool = False
) -> ActiveModel:
    """Load the model set of ``version``, without any history yet; None gives bare histories.

    Args:
        version: The version in the registry.
        settings: Where the registry is, and what the operator wants of allocations.
        verified: Whether it has answered here before; else a child process, which a bad file may
            crash, tries it out first.

    Raises:
        GridcastError: It cannot be fetched, its checksums differ, or it does not predict.
    """
    from models.engine.advice import Advice
    from models.engine.forecaster import Forecaster
    from models.engine.model_set import ModelSet
    from models.releases.verification import fetch, verify_in_subprocess

    advice = Advice.of(settings.failure_price, settings.left_alone)
    shard = Shard.parse(settings.shard) if settings.shard else None
    if version is None:
        return ActiveModel(Forecaster(None, advice=advice, shard=shard))
    folder = fetch(version, settings)
    if not verified:
        verify_in_subprocess(folder)
    model_set = ModelSet.load(folder)
    return ActiveModel(
        Forecaster(model_set, advice=advice, shard=shard),
        version.label,
        version.version,
        version.run_id,
        model_set.card,
    )


def same_version(version: Version | None, second: Version | None) -> bool:
    """Whether both are the same version of one model, or both None."""
    return _identity(version) == _identity(second)


def _identity(version: Version | None) -> tuple[str, int, str] | None:
    return None if version is None else (version.name, version.version, version.run_id)
