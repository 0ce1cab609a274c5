"""Commands that backtest a log: jobs, transfers, waits and tasks; memory; classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from commands import meanings
from commands.inputs import (
    Json,
    Kind,
    LogName,
    LogNames,
    Page,
    load_jobs,
    note_page,
    page_path,
    reads_log,
)
from commands.meanings import counted
from commands.progress import usual_seconds
from commands.tables import print_note, progress_bar, show_rows
from infra.errors import InputError
from infra.settings import prepare_environment

if TYPE_CHECKING:
    import pandas as pd

    from jobs.ingest import ReadArguments
    from models.evaluation.backtest import Evaluation
    from models.evaluation.partitions import EvaluationTask
    from models.quantities.targets import Target

MAX_ROWS = 20
"""Of a hundred baselines people are shown the best; --json and MLflow have all."""
SCORES = (
    "mae", "median_ae", "apa", "crps", "coverage_90", "under", "median_ape", "rmse", "r2", "r2_log",
    "mape", "pinball", "width_90",
)  # fmt: skip
WAIT_SCORES = (
    "mae", "median_ae", "within_2_7", "within_10_minutes", "coverage_90", "upper_95",
    "upper_95_holds", "width_90", "apa", "crps",
)  # fmt: skip
WarmUp = Annotated[float, typer.Option(help="Share of the log that is only learned from.")]
Predictors = Annotated[list[str] | None, typer.Option(help="Only these rows; repeat.")]
At = Annotated[Literal["submission", "start"], typer.Option(help="When each job is predicted.")]
InputKnown = Annotated[
    bool,
    typer.Option(
        "--input-known",
        help="Take what a job read as the size of its input, known beforehand.",
    ),
]
MOVED_OPTIONS = {
    "--allocation": "evaluate-allocation [LOG]",
    "--price": "evaluate-allocation [LOG] --price",
    "--classes": "evaluate-classes [LOG]",
    "--tasks": "evaluate-tasks [LOG]",
    "--transfers": "evaluate-transfers [LOG]",
    "--measurements": "evaluate-transfers [LOG] --measurements",
    "--measured-by": "evaluate-transfers [LOG] --measured-by",
    "--waits": "evaluate-waits [LOG]",
}
"""Options of ``evaluate`` that became commands of their own; they are named for one release."""


class EvaluateCommand(TyperCommand):
    """``evaluate``, which names the command that an option of before became."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; raises InputError for an option that moved."""
        options = [argument.partition("=")[0] for argument in args]
        for option, command in MOVED_OPTIONS.items():
            if option in options:
                raise InputError(f"evaluate {option} is now: gridcast {command}")
        return super().parse_args(ctx, args)


@reads_log
def evaluate(
    logs: LogNames = None,
    target: Annotated[
        str,
        typer.Option(help="walltime, peak_memory, cpu_time, io, memory_per_core, cpu_per_core …"),
    ] = "walltime",
    warm_up: WarmUp = 0.1,
    predictor: Predictors = None,
    by: Annotated[
        Literal["group", "site", "queue", "program", "user"] | None,
        typer.Option(help="Evaluate the jobs of each group (site, …) by themselves."),
    ] = None,
    at: At = "submission",
    input_known: InputKnown = False,
    html: Page = None,
    as_json: Json = False,
    *,
    arguments: ReadArguments,
) -> None:
    """Compare predictions with simple rules on a log.

    A backtest in time order. Logged to MLflow; writes an HTML page with charts.
    """
    from jobs.partitions import logs_of, sizes_of
    from models.engine.training import find_target
    from models.evaluation.partitions import MIN_GROUP_JOBS, EvaluationTask

    if target == "wait":
        raise InputError("waits have a command of their own: gridcast evaluate-waits")
    if target == "transfer_time":
        raise InputError("transfers have a command of their own: gridcast evaluate-transfers")
    if target in ("io", "io_per_core") and input_known:
        raise InputError(f"--input-known tells what a job read, which {target} counts: omit it")
    if by is None and (logs is None or len(logs) < 2):
        log = logs[0] if logs else None
        jobs = _load(log, arguments, targets=(target,), at=at, input_known=input_known)
        _backtest(jobs, find_target(target), warm_up, predictor, log, as_json, html)
        return
    if html:
        raise InputError("--html names one page, and there is one for each evaluation: omit it")
    partitions = logs_of(logs, arguments)
    sizes = sizes_of(partitions)
    if by:
        by_value = [partition.split(by) for partition in partitions]
        groups = [group for value in by_value for group in zip(*value, strict=True)]
        large = [group for group in groups if group[1] >= MIN_GROUP_JOBS]
        summary = meanings.of_groups(by, [count for _, count in groups], MIN_GROUP_JOBS)
        if not large:
            raise InputError(summary)
        print_note(summary)
        partitions, sizes = [group[0] for group in large], [group[1] for group in large]
    find_target(target)
    _backtest_each(
        [
            EvaluationTask(partition, target, warm_up, predictor, at, input_known)
            for partition in partitions
        ],
        sizes,
        as_json,
    )


