"""Commands about logs: read them into the store, see what scouts would say, generate one."""

from __future__ import annotations

from collections.abc import Mapping as Counts
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands import meanings
from commands.inputs import Json, LogFormat, MapFile, Mapping, Timezone, load_jobs, store
from commands.meanings import counted
from commands.tables import print_error, print_note, progress_bar, show_rows
from infra.errors import GridcastError, InputError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from jobs.ingest import IngestResult


def ingest(
    files: Annotated[
        list[Path], typer.Argument(help="Log files, or folders of them; .gz is read as it is.")
    ],
    log_format: LogFormat = None,
    source: Annotated[
        str | None,
        typer.Option(help="Name of the log or system; default: what the file says, or its name."),
    ] = None,
    mapping: Mapping = None,
    map_file: MapFile = None,
    timezone: Timezone = "UTC",
    as_json: Json = False,
) -> None:
    """Read job logs into the store.

    Reading one again changes nothing.
    """
    from flows.from_command_line import as_flow_run
    from jobs.ingest import ingest_files, read_arguments

    arguments = read_arguments(log_format, mapping, map_file, timezone)
    with progress_bar("reading") as report:

        def report_file(result: IngestResult) -> None:
            report(f"{result.file.name}: {counted(result.read, 'record')}")

        results = as_flow_run(
            "ingest",
            lambda: ingest_files(store(), files, source=source, progress=report_file, **arguments),
            lambda done: "; ".join(result.describe() for result in done),
        )
    rows = [result.row() for result in results]
    if not as_json:
        rows = [
            row | {"file": Path(row["file"]).name, "notes": _first_notes(row["notes"])}
            for row in rows
        ]
    columns = ("file", "read", "added", "updated", "unchanged", "rejected", "notes")
    show_rows(rows, as_json, "Ingested", columns, meanings.of_ingest(rows))
    errors = [result.error for result in results if result.error]
    empty = [why for result in results if not result.error and (why := why_nothing(result))]
    for sentence in (*errors, *empty):
        print_error(sentence)
    for result in results:
        if result.format == "slurm" and source is None and "slurm" in result.sources:
            print_note(
                f"the source of jobs of {result.file.name} is slurm, as without a column Cluster: "
                "name the cluster by --source, else gridcast collect stores them once more"
            )
    for sentence in without_ends(store(), sum(result.added for result in results)):
        print_note(sentence)
    if errors:
        raise typer.Exit(InputError.exit_code)
    if empty:
        raise typer.Exit(GridcastError.exit_code)


def without_ends(engine: Engine, added: int) -> list[str]:
    """Say of which sources no job has ended, or no run time is told, where jobs were added."""
    from jobs.store import count_jobs

    counts = count_jobs(engine)
    idle = counts[counts["ended"] == 0] if added else counts[:0]
    return [
        f"none of the {counted(jobs, 'job')} of {source} has an end: a model learns from "
        "ended_at with started_at or walltime. A column of another name: --map COLUMN=ended_at; "
        "later ends: read a newer log of them"
        for source, jobs in zip(idle["source"], idle["jobs"], strict=True)
    ]


def why_nothing(result: IngestResult) -> str:
    """Say why nothing of a file is stored, in a sentence; empty where something is."""
    if result.added or result.updated or result.unchanged:
        return ""
    name = result.file.name
    notes = f" ({_first_notes(result.notes)})" if result.notes else ""
    if result.rejected:
        return (
            f"nothing of {name} is stored: all {result.rejected:,} records were rejected{notes}; "
            f"gridcast rejects --file {result.file} lists the reasons"
        )
    return f"nothing of {name} is stored: it has no record of a {result.format} log{notes}"


def _first_notes(notes: Counts[str, int], most: int = 2) -> str:
    texts = [f"{count:,} × {note}" for note, count in notes.items()]
    more = f"; and {len(texts) - most} more (--json)" if len(texts) > most else ""
    return "; ".join(texts[:most]) + more


def scouts(
    log: Annotated[
        str | None,
        typer.Argument(
            help="A log file, or the name of a stored source; default: all that is stored."
        ),
    ] = None,
    log_format: LogFormat = None,
    mapping: Mapping = None,
    map_file: MapFile = None,
    timezone: Timezone = "UTC",
    as_json: Json = False,
) -> None:
    """Compute what PanDA's scout jobs would measure.

    Of each task of a log, by PanDA's formulas.
    """
    from jobs.ingest import read_arguments
    from models.tasks.scouting import scout_tasks

    rows = scout_tasks(load_jobs(log, read_arguments(log_format, mapping, map_file, timezone)))
    title = f"{counted(len(rows), 'task')} as PanDA's scouts would have them"
    columns = (
        *("task_id", "jobs", "cores", "ram_count", "cpu_time", "cpu_time_unit", "walltime"),
        *("cpu_efficiency", "io_intensity"),
    )
    show_rows(rows, as_json, title, columns, meanings.of_scouts(rows))


def generate(
    file: Annotated[
        Path, typer.Argument(help="Where to write: .csv, .parquet or .swf, with .gz if wished.")
    ],
    jobs: Annotated[int, typer.Option(min=1, help="How many jobs.")] = 20_000,
    days: Annotated[float, typer.Option(min=0.01, help="Over how many days.")] = 30,
    seed: Annotated[int, typer.Option(help="The same seed gives the same jobs.")] = 0,
    change: Annotated[
        list[str] | None,
        typer.Option(help="Plant a change as KIND@DAY, for instance slow_program@20; repeat."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="Plant a label that multiplies the work, as NAME=VALUESxFACTOR or "
            "NAME=numberxFACTOR, for instance release=4x3; repeat."
        ),
    ] = None,
    gpus: Annotated[
        bool, typer.Option("--gpus", help="Some programs use GPUs, and energy is measured.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a log of generated jobs.

    With planted changes and labels on request; reproducible by its seed.
    """
    from jobs.workload import generate as make
    from jobs.workload import read_change, read_planted_label
    from jobs.writers import write_jobs

    generated = make(
        jobs=jobs,
        days=days,
        seed=seed,
        changes=[read_change(text) for text in change or []],
        labels=[read_planted_label(text) for text in label or []],
        gpus=gpus,
    )
    write_jobs(generated.jobs, file)
    rows = [
        {
            "file": str(file),
            "jobs": len(generated.jobs),
            "source": "generated",
            "seed": seed,
            "planted": ", ".join([*(change or []), *(label or [])]) or None,
        }
    ]
    meaning = f"The same seed, {seed}, gives the same jobs again."
    show_rows(rows, as_json, "Generated jobs", ("file", "jobs", "planted"), meaning)
