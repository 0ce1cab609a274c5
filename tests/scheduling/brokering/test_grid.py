"""A simulated grid: in order, the same each time, and the ranking broker knows nothing of what is
to come."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from infra.errors import InputError
from jobs.workload.grid import NO_SITE, GeneratedGrid, generate_grid
from models.ranking.order import Rule
from scheduling.brokering import ranking_broker
from scheduling.brokering.benefit import ORACLE, SHORTEST, compare
from scheduling.brokering.brokers import NearestData, Oracle, Random, ShortestQueue
from scheduling.brokering.grid import job_records, simulate, transfer_records
from scheduling.brokering.ranking_broker import RankingBroker


@pytest.fixture(scope="module")
def grid() -> GeneratedGrid:
    return generate_grid(240, days=0.5, sites=5)


def test_jobs_wait_for_their_input_and_their_turn_and_no_site_is_overbooked(
    grid: GeneratedGrid,
) -> None:
    for broker in (Random(), ShortestQueue(), Oracle(grid), NearestData()):
        state = simulate(grid, broker)
        assert (
            (state.came <= state.sent).all()
            and (state.sent <= state.there).all()
            and (state.there <= state.started).all()
        )
        np.testing.assert_allclose(
            state.ended - state.started, grid.seconds[np.arange(len(grid)), state.site]
        )
        at_home = grid.home != NO_SITE
        assert (state.site[at_home] == grid.home[at_home]).all()
        for site, slots in enumerate(grid.slots):
            at_site = state.site == site
            moments = state.started[at_site]
            used = [
                state.cores[at_site][(moments <= now) & (state.ended[at_site] > now)].sum()
                for now in moments
            ]
            assert max(used, default=0) <= slots
    assert (
        (state.there > state.sent) <= (grid.home != NO_SITE) | (grid.input_at == NO_SITE)
    ).all(), "nearest data moves nothing"


def test_foreknowledge_of_runs_sites_and_queues_is_worth_more_than_the_shortest_queue(
    grid: GeneratedGrid,
) -> None:
    """And it is no more than that: a job takes just what it expects on no host."""
    broker, queue = Oracle(grid), simulate(grid, ShortestQueue())
    state = simulate(grid, broker)
    assert (state.ended - state.came).mean() < (queue.ended - queue.came).mean()
    taken = (state.ended - state.started) / broker.expected[np.arange(len(grid)), state.site]
    assert abs(np.log(taken).mean()) < 0.3 and np.log(taken).std() > 0.1


def test_the_records_say_what_happened_so_far(grid: GeneratedGrid) -> None:
    state = simulate(grid, Random())
    moved = np.flatnonzero(state.there > state.sent)
    jobs, transfers = job_records(state, np.arange(5)), transfer_records(state, moved)
    np.testing.assert_allclose(jobs["walltime"], (state.ended - state.started)[:5])
    assert (transfers["duration"] > 0).all()
    assert (transfers["from_endpoint"] != transfers["to_endpoint"]).all()


def test_the_same_grid_and_seed_give_the_same_rows(
    grid: GeneratedGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking_broker, "NEWS", 30)
    again = generate_grid(240, days=0.5, sites=5)
    rows = compare(grid, tunings=(1.0,))
    assert rows == compare(again, tunings=(1.0,))
    assert [row["policy"] for row in rows] == [
        "random",
        SHORTEST,
        "nearest data",
        ORACLE,
        "gridcast, conservative",
    ]
    assert [row["mean_ratio"] for row in rows if row["policy"] == SHORTEST] == [1.0]


def test_the_ranking_broker_chooses_by_what_had_happened(
    grid: GeneratedGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking_broker, "NEWS", 30)
    state = simulate(grid, RankingBroker(grid, Rule(overlap=True)))
    now = float(np.quantile(state.came, 0.7))
    assert (state.ended < now).sum() > 60, "it has learned by then"
    rng = np.random.default_rng(0)
    seconds, jitter = grid.seconds.copy(), grid.jitter.copy()
    # What had not ended, or not come, or not arrived by now, takes longer.
    late, away = ~(state.ended <= now), ~(state.there <= now)
    seconds[late] *= rng.uniform(1, 9, seconds[late].shape)
    jitter[away] *= rng.uniform(1, 9, away.sum())
    changed = simulate(
        replace(grid, seconds=seconds, jitter=jitter), RankingBroker(grid, Rule(overlap=True))
    )
    before = state.came <= now
    np.testing.assert_array_equal(state.site[before], changed.site[before])
    assert (state.site[~before] != changed.site[~before]).any(), "what changed does matter later"


def test_a_grid_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="at least one job, two sites"):
        generate_grid(0)


def test_a_grid_of_which_no_job_would_be_counted_is_refused_in_a_sentence() -> None:
    with pytest.raises(InputError, match="generate more"):
        compare(generate_grid(1, days=0.5, sites=5))
