"""Commands that run a log, or a generated grid, again under other scheduling policies."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands import meanings
from commands.inputs import Json, Page, load_jobs, note_page, page_path, reads_log, store
from commands.meanings import counted
from commands.progress import usual_seconds
from commands.tables import print_note, progress_bar, show_rows
from infra.errors import InputError
from infra.settings import prepare_environment

if TYPE_CHECKING:
    from jobs.ingest import ReadArguments


BROKER_COLUMNS = (
    "policy", "tuning", "mean_done", "p95_done", "mean_ratio", "mean_wait", "mean_run",
    "mean_move", "p95_ratio", "jobs",
)  # fmt: skip

BROKER_TIMES = ("mean_done_s", "p95_done_s", "mean_wait_s", "mean_run_s", "mean_move_s")

REPLAY_TIMES = ("mean_wait", "median_wait", "p95_wait", "p99_wait", "max_wait")

REPLAY_LEGEND = (
    "policy: the order of the queue; predictor: whose run times the policy plans with, request "
    "being what users asked for; corrector: the new estimate of a job that outlives its "
    "prediction; slowdown: (wait + run) / run, where runs below 10 s count as 10 s; ratio: of the "
    "mean bounded slowdown to the first row's; recorded: as the jobs waited in the log itself."
)

PILOT_COLUMNS = (
    "slot_hours", "rule", "core_hours", "killed_share", "lost_share", "idle_share", "mean_wait",
    "jobs_completed",
)  # fmt: skip


@reads_log
def replay(
    log: Annotated[
        str | None, typer.Argument(help="A log file, or the name of a stored source.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="The order of the queue: fcfs (first come, first served), easy (the same with "
            "backfilling), easy-sjbf, xfactor, gridcast …; repeat. Default: easy, gridcast."
        ),
    ] = None,
    predictor: Annotated[
        list[str] | None,
        typer.Option(
            help="Whose run times the policy plans with: request (what users asked for), perfect "
            "(the true ones), last-two, template, gridcast …; repeat. Default: request, gridcast."
        ),
    ] = None,
    corrector: Annotated[
        list[str] | None,
        typer.Option(
            help="The new estimate of a job that outlives its prediction: request, incremental or "
            "remaining; repeat. Default: request."
        ),
    ] = None,
    bound: Annotated[
        float | None,
        typer.Option(
            help="Hours of waiting after which a job is served first; inf for never. "
            "Default: the policy's."
        ),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(
            help="Processors, or a TOML or JSON file of pools; default: the log's header, "
            "else the most cores its jobs held at once."
        ),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(
            help="Predict with this version of the model, trained on jobs that ended "
            "before the log begins."
        ),
    ] = None,
    day: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="The day drawn as a Gantt chart; default: the busiest."
        ),
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", hidden=True)] = False,
    html: Page = None,
    as_json: Json = False,
    *,
    arguments: ReadArguments,
) -> None:
    """Simulate a log under scheduling policies.

    Compares waits and slowdowns by policy and predictor. Writes an HTML page; logged to MLflow.
    """
    from infra.dask_workers import Workers
    from jobs.partitions import logs_of
    from scheduling.machine import find_machine
    from scheduling.studies.benefit import (
        COLUMNS,
        HOUR,
        ReplayTask,
        combinations,
        record_replays,
        replay_each,
        replay_side_by_side,
        trained_version,
    )
    from scheduling.studies.comparison import compare_with_first
    from scheduling.studies.report import report as write_page

    if grid:
        raise InputError("a generated grid has its own command: gridcast replay-grid")
    if log is None:
        raise InputError("give a log to replay: a file, or the name of a stored source")
    settings = prepare_environment()
    chosen = combinations(policy, predictor, corrector, None if bound is None else bound * HOUR)
    file = Path(log) if Path(log).exists() else None
    jobs = load_jobs(log, arguments)
    expected = usual_seconds("replay", len(jobs) * len(chosen))
    with Workers(settings.dask) as workers, progress_bar("replaying", expected) as report:
        learned = None if version is None else trained_version(version, jobs, store(), settings)
        pools = find_machine(machine, file, jobs)
        if workers.local == 1 or len(chosen) < 2:
            replays = replay_each(jobs, pools, chosen, report, learned)
        else:
            (partition,) = logs_of([log], arguments)
            tasks = [ReplayTask(partition, pools, way, version) for way in chosen]
            replays = replay_side_by_side(jobs, tasks, workers, report)
    rows = compare_with_first(replays)
    name = Path(log).name
    first = replays[0]
    title = (
        f"Replay of {name}, {counted(len(first.trace), 'job')} on "
        f"{counted(first.machine.processors, 'processor')}"
    )
    meaning = meanings.of_replay(rows)
    table_rows = rows if as_json else meanings.in_words(rows, REPLAY_TIMES)
    show_rows(table_rows, as_json, title, COLUMNS, f"{meaning}\n{_replay_legend(rows)}")
    page = page_path(html, f"replay-{name}")
    note_page(write_page(replays, page, day, meaning))
    print_note(f"logged to MLflow as run {record_replays(replays, name, settings, learned)}")


def _replay_legend(rows: meanings.Rows) -> str:
    """What the columns are, and each policy of the table."""
    from scheduling.policies import POLICIES

    names = dict.fromkeys(row["policy"] for row in rows if row["policy"] in POLICIES)
    return "\n".join([REPLAY_LEGEND, *(f"{name}: {POLICIES[name].meaning}." for name in names)])


def replay_grid(
    jobs: Annotated[int, typer.Option(min=1, help="Jobs submitted in five days.")] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another grid.")] = 1,
    tuning: Annotated[
        list[float] | None,
        typer.Option(help="A tuning factor of the conservative ranking; repeat."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Simulate a generated grid under several brokers.

    20 sites; compares when jobs are done.
    """
    from jobs.workload.grid import generate_grid
    from scheduling.brokering.benefit import TUNINGS, compare

    prepare_environment()
    grid = generate_grid(jobs, seed=seed)
    tunings = TUNINGS if tuning is None else (0.0, *tuning)
    with progress_bar("replaying the grid") as report:
        rows = compare(grid, tunings, seed, report)
    title = (
        f"A generated grid: {len(grid.sites)} sites, "
        f"{counted(rows[0]['jobs'], 'job')} sent by each broker"
    )
    meaning = meanings.of_brokers(rows)
    table_rows = rows if as_json else meanings.in_words(rows, BROKER_TIMES)
    show_rows(table_rows, as_json, title, BROKER_COLUMNS, meaning)


