"""A generator of grid jobs for the demo and for tests: seeded, and its truth is known.

Jobs come in tasks of similar jobs, in working hours or from robots; run times are work over the power of the host, so that
they repeat nearly exactly, jump between few values, follow events or input, or have a heavy tail; users ask for too much in
round numbers; jobs fail, run out of memory and are killed at their limit. Nothing is simulated twice: a planted change
touches only jobs submitted after it, and every other number stays as it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from infra.errors import InputError
from jobs.population import GROUPS, LAWS, REFERENCE_POWER, Array, Programs, Sites, Users, draw_programs, draw_sites, draw_users
from jobs.schema import TIME_TYPE, conform

SOURCE = "generated"
DAY = 86400.0
START = pd.Timestamp("2025-01-06", tz="UTC")  # a Monday in the past, whatever the clock says

WALLTIMES = np.array([600, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 259200, 345600], float)
MEMORY_STEP = 1e9

ChangeKind = Literal["slow_program", "slow_site", "slow_group", "gradual_slow", "recurring_slow", "new_site", "user_switch"]


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


@dataclass(frozen=True)
class Generated:
    """Jobs by submission, in the schema's shape with all outcomes, and what is true of them (JSON-ready)."""

    jobs: pd.DataFrame
    truth: dict[str, Any]


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


def generate(
    jobs: int = 20_000, days: float = 30.0, seed: int = 1, sites: int = 8, users: int = 40, changes: Sequence[Change] = ()
) -> Generated:
    """Generate ``jobs`` jobs submitted over ``days`` days; the same arguments give the same jobs."""
    if jobs < 1 or days <= 0 or sites < 1 or users < 1:
        raise InputError("a generated log needs at least one job, one site, one user and some days")
    openings = [change for change in changes if change.kind == "new_site"]
    grid = _Grid(draw_sites(seed, sites + len(openings)), draw_programs(seed), seed=seed, days=days, first_sites=sites)
    people = draw_users(seed, users, grid.programs)
    tasks = _draw_tasks(grid, people, jobs, changes)
    plan = _draw_jobs(grid, people, tasks, jobs, openings)
    slow, planted = _slowness(grid, people, plan, changes)
    frame = _run(grid, people, tasks, plan, slow)
    return Generated(frame, _truth(grid, people, planted, frame))


@dataclass(frozen=True)
class _Grid:
    sites: Sites
    programs: Programs
    seed: int
    days: float
    first_sites: int

    def stream(self, purpose: int) -> np.random.Generator:
        """Random numbers for one purpose, so that a change in one leaves the others as they are."""
        return np.random.default_rng([self.seed, 10 + purpose])


def _choose(weights: Array, uniform: Array) -> Array:
    """Index by weight for each uniform number; ``weights`` is a row of weights, or one row a number."""
    edges = np.cumsum(weights, axis=-1)
    place = (uniform * edges[..., -1])[:, None] >= (edges if edges.ndim == 2 else edges[None, :])
    chosen: Array = np.minimum(place.sum(axis=1), weights.shape[-1] - 1)
    return chosen


