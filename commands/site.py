"""Commands of a site: bring what its batch systems account."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from commands.inputs import Json, store
from commands.tables import complain, progress_bar, show
from infra.errors import GridcastError
from infra.settings import prepare_environment


def collect(
    system: Annotated[str, typer.Argument(help="slurm, condor, pbs, panda or folder.")],
    where: Annotated[
        str, typer.Argument(help="Which one: a cluster, a schedd, a folder or a database's URL; default: what GRIDCAST_COLLECT names.")
    ] = "",
    since: Annotated[
        datetime | None, typer.Option(help="From this time (UTC) on; default: where the last one ended, and some hours again.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Name of the system in the store; default: what its records say.")] = None,
    as_json: Json = False,
) -> None:
    """Bring what a batch system accounted since the last time into the store; doing so again changes nothing."""
    from jobs.collectors import Collected, collect, named_systems

    named = dict(named_systems(prepare_environment().collect.get_secret_value()))
    with progress_bar(f"asking {system}") as report:

        def tell(done: Collected) -> None:
            report(f"{system} until {done.until:%Y-%m-%d %H:%M}: {done.read:,} records")

        begin = since.replace(tzinfo=UTC) if since else None
        done = collect(store(), system, where or named.get(system, ""), since=begin, source=source, progress=tell)
    show([done.row()], as_json, "Collected", ("system", "until", "files", "read", "added", "updated", "unchanged", "rejected", "notes"))
    for error in done.errors:
        complain(error)
    if done.errors:
        raise typer.Exit(GridcastError.exit_code)
