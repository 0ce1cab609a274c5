"""The answer of ``POST /match``: waiting jobs predicted in a slot, ordered, and chosen."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from infra.aliases import Floats
from jobs.coded_jobs import Coded, CodedJobs, in_microseconds
from models.quantities.within import Bounds
from models.ranking.slots import Order, Outlook, Slot, SlotError, choose
from services.http.errors import HTTPError
from services.http.match import Matched, MatchRequest

if TYPE_CHECKING:
    from models.engine.forecaster import Forecaster
    from models.engine.predictions import Predictions

_MEMORY_LEVEL = 0.95
DECIMALS = 6
_MOST_CHOSEN = float(2**31)


def match(forecaster: Forecaster, request: MatchRequest, jobs: CodedJobs) -> Matched:
    """Match waiting jobs to a slot.

    Args:
        forecaster: Predicts them.
        request: The slot, and what is told of the jobs beside their fields.
        jobs: The jobs of the request.

    Raises:
        HTTPError: 422, where no walltime is predicted or the order cannot be.
    """
    options, waiting = request.options, request.waiting
    if "walltime" not in forecaster.names:
        raise HTTPError(422, "the model predicts no walltime, so no job can be matched to a slot")
    try:
        order = Order(
            options.policy,
            options.wait_weight,
            options.quota_weight,
            options.priority_weight,
            options.gain_weight,
        )
    except SlotError as error:
        raise HTTPError(422, str(error)) from None
    memory = np.inf if options.memory is None else options.memory
    slot = Slot(int(options.cores), options.seconds_left, memory)
    now = options.at or datetime.now(UTC)
    jobs = _in_slot(jobs, request)
    rows = len(jobs)
    cores = np.maximum(np.ceil(np.nan_to_num(_numbers(jobs, "requested_cores"), nan=1.0)), 1.0)
    ran = waiting["ran"] if (waiting["ran"] > 0).any() else None
    requested = _numbers(jobs, "requested_memory")
    bounds = {"walltime": Bounds(np.full(rows, slot.seconds), ran)}
    targets: tuple[str, ...] = ()
    if np.isfinite(slot.memory) and "peak_memory" in forecaster.names:
        bounds["peak_memory"] = Bounds(np.full(rows, slot.memory))
        targets = ("peak_memory",) if np.isnan(requested).any() else ()
    predicted = forecaster.predict_encoded(
        jobs, (_MEMORY_LEVEL,), now, bounds=bounds, targets=targets
    )
    outlook = Outlook.of(predicted.within["walltime"], cores, slot.seconds)
    fits, need = _memory(predicted, requested, slot)
    gain = outlook.gain(options.kill_price)
    waited = np.maximum(in_microseconds(now) - jobs["submitted_at"], 0) / 1e6
    scores = order.scores(
        waited,
        waiting["priority"],
        waiting["quota_used"],
        gain / (cores * slot.seconds),
    )
    ordered = np.lexsort((-waited, -scores))
    eligible = (outlook.ends >= 1 - options.risk) & (gain > 0)
    eligible &= np.nan_to_num(fits, nan=1.0) >= 1 - options.risk
    choice = choose(
        slot,
        ordered,
        np.minimum(cores, slot.cores + 1).astype(np.int64),
        need,
        np.minimum(waiting["count"], _MOST_CHOSEN).astype(np.int64),
        gain,
        eligible,
    )
    columns = {
        "p_ends": np.round(outlook.ends, DECIMALS),
        "p_fits": np.round(fits, DECIMALS),
        "core_seconds_used": np.round(outlook.used, 3),
        "core_seconds_lost": np.round(outlook.lost, 3),
        "gain": np.round(gain, 3),
        "chosen": choice.count,
    }
    about = {
        "cores_chosen": int((choice.count * cores).sum()),
        "gain_of_choice": round(choice.gain, 3),
        "gain_bound": round(choice.bound, 3),
    }
    return Matched(ordered, columns, about)


def _in_slot(jobs: CodedJobs, request: MatchRequest) -> CodedJobs:
    """The jobs as they would run at the pilot's site and host."""
    columns, options = dict(jobs.columns), request.options
    if options.site is not None:
        columns["site"] = Coded(np.zeros(len(jobs), np.int64), [options.site])
    if options.host_power is not None:
        columns["host_power"] = np.full(len(jobs), options.host_power)
    return CodedJobs(columns, len(jobs))


def _numbers(jobs: CodedJobs, name: str) -> Floats:
    return jobs[name] if name in jobs else np.full(len(jobs), np.nan)


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
