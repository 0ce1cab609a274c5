"""Compiled predictions say what every outcome of every window says, added up one by one."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from models.engine.target_predictor import TargetPredictor
from models.histories.blend import look
from models.histories.components import TAIL_FLOOR, MixtureSettings, Shape, bin_of, limit_positions
from models.histories.features import Contexts, choose_levels, encode
from models.histories.mixture import Mixture, bin_of_limit, weigh_components
from models.histories.occupancy import TRUST, OccupancyReplay, occupancy
from models.histories.outcome_index import (
    OutcomeIndex,
    end_position,
    find_slot,
    first_position,
)
from models.quantities.targets import TAIL_WIDTH, TARGETS

SETTINGS = (MixtureSettings(), MixtureSettings(sampled=True), MixtureSettings(decays=(0.7,)))
Outcome = tuple[int, int, float, float]


def window(
    mixture: Mixture, level: int, decay: int, settings: MixtureSettings, view: object
) -> Iterator[tuple[int, float]]:
    """The pool positions of a level's outcomes and their shares by one decay, one by one."""
    shape = mixture.shape
    start, end = int(view.starts[level]), int(view.ends[level])
    sampled = settings.sampled and decay == len(shape.ages) - 1
    stride = int(view.strides[level]) if sampled else 1
    shares = shape.ages[decay, : end - start] / shape.ages[decay, : end - start].sum()
    for age, share in enumerate(shares):
        yield end - 1 - age * stride, float(share)


def spread(shape: Shape, limit_bin: int, sharp: np.ndarray) -> np.ndarray:
    """Masses after the kernels, within the grid and the limit, with the floor."""
    reach = shape.spread.shape[1] // 2
    padded = sum(map(np.convolve, sharp, shape.spread))
    padded[reach] += padded[:reach].sum()
    padded[reach + limit_bin] += padded[reach + limit_bin + 1 :].sum()
    allowed, total = padded[reach : reach + limit_bin + 1], padded[reach:][: limit_bin + 1].sum()
    floor = shape.floor if total > 0 else 1.0
    limited = limit_bin < shape.bins - 1
    fine = min(limit_bin + 1, shape.fine_bins)
    tail = limit_bin + 1 - fine
    tail_weight = TAIL_WIDTH if limited else TAIL_FLOOR * fine / max(tail, 1)
    shares = np.concatenate([np.ones(fine), np.full(tail, tail_weight)])
    mass = np.zeros(shape.bins)
    mass[: limit_bin + 1] = (1 - floor) * allowed / max(total, 1e-300) + floor * (
        shares / shares.sum()
    )
    return mass


