"""The command line, whose commands are in ``commands``, and the names of the Python interface.

Tables go to standard output, progress and logs to standard error. Exit codes: 0 done, 1 failed,
2 wrong use or input.
"""

from __future__ import annotations

import errno
import gc
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from commands import (
    care,
    evaluation,
    logs,
    planning,
    predicting,
    replaying,
    running,
    site,
    stalls,
    stored,
    trial,
    versions,
    watching,
)
from commands.inputs import prints_table
from commands.tables import print_error, print_sentence
from infra.actor import Actor, acting, local_account
from infra.errors import GridcastError
from infra.settings import prepare_environment
from models.python_api import Forecaster, backtest, read_log

__all__ = ["Forecaster", "app", "backtest", "main", "read_log"]

GROUPS: dict[str, dict[str, Callable[..., None]]] = {
    "Begin": {"demo": running.demo},
    "Data": {
        "ingest": logs.ingest,
        "collect": site.collect,
        "jobs": stored.jobs_command,
        "rejects": stored.rejects,
        "export": stored.export,
        "drop-source": stored.drop_source,
        "generate": logs.generate,
    },
    "Models": {
        "train": versions.train,
        "history": versions.history,
        "promote": versions.promote,
        "challenge": versions.challenge,
        "withdraw": versions.withdraw,
        "rollback": versions.rollback,
        "pin": versions.pin,
        "unpin": versions.unpin,
        "monitor": watching.monitor,
    },
    "Judge": {
        "trial": trial.trial,
        "evaluate": evaluation.evaluate,
        "evaluate-waits": evaluation.evaluate_waits,
        "evaluate-transfers": evaluation.evaluate_transfers,
        "evaluate-tasks": evaluation.evaluate_tasks,
        "evaluate-stalls": stalls.evaluate_stalls,
        "evaluate-allocation": evaluation.evaluate_allocation,
        "evaluate-classes": evaluation.evaluate_classes,
        "rehearse": watching.rehearse,
        "replay": replaying.replay,
        "replay-grid": replaying.replay_grid,
        "replay-pilots": replaying.replay_pilots,
        "what-if": planning.what_if,
        "balance": planning.balance,
    },
    "Predict": {
        "predict": predicting.predict,
        "rank": predicting.rank,
        "advise": site.advise,
        "table": site.table,
        "scouts": logs.scouts,
    },
    "Run": {
        "up": running.up,
        "down": running.down,
        "status": running.status,
        "serve": running.serve,
        "route": running.route,
        "dashboard": running.dashboard,
        "login": running.login,
    },
    "Care": {
        "doctor": care.doctor,
        "backup": care.backup,
        "restore": care.restore,
        "prune": care.prune,
        "audit": care.audit,
    },
}
"""The commands by what a person wants, in the order of ``--help``."""

app = typer.Typer(
    help="Before a grid job runs: how long it will run and what it will use, with honest ranges.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for group, commands_of_group in GROUPS.items():
    for name, command in commands_of_group.items():
        cls = evaluation.EvaluateCommand if name == "evaluate" else None
        app.command(name=name, cls=cls, rich_help_panel=group)(prints_table(command))


def print_version(wanted: bool) -> None:
    """Print the version of this installation and end."""
    if wanted:
        from importlib.metadata import version

        print_sentence(f"gridcast {version('gridcast')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Before a grid job runs: how long it will run and what it will use, with honest ranges."""
    if context.invoked_subcommand:
        actor = Actor(local_account(), f"gridcast {context.invoked_subcommand}")
        context.with_resource(acting(actor))


NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, a quota or a limit that is reached."""


GC_THRESHOLD = 100_000
"""New objects before a garbage collection: a batch of stored jobs is several thousand, all used."""


def main() -> None:
    """Run the command line; a GridcastError or a full disk becomes one sentence and exit code."""
    threshold = gc.get_threshold()
    gc.set_threshold(GC_THRESHOLD)
    try:
        prepare_environment()
        app()
    except GridcastError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        where = f" of {error.filename}" if error.filename else ""
        print_error(f"the disk{where} is full: free some space and run the same command again")
        sys.exit(GridcastError.exit_code)
    finally:
        gc.set_threshold(*threshold)


if __name__ == "__main__":
    main()