@reads_log
def evaluate_transfers(
    log: LogName = None,
    measurements: Annotated[
        Path | None,
        typer.Option(
            help="A site's own measurements (network, disk): a CSV of measured_at, name and value."
        ),
    ] = None,
    measured_by: Annotated[
        Literal["last", "mean"],
        typer.Option(
            help="With --measurements: the last value before each transfer, or the mean of 5 min."
        ),
    ] = "last",
    warm_up: WarmUp = 0.3,
    predictor: Predictors = None,
    html: Page = None,
    as_json: Json = False,
    *,
    arguments: ReadArguments,
) -> None:
    """Compare predicted transfer times with simple rules.

    A backtest in time order. Logged to MLflow; writes an HTML page with charts.
    """
    from models.engine.training import find_target
    from models.past.traffic import read_series, with_measurements
    from models.quantities.targets import with_extra_inputs

    target = find_target("transfer_time")
    jobs = _load(log, arguments, "transfer", targets=(target.name,))
    if measurements:
        columns = jobs.columns
        jobs = with_measurements(jobs, read_series(measurements), measured_by)
        target = with_extra_inputs(target, jobs.columns.difference(columns).tolist())
    _backtest(jobs, target, warm_up, predictor, log, as_json, html)


@reads_log
def evaluate_waits(
    log: LogName = None,
    warm_up: WarmUp = 0.1,
    predictor: Predictors = None,
    html: Page = None,
    as_json: Json = False,
    *,
    arguments: ReadArguments,
) -> None:
    """Compare predicted waits in queues with simple rules.

    A backtest in time order. Logged to MLflow; writes an HTML page with charts.
    """
    from models.engine.training import find_target

    jobs = _load(log, arguments, targets=("wait",))
    _backtest(jobs, find_target("wait"), warm_up, predictor, log, as_json, html)


@reads_log
def evaluate_tasks(
    log: LogName = None,
    warm_up: WarmUp = 0.1,
    html: Page = None,
    as_json: Json = False,
    *,
    arguments: ReadArguments,
) -> None:
    """Judge the predicted ends of tasks, and stalls found.

    Tasks' ends are predicted by their progress, and planted stalls are looked for.
    """
    from models.evaluation.pages import task_page
    from models.tasks.backtest import evaluate_tasks as backtest
    from monitoring.tasks.stalls import score_stall_detection

    jobs = _load(log, arguments)
    with progress_bar("backtesting the log", usual_seconds("tasks", len(jobs))) as report:
        rows = backtest(jobs, warm_up, report)
        detection = score_stall_detection(jobs, report)
    stalls, causes = detection[:1], detection[1:]
    name = _name(log)
    page = page_path(html, f"evaluation-tasks-{name}")
    task_page(page, f"Ends of tasks of {name}", meanings.of_tasks(rows), rows, stalls)
    if as_json:
        show_rows([*rows, *stalls, *causes], as_json)
        note_page(page)
        return
    title = f"Ends of {counted(rows[0]['tasks'], 'task')} of {name}, errors in hours"
    show_rows(rows, False, title, meaning=meanings.of_tasks(rows))
    if stalls:
        title = f"Stalls planted in the later half of {name}"
        show_rows(stalls, False, title, meaning=meanings.of_stalls(stalls))
        if causes:
            show_rows(causes, False, "False alarms by cause")
    else:
        print_note("no stall can be planted: too few tasks whose jobs' starts are known")
    note_page(page)


