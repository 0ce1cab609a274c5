"""Commands about what is stored: count it, show what was rejected, export it, drop a source."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from commands import meanings
from commands.inputs import Json, store
from commands.meanings import counted
from commands.tables import is_missing, print_note, progress_bar, show_rows, to_records
from infra.errors import InputError
from infra.settings import prepare_environment

ExportKind = Literal["jobs", "attempts", "transfers", "predictions"]


def jobs_command(
    job: Annotated[
        str | None, typer.Argument(help="Show this job, a row a run: its attempts, then itself.")
    ] = None,
    newest: Annotated[
        bool, typer.Option("--list", help="List the newest jobs instead, a row a job.")
    ] = False,
    source: Annotated[str | None, typer.Option(help="With --list: only of this source.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="With --list: at most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """Count the stored jobs, a row a source.

    With --list, the newest jobs, a row a job. With a job's id, each of its runs.
    """
    from jobs.store import count_jobs

    if job is not None:
        _show_runs(job, as_json)
        return
    if newest:
        _list_newest(source, limit, as_json)
        return
    rows = to_records(count_jobs(store()))
    columns = ("source", "jobs", "ended", "last_submitted_at", "last_ended_at")
    shortened = [row | {name: _minute(row[name]) for name in columns[3:]} for row in rows]
    meaning = meanings.of_stored(rows)
    show_rows(rows if as_json else shortened, as_json, "Stored jobs", columns, meaning)


def _list_newest(source: str | None, limit: int, as_json: bool) -> None:
    """Show the jobs that were submitted last, the newest first."""
    from jobs.store import read_newest

    jobs = read_newest(store(), limit, source)
    if jobs.empty and source:
        raise InputError(f"no source called {source} is stored (gridcast jobs lists them)")
    rows = to_records(jobs)
    if not as_json:
        rows = [
            row | {"submitted": _minute(row["submitted_at"]), "ran": _hours(row["walltime"])}
            for row in rows
        ]
    columns = (
        "job_id",
        "user",
        "program",
        "status",
        "submitted",
        "ran",
        "site",
        "queue",
        "task_id",
    )
    ended = sum(not is_missing(row["ended_at"]) for row in rows)
    meaning = f"The {len(rows)} newest jobs; {ended} of them have ended."
    show_rows(rows, as_json, "Newest jobs", columns, meaning)


def _show_runs(job: str, as_json: bool) -> None:
    """Show the earlier attempts of the jobs of that id and, after them, what is stored of each."""
    from jobs.store import read_attempts, read_jobs

    engine = store()
    jobs = read_jobs(engine, having={"job_id": job})
    if jobs.empty:
        raise InputError(f"no job called {job} is stored (gridcast jobs --list shows the newest)")
    rows: list[dict[str, Any]] = []
    for _, stored in jobs.groupby("source"):
        earlier = to_records(read_attempts(engine, stored))
        rows += [row | {"run": f"attempt {number}"} for number, row in enumerate(earlier, 1)]
        ended = stored["ended_at"].notna().all()
        rows += [row | {"run": "outcome" if ended else "now"} for row in to_records(stored)]
    if not as_json:
        rows = [
            row
            | {"started": _minute(row["started_at"]), "ran": _hours(row["walltime"])}
            | {"requested": _hours(row["requested_walltime"])}
            for row in rows
        ]
    columns = (
        *("source", "run", "status", "started", "ran", "requested"),
        *("requested_memory", "peak_memory", "host"),
    )
    meaning = f"{len(rows) - len(jobs)} earlier attempts; the last run of a job is its outcome."
    show_rows(rows, as_json, f"Job {job}", columns, meaning)


def _minute(moment: Any) -> str | None:
    return None if is_missing(moment) else f"{moment:%Y-%m-%d %H:%M}"


def _hours(seconds: float) -> str | None:
    return None if is_missing(seconds) else meanings.duration(seconds)


def rejects(
    file: Annotated[Path | None, typer.Option(help="Only those of this file.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, by file and line.")] = 100,
    as_json: Json = False,
) -> None:
    """List the rejected records and why."""
    from jobs.store import read_rejects

    rows = to_records(read_rejects(store(), file=file, limit=limit + 1))
    more = "; --limit shows more" if len(rows) > limit else ""
    rows = rows[:limit]
    if not as_json:
        rows = [row | {"file": Path(row["file"]).name} for row in rows]
    reasons = {row["reason"] for row in rows}
    meaning = f"{counted(len(rows), 'record')}, {counted(len(reasons), 'reason')}{more}."
    show_rows(rows, as_json, "Rejected records", ("file", "line", "reason", "raw"), meaning)


def export(
    source: Annotated[
        list[str] | None, typer.Option(help="Only of this source; repeat. Default: all.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(help="Only submitted (predictions: made) from then on, UTC.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(help="Only submitted (predictions: made) before then, UTC.")
    ] = None,
    kind: Annotated[ExportKind, typer.Option(help="What to export.")] = "jobs",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A file that ends in .csv, .csv.gz, .parquet or .jsonl; default: CSV to standard "
            "output.",
        ),
    ] = None,
) -> None:
    """Write stored records to a file.

    A row a record, without holding them in memory. Attempts are the runs of jobs that ran again
    but for the last, which is the job.
    """
    from jobs.export import export_records
    from jobs.store import count_jobs

    engine = store()
    if source and kind in ("jobs", "attempts"):
        stored = count_jobs(engine)["source"].tolist()
        if missing := [name for name in source if name not in stored]:
            raise InputError(
                f"no source called {', '.join(missing)} is stored; there are {', '.join(stored)}"
            )
    period = {
        name: moment.replace(tzinfo=UTC)
        for name, moment in (("since", since), ("until", until))
        if moment
    }
    rows = export_records(engine, kind, output or sys.stdout.buffer, sources=source, **period)
    print_note(f"{rows:,} {kind} written{f' to {output}' if output else ''}")


def drop_source(
    name: Annotated[str, typer.Argument(help="The source (gridcast jobs lists them).")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete all that is stored of a source.

    Its jobs, transfers, predictions and tasks.
    """
    from jobs import store as stored
    from jobs.transfers import TRANSFER

    engine = store()
    counts = stored.count_jobs(engine)
    of_source = counts[counts["source"] == name]
    jobs = int(of_source["jobs"].sum())
    if not jobs and stored.read_jobs(engine, sources=[name], record=TRANSFER).empty:
        names = ", ".join(counts["source"]) or "none"
        reason = f"no source called {name} is stored; there are: {names}"
        stored.audit.record_refusal(prepare_environment().store_url, "drop-source", name, reason)
        raise InputError(reason)
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(
                f"this deletes {counted(jobs, 'job')} of {name} for good: confirm it with --yes"
            )
        typer.confirm(
            f"Delete {counted(jobs, 'job')} of {name}, its predictions and tasks?",
            abort=True,
        )
    with progress_bar(f"dropping {name}"):
        rows = stored.drop_source(engine, name)
    deleted = [{"table": table, "rows": count} for table, count in rows.items()]
    show_rows(deleted, as_json, f"Deleted of {name}", meaning=meanings.of_copies(deleted))
    print_note(
        "a model that was trained on it goes on serving until another replaces it (gridcast train)"
    )
