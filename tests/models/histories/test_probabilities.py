"""Calibrated probabilities: the inverse of calibrated levels, monotone whatever was learned."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from models.histories.calibration import Calibration
from models.histories.familiarity import Familiarity


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 4.0))
@settings(deadline=None, max_examples=30)
def test_a_probability_is_the_level_that_the_quantile_was_asked_for(
    seed: int, shape: float
) -> None:
    calibration = Calibration()
    places = np.random.default_rng(seed).random(2000) ** shape
    calibration.learn(places, places)
    wanted = np.array([0.02, 0.1, 0.3, 0.7, 0.9, 0.98])
    levels = calibration.levels(wanted, Familiarity.unknown(1))[0]
    back = calibration.probabilities(levels, Familiarity.unknown(len(levels)))
    inside = np.abs(levels - 0.5) > 0.0011  # levels keep to their side of the middle
    np.testing.assert_allclose(back[inside], wanted[inside], atol=1e-6)
    raw = np.linspace(0.0, 1.0, 501)
    probabilities = calibration.probabilities(raw, Familiarity.unknown(len(raw)))
    assert (np.diff(probabilities) >= -1e-12).all()
    assert probabilities[0] >= 0.0 and probabilities[-1] == 1.0
