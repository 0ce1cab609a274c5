import numpy as np
import pytest

from models.histories.components import MixtureSettings
from models.histories.features import choose_levels, encode
from models.histories.mixture import Mixture, learn_outcome
from models.histories.occupancy import OccupancyReplay, occupancy
from models.quantities.targets import TARGETS


@pytest.fixture(scope="module")
def jobs(habits):
    made = habits(rows=400)
    made["peak_memory"] = (
        2.0**20 * (1 + made["user"].str[1:].astype(float)) * np.sqrt(1 + made["walltime"])
    )
    return made


def mixtures(levels):
    relative = tuple(level.relative for level in levels.levels)
    return [
        Mixture(TARGETS[name], relative, levels.owner, MixtureSettings())
        for name in ("peak_memory", "walltime")
    ]


def lived(jobs, levels, rows):
    target, (mixture, times) = TARGETS["peak_memory"], mixtures(levels)
    walk = OccupancyReplay(
        mixture,
        times,
        encode(jobs, levels),
        target.value(jobs),
        target.limit(jobs),
        jobs["walltime"].to_numpy(),
    )
    return walk.advance(rows), mixture, times


def test_the_masses_are_those_of_the_mixture_and_time_weighs_them_towards_the_long(jobs):
    levels, rows = choose_levels(jobs), np.arange(300, 400)
    found, mixture, times = lived(jobs, levels, rows)
    last = encode(jobs, levels).take(rows[-1:])
    limits = TARGETS["peak_memory"].limit(jobs)[rows[-1:]]
    assert np.allclose(found.mass[-1:], mixture.distributions(last, limits).mass, atol=1e-6)
    assert np.allclose(found.weighted.sum(axis=1), 1, atol=1e-5)
    centres = mixture.grid.centres
    # More memory goes with longer runs here.
    assert (
        (found.weighted * centres).sum(axis=1) > (found.mass * centres).sum(axis=1)
    ).mean() > 0.9
    live, _ = occupancy(mixture, times, last, limits)
    for one, other in zip(live, found, strict=True):
        assert np.allclose(one, other[-1:], atol=1e-6)


def test_what_had_not_ended_moves_nothing(jobs):
    levels, rows = choose_levels(jobs), np.arange(250, 300)
    scrambled = jobs.copy()
    unknown = ~(scrambled["ended_at"] <= scrambled["submitted_at"].iloc[250])
    draw = np.random.default_rng(1)
    scrambled.loc[unknown, "peak_memory"] *= np.exp(draw.normal(size=int(unknown.sum())))
    scrambled.loc[unknown, "walltime"] *= np.exp(draw.normal(size=int(unknown.sum())))
    before, after = lived(jobs, levels, rows)[0], lived(scrambled, levels, rows)[0]
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one[0], other[0], equal_nan=True)
    assert not np.array_equal(before.mass, after.mass)


def test_learning_is_compiled_for_one_kind_of_arguments_only(jobs):
    levels, before = choose_levels(jobs), len(learn_outcome.signatures)
    mixture, _ = mixtures(levels)
    for writeable in (True, False):
        values = jobs["walltime"].to_numpy(copy=True)
        values.setflags(write=writeable)
        mixture.learn(encode(jobs, levels), values, np.full(len(jobs), np.inf))
    lived(jobs, levels, np.arange(50))
    assert len(learn_outcome.signatures) - before <= 1
