"""What is planted in a generated log: changes of work, sites and habits at given days."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from infra.aliases import Array
from infra.errors import InputError
from jobs.workload.population import (
    DAY,
    GROUPS,
    Grid,
    Users,
)

ChangeKind = Literal[
    "slow_program",
    "slow_site",
    "slow_group",
    "gradual_slow",
    "recurring_slow",
    "new_site",
    "user_switch",
]


@dataclass(frozen=True)
class Change:
    """Something that happens on a ``day`` (counted from 0) of the log.

    ``slow_*``, ``gradual_slow`` and ``recurring_slow`` make the work of the named program, site or group ``factor`` times as
    much: at once, growing until the day ``until``, or on and off every ``period`` days. ``new_site`` opens a site,
    ``user_switch`` makes a user run another program. Without a ``name`` the most active one is taken.
    """

    kind: ChangeKind
    day: float
    name: str = ""
    factor: float = 2.0
    until: float | None = None
    period: float = 7.0


def read_change(text: str) -> Change:
    """Read a change as written on the command line: ``kind@day``, ``kind=name@day``, either with ``x factor`` behind.

    >>> read_change("slow_program@20x1.5")
    Change(kind='slow_program', day=20.0, name='', factor=1.5, until=None, period=7.0)
    """
    match = re.fullmatch(r"(\w+)(?:=([^@]+))?@(\d+(?:\.\d+)?)(?:x(\d+(?:\.\d+)?))?", text.strip())
    if not match or match[1] not in get_args(ChangeKind):
        raise InputError(
            f"the change {text!r} is not kind@day, kind=name@day or kind@dayxfactor, with a kind of {', '.join(get_args(ChangeKind))}"
        )
    return Change(match[1], float(match[3]), match[2] or "", float(match[4] or 2.0))  # type: ignore[arg-type]


def named(change: Change, names: Sequence[str], activity: Array) -> int:
    """The index of what a change names, or of the most active one; raises InputError for an unknown name."""
    if not change.name:
        return int(np.argmax(activity))
    if change.name not in names:
        raise InputError(
            f"the change {change.kind} names {change.name!r}, which is none of {', '.join(names)}"
        )
    return names.index(change.name)


def switcher(change: Change, people: Users) -> int:
    """The index of the user who switches: the one named, or the most active person."""
    return named(change, people.names, np.where(people.robot, 0.0, people.activity))


def slowness(
    grid: Grid, people: Users, plan: dict[str, Array], changes: Sequence[Change]
) -> tuple[Array, list[Change]]:
    """The factor on every job's work, and the changes with the name of what they struck."""
    slow = np.ones(len(plan["task"]))
    day = plan["submitted"] / DAY
    planted: list[Change] = []
    of = {
        "site": (plan["site"], grid.sites.names),
        "group": (grid.programs.group[plan["program"]], list(GROUPS)),
        "user": (plan["user"], people.names),
        "program": (plan["program"], grid.programs.names),
    }
    openings = 0
    for change in changes:
        if change.kind == "new_site":
            planted.append(replace(change, name=grid.sites.names[grid.first_sites + openings]))
            openings += 1
            continue
        what, names = of[
            next((word for word in ("site", "group", "user") if word in change.kind), "program")
        ]
        struck = (
            switcher(change, people)
            if change.kind == "user_switch"
            else named(change, names, np.bincount(what, minlength=len(names)))
        )
        planted.append(replace(change, name=names[struck]))
        if change.kind == "user_switch":
            continue
        end = grid.days if change.until is None else change.until
        if change.kind == "gradual_slow":
            factor = 1 + (change.factor - 1) * np.clip(
                (day - change.day) / max(end - change.day, 1e-9), 0, 1
            )
        elif change.kind == "recurring_slow":
            factor = np.where(
                (day >= change.day) & ((day - change.day) // change.period % 2 == 0),
                change.factor,
                1.0,
            )
        else:
            factor = np.where(
                (day >= change.day) & ((change.until is None) | (day < end)), change.factor, 1.0
            )
        slow = slow * np.where(what == struck, factor, 1.0)
    return slow, planted
