"""The cost of fitting refiners faster: errors on later jobs by sampling, inputs and borders.

    uv run python benchmarks/sampling.py [LOG ...]

The table of docs/benchmarks/refiner.md. As ``sizes.py``: at 40, 60 and 80 % of each of six logs a
refiner of each setting is fitted on the ended jobs (the latest 30,000), in one thread, and
evaluated on the jobs submitted until the next. ``Other random numbers`` is the first setting with
another seed: differences below its own mean nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

from logs import load, selected_logs, show, warm_up
from windows import Score, fit, windows

from models.refiner.selection import SHARES

ALL_ROWS: dict[str, Any] = {"bootstrap_type": "Bayesian"}
HALF: dict[str, Any] = {"bootstrap_type": "Bernoulli", "subsample": 0.5}
SETTINGS: dict[str, dict[str, Any]] = {
    "all rows, weighted at random": ALL_ROWS,
    "other random numbers": ALL_ROWS | {"random_seed": 1},
    "half of the rows for each tree": HALF,
    "half of the rows, other random numbers": HALF | {"random_seed": 1},
    "half of the rows, 64 borders": HALF | {"border_count": 64},
    "all rows, 64 borders, a fifth of the inputs": ALL_ROWS | {"border_count": 64, "rsm": 0.2},
}


def main() -> None:
    """Study each log that is asked for."""
    for name in selected_logs(__doc__ or "", "KTH LCG SDSC CTC LPC LANL"):
        show(name, study(name))


def study(name: str) -> list[dict[str, Any]]:
    """A row a setting, over all windows, relative to the first."""
    scores: dict[str, Score] = defaultdict(lambda: Score(0.0, 0.0, 0))
    seconds: dict[str, float] = defaultdict(float)
    for window in windows(load(name), warm_up(name)):
        for setting, values in SETTINGS.items():
            before = time.process_time()
            refiner = fit(window.ended, thread_count=1, **values)
            seconds[setting] += time.process_time() - before
            scores[setting] += window.judge(replace(refiner, share=SHARES[-1]))
    first, time_of_first = scores[next(iter(SETTINGS))], seconds[next(iter(SETTINGS))]
    return [
        {
            "refiner": setting,
            "jobs": score.jobs,
            "fitting": f"{seconds[setting] / time_of_first:.2f}",
            "CRPS, %": f"{100 * (score.crps / first.crps - 1):+.2f}",
            "MAE, %": f"{100 * (score.error / first.error - 1):+.2f}",
            "APA, %": f"{100 * (score.accuracy / first.accuracy - 1):+.2f}",
        }
        for setting, score in scores.items()
    ]


if __name__ == "__main__":
    main()
