"""Levels of best single values: what later outcomes bore out, and nothing that noise suggests."""

import json

import numpy as np

from models.histories.calibration import Calibration
from models.histories.familiarity import NEW, SEEN, Familiarity
from models.histories.point_levels import MIDDLE, POINT_LEVELS, PointLevels, errors_at_levels
from models.quantities.distribution import Distribution
from models.quantities.targets import TARGETS

GRID = TARGETS["walltime"].grid


def jobs_of(status: int, rows: int, source: int = 7) -> Familiarity:
    """Jobs of one status and source."""
    return Familiarity.unknown(rows)._replace(
        status=np.full(rows, status), source=np.full(rows, source, np.uint64)
    )


def errors_of(truths: np.ndarray) -> np.ndarray:
    """Errors where a lognormal around an hour was predicted each time."""
    mass = np.exp(-0.5 * (np.log2(GRID.centres / 3600.0) / 1.5) ** 2).astype(np.float32)
    masses = np.tile(mass / mass.sum(), (len(truths), 1))
    predicted = Distribution(GRID, masses, np.full(len(truths), np.inf))
    return errors_at_levels(predicted, truths, np.full(len(truths), 3600.0))


def drawn(octaves: float, count: int = 400, seed: int = 1) -> np.ndarray:
    """Outcomes that lie ``octaves`` above the predicted distribution."""
    spread = np.random.default_rng(seed).normal(octaves, 1.5, count)
    return 3600.0 * 2.0**spread


def test_outcomes_below_what_was_predicted_lower_the_level_and_those_above_raise_it() -> None:
    levels = []
    for octaves in (-1.5, 0.0, 1.5):
        points = PointLevels()
        points.learn(errors_of(drawn(octaves)), jobs_of(SEEN, 400))
        levels.append(float(points.levels(jobs_of(SEEN, 1))[0]))
    assert levels[0] < 0.5 == levels[1] < levels[2]


def test_few_outcomes_change_nothing() -> None:
    points = PointLevels()
    points.learn(errors_of(drawn(-1.5, 4)), jobs_of(SEEN, 4))
    assert points.levels(jobs_of(SEEN, 1)).tolist() == [0.5]


def test_new_owners_and_sources_have_levels_of_their_own() -> None:
    points = PointLevels()
    points.learn(errors_of(drawn(-1.5)), jobs_of(NEW, 400, source=7))
    points.learn(errors_of(drawn(1.5, 4000)), jobs_of(NEW, 4000, source=8))
    seen, low, high, unknown = (
        float(points.levels(jobs_of(status, 1, source))[0])
        for status, source in ((SEEN, 7), (NEW, 7), (NEW, 8), (NEW, 9))
    )
    assert low < seen == 0.5 < high == unknown


def test_a_replay_gives_each_query_the_level_of_what_was_available_by_then() -> None:
    errors, jobs = errors_of(drawn(-1.5, 300)), jobs_of(SEEN, 300)
    errors[::7] = np.nan
    available_at = np.random.default_rng(2).integers(0, 50, 300)
    order, at = np.argsort(available_at, kind="stable"), np.arange(0, 50, 5)
    replayed = PointLevels()
    half, position = replayed.replay(
        errors, order, 0, available_at, at[:5], jobs, jobs.take(np.arange(5))
    )
    rest, position = replayed.replay(
        errors, order, position, available_at, at[5:], jobs, jobs.take(np.arange(5))
    )
    assert position == (available_at <= at[-1]).sum()
    for now, level in zip(at, [*half, *rest], strict=True):
        ended = order[(available_at[order] <= now) & np.isfinite(errors[order, MIDDLE])]
        plain = PointLevels()
        plain.learn(errors[ended], jobs.take(ended))
        assert plain.levels(jobs_of(SEEN, 1))[0] == level
    assert {*half.tolist(), *rest.tolist()} > {0.5}


def test_a_calibration_keeps_its_levels_when_it_is_written_copied_and_read() -> None:
    calibration = Calibration()
    calibration.points.learn(errors_of(drawn(-1.5)), jobs_of(SEEN, 400))
    level = calibration.points.levels(jobs_of(SEEN, 1))[0]
    restored = Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
    copied = calibration.copy()
    calibration.points.learn(errors_of(drawn(3.0, 4000)), jobs_of(SEEN, 4000))
    assert calibration.points.levels(jobs_of(SEEN, 1))[0] > 0.5 > level
    for unchanged in (restored, copied):
        assert unchanged.points.levels(jobs_of(SEEN, 1))[0] == level
    assert level in POINT_LEVELS