@reads_log
def evaluate_allocation(
    log: LogName = None,
    price: Annotated[
        float, typer.Option(min=0, help="What a failure costs beside its waste, in GiB·h.")
    ] = 1.0,
    warm_up: WarmUp = 0.1,
    at: At = "submission",
    input_known: InputKnown = False,
    html: Page = None,
    as_json: Json = False,
    *,
    arguments: ReadArguments,
) -> None:
    """Compare rules by which memory is allocated.

    By waste and failures, a row a policy. Writes an HTML page with charts.
    """
    from models.evaluation.allocation_backtest import evaluate_allocation as backtest
    from models.evaluation.pages import allocation_page
    from models.releases.evidence import record_allocation

    jobs = _load(
        log, arguments, targets=("peak_memory", "walltime"), at=at, input_known=input_known
    )
    options: dict[str, Any] = {"warm_up": warm_up, "price": price}
    with progress_bar("backtesting the log", usual_seconds("allocation", len(jobs))) as report:
        rows = backtest(jobs, progress=report, **options)
    name = _name(log)
    title = f"Memory allocated to {counted(rows[0]['jobs'], 'job')} of {name}, waste in GiB·h"
    columns = ("policy", "waste_gbh", "failures", "failed_jobs", "cold_waste_gbh")
    meaning = meanings.of_allocation(rows)
    show_rows(rows, as_json, title, columns, meaning)
    page = page_path(html, f"evaluation-allocation-{name}")
    note_page(allocation_page(page, f"Memory allocated to jobs of {name}", meaning, rows))
    _note_run(record_allocation(rows, name, options, prepare_environment()))


@reads_log
def evaluate_classes(
    log: LogName = None,
    warm_up: WarmUp = 0.1,
    at: At = "submission",
    input_known: InputKnown = False,
    html: Page = None,
    as_json: Json = False,
    *,
    arguments: ReadArguments,
) -> None:
    """Judge predicted classes, as PanDA's broker wants.

    Of memory, CPU time, I/O and walltime. Writes an HTML page with charts.
    """
    from models.evaluation.class_backtest import evaluate_classes as backtest
    from models.evaluation.pages import class_page
    from models.quantities.classes import parse_thresholds
    from models.releases.evidence import record_classes

    settings, name = prepare_environment(), _name(log)
    jobs = _load(log, arguments, targets=(), at=at, input_known=input_known)
    options: dict[str, Any] = {"warm_up": warm_up}
    thresholds = parse_thresholds(settings.thresholds)
    with progress_bar("backtesting the log", usual_seconds("classes", len(jobs))) as report:
        evaluation = backtest(jobs, thresholds=thresholds, progress=report, **options)
    joint = evaluation.joint_rows
    meaning = meanings.of_classes(evaluation.rows)
    if as_json:
        all_targets = [{"target": "all", **row} for row in joint]
        show_rows([*evaluation.rows, *all_targets, *evaluation.class_rows], as_json)
    else:
        title = f"Each class of {name}; above and up to in the target's unit"
        meaning_of_each = f"{len(evaluation.class_rows)} rows: a class, a target and a predictor."
        show_rows(evaluation.class_rows, False, title, meaning=meaning_of_each)
        show_rows(evaluation.rows, False, f"Classes of {name}", meaning=meaning)
        title = "All targets right at once, over the jobs that report all of them"
        show_rows(joint, False, title, meaning=meanings.of_joint(joint))
    page = page_path(html, f"evaluation-classes-{name}")
    note_page(class_page(page, f"Classes of jobs of {name}", meaning, evaluation))
    _note_run(record_classes(evaluation, name, options, settings), "with ROC plots")


def _load(
    log: str | None,
    arguments: ReadArguments,
    kind: Kind = "job",
    *,
    targets: tuple[str, ...] = ("walltime",),
    at: Literal["submission", "start"] = "submission",
    input_known: bool = False,
) -> pd.DataFrame:
    """Read the log, with what is known when each job is predicted; refuse one without outcomes."""
    from models.engine.outcomes import require_outcomes
    from models.evaluation.query_time import at_query_time

    jobs = load_jobs(log, arguments, kind)
    require_outcomes(jobs, targets, _name(log))
    return at_query_time(jobs, at, input_known) if at == "start" or input_known else jobs


