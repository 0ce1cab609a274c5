"""The population of a generated grid, drawn from a seed: sites, hosts, programs and users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from infra.aliases import Array

LAWS = ("events", "input", "modes", "repeat", "heavy")
"""What a program's work depends on: events, input, one of few values per user, one value per user,
or a heavy tail."""

GROUPS = ("alice", "atlas", "cms", "lhcb")
KINDS = {
    "simulation": "events",
    "reconstruction": "input",
    "analysis": "heavy",
    "merge": "input",
    "calibration": "repeat",
    "training": "modes",
}
SOURCE = "generated"
START = pd.Timestamp("2025-01-06", tz="UTC")  # a Monday in the past, whatever the clock says
DAY = 86400.0
REFERENCE_POWER = 15.0
"""HEPScore per core of the host on which users measure, before they request walltime."""


@dataclass(frozen=True)
class Sites:
    """Arrays over sites.

    ``powers`` [sites, hosts] are in HEPScore per core, ``wait`` is the median queue wait (s).
    """

    names: list[str]
    powers: Array
    share: Array
    wait: Array
    start_up: Array
    failing: Array


@dataclass(frozen=True)
class Programs:
    """Arrays over programs.

    ``work`` is that of a typical job (HEPScore·s on one core), ``memory`` bytes per core,
    ``written`` bytes per second.
    """

    names: list[str]
    kinds: list[str]
    group: Array
    law: Array
    work: Array
    cores: Array
    memory: Array
    efficiency: Array
    written: Array
    failing: Array


@dataclass(frozen=True)
class Users:
    """Arrays over users.

    ``habit`` [users, programs] is the share of each program, ``scale`` the factor on its work, and
    ``modes`` [users, programs, 3] the values that some programs jump between. ``request_factor``
    is the factor of the walltime request, ``default_walltime`` (s) a fixed request (0: none).
    ``robot`` users submit at any hour.
    """

    names: list[str]
    group: Array
    activity: Array
    habit: Array
    scale: Array
    modes: Array
    request_factor: Array
    default_walltime: Array
    task_size: Array
    hour: Array
    robot: Array


@dataclass(frozen=True)
class Grid:
    """Sites, programs and the seed; ``first_sites`` of the sites are open from the start."""

    sites: Sites
    programs: Programs
    seed: int
    days: float
    first_sites: int

    def stream(self, purpose: int) -> np.random.Generator:
        """Random numbers of one purpose, independent of those of others."""
        return np.random.default_rng([self.seed, 10 + purpose])


def draw_sites(seed: int, count: int) -> Sites:
    """Draw sites, each from its own stream: one more site changes no other."""
    rows = []
    for number in range(count):
        rng = np.random.default_rng([seed, 1, number])
        generations = rng.lognormal(np.log(14.0), 0.35, 3)
        powers = rng.choice(generations, 60).round(2)
        rows.append(
            (
                powers,
                1 / (number + 1.5),
                rng.lognormal(np.log(600.0), 1.0),
                rng.uniform(10, 90),
                rng.lognormal(np.log(0.015), 0.7),
            )
        )
    powers, share, wait, start_up, failing = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    return Sites(
        [f"site-{number + 1:02d}" for number in range(count)],
        powers,
        share,
        wait,
        start_up,
        failing,
    )


def draw_programs(seed: int) -> Programs:
    """Draw one program of every kind for each VO."""
    rng = np.random.default_rng([seed, 2])
    pairs = [(group, kind) for group in range(len(GROUPS)) for kind in KINDS]
    count = len(pairs)
    hours = {
        "simulation": 5.0,
        "reconstruction": 2.5,
        "analysis": 0.7,
        "merge": 0.3,
        "calibration": 1.0,
        "training": 1.5,
    }
    efficiency = {
        "simulation": 0.97,
        "reconstruction": 0.85,
        "analysis": 0.7,
        "merge": 0.35,
        "calibration": 0.9,
        "training": 0.8,
    }
    many_cores = np.array(
        [kind in ("simulation", "reconstruction", "training") for _, kind in pairs]
    )
    return Programs(
        names=[f"{GROUPS[group]}-{kind}" for group, kind in pairs],
        kinds=[kind for _, kind in pairs],
        group=np.array([group for group, _ in pairs]),
        law=np.array([LAWS.index(KINDS[kind]) for _, kind in pairs]),
        work=np.array([hours[kind] for _, kind in pairs])
        * 3600
        * REFERENCE_POWER
        * rng.lognormal(0, 0.5, count),
        cores=np.where(many_cores & (rng.random(count) < 0.4), 8, 1),
        memory=rng.lognormal(np.log(1.4e9), 0.35, count),
        efficiency=np.clip(
            [efficiency[kind] * rng.uniform(0.9, 1.03) for _, kind in pairs], 0.1, 0.99
        ),
        written=rng.lognormal(np.log(2e5), 1.0, count),
        failing=rng.uniform(0.005, 0.05, count),
    )


def draw_users(seed: int, count: int, programs: Programs) -> Users:
    """Draw users: a few robots with most of the production, many people with a little analysis.

    Args:
        seed: seed of the random numbers.
        count: number of users.
        programs: the programs that they run.
    """
    rng = np.random.default_rng([seed, 3])
    group = np.arange(count) % len(GROUPS)
    robot = np.arange(count) < max(1, min(len(GROUPS), count // 5))
    same_group = programs.group[None, :] == group[:, None]
    produces = np.isin(programs.kinds, ("simulation", "reconstruction", "merge"))[None, :]
    likes = rng.gamma(0.3, 1.0, (count, len(programs.names))) * np.where(
        robot[:, None] == produces, 1.0, 0.05
    )
    habit = np.where(same_group, likes + 1e-9, 0.0)
    return Users(
        names=[
            f"{GROUPS[group[i]]}prod{i + 1}" if robot[i] else f"user{i + 1:03d}"
            for i in range(count)
        ],
        group=group,
        activity=np.where(robot, 1.5, 1.0) / (np.arange(count) % max(1, count // 2) + 2.0),
        habit=habit / habit.sum(axis=1, keepdims=True),
        scale=rng.lognormal(0, 0.5, habit.shape),
        modes=rng.lognormal(0, 0.9, (*habit.shape, 3)),
        request_factor=rng.choice([1.15, 1.5, 2.0, 3.0, 6.0, 12.0], count),
        default_walltime=np.where(rng.random(count) < 0.2, 86400.0, 0.0),
        task_size=np.where(robot, 60.0, rng.lognormal(np.log(12.0), 0.8, count)),
        hour=np.where(robot, 12.0, rng.normal(13.0, 3.0, count) % 24),
        robot=robot,
    )