@reads_log
def replay_pilots(
    log: Annotated[str, typer.Argument(help="A log file, or the name of a stored source.")],
    slot_hours: Annotated[
        list[float] | None,
        typer.Option(min=0.1, help="Hours of a pilot's slot; repeat. Default: 24, 48, 72."),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(help="static, quantile or gridcast; repeat. Default: all."),
    ] = None,
    supply: Annotated[
        float,
        typer.Option(
            min=0.01, help="What the pilots offer, as a share of what the log's jobs used."
        ),
    ] = 0.9,
    cores: Annotated[int, typer.Option(min=1, max=1024, help="Cores of a pilot.")] = 8,
    as_json: Json = False,
    *,
    arguments: ReadArguments,
) -> None:
    """Simulate a log on pilots of limited time.

    Compares the core hours of jobs that end in a slot, and the jobs that it kills, by the rule that
    decides which waiting job a pilot starts.
    """
    from scheduling.machine import processors
    from scheduling.pilots.replay import RULES, Pilots, check_rule, replay_pilots
    from scheduling.trace import trace_of

    prepare_environment()
    rules = rule or list(RULES)
    for name in rules:
        check_rule(name)
    jobs = load_jobs(log, arguments)
    trace = trace_of(jobs, processors(cores))
    hours, rows = slot_hours or [24.0, 48.0, 72.0], list[dict[str, Any]]()
    runs = [(slot, name) for slot in hours for name in rules]
    with progress_bar("replaying on pilots") as report:
        for number, (slot, name) in enumerate(runs):
            pilots = Pilots(slot * 3600.0, supply, cores)

            def tell(share: float, number: int = number, name: str = name) -> None:
                report(f"{name}, {number + 1} of {len(runs)}", (number + share) / len(runs))

            rows.append(replay_pilots(trace, pilots, name, tell))
    title = (
        f"{Path(log).name}, {counted(len(trace), 'job')} on "
        f"{counted(rows[0]['pilots'], 'pilot')} of "
        f"{counted(cores, 'core')}, {supply:.0%} of the demand"
    )
    meaning = meanings.of_pilots(rows)
    if not as_json:
        rows = meanings.in_words(rows, ["mean_wait_s"])
    show_rows(rows, as_json, title, PILOT_COLUMNS, meaning)
