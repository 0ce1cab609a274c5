"""Whether a cluster's model is better than the global one: who answers, by how much it won, and what came of it; docs/predictions.md.

    uv run python benchmarks/clusters.py [LOG ...]

Each log is lived through once without clusters and once by each way of telling jobs apart; a cluster's refiner answers only where it was
better than the global one on later jobs. ``won`` counts the contests of a cluster and a refit in which it was.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from logs import asked, load, show, warm_up

from models.clusters import GLOBAL, By
from models.rolling import Rolling, rolling

FIELDS = {"group": "group", "site": "site", "queue": "queue", "program": "program", "kmeans": "user"}


def main() -> None:
    """Live through each log that is asked for."""
    for name in asked(__doc__ or "", "LCG KTH"):
        jobs = load(name)
        alone = rolling(jobs, warm_up=warm_up(name))
        rows = [row(GLOBAL, alone, alone)]
        for by in get_args(By):
            if jobs[FIELDS[by]].nunique() > 1:
                lived = rolling(jobs, warm_up=warm_up(name), cluster_by=by)
                rows.append(row(by, lived, alone))
                for note in lived.notes:
                    print(name, by, note["from_row"], *(f"{x['cluster']}: {x.get('gain', 0):+.1%}" for x in note["clusters"]), flush=True)
        show(name, rows)


def row(by: str, lived: Rolling, alone: Rolling) -> dict[str, Any]:
    """One way of telling jobs apart: its contests, whose refiner answered, and errors; the last two on those jobs only."""
    contests = [verdict for note in lived.notes for verdict in note["clusters"] if verdict["cluster"] != GLOBAL and "gain" in verdict]
    won = [verdict for verdict in contests if verdict["answers"] == verdict["cluster"]]
    own = lived.clusters != GLOBAL
    there, before = (np.abs(x.point - x.truth)[own] for x in (lived, alone))
    return {
        "by": by,
        "contests": len(contests),
        "won": len(won),
        "median gain": f"{np.median([x['gain'] for x in contests]):+.1%}" if contests else "",
        "gain where won": f"{np.median([x['gain'] for x in won]):+.1%}" if won else "",
        "jobs answered": f"{own.mean():.0%}",
        "MAE": float(np.abs(lived.point - lived.truth).mean()),
        "CRPS": float(lived.crps.mean()),
        "their MAE": f"{there.mean() / before.mean() - 1:+.2%}" if own.any() else "",
        "their CRPS": f"{lived.crps[own].mean() / alone.crps[own].mean() - 1:+.2%}" if own.any() else "",
    }


if __name__ == "__main__":
    main()
