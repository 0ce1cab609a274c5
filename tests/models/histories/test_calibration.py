"""Calibration: after ranges have been too narrow they are wider, by outcomes that had ended only."""

import json

import numpy as np
import pytest

from models.histories.calibration import STEPS, Calibration
from models.histories.familiarity import NEW, SEEN, Familiarity

WANTED = np.array([0.05, 0.25, 0.5, 0.75, 0.95])


def places(count: int = 4000, power: float = 1.0, seed: int = 0) -> np.ndarray:
    """PIT values; with a power under 1 more near the ends than there should be, over 1 fewer."""
    uniform = np.random.default_rng(seed).random(count) * 2 - 1
    return 0.5 + np.sign(uniform) * np.abs(uniform) ** power / 2


def test_before_anything_ended_levels_are_what_is_wanted() -> None:
    assert [Calibration().level(wanted) for wanted in WANTED] == pytest.approx(WANTED, abs=1e-9)


@pytest.mark.parametrize("power", [0.4, 1.0, 2.0])
def test_nine_of_ten_later_outcomes_lie_in_the_trimmed_range(power: float) -> None:
    calibration, told, later = Calibration(), places(power=power), places(power=power, seed=1)
    calibration.learn(told, told)
    low, high = calibration.level(0.05), calibration.level(0.95)
    assert (low < 0.04 and high > 0.96) == (power < 1)
    assert (low > 0.08 and high < 0.92) == (power > 1)
    assert ((later >= low) & (later <= high)).mean() == pytest.approx(0.9, abs=0.02)


def test_levels_do_not_cross_and_a_median_stays_one() -> None:
    calibration = Calibration()
    calibration.learn(*np.full((2, 5000), 0.99))
    levels = [calibration.level(wanted) for wanted in WANTED]
    assert levels == sorted(levels)
    assert levels[1] < 0.5 == levels[2] < levels[3]


def test_a_replay_asks_at_each_submission_what_had_ended_by_then() -> None:
    below = places(60, 0.5)
    upto, known = np.minimum(below + 0.05, 1.0), np.random.default_rng(2).integers(0, 50, 60)
    order, at = np.argsort(known, kind="stable"), np.arange(0, 50, 5)
    replayed, half = Calibration().replay(below, upto, order, 0, known, at[:5], WANTED)
    again = Calibration()
    first, place = again.replay(below, upto, order, 0, known, at[:5], WANTED)
    rest, place = again.replay(below, upto, order, place, known, at[5:], WANTED)
    np.testing.assert_array_equal(first, replayed)
    assert (half, place) == ((known <= at[4]).sum(), (known <= at[-1]).sum())
    for now, levels in zip(at, [*first, *rest], strict=True):
        plain, ended = Calibration(), order[known[order] <= now]
        plain.learn(below[ended], upto[ended])
        np.testing.assert_allclose(levels, [plain.level(wanted) for wanted in WANTED], rtol=1e-12)


def test_an_unknown_outcome_teaches_nothing_and_what_is_learned_can_be_kept() -> None:
    calibration = Calibration()
    calibration.learn(np.array([0.2, np.nan]), np.array([0.3, np.nan]))
    kept = Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
    calibration.learn(np.array([np.nan]), np.array([np.nan]))
    assert [kept.level(wanted) for wanted in WANTED] == [
        calibration.level(wanted) for wanted in WANTED
    ]
    copied = calibration.copy()
    copied.learn(*np.full((2, 100), 0.01))
    assert copied.level(0.05) < calibration.level(0.05) == kept.level(0.05)


def jobs_of(status: int, rows: int, source: int = 7, owners: int = 0) -> Familiarity:
    """Jobs of one status, of ``owners`` owners in turn (0: each its own)."""
    owner = np.arange(rows) % (owners or rows) + 1
    nan = np.full(rows, np.nan)
    return Familiarity(
        np.full(rows, source, np.uint64), owner.astype(np.uint64), np.full(rows, status), nan, nan
    )


def test_new_owners_and_sources_have_levels_of_their_own() -> None:
    calibration, wanted = Calibration(), np.array([0.05, 0.95])
    calibration.learn(*np.full((2, 3000), 0.5), jobs_of(SEEN, 3000))
    calibration.learn(*[places(400, 0.4)] * 2, jobs_of(NEW, 400))
    seen, new, elsewhere = (
        calibration.levels(wanted, jobs_of(status, 1, source))[0]
        for status, source in ((SEEN, 7), (NEW, 7), (NEW, 8))
    )
    assert new[0] < 0.03 < seen[0]
    assert seen[1] < 0.97 < new[1]
    assert new[0] < elsewhere[0] or elsewhere.tolist() == new.tolist()
    restored = Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
    np.testing.assert_array_equal(restored.levels(wanted, jobs_of(NEW, 1))[0], new)


def test_a_burst_of_one_new_owner_does_not_stand_for_all() -> None:
    burst, many = Calibration(), Calibration()
    burst.learn(*np.full((2, 300), 0.999), jobs_of(NEW, 300, owners=1))
    many.learn(*np.full((2, 300), 0.999), jobs_of(NEW, 300))
    levels = [
        calibration.levels(np.array([0.05]), jobs_of(NEW, 1))[0, 0] for calibration in (burst, many)
    ]
    assert levels[0] < 0.1 < 0.4 < levels[1]


def test_levels_before_familiarity_are_read() -> None:
    old = {name: np.linspace(0.1, 1.0, STEPS).tolist() for name in ("upto", "below")}
    calibration = Calibration.from_json(old)
    assert calibration.level(0.05) > 0.1
    assert calibration.levels(np.array([0.05]), jobs_of(NEW, 1))[0, 0] < 0.05
