"""Commands for planning: sharing a centre, and dividing work over loaded hosts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from commands import meanings
from commands.inputs import Json, load_jobs, reads_log
from commands.tables import progress_bar, show_rows
from infra.errors import InputError
from infra.settings import prepare_environment

if TYPE_CHECKING:
    from jobs.ingest import ReadArguments

COLUMNS = (
    "group",
    "scenario",
    "mean_wait",
    "p95_wait",
    "mean_bounded_slowdown",
    "jobs",
    "core_hours",
)


@reads_log
def what_if(
    log: Annotated[str, typer.Argument(help="A log file, or the name of a stored source.")],
    by: Annotated[
        str, typer.Option(help="The field whose values share the centre: group, user, queue …")
    ] = "group",
    cores: Annotated[
        int | None,
        typer.Option(
            min=1, help="Cores of the centre; default: the log's header, else the most in use."
        ),
    ] = None,
    as_json: Json = False,
    *,
    arguments: ReadArguments,
) -> None:
    """Simulate a centre shared in other ways.

    Separate pools, one pool, quotas and fair shares; the waits of each group.
    """
    from scheduling.machine import find_machine
    from scheduling.studies.comparison import by_group
    from scheduling.studies.what_if import what_if as replay_scenarios

    prepare_environment()
    jobs = load_jobs(log, arguments)
    file = Path(log) if Path(log).exists() else None
    if cores is None:
        cores = find_machine(None, file, jobs).processors
    with progress_bar("replaying") as report:
        replays = replay_scenarios(jobs, cores, by, report)
    rows = by_group(replays, by)
    count = len(next(iter(replays.values())).trace)
    title = f"{Path(log).name} on {cores:,} cores shared by {by}: {meanings.counted(count, 'job')}"
    meaning = meanings.of_what_if(rows)
    table_rows = rows if as_json else meanings.in_words(rows, ["mean_wait", "p95_wait"])
    show_rows(table_rows, as_json, title, COLUMNS, meaning)


def balance(
    loads: Annotated[
        Path, typer.Argument(help="A CSV (or .csv.gz) of loads: a column a host, a row a step.")
    ],
    work: Annotated[
        float, typer.Option(min=1e-6, help="Seconds that the work takes on one idle host.")
    ] = 3600.0,
    host: Annotated[
        list[str] | None, typer.Option(help="Only this host; repeat. Default: all columns.")
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="one-step, mean-interval, conservative, history-mean or history-conservative."
        ),
    ] = "conservative",
    tuning: Annotated[
        float, typer.Option(min=0, help="Standard deviations added by the conservative policies.")
    ] = 1.0,
    step: Annotated[float, typer.Option(min=1e-6, help="Seconds between two rows.")] = 300.0,
    unit: Annotated[
        Literal["percent", "share"], typer.Option(help="What the loads are.")
    ] = "percent",
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Divide at past steps by every policy, and compare when all is done."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Divide work over loaded hosts.

    So that all end together, by forecasts of their loads.
    """
    from scheduling.studies.time_balancing import compare_policies, divide_by_host, read_loads

    table = read_loads(loads, host, 0.01 if unit == "percent" else 1.0)
    if compare:
        rows = compare_policies(table, work, step, tuning)
        title = (
            f"{work:,.0f} s of work over {table.shape[1]} hosts of {loads.name}, "
            f"divided at {rows[0]['divisions']} steps; seconds until all is done"
        )
    else:
        rows = divide_by_host(table, work, policy, step, tuning)
        title = f"{work:,.0f} s of work over {table.shape[1]} hosts of {loads.name} by {policy}"
    if not rows:
        raise InputError(f"{loads.name} has no hosts")
    describe = meanings.of_policies if compare else meanings.of_balance
    columns = tuple(name for name in rows[0] if name != "meaning")
    show_rows(rows, as_json, title, columns, describe(rows))