def _backtest(
    jobs: pd.DataFrame,
    target: Target,
    warm_up: float,
    predictors: list[str] | None,
    log: str | None,
    as_json: bool,
    html: Path | None,
) -> None:
    """Backtest all predictors of a target, show the rows and log them to MLflow."""
    from models.baselines.regressions import import_fitting
    from models.evaluation.backtest import evaluate as backtest
    from models.releases.mlflow_client import opening_mlflow

    import_fitting()
    with (
        opening_mlflow(prepare_environment()),
        progress_bar("backtesting the log", usual_seconds("evaluate", len(jobs))) as report,
    ):
        evaluation = backtest(jobs, target, warm_up, predictors, report)
    name = _name(log)
    if as_json:
        show_rows(_rows(evaluation), as_json)
    else:
        _show_tables(evaluation, name)
    _record(evaluation, name, html)


def _backtest_each(tasks: Sequence[EvaluationTask], sizes: Sequence[float], as_json: bool) -> None:
    """Run evaluations side by side, as GRIDCAST_DASK says, and show them in order."""
    from infra.dask_workers import Workers
    from models.evaluation.partitions import evaluate_partition

    with (
        Workers(prepare_environment().dask) as workers,
        progress_bar(f"backtesting {len(tasks)} logs or parts of logs") as report,
    ):
        results = workers.map(evaluate_partition, tasks, sizes, report)
    rows: list[Mapping[str, Any]] = []
    for task, evaluation in zip(tasks, results, strict=True):
        name = task.partition.name
        if isinstance(evaluation, str):
            print_note(f"{name}: {evaluation}")
            continue
        rows += [{"log": name, **row} for row in _rows(evaluation)]
        if not as_json:
            _show_tables(evaluation, name)
        _record(evaluation, name, None)
    if as_json:
        show_rows(rows, as_json)


def _rows(evaluation: Evaluation) -> list[Mapping[str, Any]]:
    return [*evaluation.rows, *evaluation.burst_rows, *evaluation.unseen_rows]


def _show_tables(evaluation: Evaluation, name: str) -> None:
    """Show the rows of an evaluation as tables for people."""
    from models.baselines.catalogue import IDEAL

    rows, burst, unseen = evaluation.rows, evaluation.burst_rows, evaluation.unseen_rows
    scores = WAIT_SCORES if evaluation.target == "wait" else SCORES
    columns = ("predictor", *scores)
    title = f"{evaluation.target} in {evaluation.unit} of {name}, "
    title += f"{len(evaluation.jobs):,} after the warm-up"
    meaning = meanings.of_evaluation(rows, IDEAL.name)
    show_rows(rows[:MAX_ROWS], False, title, columns, meaning)
    if burst:
        title = f"One job a queue, owner and hour: {burst[0]['jobs']:,}"
        show_rows(burst[:MAX_ROWS], False, title, columns)
    if unseen:
        title = "Jobs of users, and of programs, none of whose jobs had ended yet"
        meaning = meanings.of_unseen(unseen)
        show_rows(unseen, False, title, ("predictor", "jobs", *scores), meaning)


def _record(evaluation: Evaluation, name: str, html: Path | None) -> None:
    """Write the page of an evaluation and log it to MLflow."""
    from models.baselines.catalogue import IDEAL
    from models.evaluation.pages import evaluation_page
    from models.releases.evidence import record_evaluation

    if any(row["predictor"] == IDEAL.name for row in evaluation.rows):
        print_note(f"{IDEAL.name} is {IDEAL.meaning}")
    page = page_path(html, f"evaluation-{evaluation.target}-{name}")
    title = f"{evaluation.target} of {name}: predictions against other rules"
    meaning = meanings.of_evaluation(evaluation.rows, IDEAL.name)
    note_page(evaluation_page(page, title, meaning, evaluation))
    run = record_evaluation(evaluation, name, prepare_environment())
    _note_run(run, "with tables by cluster, period and for long jobs, and plots")


def _name(log: str | None) -> str:
    return Path(log).name if log else "the store"


def _note_run(run: str, contents: str = "") -> None:
    print_note(f"logged to MLflow as run {run}{f', {contents}' if contents else ''}")
