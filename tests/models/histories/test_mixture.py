"""The mixture: compiled, it says what the same code says as plain Python."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.engine.target_predictor import TargetPredictor
from models.histories.components import MixtureSettings, bin_of, make_shape, positions_of_bin
from models.histories.features import choose_levels, encode
from models.histories.outcome_index import (
    available_end,
    find_slot,
    first_in_window,
    value_at,
)
from models.quantities.targets import TARGETS

WALK = """
import sys
import numpy as np
import pandas as pd
from models.histories.features import choose_levels, encode
from models.histories.mixture import PrequentialReplay
from models.quantities.targets import TARGETS
from models.engine.target_predictor import TargetPredictor

jobs, target = pd.read_parquet(sys.argv[1]), TARGETS["walltime"]
levels = choose_levels(jobs)
mixture = TargetPredictor.create(target, levels).mixture
contexts, values, limits = encode(jobs, levels), target.value(jobs), target.limit(jobs)
replay = PrequentialReplay(mixture, contexts, values, limits)
answer, scales = replay.advance(np.arange(len(jobs)))
np.savez(sys.argv[2], mass=answer.mass, limit=answer.limit, scales=scales)
"""


def walk(jobs: Path, out: Path, **environment: str) -> dict[str, np.ndarray]:
    subprocess.run(
        [sys.executable, "-c", WALK, jobs, out],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[3],
        check=True,
    )
    return dict(np.load(out))


def test_compiled_and_plain_code_foresee_the_same(
    habits: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    habits(rows=36, seed=5, days=2).to_parquet(tmp_path / "jobs.parquet")
    compiled = walk(tmp_path / "jobs.parquet", tmp_path / "compiled.npz", PYTHONHASHSEED="1")
    plain = walk(
        tmp_path / "jobs.parquet", tmp_path / "plain.npz", PYTHONHASHSEED="2", NUMBA_DISABLE_JIT="1"
    )
    assert np.ptp(compiled["mass"], axis=0).max() > 0.05  # the jobs differ, and so do their masses
    for name, values in compiled.items():
        np.testing.assert_allclose(values, plain[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("binding", [True, False])
def test_only_a_binding_limit_ends_what_is_foreseen(
    habits: Callable[..., pd.DataFrame], binding: bool
) -> None:
    target = replace(TARGETS["walltime"], binding=binding)
    jobs = habits(rows=200).assign(requested_walltime=lambda jobs: 2 * jobs["walltime"].max())
    levels = choose_levels(jobs)
    mixture, contexts, limits = (
        TargetPredictor.create(target, levels).mixture,
        encode(jobs, levels),
        target.limit(jobs),
    )
    mixture.learn(contexts, target.value(jobs), limits)
    assert np.isfinite(mixture.distributions(contexts, limits).limit).all() == binding


def test_the_last_outcome_in_a_bin_is_that_of_the_finest_history_with_one(
    habits: Callable[..., pd.DataFrame],
) -> None:
    target, jobs = TARGETS["walltime"], habits(rows=400)
    levels = choose_levels(jobs)
    mixture, contexts = TargetPredictor.create(target, levels).mixture, encode(jobs, levels)
    mixture.learn(contexts, target.value(jobs), target.limit(jobs))
    index, grid, generator = mixture.state.outcomes, target.grid, np.random.default_rng(2)
    near = generator.choice([0.5, 0.99, 1.0, 1.0, 1.01], len(jobs))
    bins = grid.bin(np.nan_to_num(target.value(jobs), nan=60.0) * near)
    expected = np.full(len(jobs), np.nan)
    for row, keys in enumerate(contexts.keys):
        for level in np.flatnonzero(~mixture.shape.relative):
            slot = find_slot(index, keys[level])
            if slot < 0:
                continue
            end = available_end(index, slot, contexts.at[row])
            window = np.arange(first_in_window(index, slot, end), end)
            values = np.array([value_at(index, position) for position in window])
            in_bin = window[grid.bin(values) == bins[row]]
            if len(in_bin):
                expected[row] = value_at(index, in_bin[-1])
                break
    assert 50 < np.isfinite(expected).sum() < len(jobs) - 20
    np.testing.assert_array_equal(mixture.last_in_bin(contexts, bins), expected)


@pytest.mark.parametrize("name", ["walltime", "peak_memory"])
def test_positions_of_a_bin_are_those_that_are_put_into_it(name: str) -> None:
    grid = TARGETS[name].grid
    shape = make_shape(MixtureSettings(), grid, np.array([False]), 0)
    generator = np.random.default_rng(0)
    edges = np.concatenate([np.arange(grid.fine_bins), grid.fine_bins + np.arange(200)])
    positions = np.concatenate(
        [edges - 1e-3, edges, generator.uniform(-5, grid.fine_bins + 300, 2000)]
    ).astype(np.float32)
    for position in positions.astype(float):
        b = bin_of(position, shape)
        low, high = positions_of_bin(b, shape)
        assert low <= position < high, position
        if b > 0:
            assert positions_of_bin(b - 1, shape)[1] == pytest.approx(low, abs=1e-9)
