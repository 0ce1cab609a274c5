"""The command of a trial: a site's own log, judged on one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from commands.inputs import Json, note_page, page_path, read_log_file, reads_log
from commands.meanings import counted
from commands.progress import usual_seconds
from commands.tables import print_note, progress_bar, show_rows
from infra.errors import InputError
from infra.settings import prepare_environment

if TYPE_CHECKING:
    import pandas as pd

    from jobs.ingest import ReadArguments
    from scheduling.machine import Machine

COLUMNS = ("what", "claimed", "realised", "unit", "low", "high", "interval_of", "reason")


@reads_log
def trial(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE…", help="Accounting files of the site."),
    ] = None,
    collect: Annotated[
        Literal["slurm", "condor", "pbs", "panda"] | None,
        typer.Option(help="Ask the batch system instead of reading files."),
    ] = None,
    where: Annotated[
        str,
        typer.Option(help="With --collect: a cluster, a schedd, a folder or a database's URL."),
    ] = "",
    days: Annotated[
        float | None,
        typer.Option(min=1, help="Only the jobs of the last so many days; with --collect 90."),
    ] = None,
    risk: Annotated[
        float,
        typer.Option(min=0.001, max=0.2, help="The share of jobs that a time limit may kill."),
    ] = 0.01,
    machine: Annotated[
        str | None,
        typer.Option(
            help="Processors, or a TOML or JSON file of pools; default: what the log implies."
        ),
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option(
            help="Go on with live jobs for so long, such as 7d; gridcast up must run. "
            "Nothing of the batch system is changed."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The HTML page; default: a file in the data folder's reports."
        ),
    ] = None,
    as_json: Json = False,
    *,
    arguments: ReadArguments,
) -> None:
    """Judge on a site's own log what Gridcast would save.

    Reads accounting files or a batch system, backtests them, and writes one HTML page.
    """
    from scheduling.machine import MachineError, find_machine
    from scheduling.trace import TraceError
    from trial.page import write_page
    from trial.results import rows_of
    from trial.study import run_trial

    if shadow is not None:
        _begin_shadow(shadow, collect, where, risk, output, as_json)
        return
    prepare_environment()
    if bool(files) == bool(collect):
        end = ", not both" if files else ""
        raise InputError(f"give a trial accounting files, or --collect and a batch system{end}")
    name = collect or ", ".join(file.name for file in files or ())
    page = page_path(output, f"trial-{name}")
    jobs = _collected(collect, where, days or 90.0) if collect else _read(files or [], arguments)
    if days and len(jobs):
        jobs = jobs[jobs["submitted_at"] > jobs["submitted_at"].max() - _days(days)]
    try:
        log = files[0] if files and len(files) == 1 else None
        replayed_on: Machine | None = find_machine(machine, log, jobs)
    except (MachineError, TraceError) as error:
        if machine is not None:
            raise
        print_note(f"waits are not replayed: {error}")
        replayed_on = None
    with progress_bar("reading", usual_seconds("trial", len(jobs))) as report:
        done = run_trial(jobs, replayed_on, name, risk, report)
    title = f"A trial of {name}: {counted(len(done.jobs), 'job')}, claimed and realised"
    meaning = (
        "Claimed from the first 70 % of the jobs, realised by the last 30 %; the page says how "
        "each figure was found."
    )
    show_rows(list(rows_of(done)), as_json, title, COLUMNS, meaning)
    try:
        note_page(write_page(done, page))
    except OSError as error:
        raise InputError(f"{page} cannot be written: {error.strerror or error}") from None


def _begin_shadow(
    length: str,
    system: str | None,
    where: str,
    risk: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """Begin a trial on live jobs, which the deployment of the flow ``shadow`` carries on.

    Args:
        length: How long, such as 7d.
        system: The batch system.
        where: Which of several.
        risk: The share of jobs that a time limit may kill.
        output: The page.
        as_json: Print JSON.
    """
    from jobs.collectors import named_systems
    from trial.shadow import parse_length, start

    settings = prepare_environment()
    if system is None:
        raise InputError("--shadow follows a batch system: say which by --collect")
    named = dict(named_systems(settings.collect.get_secret_value()))
    page = page_path(output, f"trial-{system}-live")
    began = start(
        settings, system, where or named.get(system, ""), parse_length(length), page, risk
    )
    row = {"system": began.system, "where": began.where, "until": began.until, "page": began.page}
    show_rows([row], as_json, "A trial on live jobs")
    print_note(
        "gridcast up must be running: its schedules collect and predict every ten minutes and "
        "write the page each night"
    )


def _read(files: list[Path], arguments: ReadArguments) -> pd.DataFrame:
    """The jobs of all files; one that several hold counts once, as the last file has it."""
    import pandas as pd

    for file in files:
        if not file.exists():
            raise InputError(f"there is no file {file}")
    jobs = pd.concat([read_log_file(file, arguments) for file in files], ignore_index=True)
    return jobs.drop_duplicates(["source", "job_id"], keep="last") if len(files) > 1 else jobs


def _collected(system: str, where: str, days: float) -> pd.DataFrame:
    """Store what the system accounted in the last days, and read all its jobs of these days."""
    from datetime import UTC, datetime

    from commands.inputs import store
    from jobs.collectors import collect, named_systems
    from jobs.store import read_jobs

    engine, since = store(), datetime.now(UTC) - _days(days)
    settings = dict(named_systems(prepare_environment().collect.get_secret_value()))
    with progress_bar(f"asking {system}") as report:
        done = collect(
            engine,
            system,
            where or settings.get(system, ""),
            since=since,
            progress=lambda result: report(f"{system}: {counted(result.read, 'record')}"),
        )
    jobs = read_jobs(engine, sources=sorted(done.sources), since=since) if done.sources else None
    if jobs is None or jobs.empty:
        raise InputError(f"{system} accounted no jobs in the last {days:g} days")
    return jobs


def _days(days: float) -> pd.Timedelta:
    import pandas as pd

    return pd.Timedelta(days=days)
