import doctest
from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as some

import models.engine.allocation
from models.engine.allocation import GIB_HOUR, MAX_RUNGS, ladders
from models.engine.forecaster import Forecaster
from models.histories.occupancy import Occupancy
from models.quantities.targets import Grid

GRID = Grid(1.0, 2, 9)
shares = (
    some.lists(some.floats(0, 1), min_size=9, max_size=9)
    .map(np.array)
    .filter(lambda parts: parts.sum() > 0.1)
)


def one(mass, held, seconds=1.0, cold=False):
    return Occupancy(
        (mass / mass.sum())[None],
        (held / held.sum())[None],
        np.array([seconds]),
        np.array([8]),
        np.array([0]),
        np.array([cold]),
    )


def cost(ladder, mass, held, price, gradual=False):
    """What a ladder costs, by the definition: each outcome fails at each rung below it, and leaves the rest of its own unused."""
    total = 0.0
    for b in range(len(mass)):
        for rung in ladder:
            if rung >= b:
                total += (GRID.edges[rung + 1] - GRID.centres[b]) * held[b]
                break
            lost = GRID.edges[rung + 1] / GRID.centres[b] if gradual else 1.0
            total += GRID.edges[rung + 1] * lost * held[b] + price * mass[b]
    return total


@cache
def every_ladder():
    return [[rung for rung in range(8) if which >> rung & 1] + [8] for which in range(256)]


def test_the_examples_hold():
    assert doctest.testmod(models.engine.allocation).attempted > 0
    assert doctest.testmod(models.engine.allocation).failed == 0


@given(shares, shares, some.sampled_from([0.0, 0.1, 1.0, 5.0]), some.booleans())
@settings(max_examples=60, deadline=None)
def test_no_ladder_costs_less(mass, held, price, gradual):
    jobs = one(mass, held)
    unlimited, price_of_engine = np.array([np.inf]), price / GIB_HOUR
    found = ladders(jobs, GRID, unlimited, False, price_of_engine, 1.0, gradual)[0]
    rungs = np.searchsorted(GRID.edges, found[~np.isnan(found)]).tolist()
    least = min(
        cost(ladder, jobs.mass[0], jobs.weighted[0], price, gradual) for ladder in every_ladder()
    )
    told = [rung - 1 for rung in rungs]
    if len(told) < MAX_RUNGS:
        assert told[-1] == 8
        assert np.isclose(cost(told, jobs.mass[0], jobs.weighted[0], price, gradual), least)


def test_nothing_is_set_aside_above_the_ceiling_and_the_last_rung_is_the_ceiling():
    found = ladders(one(np.ones(9), np.ones(9)), GRID, np.array([10.0]))[0]
    assert np.nanmax(found) == 10.0


def test_who_is_new_gets_the_request_where_requests_are_kept():
    new = one(np.eye(9)[0] + 0.001, np.ones(9), cold=True)
    assert ladders(new, GRID, np.array([12.0]), np.array([True]), price=0.0)[0, 0] == 12.0
    assert ladders(new, GRID, np.array([12.0]), np.array([False]), price=0.0)[0, 0] < 12.0


def test_a_dearer_failure_never_makes_the_first_rung_smaller():
    jobs = one(np.array([5.0, 0, 0, 2, 0, 0, 1, 0, 0.1]), np.ones(9), seconds=3600.0)
    first = [
        ladders(jobs, GRID, np.array([np.inf]), price=price / 2**30)[0, 0]
        for price in (0, 0.1, 1, 10, 100)
    ]
    assert first == sorted(first)
    assert first[0] < first[-1]


def test_the_forecaster_sets_memory_aside_by_the_ladder_and_tells_the_risk(habits):
    jobs = habits(rows=600).assign(requested_memory=2.0**34)
    jobs["peak_memory"] = (
        2.0**28 * (1 + jobs["user"].str[1:].astype(float)) * np.where(jobs["walltime"] > 60, 4, 1)
    )
    live = Forecaster(targets=("walltime", "peak_memory"))
    live.learn(jobs[jobs["ended_at"].notna()][:-50])
    answers = live.predict(jobs[-50:])
    first, second, third = (
        answers[f"peak_memory_allocation{end}"].to_numpy() for end in ("", "_2", "_3")
    )
    assert (
        (first > 0).all()
        and (first <= second).all()
        and (second <= third).all()
        and (third <= 2.0**34).all()
    )
    assert answers["peak_memory_risk"].between(0, 1).all()
    certain = first == 2.0**34
    assert (answers["peak_memory_risk"][certain] == 0).all()
    alone = Forecaster(targets=("peak_memory",))
    alone.learn(jobs[jobs["ended_at"].notna()][:-50])
    assert "peak_memory_risk" not in alone.predict(jobs[-50:])