def _draw_tasks(grid: _Grid, people: Users, jobs: int, changes: Sequence[Change]) -> dict[str, Array]:
    """Arrays over tasks: who submits what, when, how many jobs, and what is alike in them."""
    rng = grid.stream(0)
    wanted = int(1.3 * jobs) + 200
    guess = max(20, int(2.5 * wanted / float(np.average(people.task_size, weights=people.activity))))
    user = _choose(people.activity, rng.random(guess))
    # Half of the tasks are small trials; the tail of the others is heavy.
    size = np.where(rng.random(guess) < 0.3, 1, 1 + people.task_size[user] * np.minimum(rng.pareto(1.8, guess), 40)).astype(int)
    enough = int(np.searchsorted(np.cumsum(size), wanted)) + 1
    user, size = user[:enough], size[:enough]
    count = len(user)
    day = _submission_days(grid, people, user, rng)
    draws = {name: rng.random(count) for name in ("program", "mode", "cancel", "buggy", "memory_ask", "trickle")}
    program = _choose(people.habit[user], draws["program"])
    for change in changes:
        if change.kind == "user_switch":
            who = _named(change, people.names, np.bincount(user, size, len(people.names)))
            other = people.habit[who] * (np.arange(people.habit.shape[1]) != people.habit[who].argmax())
            moved = (user == who) & (day >= change.day)
            program[moved] = _choose(other, draws["program"][moved])
    return {
        "user": user,
        "size": size,
        "day": day,
        "program": program,
        "mode": (draws["mode"] * 3).astype(int),
        "spread": rng.lognormal(0, 0.7, count),
        "events": rng.choice([500, 1000, 2000, 5000, 10000], count, p=[0.1, 0.4, 0.25, 0.2, 0.05]).astype(float),
        "input": rng.lognormal(np.log(2e9), 1.0, count),
        "belief": rng.lognormal(0, 0.25, count),
        "memory_ask": 1.05 + 1.2 * draws["memory_ask"],
        "gap": np.where(draws["trickle"] < 0.1, 600.0, 5.0) * rng.lognormal(0, 0.5, count),
        "cancelled": draws["cancel"] < 0.015,
        "buggy": draws["buggy"] < 0.03,
        "favourite": rng.random(count),
    }


def _submission_days(grid: _Grid, people: Users, user: Array, rng: np.random.Generator) -> Array:
    """When each task is submitted, in days: people in their working hours, few at weekends, in campaigns; robots always."""
    count, whole = len(user), max(1, int(np.ceil(grid.days)))
    weekend = np.arange(whole) % 7 >= 5
    campaign = grid.days * rng.random((len(people.names), 3))
    near = campaign[user, rng.integers(0, 3, count)] + rng.normal(0, 1.5, count)
    any_day = _choose(np.where(weekend, 0.2, 1.0), rng.random(count)).astype(float)
    day = np.where(rng.random(count) < 0.5, np.floor(near), any_day)
    hour = people.hour[user] + rng.normal(0, 2.5, count)
    when = np.where(people.robot[user], grid.days * rng.random(count), day + (hour % 24) / 24)
    return np.asarray(when % grid.days)


def _draw_jobs(grid: _Grid, people: Users, tasks: dict[str, Array], jobs: int, openings: Sequence[Change]) -> dict[str, Array]:
    """Arrays over jobs, by submission: task, second of submission, site, host, wait."""
    rng = grid.stream(1)
    task = np.repeat(np.arange(len(tasks["size"])), tasks["size"])
    gaps = rng.exponential(1.0, len(task)) * tasks["gap"][task]
    since = np.cumsum(gaps)
    first = np.concatenate([[0], np.cumsum(tasks["size"])[:-1]])
    submitted = np.floor(tasks["day"][task] * DAY + since - since[first][task])
    inside = np.flatnonzero(submitted < grid.days * DAY)
    kept = np.sort(rng.permutation(inside)[:jobs])
    kept = kept[np.argsort(submitted[kept], kind="stable")]
    task, submitted = task[kept], submitted[kept]

    weights = np.tile(grid.sites.share, (len(task), 1))
    for number, change in enumerate(openings):
        # A new site is large: it takes a fair part of the jobs from the day it opens.
        weights[:, grid.first_sites + number] = np.where(submitted >= change.day * DAY, 0.4, 0.0)
    favourite = _choose(grid.sites.share[: grid.first_sites], tasks["favourite"])[task]
    at_favourite = rng.random(len(task)) < 0.6
    by_weight = _choose(weights, rng.random(len(task)))
    goes_to_new = by_weight >= grid.first_sites
    site = np.where(at_favourite & ~goes_to_new, favourite, by_weight)
    host = rng.integers(0, grid.sites.powers.shape[1], len(task))
    busy = 1 + 0.8 * np.sin((submitted / DAY - 0.3) * 2 * np.pi)
    wait = np.floor(grid.sites.wait[site] * busy * rng.lognormal(0, 1.2, len(task)))
    return {
        "task": task,
        "submitted": submitted,
        "site": site,
        "host": host,
        "wait": wait,
        "program": tasks["program"][task],
        "user": tasks["user"][task],
    }


