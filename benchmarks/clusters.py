"""Whether a cluster's model is better than the global one, as the ALICE poster says; the tables of docs/predictions.md.

    uv run python benchmarks/clusters.py [LOG ...]
    uv run python benchmarks/clusters.py --lived [LOG ...]

At 40, 60 and 80 % of each log a refiner is fitted on what had ended of each cluster of at least 1,000 jobs, and judged on the cluster's
jobs until the next beside the global one and beside the mean of both. ``--lived`` lives through the whole log as the platform would,
where a cluster's refiner answers only if it won on later jobs before.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pandas as pd
from logs import asked, load, show, warm_up
from windows import Score, Window, fit, windows

from models.engine.backtest import Backtest, backtest
from models.quantities.targets import TARGETS
from models.refiner.boosting import fit_refiner
from models.refiner.clusters import GLOBAL, By, find_clusters
from models.refiner.selection import FEWEST_IN_CLUSTER, SHARES

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
    """Study each log that is asked for."""
    lived = "--lived" in sys.argv
    if lived:
        sys.argv.remove("--lived")
    for name in asked(__doc__ or "", "LCG KTH"):
        jobs = load(name)
        ways: list[By] = [by for by in get_args(By) if jobs[FIELDS[by]].nunique() > 1]
        show(name, live(jobs, warm_up(name), ways) if lived else study(jobs, warm_up(name), ways))


def study(jobs: pd.DataFrame, warm: float, ways: list[By]) -> list[dict[str, Any]]:
    """A row a way of telling jobs apart: errors of those that have a cluster large enough, by each refiner, against the global one."""
    found: Scores = defaultdict(lambda: {"global": NOTHING, "own": NOTHING, "mean": NOTHING})
    values = TARGETS["walltime"].value(jobs)
    count = 0
    for window in windows(jobs, warm):
        best = _best(window)
        count += len(window.rows)
        for by in ways:
            clusters = find_clusters(
                jobs.iloc[window.ended_rows], values[window.ended_rows], by
            ).assign(jobs)
            _judge_clusters(window, clusters, best, by, found)
    rows = []
    for by in ways:
        parts = [scores for (way, _), scores in found.items() if way == by]
        if not parts:
            continue
        whole = {who: sum((part[who] for part in parts), NOTHING) for who in parts[0]}
        against = whole["global"].means
        better = sum(part["own"].crps < part["global"].crps for part in parts)
        row = {
            "by": by,
            "clusters": len(parts),
            "own is better": int(better),
            "of the jobs": f"{whole['global'].jobs / count:.0%}",
        }
        row |= {"CRPS, global": against[0], "MAE, global": against[1]}
        for who in ("own", "mean"):
            for place, measure in enumerate(("CRPS", "MAE")):
                row[f"{measure}, {who}"] = (
                    f"{100 * (whole[who].means[place] / against[place] - 1):+.2f} %"
                )
        rows.append(row)
    return rows


def _best(window: Window) -> Any:
    """The global refiner, as far as is best for these later jobs: the rival to beat."""
    refiner = fit(window.ended)
    return min(
        (replace(refiner, share=share) for share in SHARES[1:]),
        key=lambda each: window.judge(each).crps,
    )


def _judge_clusters(window: Window, clusters: Any, best: Any, by: str, found: Scores) -> None:
    """Add the scores of each cluster's jobs in a window."""
    before, after = clusters[window.ended_rows], clusters[window.rows]
    names, counts = np.unique(before.astype(str), return_counts=True)
    theirs = best.ratio(window.later.inputs, window.later.coarse)
    for name in names[counts >= FEWEST_IN_CLUSTER]:
        inside = after == name
        own = (
            fit_refiner(window.ended.take(np.flatnonzero(before == name)))
            if name != GLOBAL and inside.any()
            else None
        )
        if own is None:
            continue
        mine = replace(own, share=best.share).ratio(window.later.inputs, window.later.coarse)
        scores = found[by, str(name)]
        for who, factors in {"global": theirs, "own": mine, "mean": (theirs + mine) / 2}.items():
            scores[who] += window.judge_factors(factors, inside)


def live(jobs: pd.DataFrame, warm: float, ways: list[By]) -> list[dict[str, Any]]:
    """A row a way of telling jobs apart, the whole log lived through."""
    alone = backtest(jobs, warm_up=warm)
    return [
        _lived(GLOBAL, alone, alone),
        *(_lived(by, backtest(jobs, warm_up=warm, cluster_by=by), alone) for by in ways),
    ]


def _lived(by: str, lived: Backtest, alone: Backtest) -> dict[str, Any]:
    """Contests of a cluster and a refit, whose refiner answered, and errors; the last two on the clusters' jobs only."""
    contests = [
        verdict
        for note in lived.refits
        for verdict in note["clusters"]
        if verdict["cluster"] != GLOBAL and "gain" in verdict
    ]
    won = [verdict for verdict in contests if verdict["answers"] == verdict["cluster"]]
    own = lived.clusters != GLOBAL
    there, before = (np.abs(x.point - x.truth)[own] for x in (lived, alone))
    return {
        "by": by,
        "contests": len(contests),
        "won": len(won),
        "gain where won": f"{np.median([x['gain'] for x in won]):+.1%}" if won else "",
        "jobs answered": f"{own.mean():.0%}",
        "MAE": float(np.abs(lived.point - lived.truth).mean()),
        "CRPS": float(lived.crps.mean()),
        "their MAE": f"{there.mean() / before.mean() - 1:+.2%}" if own.any() else "",
        "their CRPS": f"{lived.crps[own].mean() / alone.crps[own].mean() - 1:+.2%}"
        if own.any()
        else "",
    }


if __name__ == "__main__":
    main()
