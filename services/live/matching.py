"""Predictions of waiting jobs in a slot, for ``POST /match`` and ``POST /outlook``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from infra.aliases import Floats
from jobs.coded_jobs import Coded, CodedJobs
from models.quantities.within import Bounds
from models.ranking.slots import Outlook, Slot
from services.http.errors import HTTPError
from services.http.match import MatchRequest, SlotPrediction

if TYPE_CHECKING:
    from models.engine.forecaster import Forecaster
    from models.engine.predictions import Predictions

_MEMORY_LEVEL = 0.95


def predict_in_slot(
    forecaster: Forecaster, request: MatchRequest, jobs: CodedJobs
) -> SlotPrediction:
    """Predict waiting jobs in a slot.

    Args:
        forecaster: Predicts them.
        request: The slot, and what is told of the jobs beside their fields.
        jobs: The jobs of the request.

    Raises:
        HTTPError: 422, where no walltime is predicted.
    """
    waiting, slot = request.waiting, request.slot
    if "walltime" not in forecaster.names:
        raise HTTPError(422, "the model predicts no walltime, so no job can be matched to a slot")
    ran = waiting["ran"] if (waiting["ran"] > 0).any() else None
    requested = request.numbers("requested_memory")
    bounds = {"walltime": Bounds(np.full(len(jobs), slot.seconds), ran)}
    targets: tuple[str, ...] = ()
    if np.isfinite(slot.memory) and "peak_memory" in forecaster.names:
        bounds["peak_memory"] = Bounds(np.full(len(jobs), slot.memory))
        targets = ("peak_memory",) if np.isnan(requested).any() else ()
    predicted = forecaster.predict_encoded(
        _in_slot(jobs, request), (_MEMORY_LEVEL,), request.at, bounds=bounds, targets=targets
    )
    outlook = Outlook.of(predicted.within["walltime"], request.cores, slot.seconds)
    return SlotPrediction(outlook, *_memory(predicted, requested, slot))


def _in_slot(jobs: CodedJobs, request: MatchRequest) -> CodedJobs:
    """The jobs as they would run at the pilot's site and host."""
    columns, options = dict(jobs.columns), request.options
    if options.site is not None:
        columns["site"] = Coded(np.zeros(len(jobs), np.int64), [options.site])
    if options.host_power is not None:
        columns["host_power"] = np.full(len(jobs), options.host_power)
    return CodedJobs(columns, len(jobs))


def _memory(predicted: Predictions, requested: Floats, slot: Slot) -> tuple[Floats, Floats]:
    """The probability that each job fits into the slot's memory, and the bytes to set aside.

    Without a limit of the slot, or a prediction, the former is NaN; the latter is the request, else
    a quantile of the prediction, else 0.
    """
    rows = len(requested)
    if not np.isfinite(slot.memory):
        return np.full(rows, np.nan), np.zeros(rows)
    within = predicted.within.get("peak_memory")
    column = predicted.numbers.get(f"peak_memory_q{_MEMORY_LEVEL:g}")
    if column is not None:
        requested = np.where(np.isnan(requested), column[predicted.context_of_row], requested)
    return within.probability if within else np.full(rows, np.nan), np.nan_to_num(requested)
