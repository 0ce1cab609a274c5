"""The whole loop under seeded faults. Thousands more: ``just simulate 1000``."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.simulation.world import World, universe

SEEDS = 7


@pytest.fixture(scope="module")
def world_of(data_folder: object, metrics: Any) -> Iterator[Callable[[int], World]]:
    logging.disable(logging.CRITICAL)  # each fault is logged, with its traceback
    with universe(metrics) as live:
        yield live
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_was_acknowledged_is_there_once_one_champion_serves_and_nothing_knows_the_future(
    world_of: Callable[[int], World], seed: int
) -> None:
    world = world_of(seed)
    assert world.acknowledged
    assert {*world.steps} & {"report", "ingest"}


def test_a_seed_does_the_same_again(world_of: Callable[[int], World]) -> None:
    world, again = world_of(7), world_of(7)
    assert {"exchange", "save", "lose", "resize", "route"} <= {*world.steps}
    assert world.dice.thrown == again.dice.thrown
    assert [step for step in world.steps if not step.startswith("failed")] == [
        step for step in again.steps if not step.startswith("failed")
    ]
    assert world.acknowledged == again.acknowledged
