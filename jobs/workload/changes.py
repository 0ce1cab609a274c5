"""Changes planted in a generated log: of work, sites and habits, at given days."""

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
    """A change on a ``day`` (from 0) of the log.

    ``slow_*``, ``gradual_slow`` and ``recurring_slow`` multiply the work of the named program, site
    or group by ``factor``: at once, growing until the day ``until``, or on and off every ``period``
    days. ``new_site`` opens a site; ``user_switch`` makes a user run another program. Without a
    ``name`` the most active one changes.
    """

    kind: ChangeKind
    day: float
    name: str = ""
    factor: float = 2.0
    until: float | None = None
    period: float = 7.0


def read_change(text: str) -> Change:
    """Read a change from the command line: ``kind@day`` or ``kind=name@day``, then ``xfactor``.

    >>> read_change("slow_program@20x1.5")
    Change(kind='slow_program', day=20.0, name='', factor=1.5, until=None, period=7.0)
    """
    match = re.fullmatch(r"(\w+)(?:=([^@]+))?@(\d+(?:\.\d+)?)(?:x(\d+(?:\.\d+)?))?", text.strip())
    if not match or match[1] not in get_args(ChangeKind):
        raise InputError(
            f"the change {text!r} is not kind@day, kind=name@day or kind@dayxfactor, "
            f"with a kind of {', '.join(get_args(ChangeKind))}"
        )
    kind, name, day, factor = match.groups()
    return Change(kind, float(day), name or "", float(factor or 2.0))  # type: ignore[arg-type]


def index_of_name(change: Change, names: Sequence[str], activity: Array) -> int:
    """The index of the name of a change, or of the most active one.

    Args:
        change: the change.
        names: the names to choose from.
        activity: the activity of each.

    Raises:
        InputError: if the name is not one of ``names``.
    """
    if not change.name:
        return int(np.argmax(activity))
    if change.name not in names:
        raise InputError(
            f"the change {change.kind} names {change.name!r}, which is none of {', '.join(names)}"
        )
    return names.index(change.name)


def index_of_switching_user(change: Change, people: Users) -> int:
    """The index of the user who switches: the named one, or the most active who is no robot."""
    return index_of_name(change, people.names, np.where(people.robot, 0.0, people.activity))


def slowdown_factors(
    grid: Grid, people: Users, plan: dict[str, Array], changes: Sequence[Change]
) -> tuple[Array, list[Change]]:
    """The factor on the work of each job, and the changes with their names filled in.

    Args:
        grid: the grid.
        people: its users.
        plan: the arrays of ``draw_jobs``.
        changes: the planted changes.
    """
    slow = np.ones(len(plan["task"]))
    day = plan["submitted"] / DAY
    planted: list[Change] = []
    subjects = {
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
        indices, names = subjects[
            next((word for word in ("site", "group", "user") if word in change.kind), "program")
        ]
        affected = (
            index_of_switching_user(change, people)
            if change.kind == "user_switch"
            else index_of_name(change, names, np.bincount(indices, minlength=len(names)))
        )
        planted.append(replace(change, name=names[affected]))
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
        slow = slow * np.where(indices == affected, factor, 1.0)
    return slow, planted
