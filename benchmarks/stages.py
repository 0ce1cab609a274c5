"""Prediction in two stages: CPU time and peak memory first, then run time; docs/benchmarks/refiner.md.

    uv run python benchmarks/stages.py [LOG ...]

The mixtures' predictions of both at each submission (five quantiles each) are inputs of the run
time's refiner; they are out of fold, since they used ended jobs only. In the last row the input is
the job's true CPU time, which is no prediction.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
from logs import load, selected_logs, show, warm_up
from windows import Score, fit, windows

from models.refiner.refinement import QUANTILES
from models.refiner.selection import SHARES

FIRST = ("cpu_time", "peak_memory")


def main() -> None:
    """Study each selected log."""
    for name in selected_logs(__doc__ or "", "LPC LANL"):
        show(name, study(name))


def study(name: str) -> list[dict[str, Any]]:
    """A row a choice of what the refiner is shown, over all windows."""
    jobs = load(name)
    truth = np.log2(np.maximum(jobs["cpu_time"].to_numpy(dtype=float, na_value=np.nan), 1.0))[
        :, None
    ]
    scores: dict[tuple[str, float], Score] = defaultdict(lambda: Score(0.0, 0.0, 0))
    for window in windows(jobs, warm_up(name), FIRST, truth):
        count, per_quantile = window.ended.inputs.shape[1], len(QUANTILES)
        plain = count - 1 - per_quantile * len(FIRST)
        cpu, memory = (
            range(plain + per_quantile * stage, plain + per_quantile * (stage + 1))
            for stage in range(len(FIRST))
        )
        kinds = {
            "one stage": [*cpu, *memory, count - 1],
            "CPU time predicted first": [*memory, count - 1],
            "CPU time and peak memory predicted first": [count - 1],
            "the true CPU time told (no prediction)": [*cpu, *memory],
        }
        scores["mixture alone", 0.0] += window.judge(None)
        for kind, hidden in kinds.items():
            refiner = fit(window.ended, ignored_features=hidden)
            for share in SHARES[1:]:
                scores[kind, share] += window.judge(replace(refiner, share=share))
    plain_means = {share: scores["one stage", share].means for share in SHARES[1:]}
    rows = []
    for (kind, share), score in scores.items():
        crps, mae = score.means
        against = plain_means.get(share, plain_means[SHARES[1]])
        rows.append(
            {"shown to the refiner": kind, "share": share, "CRPS": crps, "MAE": mae}
            | {
                "CRPS, %": f"{100 * (crps / against[0] - 1):+.2f}",
                "MAE, %": f"{100 * (mae / against[1] - 1):+.2f}",
            }
        )
    return rows


if __name__ == "__main__":
    main()
