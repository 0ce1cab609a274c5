"""Ranges of the ends of tasks that are under way: trimmed by outcomes that were known, and by no others."""

from dataclasses import replace

import numpy as np
import pytest

from jobs.workload import generate
from models.tasks.backtest import queries_about, query_inputs
from models.tasks.ends import FEWEST_JOBS, PastQueries, TaskModel
from models.tasks.ranges import LEVELS, fit_calibrated, time_left
from models.tasks.sets import group_tasks


@pytest.fixture(scope="module")
def past() -> PastQueries:
    tasks = group_tasks(generate(3000, days=10, seed=3).jobs)
    rows = np.flatnonzero((tasks.sizes >= FEWEST_JOBS) & np.isfinite(tasks.finished))
    questions = queries_about(tasks, rows)
    return PastQueries(questions, query_inputs(tasks, questions), tasks.finished[questions.task])


@pytest.fixture(scope="module")
def fitted(past: PastQueries) -> tuple[TaskModel, float]:
    now = float(np.quantile(past.queries.at, 0.8))
    return fit_calibrated(past, now), now


def test_ranges_are_trimmed_by_where_outcomes_lay_and_those_of_the_future_do_not_count(
    past: PastQueries, fitted: tuple[TaskModel, float]
) -> None:
    model, now = fitted
    later = np.where(past.finished > now, past.finished + 1e6, past.finished)
    again = fit_calibrated(replace(past, finished=later), now)
    np.testing.assert_array_equal(model.trims, again.trims)
    assert (np.diff(model.trims, axis=1) > 0).all() and not np.allclose(model.trims[:, 1:4], LEVELS)


def test_what_is_asked_for_is_asked_at_the_trimmed_level(
    past: PastQueries, fitted: tuple[TaskModel, float]
) -> None:
    model, now = fitted
    shown = past.inputs[past.queries.at > now]
    low, middle, high = time_left(model, shown, LEVELS).T
    assert (low <= middle).all() and (middle <= high).all()
    narrow = replace(model, trims=np.tile((0.0, 0.3, 0.5, 0.7, 1.0), (4, 1)))
    assert (time_left(narrow, shown, LEVELS)[:, 2] < high).mean() > 0.9
    plain = time_left(replace(model, trims=TaskModel().trims), shown, (model.trims[0, 3],))[:, 0]
    first = shown[:, 2] == 0
    np.testing.assert_allclose(high[first], plain[first])
