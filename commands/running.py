"""Commands that run Gridcast: the whole loop once, the servers."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from commands.inputs import Json
from commands.tables import print_note, progress_bar, show_rows
from infra.errors import InputError
from infra.settings import prepare_environment


def demo(as_json: Json = False) -> None:
    """Run the whole loop once on generated jobs: log, store, training, MLflow, predictor, a broker's call, drift report."""
    with progress_bar("starting") as report:
        from flows.demo import demo as run

        rows = run(report)
    show_rows(rows, as_json, "Gridcast's loop, once, on generated jobs")


def serve() -> None:
    """Serve the champion over HTTP on this machine until Ctrl-C."""
    from infra.components import local_components
    from infra.processes import up as run

    settings = prepare_environment()
    only = [
        replace(part, after=())
        for part in local_components(settings, servers=False)
        if part.name == "predictor"
    ]
    run(
        settings,
        only,
        say=print_note,
        when_ready=lambda: print_note(f"the predictor answers on {only[0].address}"),
    )


def dashboard() -> None:
    """Show tasks, sites, models and thresholds on a web page of this machine, looked at anew every minute, until Ctrl-C."""
    from services.dashboard_server import run

    settings = prepare_environment()
    print_note(f"the page is on http://{settings.host}:{settings.dashboard_port}")
    run(settings)


def up(
    site: Annotated[
        bool,
        typer.Option(
            "--site", help="As at a site: PostgreSQL, two predictors behind a proxy, Prometheus."
        ),
    ] = False,
) -> None:
    """Start MLflow, Prefect, the predictor, the shifter's page and the schedules; Ctrl-C stops them all."""
    from infra.components import local_components
    from infra.processes import up as run
    from infra.site import site_components

    settings = prepare_environment()
    if not site and not settings.database_url and settings.own_postgres_url("gridcast"):
        raise InputError(
            "this data folder's store is a PostgreSQL of its own, which `gridcast up --site` made and starts: start it so"
        )
    wanted = site_components(settings) if site else local_components(settings)
    run(
        settings,
        wanted,
        say=print_note,
        when_ready=lambda: show_rows(
            [{"part": part.name, "address": part.address} for part in wanted], False, "Up"
        ),
    )


def down() -> None:
    """Stop what `gridcast up` started on this data folder."""
    from infra.processes import down as stop

    stopped = stop(prepare_environment())
    print_note(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


def status(as_json: Json = False) -> None:
    """Say what runs, where, and how fresh the champion is."""
    from infra.components import local_components
    from infra.processes import status as look
    from models.releases import registry

    settings = prepare_environment()
    rows = look(settings, local_components(settings))
    row = {
        "part": "champion",
        "state": "none",
        "pid": None,
        "address": settings.displayed_tracking_url,
        "since": None,
        "note": "none yet: gridcast train",
    }
    try:
        if champion := registry.champion(settings):
            trained = champion.tags.get("trained_until", "?")[:16]
            told = f"trained until {trained} UTC, {champion.age / 3600:.1f} h old"
            row |= {"state": champion.label, "since": champion.created_at.isoformat(), "note": told}
    except registry.RegistryError as error:
        row |= {"state": "unknown", "note": str(error)}
    rows.append(row)
    show_rows(rows, as_json, "Gridcast")
