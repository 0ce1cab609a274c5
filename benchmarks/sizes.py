"""The cost of smaller refiners: errors on later jobs by trees, depth, inputs and borders.

    uv run python benchmarks/sizes.py [LOG ...]

The table of docs/benchmarks/refiner.md. The mixture is backtested once on each log; at 40, 60 and 80 % of
it a refiner of each size is fitted on the ended jobs (the latest 30,000) and evaluated on the jobs
submitted until the next. Fewer trees are the first ones of the model; the best inputs are
CatBoost's own choice.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from logs import load, selected_logs, show, warm_up
from windows import Score, fit, windows

from models.refiner.boosting import BOOSTING, CatBoostRefiner, rank_inputs
from models.refiner.selection import SHARES
from models.refiner.training_rows import TrainingRows

TREES, DEPTHS, INPUTS, BORDERS = (
    (5, 10, 20, 30, 45, 60, 90, 120),
    (2, 3, 6),
    (8, 16, 32),
    (16, 32, 64),
)
ROWS, CALLS = 10_000, 15
DEFAULT = f"{BOOSTING['iterations']} trees"


def main() -> None:
    """Study each log that is asked for."""
    for name in selected_logs(__doc__ or ""):
        show(name, study(name))


def study(name: str) -> list[dict[str, Any]]:
    """A row a size of the refiner, over all windows."""
    scores: dict[tuple[str, float], Score] = defaultdict(lambda: Score(0.0, 0.0, 0))
    about: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for window in windows(load(name), warm_up(name)):
        scores["mixture alone", 0.0] += window.judge(None)
        for size, refiner in refiners(window.ended):
            about[size].append(measure(refiner, window.later))
            for share in SHARES[1:]:
                scores[size, share] += window.judge(replace(refiner, share=share))
    return table({key: score.means for key, score in scores.items()}, about)


def refiners(lessons: TrainingRows) -> Iterator[tuple[str, CatBoostRefiner]]:
    """Refiners of every size, each fitted on ``lessons``."""
    long = fit(lessons, iterations=max(TREES))
    for trees in TREES:
        yield f"{trees} trees", long.first(trees)
    for depth in DEPTHS:
        yield f"depth {depth}", fit(lessons, depth=depth)
    ranked = rank_inputs(lessons, min(INPUTS))
    for inputs in INPUTS:
        yield (
            f"best {inputs} of {len(ranked)} inputs",
            fit(lessons, ignored_features=ranked[inputs:]),
        )
    for borders in BORDERS:
        yield f"{borders} borders", fit(lessons, border_count=borders)


def measure(refiner: CatBoostRefiner, lessons: TrainingRows) -> tuple[float, float]:
    """Bytes of its file, and the fastest of CALLS calls of ROWS rows (ms, two threads)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "refiner.cbm"
        refiner.save(path)
        size = path.stat().st_size
    rows = np.linspace(0, len(lessons.truth) - 1, ROWS).astype(int)
    inputs, coarse = np.asfortranarray(lessons.inputs[rows]), lessons.coarse[rows]
    taken = []
    for _ in range(CALLS):
        began = time.perf_counter()
        refiner.ratio(inputs, coarse)
        taken.append(time.perf_counter() - began)
    return float(size), 1000 * min(taken)


def table(
    means: dict[tuple[str, float], tuple[float, float]], about: dict[str, list[tuple[float, ...]]]
) -> list[dict[str, Any]]:
    """Mean CRPS and error of all windows, with the share of the usual size."""
    best = min(SHARES[1:], key=lambda share: means[DEFAULT, share][0])
    rows = []
    for size, share in means:
        if share not in (0.0, best):
            continue
        crps, mae = means[size, share]
        mean_score, milliseconds = np.mean(about[size], axis=0) if size in about else (0.0, 0.0)
        against = means[DEFAULT, best]
        rows.append(
            {
                "refiner": f"{size} (as trained)" if size == DEFAULT else size,
                "share": share,
                "kB": float(mean_score) / 1000,
            }
            | {"ms for 10,000": float(milliseconds), "CRPS": crps, "MAE": mae}
            | {
                "CRPS, %": f"{100 * (crps / against[0] - 1):+.2f}",
                "MAE, %": f"{100 * (mae / against[1] - 1):+.2f}",
            }
        )
    return rows


if __name__ == "__main__":
    main()
