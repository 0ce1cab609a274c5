import numpy as np
import pandas as pd
import pytest

from jobs.labels import write_labels
from models.engine.allocation import ladders
from models.engine.covariates import MIN_ROWS, covariates, fit_covariates, has_numbers
from models.evaluation.allocation_backtest import score
from models.quantities.targets import TARGETS

GIB = 2.0**30
GRID = TARGETS["peak_memory"].grid


@pytest.fixture(scope="module")
def assemblies():
    """Jobs whose memory follows the size of their input, more steeply in soil; large ones take longer."""
    random = np.random.default_rng(3)
    reads = random.uniform(1, 64, 400)
    soil = random.random(400) < 0.5
    memory = reads * np.where(soil, 2.0, 0.5) * np.exp(random.normal(0, 0.1, 400)) * GIB
    labels = pd.DataFrame({"reads": reads, "biome": np.where(soil, "soil", "gut")})
    jobs = pd.DataFrame({"labels": write_labels(labels)[0]})
    return jobs, memory, 60 * memory / GIB


def test_memory_and_walltime_follow_the_labels_together(assemblies):
    jobs, memory, seconds = assemblies
    model = fit_covariates(jobs[:300], memory[:300], seconds[:300])
    predicted = model.occupancy(jobs[300:], GRID)
    assert np.allclose(predicted.mass.sum(axis=1), 1, atol=1e-4)
    assert np.allclose(predicted.weighted.sum(axis=1), 1, atol=1e-4)
    median = GRID.centres[(np.cumsum(predicted.mass, axis=1) >= 0.5).argmax(axis=1)]
    assert np.median(np.abs(np.log(median / memory[300:]))) < 0.25
    assert np.corrcoef(np.log(predicted.seconds), np.log(seconds[300:]))[0, 1] > 0.9
    # Larger jobs of one distribution run longer: weighted by time it lies higher.
    centres = np.log(GRID.centres)
    assert ((predicted.weighted - predicted.mass) @ centres > 0).mean() > 0.9


def test_ladders_by_labels_waste_less_than_half_of_the_best_constant(assemblies):
    jobs, memory, seconds = assemblies
    model = fit_covariates(jobs[:300], memory[:300], seconds[:300])
    unlimited = np.full(100, np.inf)
    ours = ladders(model.occupancy(jobs[300:], GRID), GRID, unlimited, gradual=True)
    waste = score(ours, memory[300:], seconds[300:], unlimited, gradual=True)[0].sum()
    constants = [
        score(np.full((100, 1), size), memory[300:], seconds[300:], unlimited, True)[0].sum()
        for size in np.quantile(memory, np.linspace(0.3, 1, 15))
    ]
    assert waste < 0.5 * min(constants)


def test_few_jobs_and_texts_alone_make_no_model(assemblies):
    jobs, memory, seconds = assemblies
    few = slice(0, MIN_ROWS - 1)
    assert fit_covariates(jobs[few], memory[few], seconds[few]) is None
    assert has_numbers(jobs).all()
    texts = pd.DataFrame({"labels": write_labels(pd.DataFrame({"biome": ["soil", "gut"]}))[0]})
    assert not has_numbers(texts).any()
    assert not has_numbers(pd.DataFrame({"user": ["a", "b"]})).any()
    assert covariates(texts)["biome"].tolist() == ["soil", "gut"]
