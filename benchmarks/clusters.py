"""Models of clusters compared with the global model; the tables of docs/benchmarks/refiner.md.

    uv run python benchmarks/clusters.py [LOG ...]
    uv run python benchmarks/clusters.py --backtest [LOG ...]

At 40, 60 and 80 % of each log a refiner is fitted on the ended jobs of each cluster of at least
1,000 jobs, and evaluated on the cluster's jobs until the next, beside the global one and the mean
of both. ``--backtest`` backtests the whole log as the platform works, where a cluster's refiner is
used only if it was better on later jobs before.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pandas as pd
from logs import load, selected_logs, show, warm_up
from windows import Score, Window, fit, windows

from models.engine.backtest import Backtest, backtest
from models.quantities.targets import TARGETS
from models.refiner.boosting import fit_refiner
from models.refiner.clusters import GLOBAL, By, find_clusters
from models.refiner.selection import MIN_CLUSTER_ROWS, SHARES

FIELDS = {
    "group": "group",
    "site": "site",
    "queue": "queue",
    "program": "program",
    "kmeans": "user",
}
NOTHING = Score(0.0, 0.0, 0)
Scores = dict[tuple[str, str], dict[str, Score]]


def main() -> None:
    """Study each selected log."""
    is_backtest = "--backtest" in sys.argv
    if is_backtest:
        sys.argv.remove("--backtest")
    for name in selected_logs(__doc__ or "", "LCG KTH"):
        jobs = load(name)
        ways: list[By] = [by for by in get_args(By) if jobs[FIELDS[by]].nunique() > 1]
        show(
            name,
            backtests(jobs, warm_up(name), ways)
            if is_backtest
            else study(jobs, warm_up(name), ways),
        )


def study(jobs: pd.DataFrame, warm: float, ways: list[By]) -> list[dict[str, Any]]:
    """One row per clustering: errors of each refiner on jobs in large clusters."""
    scores_by_cluster: Scores = defaultdict(
        lambda: {"global": NOTHING, "own": NOTHING, "mean": NOTHING}
    )
    values = TARGETS["walltime"].value(jobs)
    count = 0
    for window in windows(jobs, warm):
        best = _best(window)
        count += len(window.rows)
        for by in ways:
            clusters = find_clusters(
                jobs.iloc[window.ended_rows], values[window.ended_rows], by
            ).assign(jobs)
            _score_clusters(window, clusters, best, by, scores_by_cluster)
    rows = []
    for by in ways:
        parts = [scores for (way, _), scores in scores_by_cluster.items() if way == by]
        if not parts:
            continue
        totals = {
            refiner_name: sum((cluster_scores[refiner_name] for cluster_scores in parts), NOTHING)
            for refiner_name in parts[0]
        }
        against = totals["global"].means
        better = sum(
            cluster_scores["own"].crps < cluster_scores["global"].crps for cluster_scores in parts
        )
        row = {
            "by": by,
            "clusters": len(parts),
            "own is better": int(better),
            "of the jobs": f"{totals['global'].jobs / count:.0%}",
        }
        row |= {"CRPS, global": against[0], "MAE, global": against[1]}
        for refiner_name in ("own", "mean"):
            for index, measure in enumerate(("CRPS", "MAE")):
                row[f"{measure}, {refiner_name}"] = (
                    f"{100 * (totals[refiner_name].means[index] / against[index] - 1):+.2f} %"
                )
        rows.append(row)
    return rows


def _best(window: Window) -> Any:
    """The global refiner with the share that is best for these later jobs."""
    refiner = fit(window.ended)
    return min(
        (replace(refiner, share=share) for share in SHARES[1:]),
        key=lambda refiner: window.judge(refiner).crps,
    )


def _score_clusters(
    window: Window, clusters: Any, best: Any, by: str, scores_by_cluster: Scores
) -> None:
    """Add the scores of each cluster's jobs in a window."""
    before, after = clusters[window.ended_rows], clusters[window.rows]
    names, counts = np.unique(before.astype(str), return_counts=True)
    theirs = best.ratio(window.later.inputs, window.later.coarse)
    for name in names[counts >= MIN_CLUSTER_ROWS]:
        inside = after == name
        own = (
            fit_refiner(window.ended.take(np.flatnonzero(before == name)))
            if name != GLOBAL and inside.any()
            else None
        )
        if own is None:
            continue
        mine = replace(own, share=best.share).ratio(window.later.inputs, window.later.coarse)
        scores = scores_by_cluster[by, str(name)]
        for refiner_name, factors in {
            "global": theirs,
            "own": mine,
            "mean": (theirs + mine) / 2,
        }.items():
            scores[refiner_name] += window.judge_factors(factors, inside)


def backtests(jobs: pd.DataFrame, warm: float, ways: list[By]) -> list[dict[str, Any]]:
    """One row per clustering, by a backtest of the whole log."""
    alone = backtest(jobs, warm_up=warm)
    return [
        _backtest_row(GLOBAL, alone, alone),
        *(_backtest_row(by, backtest(jobs, warm_up=warm, cluster_by=by), alone) for by in ways),
    ]


def _backtest_row(by: str, clustered: Backtest, alone: Backtest) -> dict[str, Any]:
    """Comparisons, refiner used, and errors; the last two of jobs in clusters."""
    comparisons = [
        verdict
        for note in clustered.refits
        for verdict in note["clusters"]
        if verdict["cluster"] != GLOBAL and "gain" in verdict
    ]
    won = [verdict for verdict in comparisons if verdict["answers"] == verdict["cluster"]]
    own = clustered.clusters != GLOBAL
    there, before = (np.abs(x.point - x.truth)[own] for x in (clustered, alone))
    return {
        "by": by,
        "comparisons": len(comparisons),
        "won": len(won),
        "gain where won": f"{np.median([x['gain'] for x in won]):+.1%}" if won else "",
        "jobs answered": f"{own.mean():.0%}",
        "MAE": float(np.abs(clustered.point - clustered.truth).mean()),
        "CRPS": float(clustered.crps.mean()),
        "their MAE": f"{there.mean() / before.mean() - 1:+.2%}" if own.any() else "",
        "their CRPS": f"{clustered.crps[own].mean() / alone.crps[own].mean() - 1:+.2%}"
        if own.any()
        else "",
    }


if __name__ == "__main__":
    main()
