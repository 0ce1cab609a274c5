"""The runs of generated jobs: work divided by power, until a job completes, fails or is stopped."""

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
    """Run every job on its host, and return the records.

    Args:
        grid: the grid.
        people: its users.
        tasks: the arrays of ``draw_tasks``.
        plan: the arrays of ``draw_jobs``.
        slow: factor on the work of each job.
    """
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

    requested = _requested_walltime(
        people,
        user,
        60 + expected / REFERENCE_POWER / programs.efficiency[program] * tasks["belief"][task],
    )
    typical_memory = programs.memory[program] * cores * people.scale[user, program] ** 0.3
    steps = np.ceil(typical_memory * tasks["memory_factor"][task] / MEMORY_STEP)
    requested_memory = steps * MEMORY_STEP
    memory = typical_memory * rng.lognormal(0, 0.12, count)
    failing = np.where(tasks["buggy"][task], 0.7, programs.failing[program] + sites.failing[site])
    status, ran = _stop(
        rng, planned, requested, failing, tasks["cancelled"][task], memory > requested_memory
    )
    never = (status == "cancelled") & (rng.random(count) < 0.3)  # cancelled while waiting
    done = np.clip(ran / planned, 0.02, 1)
    moved = np.where(
        np.isnan(input_bytes), 1e6 * cores * ran * rng.random(count), input_bytes * done
    )
    if_started = np.where(never, np.nan, 1.0)

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
                    np.searchsorted([7200.0, 43200.0], requested)
                ],
                "site": at_site,
                "host": (at_site + "-n" + pd.Series(plan["host"]).astype(str).str.zfill(3)).mask(
                    never
                ),
                "host_power": power * if_started,
                "requested_walltime": requested,
                "requested_cores": cores,
                "requested_memory": requested_memory,
                "input_bytes": input_bytes,
                "input_files": np.ceil(input_bytes / 2e9),
                "events": events,
                "submitted_at": start.astype(TIME_TYPE),
                "started_at": started.where(~never).astype(TIME_TYPE),
                "ended_at": (started + pd.to_timedelta(np.where(never, 0, ran), unit="s")).astype(
                    TIME_TYPE
                ),
                "status": status,
                "cores": cores * if_started,
                "walltime": ran * if_started,
                "cpu_time": np.round(
                    ran * cores * programs.efficiency[program] * rng.uniform(0.97, 1.0, count)
                )
                * if_started,
                "peak_memory": np.round(np.minimum(memory * (0.6 + 0.4 * done), requested_memory))
                * if_started,
                "read_bytes": np.round(moved) * if_started,
                "written_bytes": np.round(
                    programs.written[program] * ran * rng.lognormal(0, 0.2, count)
                )
                * if_started,
            }
        )
    )


def _requested_walltime(people: Users, user: Array, believed: Array) -> Array:
    """Requested walltimes (s): the usual one above the expected times caution, or a default."""
    cautious = believed * people.request_factor[user]
    usual = WALLTIMES[np.minimum(np.searchsorted(WALLTIMES, cautious), len(WALLTIMES) - 1)]
    default = people.default_walltime[user]
    return np.asarray(np.where(default > 0, default, usual))


def _stop(
    rng: np.random.Generator,
    planned: Array,
    requested: Array,
    failing: Array,
    may_be_cancelled: Array,
    too_much_memory: Array,
) -> tuple[Array, Array]:
    """The status of each job, and its run time in whole seconds: by what stops it first."""
    count = len(planned)
    status = np.full(count, "completed", dtype=object)
    ran = planned.copy()
    for state, happens, share in (
        ("failed", rng.random(count) < failing, rng.beta(0.6, 1.2, count)),
        ("cancelled", may_be_cancelled & (rng.random(count) < 0.8), rng.random(count)),
        ("out_of_memory", too_much_memory, rng.uniform(0.2, 0.9, count)),
    ):
        first = happens & (planned * share < ran)
        status[first] = state
        ran = np.where(first, planned * share, ran)
    ran = np.maximum(1, np.round(ran))
    status[ran > requested] = "timeout"
    return status, np.minimum(ran, requested)


def _work(
    grid: Grid,
    people: Users,
    tasks: dict[str, Array],
    plan: dict[str, Array],
    events: Array,
    input_bytes: Array,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """The work of each job in HEPScore·s, by the law of its program: expected, and actual."""
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
