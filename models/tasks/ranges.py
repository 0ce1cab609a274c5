"""Ranges of ends that are kept true: trimmed by where the outcomes known by then had lain in what was foreseen of them."""

from __future__ import annotations

import numpy as np

from infra.aliases import Array, Progress
from models.histories.calibration import STEPS, Calibration
from models.tasks.ends import PROGRESS_LEVELS, PastQueries, TaskModel, fit, from_walltimes
from models.tasks.inputs import Queries
from models.tasks.sets import microseconds
from models.tasks.survival import Curves

LEVELS = (0.05, 0.5, 0.95)
PRIOR = 30.0
"""Outcomes that the calibration of ranges believes in before it has seen any; tasks are few."""
FITS = 5
"""How often the past is lived through anew to see where its outcomes lay, when a model is fitted that is to answer."""


def backtest_ranges(
    past: PastQueries,
    defined: Array,
    warm_up: float,
    refit_every: float,
    progress: Progress | None = None,
) -> Array:
    """The time left at each question, as foreseen by models fitted on what was known before: float64[n, LEVELS] s.

    ``defined`` are the times of definition (ascending), whose shares ``warm_up`` and ``refit_every`` say when models are fitted.
    """
    curves, place = _answers(past, defined, warm_up, refit_every, progress)
    levels, found = _trimmed(past, place), from_walltimes(past.inputs, LEVELS)
    for part, answer in curves:
        found[part] = np.column_stack(
            [answer.quantile(levels[part, column]) for column in range(len(LEVELS))]
        )
    return found


def fit_calibrated(past: PastQueries, now: float) -> TaskModel:
    """Learn from what was known of ``past`` questions at ``now``, and how the ranges are to be trimmed from then on."""
    known = past.known_at(now)
    asked, shares = known.questions, np.array(PROGRESS_LEVELS)
    defined = np.sort(asked.at[asked.progress == 0])
    place = (
        _answers(known, defined, 1 / FITS, 1 / FITS)[1]
        if len(defined) >= FITS
        else np.full(len(asked), np.nan)
    )
    # Nobody knows yet what becomes of those who ask now.
    still = Queries(np.full(len(shares), -1), np.full(len(shares), now), shares)
    together = Queries(
        *(
            np.concatenate([getattr(part, name) for part in (asked, still)])
            for name in ("task", "at", "progress")
        )
    )
    unknown = np.full(len(shares), np.inf)
    whole = PastQueries(together, known.inputs, np.concatenate([known.finished, unknown]))
    trims = _trimmed(whole, np.concatenate([place, np.full(len(shares), np.nan)]))[-len(shares) :]
    fitted = fit(known, now)
    return TaskModel(
        fitted.defined,
        fitted.in_progress,
        np.column_stack([np.zeros(len(shares)), trims, np.ones(len(shares))]),
    )


def time_left(model: TaskModel, inputs: Array, wanted: tuple[float, ...] | Array) -> Array:
    """The time left by rows of ``inputs`` (float32[n, NAMES]) at the levels ``wanted``, trimmed: float64[n, wanted], s."""
    wanted = np.asarray(wanted)
    found = from_walltimes(inputs, wanted)
    for part, answer in model.curves(inputs):
        share = np.searchsorted(PROGRESS_LEVELS, inputs[part, 2], side="right") - 1
        levels = np.array([np.interp(wanted, (0.0, *LEVELS, 1.0), trim) for trim in model.trims])[
            share
        ]
        found[part] = np.column_stack(
            [answer.quantile(levels[:, column]) for column in range(len(wanted))]
        )
    return np.sort(found, axis=1)


def _answers(
    past: PastQueries,
    defined: Array,
    warm_up: float,
    refit_every: float,
    progress: Progress | None = None,
) -> tuple[list[tuple[Array, Curves]], Array]:
    """What models that were fitted before answered, with the rows asked about, and where the outcome of each lay (float64[n])."""
    asked, count = past.questions, len(defined)
    fits = [
        defined[row] for row in range(int(count * warm_up), count, max(int(count * refit_every), 1))
    ]
    place = np.full(len(asked), np.nan)
    bounds = np.searchsorted(asked.at, [*fits, np.inf])
    curves: list[tuple[Array, Curves]] = []
    for number, now in enumerate(fits):
        rows = np.arange(bounds[number], bounds[number + 1])
        for part, answer in fit(past, now).curves(past.inputs[rows]):
            curves.append((rows[part], answer))
            place[rows[part]] = answer.share_by(past.finished[rows[part]] - asked.at[rows[part]])
        if progress:
            progress("tasks: living through the log", 0.6 + 0.4 * (number + 1) / len(fits))
    return curves, place


def _trimmed(past: PastQueries, place: Array) -> Array:
    """The levels to ask for so that each of LEVELS holds, by where outcomes known at each question had lain (float64[n, LEVELS])."""
    levels = np.tile(np.array(LEVELS), (len(place), 1))
    at, known = microseconds(past.questions.at), microseconds(past.finished)
    for share in PROGRESS_LEVELS:
        rows = np.flatnonzero(past.questions.progress == share)
        order = rows[np.argsort(known[rows], kind="stable")]
        learned = Calibration(np.full(STEPS, PRIOR / STEPS), np.full(STEPS, PRIOR / STEPS))
        levels[rows] = learned.replay(place, place, order, 0, known, at[rows], np.array(LEVELS))[0]
    return levels
