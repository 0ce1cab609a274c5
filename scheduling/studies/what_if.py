"""What-if for a centre: pools against one pool, quotas at several levels, fair-share windows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from infra.aliases import Progress
from scheduling.machine import Machine, MachineError, Pool, processors
from scheduling.outcome import Replay
from scheduling.owners import Owners
from scheduling.policies import POLICIES, Policy
from scheduling.replay import replay
from scheduling.trace import check_run_times, field_texts

DAY = 86400.0


@dataclass(frozen=True)
class Scenario:
    """A way to share a centre: jobs bound to pools, a policy, and accounts with quotas."""

    name: str
    jobs: pd.DataFrame
    machine: Machine
    policy: Policy
    owners: Owners = field(default_factory=Owners)


def partition(jobs: pd.DataFrame, cores: int, by: str) -> tuple[pd.DataFrame, Machine]:
    """Cut a centre into a pool for each value of a field, sized by the core-seconds of its jobs.

    Each pool has at least the cores of its widest job.

    Args:
        jobs: Conformed records.
        cores: The cores of the centre.
        by: The field.

    Returns:
        The jobs bound to their pools, and the machine.

    Raises:
        MachineError: The cores do not suffice.
    """
    names = field_texts(jobs, by, "(none)")
    width = _widths(jobs)
    used = (width * jobs["walltime"].fillna(0.0)).groupby(names).sum()
    widest = width.groupby(names).max().clip(lower=1)
    spare = cores - widest.sum()
    if spare < 0:
        raise MachineError(
            f"{cores} cores are too few to give each {by} a pool for its widest job: "
            f"that takes {widest.sum():g}"
        )
    # Beyond their widest jobs pools grow by use; the rounding goes to the largest remainders.
    share = spare * used / max(used.sum(), 1.0)
    sizes = widest + np.floor(share)
    remainders = (share - np.floor(share)).sort_values(ascending=False)
    sizes[remainders.index[: int(cores - sizes.sum())]] += 1
    pools = tuple(Pool(str(name), int(size)) for name, size in sizes.items())
    return jobs.assign(site=names), Machine(pools)


def scenarios(jobs: pd.DataFrame, cores: int, by: str = "group") -> list[Scenario]:
    """Ways to share a centre of ``cores`` between the values of the field ``by``.

    ``partitioned``: a pool each, sized by use. ``one pool``: EASY. ``quota``: at most twice the
    share by use for each; ``relaxed quota``: four times, and a tenth of the centre for a user.
    ``fair share``: least use first, over a window of 1, 7 or 30 days; ``by use``: with shares in
    proportion to use.

    Args:
        jobs: The jobs.
        cores: The cores of the centre.
        by: The field.
    """
    names = field_texts(jobs, by, "(none)")
    width = _widths(jobs)
    used = (width * jobs["walltime"].fillna(0.0)).groupby(names).sum()
    share_of_use = (used / used.sum()).clip(lower=1e-6)
    widest = width.groupby(names).max()
    cap_of_user = float(max(np.ceil(cores / 10), width.max()))
    # Accounts are called by the field's values, missing ones "".
    account_names = ["" if name == "(none)" else str(name) for name in share_of_use.index]

    def quota(times: float) -> dict[str, float]:
        caps = np.maximum(np.ceil(times * share_of_use * cores), widest).astype(float)
        return dict(zip(account_names, caps, strict=True))

    centre, easy, fair = processors(cores), POLICIES["easy"], POLICIES["fair-share"]
    relaxed = Owners((by, "user"), {by: quota(4.0), "user": cap_of_user})
    shares = dict(zip(account_names, share_of_use.astype(float), strict=True))
    return [
        Scenario("partitioned", *partition(jobs, cores, by), easy),
        Scenario("one pool", jobs, centre, easy),
        Scenario("quota", jobs, centre, easy, Owners((by,), {by: quota(2.0)})),
        Scenario("relaxed quota", jobs, centre, easy, relaxed),
        *(
            Scenario(
                f"fair share {days} d",
                jobs,
                centre,
                replace(fair, half_life=days * DAY),
                Owners((by,)),
            )
            for days in (1, 7, 30)
        ),
        Scenario("fair share by use", jobs, centre, fair, Owners((by,), shares=shares)),
    ]


def what_if(
    jobs: pd.DataFrame, cores: int, by: str = "group", progress: Progress | None = None
) -> dict[str, Replay]:
    """Replay ``jobs`` in each of the ``scenarios``, by name.

    Args:
        jobs: Conformed records of jobs that ran.
        cores: The cores of the centre.
        by: The field whose values share the centre.
        progress: Is called with the name of the scenario.

    Raises:
        TraceError: No job can be replayed.
        MachineError: There is no such field, or the cores do not suffice.
    """
    check_run_times(jobs)
    if by not in jobs:
        raise MachineError(f"{by!r} is no field of a job, so a centre cannot be shared by it")
    # A job wider than the centre never ran there, and would size its pool.
    jobs = jobs[_widths(jobs) <= cores]
    replays: dict[str, Replay] = {}
    ways = scenarios(jobs, cores, by)
    for index, scenario in enumerate(ways):
        if progress is not None:
            progress(scenario.name, index / len(ways))
        replays[scenario.name] = replay(
            scenario.jobs, scenario.machine, scenario.policy, owners=scenario.owners
        )
    return replays


def _widths(jobs: pd.DataFrame) -> pd.Series[float]:
    return jobs["cores"].fillna(jobs["requested_cores"]).fillna(1.0)
