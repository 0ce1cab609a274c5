"""Commands of a site: collect accounting records, write a table of predictions, advise users."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from commands import meanings
from commands.inputs import Json, store
from commands.meanings import counted
from commands.tables import print_error, print_note, print_sentence, progress_bar, show_rows
from infra.errors import GridcastError, InputError
from infra.settings import prepare_environment

NameField = Literal["user", "group", "project", "program", "job_name"]


def collect(
    system: Annotated[str, typer.Argument(help="slurm, condor, pbs, panda or folder.")],
    where: Annotated[
        str,
        typer.Argument(
            help="Which one: a cluster, a schedd, a folder or a database's URL; "
            "default: what GRIDCAST_COLLECT names."
        ),
    ] = "",
    since: Annotated[
        datetime | None,
        typer.Option(
            help="From this time (UTC) on; default: where the last one ended, and some hours again."
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Name of the system in the store; default: what its records say."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read what a batch system accounted lately.

    Since the last time it was read; repeating it changes nothing.
    """
    from flows.from_command_line import as_flow_run
    from jobs.collectors import CollectResult, collect, named_systems

    named = dict(named_systems(prepare_environment().collect.get_secret_value()))
    with progress_bar(f"asking {system}") as report:

        def tell(done: CollectResult) -> None:
            report(f"{system} until {done.until:%Y-%m-%d %H:%M}: {counted(done.read, 'record')}")

        begin = since.replace(tzinfo=UTC) if since else None
        done = as_flow_run(
            "collect",
            lambda: collect(
                store(),
                system,
                where or named.get(system, ""),
                since=begin,
                source=source,
                progress=tell,
            ),
            lambda result: (
                f"{system}: {counted(result.read, 'record')} read, {result.added:,} added"
            ),
        )
    show_rows(
        [done.row()],
        as_json,
        "Collected",
        ("system", "read", "added", "updated", "unchanged", "rejected", "until", "notes", "files"),
        meanings.of_ingest([done.row()]),
    )
    for error in done.errors:
        print_error(error)
    if done.errors:
        raise typer.Exit(GridcastError.exit_code)


def table(
    file: Annotated[
        Path | None,
        typer.Argument(help="Where to write; default: tables/predictions.tsv in the data folder."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Whose jobs, where the store has several sources.")
    ] = None,
    every: Annotated[
        float | None, typer.Option(min=1, help="Write again each so many seconds, until Ctrl-C.")
    ] = None,
    days: Annotated[
        float, typer.Option(min=0.01, help="Kinds of job submitted in so many days.")
    ] = 14,
    most: Annotated[
        int, typer.Option(min=1, help="At most so many kinds of job, the commonest.")
    ] = 20_000,
    system: Annotated[
        Literal["nextflow", "snakemake"] | None,
        typer.Option(
            "--for",
            help="Write instead the requests of processes as a configuration of Nextflow, or as "
            "config.yaml of a profile of Snakemake.",
        ),
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="With --for: this user's jobs, where there are some.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write predictions to a local file.

    Of the recent kinds of jobs, for schedulers that must not use a network.
    """
    from services.local_table import WrittenTable, own_predictor, request_policy, write_table
    from services.workflow_config import FILES, write_workflow_config

    settings, engine = prepare_environment(), store()
    target = file or settings.folder("tables") / FILES.get(system, "predictions.tsv")

    notes = [""]

    def write() -> WrittenTable:
        written = write_once()
        if written.note != notes[-1]:
            notes[:] = [written.note]
            print_note(written.note or "requests are written again")
        return written

    def write_once() -> WrittenTable:
        choice: dict[str, Any] = {"source": source, "days": days, "most": most}
        choice["policy"] = request_policy(settings)
        # A client each time: the token may be made, or replaced, while this goes on.
        with own_predictor(settings) as predictor:
            if system:
                return write_workflow_config(engine, predictor, target, system, user=user, **choice)
            return write_table(engine, predictor, target, **choice)

    if every:
        _keep_writing(write, every)
    else:
        row = vars(write())
        columns = ("rows", "jobs", "model_version", "file")
        show_rows([row], as_json, "Written", columns, meanings.of_table(row))


def _keep_writing(write: Callable[[], object], every: float) -> None:
    """Write again and again; an error is printed once, and the last table stays meanwhile."""
    trouble = ""
    while True:
        started, before, trouble = time.monotonic(), trouble, ""
        try:
            write()
        except InputError:
            raise
        except Exception as error:  # whatever it is, the next attempt may succeed
            trouble = str(error) or type(error).__name__
        if trouble != before:
            print_error(trouble) if trouble else print_note("the table is written again")
        time.sleep(max(0.0, every - (time.monotonic() - started)))


def advise(
    name: Annotated[str, typer.Argument(help="A user, a group, a project or a program.")],
    by: Annotated[NameField | None, typer.Option(help="What the name is the name of.")] = None,
    days: Annotated[float, typer.Option(min=0.01, help="The jobs submitted in so many days.")] = 28,
    risk: Annotated[
        float,
        typer.Option(
            min=0.001, max=0.5, help="The share of jobs that may need more than is advised."
        ),
    ] = 0.01,
    timezone: Annotated[
        str, typer.Option(help="Zone in which times are shown, for instance Europe/Zurich.")
    ] = "UTC",
    as_json: Json = False,
) -> None:
    """Advise a user or group what to request.

    By what their jobs requested and used, with range and risk.
    """
    from jobs.readers.units import zone
    from monitoring.advising import advise, sentences
    from services.local_table import own_predictor, prediction_function

    zone(timezone)
    now = datetime.now(UTC)
    with own_predictor(prepare_environment()) as predictor:
        advised = advise(
            store(),
            prediction_function(predictor),
            name,
            now - timedelta(days=days),
            now,
            by=by,
            risk=risk,
        )
    if as_json:
        show_rows(advised.rows, as_json)
    else:
        for sentence in sentences(advised, timezone):
            print_sentence(sentence)