def plain(
    mixture: Mixture,
    settings: MixtureSettings,
    contexts: Contexts,
    positions: np.ndarray,
    times: OutcomeIndex | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masses, masses by walltime and mean walltimes, from every outcome of every window."""
    shape, view, index = mixture.shape, mixture.view, mixture.state.outcomes
    rows, widths, decays = len(contexts), len(shape.spread), len(shape.ages)
    mass, weighted = np.empty((2, rows, shape.bins), np.float32)
    seconds = np.full(rows, np.nan)
    for row in range(rows):
        keys, limit = contexts.keys[row], positions[row]
        look(index, shape, keys, contexts.at[row], limit, view)
        weigh_components(mixture.state, shape, keys, view)
        weights = view.weights.reshape(len(keys), decays, widths)
        sharp, lasted = np.zeros((2, widths, shape.bins))
        paired = 0.0
        for level in np.flatnonzero(view.ends > view.starts):
            walltimes = {}
            slot = find_slot(times, keys[level]) if times is not None else -1
            if slot >= 0:
                block = times.outcome_row[first_position(times, slot) : end_position(times, slot)]
                identities = zip(times.available_at[block], times.outcome_id[block], strict=True)
                walltimes = dict(zip(identities, times.value[block], strict=True))
            shift = limit if shape.relative[level] else 0.0
            for decay in range(decays):
                for outcome, share in window(mixture, level, decay, settings, view):
                    b = bin_of(np.float64(index.log_bin_position[outcome] + shift), shape)
                    sharp[:, b] += weights[level, decay] * share
                    row_of = index.outcome_row[outcome]
                    walltime = walltimes.get((index.available_at[row_of], index.outcome_id[row_of]))
                    if walltime is not None:
                        lasted[:, b] += weights[level, decay] * share * walltime
                        paired += weights[level, decay].sum() * share
        limit_bin = bin_of_limit(limit, mixture.state.tables, shape)
        mass[row] = spread(shape, limit_bin, sharp)
        weighted[row] = mass[row]
        if paired > 0:
            seconds[row] = lasted.sum() / paired
            weighted[row] = spread(shape, limit_bin, lasted)
            weighted[row] = TRUST * weighted[row] + (1 - TRUST) * mass[row]
    return mass, weighted, seconds


@pytest.fixture(scope="module")
def jobs(habits: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    generator = np.random.default_rng(11)
    jobs = habits(rows=500, seed=3)
    walltime = jobs["walltime"].to_numpy()
    unknown = generator.random(len(jobs)) < 0.2
    return jobs.assign(
        peak_memory=2.0**22 * np.sqrt(1 + walltime) * generator.lognormal(0, 1, len(jobs)),
        walltime=np.where(unknown, np.nan, walltime),
        requested_walltime=np.where(generator.random(len(jobs)) < 0.3, np.nan, 2 * walltime),
        requested_memory=np.where(generator.random(len(jobs)) < 0.3, np.nan, 2.0**36),
    )


@pytest.mark.parametrize("settings", SETTINGS, ids=["decays", "sampled", "one decay"])
def test_predictions_say_what_their_outcomes_say(
    jobs: pd.DataFrame, settings: MixtureSettings
) -> None:
    levels = choose_levels(jobs)
    contexts = encode(jobs, levels)
    memory, walltime = (TARGETS[name] for name in ("peak_memory", "walltime"))
    mixtures = [
        TargetPredictor.create(target, levels, settings).mixture for target in (memory, walltime)
    ]
    mixture, times = mixtures
    limits, seconds = memory.limit(jobs), walltime.value(jobs)
    replay = OccupancyReplay(mixture, times, contexts, memory.value(jobs), limits, seconds)
    compared = 0
    for start in range(0, 500, 20):
        rows = np.arange(start, start + 20)
        out = replay.advance(rows)
        last = contexts.take(rows[-1:])  # before it learns more
        expected = plain(
            mixture, settings, last, replay.replay.jobs.limit[rows[-1:]], times.state.outcomes
        )
        if settings.sampled:  # memory weighted by walltime reads no sampled outcomes
            continue
        for values, wanted in zip((out.mass, out.weighted, out.seconds), expected, strict=True):
            np.testing.assert_allclose(values[-1:], wanted, rtol=1e-6, atol=1e-6)
            compared += int(np.isfinite(values[-1:]).all())
    assert compared > 60 or settings.sampled
    late = replace(contexts.take(np.arange(400, 500)), at=np.full(100, contexts.at[-1]))
    bounds = limits[400:]
    both, counts = occupancy(mixture, times, late, bounds)
    assert np.array_equal(counts, mixture.ended_counts(late))
    assert np.array_equal(mixture.query(late, bounds)[1], counts)
    mass, weighted, mean = plain(
        mixture, settings, late, replay.replay.jobs.limit[400:], times.state.outcomes
    )
    np.testing.assert_allclose(mixture.distributions(late, bounds).mass, mass, atol=1e-6)
    # Neighbours that differ in their limits alone share their windows and weights.
    alike = late.take(np.repeat(np.arange(25), 4))
    bounds = np.tile([2.0**34, 2.0**30, np.inf, np.inf], 25)
    expected_mass = plain(mixture, settings, alike, limit_positions(mixture.grid, bounds))[0]
    np.testing.assert_allclose(mixture.distributions(alike, bounds).mass, expected_mass, atol=1e-6)
    if settings.sampled:
        return
    np.testing.assert_allclose(both.mass, mass, atol=1e-6)
    np.testing.assert_allclose(both.weighted, weighted, atol=1e-6)
    np.testing.assert_allclose(both.seconds, mean, rtol=1e-6)