def _named(change: Change, names: Sequence[str], activity: Array) -> int:
    if not change.name:
        return int(np.argmax(activity))
    if change.name not in names:
        raise InputError(f"the change {change.kind} names {change.name!r}, which is none of {', '.join(names)}")
    return names.index(change.name)


def _slowness(grid: _Grid, people: Users, plan: dict[str, Array], changes: Sequence[Change]) -> tuple[Array, list[Change]]:
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
        what, names = of[next((word for word in ("site", "group", "user") if word in change.kind), "program")]
        struck = _named(change, names, np.bincount(what, minlength=len(names)))
        planted.append(replace(change, name=names[struck]))
        if change.kind == "user_switch":
            continue
        end = grid.days if change.until is None else change.until
        if change.kind == "gradual_slow":
            factor = 1 + (change.factor - 1) * np.clip((day - change.day) / max(end - change.day, 1e-9), 0, 1)
        elif change.kind == "recurring_slow":
            factor = np.where((day >= change.day) & ((day - change.day) // change.period % 2 == 0), change.factor, 1.0)
        else:
            factor = np.where((day >= change.day) & ((change.until is None) | (day < end)), change.factor, 1.0)
        slow = slow * np.where(what == struck, factor, 1.0)
    return slow, planted


def _run(grid: _Grid, people: Users, tasks: dict[str, Array], plan: dict[str, Array], slow: Array) -> pd.DataFrame:
    """Let every job run on its host: work over power, until it completes, fails, or is stopped."""
    rng, count = grid.stream(2), len(plan["task"])
    task, program, user, site = plan["task"], plan["program"], plan["user"], plan["site"]
    programs, sites = grid.programs, grid.sites
    law = programs.law[program]
    cores = programs.cores[program].astype(float)
    power = sites.powers[site, plan["host"]]

    events = np.where(law == LAWS.index("events"), tasks["events"][task], np.nan)
    input_bytes = np.where(law == LAWS.index("input"), tasks["input"][task] * rng.lognormal(0, 0.5, count), np.nan).round()
    expected, work = _work(grid, people, tasks, plan, events, input_bytes, rng)
    planned = sites.start_up[site] + work * slow / (power * programs.efficiency[program])

    # Asked for, as the user believes before the job has run and without knowing of any change.
    believed = 60 + expected / REFERENCE_POWER / programs.efficiency[program] * tasks["belief"][task] * people.over_ask[user]
    asked = WALLTIMES[np.minimum(np.searchsorted(WALLTIMES, believed), len(WALLTIMES) - 1)]
    asked = np.where(people.default_walltime[user] > 0, people.default_walltime[user], asked)
    typical_memory = programs.memory[program] * cores * people.scale[user, program] ** 0.3
    asked_memory = np.ceil(typical_memory * tasks["memory_ask"][task] / MEMORY_STEP) * MEMORY_STEP
    memory = typical_memory * rng.lognormal(0, 0.12, count)

    chance = rng.random((4, count))
    failing = np.where(tasks["buggy"][task], 0.7, programs.failing[program] + sites.failing[site])
    status = np.full(count, "completed", dtype=object)
    ran = planned.copy()
    for state, happens, part in (
        ("failed", chance[0] < failing, rng.beta(0.6, 1.2, count)),
        ("cancelled", tasks["cancelled"][task] & (chance[1] < 0.8), rng.random(count)),
        ("out_of_memory", memory > asked_memory, rng.uniform(0.2, 0.9, count)),
    ):
        struck = happens & (planned * part < ran)
        status[struck] = state
        ran = np.where(struck, planned * part, ran)
    ran = np.maximum(1, np.round(ran))
    late = ran > asked
    status[late] = "timeout"
    ran = np.where(late, asked, ran)
    never = (status == "cancelled") & (chance[2] < 0.3)  # given up while still waiting
    done = np.clip(ran / planned, 0.02, 1)
    moved = np.where(np.isnan(input_bytes), 1e6 * cores * ran * chance[3], input_bytes * done)
    told = np.where(never, np.nan, 1.0)

    start = START + pd.to_timedelta(plan["submitted"], unit="s")
    started = start + pd.to_timedelta(plan["wait"], unit="s")
    names = np.array(sites.names)[site]
    kind = np.array(programs.kinds)[program]
    return conform(
        pd.DataFrame(
            {
                "job_id": np.arange(1, count + 1).astype(str),
                "task_id": np.char.add("task-", task.astype(str)),
                "source": SOURCE,
                "user": np.array(people.names)[user],
                "group": np.array(GROUPS)[programs.group[program]],
                "project": np.char.add(
                    np.char.add(np.array(GROUPS)[programs.group[program]], "-"), np.where(people.robot[user], "production", "physics")
                ),
                "program": np.array(programs.names)[program],
                "job_name": np.char.add(np.char.add(kind, "-"), task.astype(str)),
                "queue": np.array(["short", "medium", "long"])[np.searchsorted([7200.0, 43200.0], asked)],
                "site": names,
                "host": np.where(
                    never, None, np.char.add(np.char.add(names, "-n"), np.char.zfill(plan["host"].astype(str), 3)).astype(object)
                ),
                "host_power": power * told,
                "requested_walltime": asked,
                "requested_cores": cores,
                "requested_memory": asked_memory,
                "input_bytes": input_bytes,
                "input_files": np.ceil(input_bytes / 2e9),
                "events": events,
                "submitted_at": start.astype(TIME_TYPE),
                "started_at": started.where(~never).astype(TIME_TYPE),
                "ended_at": (started + pd.to_timedelta(np.where(never, 0, ran), unit="s")).astype(TIME_TYPE),
                "status": status,
                "cores": cores * told,
                "walltime": ran * told,
                "cpu_time": np.round(ran * cores * programs.efficiency[program] * rng.uniform(0.97, 1.0, count)) * told,
                "peak_memory": np.round(np.minimum(memory * (0.6 + 0.4 * done), asked_memory)) * told,
                "read_bytes": np.round(moved) * told,
                "written_bytes": np.round(programs.written[program] * ran * rng.lognormal(0, 0.2, count)) * told,
            }
        )
    )


def _work(
    grid: _Grid, people: Users, tasks: dict[str, Array], plan: dict[str, Array], events: Array, input_bytes: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """HEPScore·s a job: what its user can expect, and what it is, by the law of its program."""
    task, program, user = plan["task"], plan["program"], plan["user"]
    count = len(task)
    typical = grid.programs.work[program] * people.scale[user, program]
    noise = rng.normal(0, 1, count)
    jumps = rng.random(count) < 0.15
    mode = np.where(jumps, rng.integers(0, 3, count), tasks["mode"][task])
    tail = np.where(rng.random(count) < 0.02, rng.pareto(1.5, count) + 1, 1.0)
    expected = np.select(
        [law == grid.programs.law[program] for law in range(len(LAWS))],
        [
            grid.programs.work[program] * events / 1000,
            grid.programs.work[program] * input_bytes / 2e9,
            typical * people.modes[user, program].max(axis=1),
            typical,
            typical * tasks["spread"][task],
        ],
    )
    exact = np.where(grid.programs.law[program] == LAWS.index("modes"), typical * people.modes[user, program, mode], expected)
    width = np.array([0.03, 0.1, 0.01, 0.003, 0.6])[grid.programs.law[program]]
    heavy = grid.programs.law[program] == LAWS.index("heavy")
    return expected, exact * np.exp(width * noise) * np.where(heavy, tail, 1.0)


def _truth(grid: _Grid, people: Users, planted: list[Change], frame: pd.DataFrame) -> dict[str, Any]:
    return {
        "source": SOURCE,
        "seed": grid.seed,
        "start": START.isoformat(),
        "days": grid.days,
        "jobs": len(frame),
        "changes": [{**asdict(change), "at": (START + pd.Timedelta(days=change.day)).isoformat()} for change in planted],
        "sites": {name: sorted(set(powers.tolist())) for name, powers in zip(grid.sites.names, grid.sites.powers, strict=True)},
        "programs": {
            name: {"law": LAWS[law], "work": float(work), "cores": int(cores)}
            for name, law, work, cores in zip(grid.programs.names, grid.programs.law, grid.programs.work, grid.programs.cores, strict=True)
        },
        "users": {name: float(factor) for name, factor in zip(people.names, people.over_ask, strict=True)},
    }
