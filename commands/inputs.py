"""What commands are given: their common options, the store, and the jobs of a log."""

from __future__ import annotations

from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from commands.tables import err, progress_bar
from infra.errors import InputError
from infra.settings import prepare_environment

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy import Engine

    from jobs.ingest import ReadArguments

Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help='Print one object {"rows": [{…}]} to standard output, and nothing else there.',
    ),
]
LogFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="swf, slurm, condor, pbs, panda, nextflow, gridftp, fts, rucio or table; default: seen from the file.",
    ),
]
Mapping = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        help="A table's column as COLUMN=FIELD[:UNIT], for instance run=walltime:s; repeat.",
    ),
]
MapFile = Annotated[Path | None, typer.Option(help="The column map in a TOML file.")]
Timezone = Annotated[
    str, typer.Option(help="Zone of times that carry none, for instance Europe/Paris.")
]
Kind = Literal["job", "transfer"]
ClusterBy = Literal["group", "site", "queue", "program", "kmeans", "none"]
Source = Annotated[
    str | None,
    typer.Option(help="Only this source (a log or system); default: all that is stored."),
]


def store() -> Engine:
    """The store of this data folder."""
    from jobs.store import open_store

    return open_store(prepare_environment().store_url)


def current_user() -> str:
    """Who types, as it is kept with what they decide."""
    return f"{getuser()} by gridcast"


def read_log_file(file: Path, how: ReadArguments, kind: Kind = "job") -> pd.DataFrame:
    """The jobs (or transfers) of a log file; says how many of its records were rejected."""
    from jobs.ingest import read_log
    from jobs.readers.columns import RECORDS

    record = next(record for record in RECORDS if record.name == kind)
    with progress_bar(f"reading {file.name}") as report:
        jobs, read = read_log(
            file, progress=lambda done: report(f"{done.read:,} records"), record=record, **how
        )
    if read.rejected:
        err.print(
            f"{read.rejected:,} of {read.read:,} records of {file.name} were rejected; gridcast ingest keeps them with their reasons"
        )
    return jobs


def load_jobs(log: str | None, how: ReadArguments, kind: Kind = "job") -> pd.DataFrame:
    """The jobs (or transfers) of a log file, or of a stored source of that name, or all that is stored; InputError when there are none."""
    if log and Path(log).exists():
        return read_log_file(Path(log), how, kind)
    from jobs.readers.columns import RECORDS
    from jobs.store import read_jobs

    record = next(record for record in RECORDS if record.name == kind)
    jobs = read_jobs(store(), sources=[log] if log else None, record=record)
    if jobs.empty:
        raise InputError(
            f"there is no file and no stored source called {log}"
            if log
            else "nothing is stored: gridcast ingest FILE"
        )
    return jobs
