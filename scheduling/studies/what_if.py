"""What-if for a centre: partitioned pools against one pool, quotas at several levels, fair-share windows (CC-IN2P3's questions)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from scheduling.machine import Machine, MachineError, Pool, processors
from scheduling.outcome import Replay
from scheduling.owners import Owners
from scheduling.policies import POLICIES
from scheduling.replay import replay
from scheduling.trace import field_texts

DAY = 86400.0


def partition(jobs: pd.DataFrame, cores: int, by: str) -> tuple[pd.DataFrame, Machine]:
    """Cut ``cores`` into one pool for each value of the field ``by``, sized by the core-seconds that its jobs used in the log.

    Returns the jobs bound to their pool and the machine. Each pool holds at least its widest job. Raises MachineError when the cores
    do not suffice for that.
    """
    width = jobs["cores"].fillna(jobs["requested_cores"]).fillna(1.0)
    names = field_texts(jobs, by, "(none)")
    used = (width * jobs["walltime"].fillna(0.0)).groupby(names).sum()
    widest = width.groupby(names).max().clip(lower=1)
    spare = cores - widest.sum()
    if spare < 0:
        raise MachineError(
            f"{cores} cores are too few to give each {by} a pool for its widest job: that takes {widest.sum():g}"
        )
    # What each pool has beyond its widest job goes by use; the rounding goes to the largest remainders.
    wanted = spare * used / max(used.sum(), 1.0)
    sizes = widest + np.floor(wanted)
    remainders = (wanted - np.floor(wanted)).sort_values(ascending=False)
    sizes[remainders.index[: int(cores - sizes.sum())]] += 1
    return jobs.assign(site=names), Machine(
        tuple(Pool(str(name), int(size)) for name, size in sizes.items())
    )


def what_if(
    jobs: pd.DataFrame, cores: int, by: str = "group", progress: Callable[[str], None] | None = None
) -> dict[str, Replay]:
    """Replay ``jobs`` under ways in which a centre of ``cores`` may share them out between the values of ``by``.

    ``partitioned``: a pool each, sized by use. ``one pool``: first come, first served. ``quota``: one pool, nobody above twice their
    part; ``relaxed``: four times, and a tenth of the centre for a user. ``fair share``: least used for the same share first, over a
    window of 1, 7 or 30 days; ``by use``: shares as large as the part that each used.
    """
    names = field_texts(jobs, by, "(none)")
    width = jobs["cores"].fillna(jobs["requested_cores"]).fillna(1.0)
    used = (width * jobs["walltime"].fillna(0.0)).groupby(names).sum()
    parts = (used / used.sum()).clip(lower=1e-6)
    widest = width.groupby(names).max()
    levels = (by, "user")
    many = float(max(np.ceil(cores / 10), width.max()))

    def quota(times: float) -> dict[str, float]:
        return dict(np.maximum(np.ceil(times * parts * cores), widest).astype(float))

    share = POLICIES["fair-share"]
    scenarios: dict[str, tuple[str, dict[str, object]]] = {
        "one pool": ("easy", {}),
        "quota": ("easy", {"owners": Owners((by,), {by: quota(2.0)})}),
        "relaxed quota": ("easy", {"owners": Owners(levels, {by: quota(4.0), "user": many})}),
    }
    found: dict[str, Replay] = {}
    own, pools = partition(jobs, cores, by)
    if progress is not None:
        progress("partitioned")
    found["partitioned"] = replay(own, pools, "easy")
    for name, (policy, more) in scenarios.items():
        if progress is not None:
            progress(name)
        found[name] = replay(jobs, processors(cores), policy, **more)  # type: ignore[arg-type]
    windows = {
        f"fair share {days} d": (replace(share, half_life=days * DAY), Owners((by,)))
        for days in (1, 7, 30)
    }
    windows["fair share by use"] = (
        share,
        Owners((by,), shares={str(name): float(part) for name, part in parts.items()}),
    )
    for name, (policy_, owners) in windows.items():
        if progress is not None:
            progress(name)
        found[name] = replay(jobs, processors(cores), policy_, owners=owners)
    return found
