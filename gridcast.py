"""The command line, whose commands are in ``commands``, and the names of the Python interface.

Tables go to standard output, progress and logs to standard error. Exit codes: 0 done, 1 failed,
2 wrong use or input.
"""

from __future__ import annotations

import sys

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
    stored,
    versions,
    watching,
)
from commands.tables import print_error
from infra.errors import GridcastError
from infra.settings import prepare_environment
from models.python_api import Forecaster, backtest, read_log

__all__ = ["Forecaster", "app", "backtest", "main", "read_log"]

app = typer.Typer(
    help="Before a grid job runs: how long it will run and what it will use, with honest ranges.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(running.demo)
app.command()(logs.ingest)
app.command()(site.collect)
app.command()(site.table)
app.command()(site.advise)
app.command()(stored.rejects)
app.command(name="jobs")(stored.jobs_command)
app.command()(stored.export)
app.command(name="drop-source")(stored.drop_source)
app.command()(logs.scouts)
app.command()(logs.generate)
app.command()(versions.train)
app.command()(versions.promote)
app.command()(versions.rollback)
app.command()(versions.pin)
app.command()(versions.unpin)
app.command()(versions.history)
app.command()(predicting.predict)
app.command()(predicting.rank)
app.command()(watching.monitor)
app.command(cls=evaluation.EvaluateCommand)(evaluation.evaluate)
app.command(name="evaluate-allocation")(evaluation.evaluate_allocation)
app.command(name="evaluate-classes")(evaluation.evaluate_classes)
app.command(name="evaluate-tasks")(evaluation.evaluate_tasks)
app.command(name="evaluate-transfers")(evaluation.evaluate_transfers)
app.command(name="evaluate-waits")(evaluation.evaluate_waits)
app.command()(replaying.replay)
app.command(name="replay-grid")(replaying.replay_grid)
app.command(name="what-if")(planning.what_if)
app.command()(planning.balance)
app.command()(watching.rehearse)
app.command()(running.serve)
app.command()(running.dashboard)
app.command()(running.up)
app.command()(running.down)
app.command()(running.status)
app.command()(care.doctor)
app.command()(care.backup)
app.command()(care.restore)
app.command()(care.prune)


def main() -> None:
    """Run the command line; a GridcastError becomes its one sentence and its exit code."""
    try:
        prepare_environment()
        app()
    except GridcastError as error:
        print_error(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
