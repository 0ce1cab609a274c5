"""Commands about job records: read them, count them, see what was refused, generate some."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commands.inputs import Json, LogFormat, MapFile, Mapping, Timezone, load_jobs, store
from commands.tables import print_error, progress_bar, show_rows, to_records
from infra.errors import InputError


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
    """Read job logs into the store; reading one again changes nothing."""
    from jobs.ingest import IngestResult, ingest_files, read_arguments

    how = read_arguments(log_format, mapping, map_file, timezone)
    with progress_bar("reading") as report:

        def tell(done: IngestResult) -> None:
            report(f"{done.file.name}: {done.read:,} records")

        results = ingest_files(store(), files, source=source, progress=tell, **how)
    rows = [one.row() for one in results]
    named = (
        rows
        if as_json
        else [
            row | {"file": Path(row["file"]).name, "notes": _first_notes(row["notes"])}
            for row in rows
        ]
    )
    show_rows(
        named,
        as_json,
        "IngestResult",
        ("file", "format", "read", "added", "updated", "unchanged", "rejected", "notes"),
    )
    for row in rows:
        if row["error"]:
            print_error(row["error"])
    if any(row["error"] for row in rows):
        raise typer.Exit(InputError.exit_code)


def _first_notes(notes: dict[str, int], most: int = 2) -> str:
    told = [f"{count:,} × {note}" for note, count in notes.items()]
    return "; ".join(told[:most]) + (
        f"; and {len(told) - most} more (--json)" if len(told) > most else ""
    )


def rejects(
    file: Annotated[Path | None, typer.Option(help="Only those of this file.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, by file and line.")] = 100,
    as_json: Json = False,
) -> None:
    """Show the records that were refused, with file, line and reason."""
    from jobs.store import read_rejects

    show_rows(
        to_records(read_rejects(store(), file=file, limit=limit)), as_json, "Rejected records"
    )


def jobs_command(as_json: Json = False) -> None:
    """Count what is stored, a row a source."""
    from jobs.store import count_jobs

    show_rows(to_records(count_jobs(store())), as_json, "Stored jobs")


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
    """Say what PanDA's scouts would have learned of each task, by its formulas: MB a core, HS06·s an event, kB/s a core."""
    from jobs.ingest import read_arguments
    from models.tasks.scouting import scout_tasks

    rows = scout_tasks(load_jobs(log, read_arguments(log_format, mapping, map_file, timezone)))
    show_rows(rows, as_json, f"{len(rows):,} tasks as PanDA's scouts would have them")


def generate(
    file: Annotated[
        Path, typer.Argument(help="Where to write: .csv, .parquet or .swf, with .gz if wished.")
    ],
    jobs: Annotated[int, typer.Option(min=1)] = 20_000,
    days: Annotated[float, typer.Option(min=0.01)] = 30,
    seed: int = 0,
    change: Annotated[
        list[str] | None,
        typer.Option(help="Plant a change as KIND@DAY, for instance slow_program@20; repeat."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a log of generated jobs, with changes planted on request; the same seed gives the same log."""
    from jobs.workload import generate as make
    from jobs.workload import read_change
    from jobs.writers import write_jobs

    made = make(
        jobs=jobs, days=days, seed=seed, changes=[read_change(text) for text in change or []]
    )
    write_jobs(made.jobs, file)
    rows = [
        {
            "file": str(file),
            "jobs": len(made.jobs),
            "source": "generated",
            "seed": seed,
            "planted": ", ".join(change or []) or None,
        }
    ]
    show_rows(rows, as_json, "Generated jobs")
