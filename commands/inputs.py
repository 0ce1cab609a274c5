"""Inputs of commands: the options that several have, the store, and the jobs of a log."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from commands.meanings import counted
from commands.tables import layout, print_note, progress_bar
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
Wide = Annotated[
    bool, typer.Option("--wide", help="Show all columns of the table, however wide it gets.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="A file that ends in .csv, .csv.gz, .parquet or .jsonl.",
    ),
]
Page = Annotated[
    Path | None,
    typer.Option(
        "--html",
        help="Where the page with charts goes; default: a file in the data folder's reports.",
    ),
]
LogName = Annotated[
    str | None,
    typer.Argument(
        metavar="LOG",
        help="A log file, or the name of a stored source; default: all that is stored.",
    ),
]
LogNames = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[LOG]...",
        help="Log files, or names of stored sources; default: all that is stored. Several are "
        "done side by side (GRIDCAST_DASK).",
    ),
]
LogFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="swf, slurm, condor, pbs, panda, nextflow, gridftp, fts, rucio or table; "
        "default: recognised from the file.",
    ),
]
Mapping = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        help="A table's column as COLUMN=FIELD[:UNIT], for instance run=walltime:s, or as "
        "COLUMN=label:NAME[:number] for a fact of your own; repeat.",
    ),
]
MapFile = Annotated[Path | None, typer.Option(help="The column map in a TOML file.")]
Timezone = Annotated[
    str, typer.Option(help="Zone of times that carry none, for instance Europe/Paris.")
]
Kind = Literal["job", "transfer", "workflow task"]
ClusterBy = Literal["group", "site", "queue", "program", "kmeans", "none"]
Source = Annotated[
    str | None,
    typer.Option(help="Only this source (a log or system); default: all that is stored."),
]
READING: dict[str, tuple[Any, Any]] = {
    "log_format": (LogFormat, None),
    "mapping": (Mapping, None),
    "map_file": (MapFile, None),
    "timezone": (Timezone, "UTC"),
}
"""The options by which a log is read: their types and defaults."""


def reads_log(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of READING, which it gets together as ``arguments``."""

    def call(values: dict[str, Any]) -> None:
        from jobs.ingest import read_arguments

        reading = [values.pop(name) for name in READING]
        command(**values, arguments=read_arguments(*reading))

    return _with_options(command, READING, call, without="arguments")


def prints_table(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that prints a table (it has ``as_json``) the option ``--wide``."""
    if "as_json" not in inspect.signature(command).parameters:
        return command

    def call(values: dict[str, Any]) -> None:
        layout.wide = values.pop("wide")
        command(**values)

    return _with_options(command, {"wide": (Wide, False)}, call)


def _with_options(
    command: Callable[..., None],
    options: dict[str, tuple[Any, Any]],
    call: Callable[[dict[str, Any]], None],
    without: str = "",
) -> Callable[..., None]:
    """The command with further options, which stand before ``--json``.

    Args:
        command: The command.
        options: The types and defaults of the options, by name.
        call: Called with the values of all options; it calls the command.
        without: A parameter of the command that is no option.
    """
    # The module of a command imports ReadArguments for type checking only.
    hints = get_type_hints(command, localns={"ReadArguments": object}, include_extras=True)
    hints.pop(without, None)
    parameters = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != without
    ]
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    added = [
        inspect.Parameter(name, positional, default=default, annotation=kind)
        for name, (kind, default) in options.items()
    ]
    is_json = bool(parameters) and parameters[-1].name == "as_json"
    at = len(parameters) - is_json

    def run(**values: Any) -> None:
        call(values)

    wrapper: Any = functools.wraps(command)(run)
    wrapper.__annotations__ = hints | {name: kind for name, (kind, _) in options.items()}
    wrapper.__signature__ = inspect.Signature([*parameters[:at], *added, *parameters[at:]])
    del wrapper.__wrapped__
    decorated: Callable[..., None] = wrapper
    return decorated


def page_path(page: Path | None, name: str) -> Path:
    """Where a page with charts goes: where a person said, or into the folder of reports.

    Raises:
        InputError: There is a folder of that name, or no file can be written there.
    """
    if page is not None:
        return _writable(page.absolute())
    name = re.sub(r"[^\w.+=@-]+", "-", name)
    return prepare_environment().folder("reports") / f"{name}.html"


def _writable(page: Path) -> Path:
    """The path itself; its folder is made, and a file is opened there to see whether it may be."""
    if page.is_dir():
        raise InputError(f"{page} is a folder: name a file in it, such as {page / 'page.html'}")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        is_new = not page.exists()
        page.open("ab").close()
        if is_new:
            page.unlink()
    except OSError as error:
        raise InputError(f"{page} cannot be written: {error.strerror or error}") from None
    return page


def note_page(path: Path | str) -> None:
    """Say where a page with charts is, in a line that is not folded."""
    print_note(f"page with charts: {path}")


def store() -> Engine:
    """Open the store of this data folder."""
    from jobs.store import open_store

    return open_store(prepare_environment().store_url)


def current_user() -> str:
    """Name the person at the terminal, as decisions are signed."""
    return f"{getuser()} by gridcast"


def read_log_file(file: Path, arguments: ReadArguments, kind: Kind = "job") -> pd.DataFrame:
    """Read the jobs (or transfers) of a log file; notes how many records were rejected."""
    from jobs.ingest import read_log
    from jobs.readers.columns import RECORDS
    from jobs.readers.slurm import ARRAY_NOT_STARTED

    record = next(record for record in RECORDS if record.name == kind)
    with progress_bar(f"reading {file.name}") as report:
        jobs, result = read_log(
            file,
            progress=lambda done: report(counted(done.read, "record")),
            record=record,
            **arguments,
        )
    if arrays := result.notes[ARRAY_NOT_STARTED]:
        print_note(f"of {file.name} {arrays:,} × {ARRAY_NOT_STARTED}")
    if result.rejected:
        print_note(
            f"{result.rejected:,} of {counted(result.read, 'record')} of {file.name} "
            f"{'was' if result.rejected == 1 else 'were'} rejected; "
            "gridcast ingest keeps them with their reasons"
        )
    return jobs


def load_jobs(log: str | None, arguments: ReadArguments, kind: Kind = "job") -> pd.DataFrame:
    """Read the jobs (or transfers) of a log file, a stored source, or all that is stored.

    Args:
        log: A path, the name of a stored source, or None for all.
        arguments: How a file is read.
        kind: What is read.

    Raises:
        InputError: There are none.
    """
    from jobs.partitions import Partition

    partition = Partition(log, arguments, kind)
    if partition.file:
        return read_log_file(partition.file, arguments, kind)
    return partition.read()
