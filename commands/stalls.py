"""The command that judges how slow hosts and held-up tasks of workflows are detected."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands import meanings
from commands.evaluation import WarmUp
from commands.inputs import Json, read_log_file, reads_log
from commands.tables import progress_bar, show_rows
from infra.errors import InputError

if TYPE_CHECKING:
    from jobs.ingest import ReadArguments


@reads_log
def evaluate_stalls(
    file: Annotated[Path, typer.Argument(help="A table of workflow tasks with labelled faults.")],
    warm_up: WarmUp = 0.2,
    machine: Annotated[
        str,
        typer.Option(
            help="Regular expression on a host's name whose first group is its machine: hosts of "
            "one machine share its disk."
        ),
    ] = r"^(.+?)-container-",
    hosts: Annotated[
        bool, typer.Option("--hosts", help="List the slow hosts of each run instead.")
    ] = False,
    as_json: Json = False,
    *,
    arguments: ReadArguments,
) -> None:
    """Judge how slow hosts of workflows are detected.

    Every run is judged as of moments of its duration, by earlier runs and what had happened by
    then; the warm-up's runs are taken to be without faulty hosts.
    """
    from models.tasks.workflow_backtest import judge, main_rows
    from models.tasks.workflow_ends import score_ends
    from models.tasks.workflow_log import workflow_log

    try:
        if not re.compile(machine).groups:
            raise InputError("--machine needs a group in parentheses")
    except re.error as error:
        raise InputError(f"--machine is no regular expression: {error}") from None
    log = workflow_log(read_log_file(file, arguments, "workflow task"), machine)
    if len(log.runs) < 2:
        raise InputError(f"{file} has {len(log.runs)} runs: at least two are needed")
    with progress_bar("judging every run") as report:
        rows, calls = judge(log, warm_up, report)
        ends = [] if hosts else score_ends(log, warm_up, report)
    if hosts:
        show_rows(calls, as_json, f"Slow hosts of {file.name}, as of the end of each run")
        return
    main, details = main_rows(rows)
    if as_json:
        show_rows([*main, *details, *ends], as_json)
        return
    show_rows(main, False, f"Faults of {file.name}", meaning=meanings.of_faults(main))
    show_rows(details, False, "By unit and share of the run that had passed")
    show_rows(ends, False, "Predicted ends of the runs, s", meaning=meanings.of_ends(ends))
