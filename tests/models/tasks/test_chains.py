"""Chains and requests: who waits for whom, when all will be done, and that the prediction is what a simulation finds."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri

from jobs.schema import conform
from models.quantities import stochastic
from models.tasks.chains import Links, end_of, ends, last_of, links, ready_at, task_sets
from models.tasks.sets import Tasks, group_tasks

START = pd.Timestamp("2026-01-01", tz="UTC")
HOUR = 3600.0


def tasks_of(**said: tuple[str | None, str | None]) -> Tasks:
    """A task of two jobs for each word, an hour after each other, that waits for the first of its pair and belongs to the second."""
    rows = [
        {
            "job_id": f"{name}{k}",
            "task_id": name,
            "source": "made",
            "user": "ada",
            "after_task_id": before,
            "request_id": request,
        }
        | {"submitted_at": START + pd.Timedelta(hours=place)}
        for place, (name, (before, request)) in enumerate(said.items())
        for k in range(2)
    ]
    return group_tasks(conform(pd.DataFrame(rows)))


def test_who_waits_for_whom_is_read_from_jobs_and_circles_and_unknown_tasks_are_no_obstacle() -> (
    None
):
    tasks = tasks_of(
        a=(None, None),
        b=("a", None),
        c=("b", None),
        d=("e", None),
        e=("d", None),
        f=("f", None),
        g=("nobody", None),
    )
    waits = links(tasks)
    assert waits.before == {1: [0], 2: [1]}
    sets = task_sets(tasks, waits)
    assert [(whole.kind, whole.name, whole.rows.tolist()) for whole in sets] == [
        ("chain", "a", [0, 1, 2])
    ]


def test_a_request_is_what_was_asked_for_together() -> None:
    tasks = tasks_of(a=(None, "r"), b=("a", "r"), c=(None, "r"), d=(None, "alone"))
    waits = links(tasks)
    request = next(whole for whole in task_sets(tasks, waits) if whole.kind == "request")
    left = {row: np.full(64, HOUR) for row in range(3)}
    assert request.rows.tolist() == [0, 1, 2] and last_of(request, left, waits) == [1, 2]
    assert last_of(request, left | {1: np.zeros(64)}, waits) == [
        0,
        2,
    ]  # b was done before a, which is still under way


def test_a_task_of_another_source_is_not_waited_for() -> None:
    tasks = tasks_of(a=(None, None), b=("a", None))
    other = tasks.jobs.assign(source=np.where(tasks.jobs["task_id"] == "a", "there", "here"))
    assert not len(links(group_tasks(other)).later)


def test_the_end_of_a_chain_is_what_a_simulation_finds() -> None:
    """Twice a, then b, then c; d beside them: c ends after two others, and all are done when c and d are."""
    draw = np.random.default_rng(3)
    middle, spread = np.array([2.0, 1.0, 3.0, 5.0]) * HOUR, np.array([0.4, 0.8, 0.3, 0.6])
    own = {k: middle[k] * np.exp(spread[k] * ndtri(stochastic.LEVELS)) for k in range(4)}
    waits = Links(4, np.array([1, 2]), np.array([0, 1]))
    found = ends(own, np.zeros(4, bool), waits)
    drawn = middle * np.exp(spread * draw.normal(size=(100_000, 4)))
    chain = drawn[:, :3].sum(axis=1)
    whole = np.maximum(chain, drawn[:, 3])
    tasks = tasks_of(a=(None, "r"), b=("a", "r"), c=("b", "r"), d=(None, "r"))
    request = next(one for one in task_sets(tasks, links(tasks)) if one.kind == "request")
    for points, truth in ((found[2], chain), (end_of(request, found, waits), whole)):
        for level in (0.05, 0.5, 0.95):
            assert stochastic.quantile(points[None], level)[0] == pytest.approx(
                np.quantile(truth, level), rel=0.06
            )
        low, high = (stochastic.quantile(points[None], level)[0] for level in (0.05, 0.95))
        assert 0.87 < ((low <= truth) & (truth <= high)).mean() < 0.93


def test_a_task_that_has_begun_ends_no_sooner_than_the_one_before_and_a_done_one_delays_nobody() -> (
    None
):
    own = {0: np.full(64, 5 * HOUR), 1: np.full(64, 2 * HOUR)}
    waits = Links(2, np.array([1]), np.array([0]))
    assert ends(own, np.array([True, True]), waits)[1][0] == 5 * HOUR
    assert ends(own, np.array([True, False]), waits)[1][0] == 7 * HOUR
    assert ends(own | {0: np.zeros(64)}, np.array([True, False]), waits)[1][0] == 2 * HOUR


def test_a_task_that_waits_can_begin_when_the_one_before_is_done_unless_it_has_begun() -> None:
    tasks = tasks_of(a=(None, None), b=("a", None))
    waits, start = links(tasks), tasks.defined[0]
    done = Tasks(
        **{
            **vars(tasks),
            "ended": start + np.array([4, 6, 9, 9]) * HOUR,
            "started": start + np.array([0, 0, 8, 8]) * HOUR,
        }
    )
    assert (ready_at(done, waits) - start).tolist() == [0.0, 6 * HOUR]
    early = Tasks(**{**vars(done), "started": start + np.array([0, 0, 2, 8]) * HOUR})
    assert (ready_at(early, waits) - start).tolist() == [0.0, 2 * HOUR]
