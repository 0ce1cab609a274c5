"""Sampled components: outcomes spaced over all of a history, which a burst does not displace."""

import numpy as np
import pandas as pd
import pytest

from jobs.schema import conform, derive_fields
from models.engine.target_predictor import TargetPredictor
from models.histories.blend import blend, look, responsibilities
from models.histories.components import MixtureSettings, count_components, settings_of
from models.histories.features import choose_levels, encode
from models.histories.mixture import PrequentialReplay, weigh_components
from models.histories.outcome_index import (
    CAP,
    WINDOW,
    add_row,
    available_end,
    ensure_capacity,
    ensure_slot,
    has_capacity,
    insert,
    new_outcome_index,
    sampling_stride,
)
from models.quantities.targets import TARGETS

WALLTIME = TARGETS["walltime"]
START = pd.Timestamp("2026-01-01", tz="UTC")
BURST = 80


@pytest.fixture(scope="module")
def bursts() -> pd.DataFrame:
    """Jobs of an hour or two of many programs, between bursts of one program's jobs of a minute."""
    draw, rows = np.random.default_rng(4), []
    for hour in range(60):
        rows += [
            (f"p{draw.integers(1000)}", hour, 5400 * 2 ** draw.normal(0, 0.5)) for _ in range(10)
        ]
        if hour % 3 == 0:
            rows += [("burst", hour + 0.5, 60 * 2 ** draw.normal(0, 0.5)) for _ in range(BURST)]
    jobs = pd.DataFrame(rows, columns=["program", "hour", "walltime"])
    jobs["submitted_at"] = START + pd.to_timedelta(jobs.pop("hour") * 6, unit="h")
    jobs["job_id"] = [str(row) for row in range(len(jobs))]
    jobs["source"], jobs["started_at"] = "site", jobs["submitted_at"]
    return derive_fields(conform(jobs))


def replayed(jobs: pd.DataFrame, settings: MixtureSettings) -> tuple[TargetPredictor, np.ndarray]:
    """A mixture that has learned ``jobs``, and its scores of them at their submission."""
    levels = choose_levels(jobs)
    predictor = TargetPredictor.create(WALLTIME, levels, settings)
    contexts, values = encode(jobs, levels), WALLTIME.value(jobs)
    replay = PrequentialReplay(predictor.mixture, contexts, values, WALLTIME.limit(jobs))
    predicted, _ = replay.advance(np.arange(len(jobs)))
    replay.advance(np.empty(0, np.int64))
    return predictor, predicted.continuous_ranked_probability(values)


def test_a_burst_of_other_jobs_does_not_hide_what_was_before_it(bursts: pd.DataFrame) -> None:
    others = np.flatnonzero((bursts["program"] != "burst") & (np.arange(len(bursts)) > 500))
    scores = {}
    for sampled in (False, True):
        scores[sampled] = replayed(bursts, MixtureSettings(sampled=sampled))[1][others].mean()
    assert scores[True] < 0.9 * scores[False]


def test_walltimes_without_users_are_predicted_with_sampled_outcomes(bursts: pd.DataFrame) -> None:
    assert settings_of("walltime", ("source", "program")).sampled
    assert not settings_of("walltime", ("source", "user")).sampled
    assert not settings_of("peak_memory", ("program",)).sampled
    levels = choose_levels(bursts)
    shape = TargetPredictor.create(WALLTIME, levels).mixture.shape
    settings = MixtureSettings()
    components = len(levels.levels) * (len(settings.decays) + 1) * len(settings.widths)
    assert count_components(shape) == components


def test_responsibilities_are_of_the_components_that_were_blended(bursts: pd.DataFrame) -> None:
    mixture = replayed(bursts, MixtureSettings(sampled=True))[0].mixture
    contexts = encode(bursts.iloc[-200:], choose_levels(bursts))
    shape, view, out = mixture.shape, mixture.view, np.empty(WALLTIME.grid.bins, np.float32)
    strides, last = set(), shape.bins - 1
    for row in range(0, 200, 20):
        keys = contexts.keys[row]
        look(mixture.state.outcomes, shape, keys, contexts.at[row], np.inf, view)
        weigh_components(mixture.state, shape, keys, view)
        blend(mixture.state.outcomes, shape, np.inf, last, view, False, False, out)
        truth = int(np.argmax(out))
        responsibilities(mixture.state.outcomes, shape, np.inf, last, truth, view)
        floor = shape.floor / shape.fine_bins / out[truth]
        assert view.weights.sum() == pytest.approx(1.0 - floor, abs=0.01)
        strides |= set(view.strides.tolist())
    assert max(strides) > 1


@pytest.mark.parametrize("count", [1, 127, 128, 1000, CAP, CAP + 500])
def test_a_sample_spans_all_outcomes_that_are_kept(count: int) -> None:
    index = new_outcome_index()
    for number in range(count):
        while not has_capacity(index, np.array([7], np.uint64)):
            index = ensure_capacity(index, 2)
        slot = ensure_slot(index, np.uint64(7))
        row = add_row(index, number, np.uint32(number), float(number))
        insert(index, slot, row, np.float32(number))
    end = available_end(index, slot, count)
    stride = sampling_stride(index, slot, end)
    oldest = end - 1 - (min(WINDOW, count) - 1) * stride
    kept = min(count, CAP)
    assert end - kept <= oldest
    assert oldest <= end - kept + stride + WINDOW
    assert (stride == 1) == (count < 2 * WINDOW)
