"""Commands that run Gridcast: the demo, the servers, and what is up."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from typing import Annotated, Literal

import typer

from commands import meanings
from commands.inputs import Json, note_page
from commands.tables import print_note, print_sentence, progress_bar, show_rows
from infra.errors import InputError
from infra.setting_values import is_loopback
from infra.settings import Settings, prepare_environment, use_home, use_own_folder

DEMO, DEMO_SECONDS = "demo", 180.0
"""The data folder of the demo, below the usual one, and how long the demo takes on two cores."""
Demo = Annotated[bool, typer.Option("--demo", help="On the data folder of `gridcast demo`.")]


def demo(as_json: Json = False) -> None:
    """Run the whole loop once on generated jobs.

    It has a data folder of its own, which it empties first: GRIDCAST_HOME/demo.
    """
    from infra.processes import is_up

    settings = use_own_folder(DEMO)
    if is_up(settings):
        raise InputError("the demo is up, and would lose its store: gridcast down --demo")
    shutil.rmtree(settings.home)
    settings = use_home(settings.home)
    with progress_bar("starting", DEMO_SECONDS) as report:
        from flows.demo import demo as run

        rows = run(report)
    title = "Gridcast's loop, once, on generated jobs"
    pages = [row["note"] for row in rows if row["what"] == "report"]
    listed = rows if as_json else [row for row in rows if row["what"] != "report"]
    show_rows(listed, as_json, title, meaning=meanings.of_demo(rows))
    for report_page in pages:
        note_page(report_page)
    print_note(
        "Look at it: gridcast up --demo, then open the page of tasks on "
        f"http://{settings.host_in_url}:{settings.dashboard_port}\n"
        f"Ask its store: GRIDCAST_HOME={settings.home} gridcast history\n"
        "Then your own log, in a store of its own: gridcast ingest FILE"
    )


def serve() -> None:
    """Serve the champion over HTTP until Ctrl-C."""
    from infra.components import local_components
    from infra.processes import up as run

    settings = prepare_environment()
    _prepare_access(settings)
    only = [
        replace(component, after=())
        for component in local_components(settings, servers=False)
        if component.name == "predictor"
    ]
    run(
        settings,
        only,
        say=print_note,
        when_ready=lambda: print_note(f"the predictor answers on {only[0].address}"),
    )


def route() -> None:
    """Route calls to the shards of their users until Ctrl-C.

    GRIDCAST_SHARD_ADDRESSES says where the shards answer,
    1/2=http://a:3000,2/2=http://b:3000, or names a file of such lines. It listens on
    GRIDCAST_ROUTER_PORT.

    With GRIDCAST_SHARDS, `gridcast up --site` starts it too.
    """
    from services.router.app import Router
    from services.router_server import run

    settings = prepare_environment()
    router = Router(settings)
    _prepare_access(settings)
    print_note(
        f"the router of {router.ring.count} shards listens on "
        f"http://{settings.host_in_url}:{settings.router_port}"
    )
    run(router)


def dashboard() -> None:
    """Serve the page of tasks, sites and models.

    Until Ctrl-C. `gridcast up` serves it too.
    """
    from services.dashboard_server import run

    settings = prepare_environment()
    _prepare_access(settings)
    print_note(f"The page of tasks: {_page_for_person(settings)}")
    run(settings)


def up(
    site: Annotated[
        bool,
        typer.Option(
            "--site",
            help="As at a site: PostgreSQL, two predictors behind a proxy, or GRIDCAST_SHARDS of "
            "them, Prometheus.",
        ),
    ] = False,
    move: Annotated[
        bool,
        typer.Option(
            "--move",
            help="With --site, the first time: copy the store and MLflow's registry from SQLite "
            "into the new PostgreSQL.",
        ),
    ] = False,
    empty: Annotated[
        bool,
        typer.Option(
            "--empty",
            help="With --site, the first time: begin with an empty PostgreSQL; the SQLite files "
            "stay as they are.",
        ),
    ] = False,
    demo: Demo = False,
) -> None:
    """Start all servers and schedules, until Ctrl-C.

    MLflow, Prefect, the predictor, the page of tasks, and the schedules.
    """
    from infra.components import local_components
    from infra.processes import up as run
    from infra.site import site_components

    settings = settings_of(demo)
    if demo and site:
        raise InputError("--demo and --site: give one of them")
    _prepare_access(settings)
    if ((move or empty) and not site) or (move and empty):
        raise InputError("--move and --empty say how the first up --site begins: give one of them")
    if site:
        _begin_site(settings, move, empty)
    elif not settings.database_url and settings.own_postgres_url("gridcast"):
        raise InputError(
            "this data folder's store is the PostgreSQL that `gridcast up --site` made: start it "
            "so. Back to SQLite: `gridcast backup FILE` while it is up, then `gridcast restore "
            "FILE` with another GRIDCAST_HOME, and `gridcast up` there (docs/how-to/postgresql.md)"
        )
    if demo:
        from flows.demo_feed import demo_components, log_path

        if not log_path(settings).exists():
            raise InputError("there is no demo yet: gridcast demo makes it in some minutes")
        wanted = demo_components(settings)
    else:
        wanted = site_components(settings) if site else local_components(settings)
    rows = [{"part": component.name, "address": component.address} for component in wanted]

    def show() -> None:
        show_rows(rows, False, "Up", meaning="Ctrl-C stops all.")
        print_note(f"The page of tasks: {_page_for_person(settings)}")

    run(settings, wanted, say=print_note, when_ready=show)


def login(
    scope: Annotated[
        Literal["predict", "approve", "admin"],
        typer.Option(help="What the browser may do: look, promote and withdraw, or everything."),
    ] = "admin",
    demo: Demo = False,
) -> None:
    """Print links that log a browser in.

    To the page, and with the scope admin to MLflow and Prefect: each once, within 15 minutes.
    """
    from infra.components import on_loopback
    from services.http.callers import known_token, settings_tokens, token_with_scopes
    from services.http.logins import login_link

    settings = settings_of(demo)
    secret = token_with_scopes(settings.all_tokens, scope)
    token = known_token(secret or "", settings_tokens(settings))
    if secret is None or token is None:
        raise InputError(f"no token has the scope {scope}: `gridcast up` makes one with all")
    if scope != "admin" and "admin" in token.caller.scopes:
        raise InputError(f"only admin tokens have the scope {scope}: add one to GRIDCAST_TOKENS")
    loopback = on_loopback(settings)
    servers = {"page": (settings.host_in_url, settings.dashboard_port)}
    if scope == "admin":
        servers |= {
            "MLflow": (loopback.host_in_url, settings.mlflow_port),
            "Prefect": (loopback.host_in_url, settings.prefect_port),
        }
    for name, (host, port) in servers.items():
        print_sentence(f"{name}: {login_link(f'http://{host}:{port}', port, secret)}")


def _prepare_access(settings: Settings) -> None:
    """Check the address of the servers, and make the token that they demand where none is set."""
    from services.http.callers import read_tokens

    _check_host(settings)
    read_tokens(settings.tokens.get_secret_value())
    is_new = settings.make_token()
    if is_new:
        print_note(
            f"Every server asks for a token. A new one is in {settings.token_path}, which only you "
            "can read. `gridcast login` prints links that log a browser in to the page, MLflow and "
            "Prefect."
        )


def _page_for_person(settings: Settings) -> str:
    """The page's address, which logs a browser in, once, where it is printed on a terminal.

    A log file may be read by others.
    """
    from services.http.logins import login_link

    page = f"http://{settings.host_in_url}:{settings.dashboard_port}"
    if sys.stderr.isatty():
        return login_link(page, settings.dashboard_port, settings.admin_token)
    source = settings.token_path if settings.token_path.exists() else "GRIDCAST_TOKENS"
    return f"{page} (a token is asked for, that of {source})"


def _check_host(settings: Settings) -> None:
    """Refuse another address than a loopback one without TLS in front and tokens."""
    if is_loopback(settings.host):
        return
    if not settings.tls_in_front:
        raise InputError(
            f"at {settings.host} tokens and answers would cross the network in plain text: let a "
            "proxy end TLS and set GRIDCAST_TLS_IN_FRONT=true (docs/explanation/security.md)"
        )
    if not settings.tokens.get_secret_value():
        raise InputError(f"at {settings.host} others reach the servers: set GRIDCAST_TOKENS")


def _begin_site(settings: Settings, move: bool, empty: bool) -> None:
    """Let a new PostgreSQL begin with what SQLite has, or empty where a person says so."""
    from models.releases.moving import count_in_sqlite, move_to_postgres

    if settings.database_url or settings.own_postgres_url("gridcast"):
        if move:
            raise InputError("--move is for the first up --site: PostgreSQL is there already")
        return
    jobs, versions = count_in_sqlite(settings)
    if move:
        with progress_bar("moving the store into PostgreSQL"):
            rows = move_to_postgres(settings)
        print_note(f"moved {rows:,} rows into PostgreSQL; the SQLite files stay as they are")
    elif (jobs or versions) and not empty:
        raise InputError(
            "say how the new PostgreSQL begins: `gridcast up --site --move` copies into it this "
            f"data folder's {jobs:,} jobs and {versions:,} versions of the model in SQLite, "
            "`gridcast up --site --empty` begins without them (docs/how-to/postgresql.md)"
        )


def settings_of(demo: bool) -> Settings:
    """The settings of the usual data folder, or of the demo's."""
    return use_own_folder(DEMO) if demo else prepare_environment()


def down(demo: Demo = False) -> None:
    """Stop what `gridcast up` started."""
    from infra.processes import down as stop

    stopped = stop(settings_of(demo))
    print_note(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


def status(demo: Demo = False, as_json: Json = False) -> None:
    """List what runs, where, and the champion's age."""
    from infra.components import local_components
    from infra.processes import status as look
    from models.releases import registry
    from monitoring.doctor import examine_site

    settings = settings_of(demo)
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
            note = f"trained until {trained} UTC, made {champion.age / 3600:.1f} h ago"
            row |= {"state": champion.label, "since": champion.created_at.isoformat(), "note": note}
    except registry.RegistryError as error:
        row |= {"state": "unknown", "note": str(error)}
    rows.append(row)
    empty = dict.fromkeys(row)
    rows += [
        {**empty, "part": finding.subject, "state": finding.state, "note": finding.summary}
        for finding in examine_site(settings)
    ]
    columns = ("part", "state", "note", "address", "pid", "since")
    show_rows(rows, as_json, "Gridcast", columns, meanings.of_status(rows))
