"""How every generated job runs: work over power, until it completes, fails or is stopped."""

from __future__ import annotations

import numpy as np
import pandas as pd

from infra.aliases import Array
from jobs.schema import TIME_TYPE, conform
from jobs.workload.population import (
    GROUPS,
    LAWS,
    REFERENCE_POWER,
    SOURCE,
    START,
    Grid,
    Users,
)

WALLTIMES = np.array(
    [600, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 259200, 345600], float
)
MEMORY_STEP = 1e9


def run(
    grid: Grid, people: Users, tasks: dict[str, Array], plan: dict[str, Array], slow: Array
) -> pd.DataFrame:
    """Let every job run on its host: work over power, until it completes, fails, or is stopped."""
    rng, count = grid.stream(2), len(plan["task"])
    task, program, user, site = plan["task"], plan["program"], plan["user"], plan["site"]
    programs, sites = grid.programs, grid.sites
    law = programs.law[program]
    cores = programs.cores[program].astype(float)
    power = sites.powers[site, plan["host"]]

    events = np.where(law == LAWS.index("events"), tasks["events"][task], np.nan)
    input_bytes = np.where(
        law == LAWS.index("input"), tasks["input"][task] * rng.lognormal(0, 0.5, count), np.nan
    ).round()
    expected, work = _work(grid, people, tasks, plan, events, input_bytes, rng)
    planned = sites.start_up[site] + work * slow / (power * programs.efficiency[program])

    asked = _asked_walltime(
        people,
        user,
        60 + expected / REFERENCE_POWER / programs.efficiency[program] * tasks["belief"][task],
    )
    typical_memory = programs.memory[program] * cores * people.scale[user, program] ** 0.3
    asked_memory = np.ceil(typical_memory * tasks["memory_ask"][task] / MEMORY_STEP) * MEMORY_STEP
    memory = typical_memory * rng.lognormal(0, 0.12, count)
    failing = np.where(tasks["buggy"][task], 0.7, programs.failing[program] + sites.failing[site])
    status, ran = _stop(
        rng, planned, asked, failing, tasks["cancelled"][task], memory > asked_memory
    )
    never = (status == "cancelled") & (rng.random(count) < 0.3)  # given up while still waiting
    done = np.clip(ran / planned, 0.02, 1)
    moved = np.where(
        np.isnan(input_bytes), 1e6 * cores * ran * rng.random(count), input_bytes * done
    )
    told = np.where(never, np.nan, 1.0)

    start = START + pd.to_timedelta(plan["submitted"], unit="s")
    started = start + pd.to_timedelta(plan["wait"], unit="s")
    at_site = pd.Series(np.array(sites.names)[site])
    number = pd.Series(task).astype(str)
    group = pd.Series(np.array(GROUPS)[programs.group[program]])
    return conform(
        pd.DataFrame(
            {
                "job_id": np.arange(1, count + 1).astype(str),
                "task_id": "task-" + number,
                "source": SOURCE,
                "user": np.array(people.names)[user],
                "group": group,
                "project": group + np.where(people.robot[user], "-production", "-physics"),
                "program": np.array(programs.names)[program],
                "job_name": pd.Series(np.array(programs.kinds)[program]) + "-" + number,
                "queue": np.array(["short", "medium", "long"])[
                    np.searchsorted([7200.0, 43200.0], asked)
                ],
                "site": at_site,
                "host": (at_site + "-n" + pd.Series(plan["host"]).astype(str).str.zfill(3)).mask(
                    never
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
                "ended_at": (started + pd.to_timedelta(np.where(never, 0, ran), unit="s")).astype(
                    TIME_TYPE
                ),
                "status": status,
                "cores": cores * told,
                "walltime": ran * told,
                "cpu_time": np.round(
                    ran * cores * programs.efficiency[program] * rng.uniform(0.97, 1.0, count)
                )
                * told,
                "peak_memory": np.round(np.minimum(memory * (0.6 + 0.4 * done), asked_memory))
                * told,
                "read_bytes": np.round(moved) * told,
                "written_bytes": np.round(
                    programs.written[program] * ran * rng.lognormal(0, 0.2, count)
                )
                * told,
            }
        )
    )


def _asked_walltime(people: Users, user: Array, believed: Array) -> Array:
    """What each user asks for: the next round number above what they believe times their caution, or always the same."""
    cautious = believed * people.request_factor[user]
    asked = WALLTIMES[np.minimum(np.searchsorted(WALLTIMES, cautious), len(WALLTIMES) - 1)]
    return np.asarray(
        np.where(people.default_walltime[user] > 0, people.default_walltime[user], asked)
    )


def _stop(
    rng: np.random.Generator,
    planned: Array,
    asked: Array,
    failing: Array,
    may_be_cancelled: Array,
    too_much_memory: Array,
) -> tuple[Array, Array]:
    """How each job ends, and after how many whole seconds: by what stops it first, at the latest by its limit."""
    count = len(planned)
    status = np.full(count, "completed", dtype=object)
    ran = planned.copy()
    for state, happens, part in (
        ("failed", rng.random(count) < failing, rng.beta(0.6, 1.2, count)),
        ("cancelled", may_be_cancelled & (rng.random(count) < 0.8), rng.random(count)),
        ("out_of_memory", too_much_memory, rng.uniform(0.2, 0.9, count)),
    ):
        first = happens & (planned * part < ran)
        status[first] = state
        ran = np.where(first, planned * part, ran)
    ran = np.maximum(1, np.round(ran))
    status[ran > asked] = "timeout"
    return status, np.minimum(ran, asked)


def _work(
    grid: Grid,
    people: Users,
    tasks: dict[str, Array],
    plan: dict[str, Array],
    events: Array,
    input_bytes: Array,
    rng: np.random.Generator,
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
    exact = np.where(
        grid.programs.law[program] == LAWS.index("modes"),
        typical * people.modes[user, program, mode],
        expected,
    )
    width = np.array([0.03, 0.1, 0.01, 0.003, 0.6])[grid.programs.law[program]]
    heavy = grid.programs.law[program] == LAWS.index("heavy")
    return expected, exact * np.exp(width * noise) * np.where(heavy, tail, 1.0)
