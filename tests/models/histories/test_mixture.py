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
from models.histories.features import choose_levels, encode
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
