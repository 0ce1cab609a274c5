"""Commands that judge: predictions, memory set aside, scheduling, retraining, drift."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from commands.inputs import Json, LogFormat, MapFile, Mapping, Timezone, load_jobs, store
from commands.tables import err, print_note, progress_bar, show_rows, to_records
from infra.errors import GridcastError, InputError
from infra.settings import Settings, prepare_environment

if TYPE_CHECKING:
    import pandas as pd

    from models.evaluation.backtest import Evaluation

MOST_ROWS = 20
"""Of a hundred baselines people are shown the best; --json and MLflow have all."""


def evaluate(
    log: Annotated[
        str | None,
        typer.Argument(
            help="A log file, or the name of a stored source; default: all that is stored."
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(help="walltime, peak_memory, cpu_time, io, memory_per_core, cpu_per_core …"),
    ] = "walltime",
    transfers: Annotated[
        str | None,
        typer.Option(help="A log of file transfers, or a stored source: how long each takes."),
    ] = None,
    waits: Annotated[
        str | None,
        typer.Option(help="A log of jobs, or a stored source: how long each waits in its queue."),
    ] = None,
    measurements: Annotated[
        Path | None,
        typer.Option(
            help="With --transfers: a site's own (network, disk), a CSV of measured_at, name and value over 1."
        ),
    ] = None,
    measured_by: Annotated[
        Literal["last", "mean"],
        typer.Option(
            help="With --measurements: the last value before each transfer, or the mean of 5 minutes."
        ),
    ] = "last",
    warm_up: Annotated[
        float | None,
        typer.Option(help="Share that is only learned from. [default: .1, of transfers .3]"),
    ] = None,
    predictor: Annotated[list[str] | None, typer.Option(help="Only these rows; repeat.")] = None,
    tasks: Annotated[
        bool,
        typer.Option(
            "--tasks",
            help="Ends of tasks instead: the error by how far along they are, and planted stalls.",
        ),
    ] = False,
    allocation: Annotated[
        bool,
        typer.Option(
            "--allocation", help="Memory set aside instead: waste and failures, a row a policy."
        ),
    ] = False,
    at: Annotated[
        Literal["submission", "start"], typer.Option(help="When each job is asked about.")
    ] = "submission",
    input_known: Annotated[
        bool,
        typer.Option(
            "--input-known",
            help="What a job read stands for the size of its input, known beforehand.",
        ),
    ] = False,
    classes: Annotated[
        bool,
        typer.Option(
            "--classes",
            help="Classes instead, as PanDA's broker wants them: of memory, CPU time, I/O and walltime.",
        ),
    ] = False,
    price: Annotated[
        float,
        typer.Option(
            min=0, help="With --allocation: what a failure costs beside its waste, in GiB·h."
        ),
    ] = 1.0,
    log_format: LogFormat = None,
    mapping: Mapping = None,
    map_file: MapFile = None,
    timezone: Timezone = "UTC",
    as_json: Json = False,
) -> None:
    """Live through a log in time order and compare Gridcast with every baseline; logged to MLflow with plots."""
    from jobs.ingest import read_arguments
    from models.engine.training import find_target
    from models.evaluation.backtest import evaluate as judge
    from models.evaluation.query_time import as_asked
    from models.past.traffic import read_series, with_measurements
    from models.quantities.targets import with_extra_inputs

    settings = prepare_environment()
    if sum(one is not None for one in (log, transfers, waits)) > 1:
        raise InputError("give one log: of jobs, --transfers or --waits")
    if (transfers or waits) and (allocation or classes or target != "walltime"):
        raise InputError(
            "--transfers and --waits say what is predicted: leave --target, --allocation and --classes out"
        )
    if measurements and not transfers:
        raise InputError("--measurements are joined to transfers: give --transfers too")
    target = "transfer_time" if transfers else "wait" if waits else target
    if target in ("transfer_time", "wait") and (at == "start" or input_known):
        raise InputError(
            "--at and --input-known are of a job's needs: transfers and waits are foreseen at submission"
        )
    if target in ("io", "io_per_core") and input_known:
        raise InputError(
            f"--input-known tells what a job read, which {target} counts: leave it out"
        )
    log = transfers or waits or log
    jobs = load_jobs(
        log,
        read_arguments(log_format, mapping, map_file, timezone),
        "transfer" if transfers else "job",
    )
    if at == "start" or input_known:
        jobs = as_asked(jobs, at, input_known)
    warm_up = (0.3 if transfers else 0.1) if warm_up is None else warm_up
    name = Path(log).name if log else "the store"
    if tasks:
        _evaluate_tasks(jobs, name, as_json, warm_up)
        return
    if allocation:
        _evaluate_allocation(jobs, name, settings, as_json, warm_up=warm_up, price=price)
        return
    if classes:
        _evaluate_classes(jobs, name, settings, as_json, warm_up=warm_up)
        return
    aim = find_target(target)
    if measurements:
        told = jobs.columns
        jobs = with_measurements(jobs, read_series(measurements), measured_by)
        aim = with_extra_inputs(aim, jobs.columns.difference(told).tolist())
    with progress_bar("living through the log") as report:
        found = judge(jobs, aim, warm_up, predictor, report)
    _show_evaluation(found, name, settings, as_json)


def _show_evaluation(found: Evaluation, name: str, settings: Settings, as_json: bool) -> None:
    from models.baselines.catalogue import IDEAL
    from models.releases.evidence import record_evaluation

    target = found.target
    scores: tuple[str, ...] = (
        "mae", "median_ae", "median_ape", "rmse", "r2", "r2_log", "mape", "apa", "under", "pinball", "crps", "coverage_90", "width_90",
    )  # fmt: skip
    if target == "wait":
        scores = (
            "mae",
            "median_ae",
            "apa",
            "crps",
            "coverage_90",
            "width_90",
            "upper_95",
            "upper_95_holds",
        )
    title = f"{target} in {found.unit} of {name}, {len(found.jobs):,} after the warm-up"
    show_rows(
        found.rows if as_json else found.rows[:MOST_ROWS], as_json, title, ("predictor", *scores)
    )
    if any(row["predictor"] == IDEAL.name for row in found.rows):
        err.print(f"{IDEAL.name} is {IDEAL.meaning}", highlight=False)
    run = record_evaluation(found, name, settings)
    err.print(
        f"logged to MLflow as run {run}, with tables by cluster, period and for long jobs, and plots",
        highlight=False,
    )


def _evaluate_tasks(jobs: pd.DataFrame, name: str, as_json: bool, warm_up: float) -> None:
    from models.tasks.backtest import evaluate_tasks
    from monitoring.tasks.stalls import score_stall_detection

    with progress_bar("living through the log") as report:
        rows = evaluate_tasks(jobs, warm_up, report)
        stalls = score_stall_detection(jobs, report)
    if as_json:
        show_rows([*rows, *stalls], as_json)
        return
    show_rows(
        rows,
        False,
        f"Ends of {rows[0]['tasks']:,} tasks of {name}, errors in hours",
        tuple(rows[0]),
    )
    if stalls:
        show_rows(
            stalls,
            False,
            f"Stalls planted in {name}, found while looking every ten minutes",
            tuple(stalls[0]),
        )
    else:
        err.print(
            "no stall can be planted: too few tasks whose jobs' starts are known", highlight=False
        )


def _evaluate_allocation(
    jobs: pd.DataFrame, name: str, settings: Settings, as_json: bool, **how: Any
) -> None:
    from models.evaluation.allocation_backtest import evaluate_allocation
    from models.releases.evidence import record_allocation

    with progress_bar("living through the log") as report:
        rows = evaluate_allocation(jobs, progress=report, **how)
    show_rows(
        rows,
        as_json,
        f"Memory set aside for {rows[0]['jobs']:,} jobs of {name}, waste in GiB·h",
        tuple(rows[0]),
    )
    err.print(
        f"logged to MLflow as run {record_allocation(rows, name, how, settings)}", highlight=False
    )


def _evaluate_classes(
    jobs: pd.DataFrame, name: str, settings: Settings, as_json: bool, **how: Any
) -> None:
    from models.evaluation.class_backtest import evaluate_classes
    from models.quantities.classes import parse_thresholds
    from models.releases.evidence import record_classes

    with progress_bar("living through the log") as report:
        found = evaluate_classes(
            jobs, thresholds=parse_thresholds(settings.thresholds), progress=report, **how
        )
    if as_json:
        show_rows(
            [
                *found.rows,
                *({"target": "all", **row} for row in found.joint_rows),
                *found.class_rows,
            ],
            as_json,
        )
    else:
        show_rows(
            found.class_rows,
            False,
            f"Each class of {name}; above and up to in the target's unit",
            tuple(found.class_rows[0]),
        )
        show_rows(found.rows, False, f"Classes of {name}", tuple(found.rows[0]))
        show_rows(
            found.joint_rows,
            False,
            "Right at once, over the jobs of which all targets are known",
            tuple(found.joint_rows[0]),
        )
    err.print(
        f"logged to MLflow as run {record_classes(found, name, how, settings)}, with ROC plots",
        highlight=False,
    )


def rehearse(
    log: Annotated[str, typer.Argument(help="A log file, or the name of a stored source.")],
    target: Annotated[
        str, typer.Option(help="walltime, peak_memory, cpu_time or io.")
    ] = "walltime",
    warm_up: Annotated[
        float, typer.Option(help="Share of the jobs that the first models are trained on.")
    ] = 0.1,
    every: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Days between two trainings of the schedule; default: a tenth of the log's time.",
        ),
    ] = None,
    log_format: LogFormat = None,
    mapping: Mapping = None,
    map_file: MapFile = None,
    timezone: Timezone = "UTC",
    as_json: Json = False,
) -> None:
    """Say what retraining is worth: live through a log, retrained never, on a schedule and on decay; an HTML page with plots."""
    from jobs.ingest import read_arguments
    from models.engine.training import find_target
    from monitoring.rehearsal.page import describe_benefit, write_page
    from monitoring.rehearsal.rehearse import rehearse as live

    settings = prepare_environment()
    jobs = load_jobs(log, read_arguments(log_format, mapping, map_file, timezone))
    with progress_bar("living through the log") as report:
        found = live(
            jobs,
            find_target(target),
            warm_up=warm_up,
            period=every and every * 86400,
            progress=report,
        )
    name = Path(log).name
    shown = (
        "predictor",
        "policy",
        "mae",
        "mae_ratio",
        "mae_ratio_low",
        "mae_ratio_high",
        "coverage_90",
        "trainings",
        "promotions",
        "alarms",
    )
    show_rows(
        found.rows,
        as_json,
        f"Rehearsal of {name}, {target}, {len(found.truth):,} jobs after the warm-up",
        shown,
    )
    for row in found.rows:
        if row["policy"] != "never":
            print_note(describe_benefit(row))
    print_note(str(write_page(found, name, settings.folder("reports") / f"rehearsal-{name}")))


def monitor(as_json: Json = False) -> None:
    """Compare the jobs that ended since the champion was trained with its training window; writes an HTML report."""
    from models.releases import registry
    from models.releases.verification import load_model_set
    from monitoring.drift.check import monitor as look

    settings = prepare_environment()
    champion = registry.champion(settings)
    if champion is None:
        raise GridcastError(
            "there is no champion to compare with: train one first (gridcast train)"
        )
    with progress_bar("looking at the recent jobs"):
        found = look(
            store(),
            load_model_set(champion, settings).card,
            settings.folder("reports"),
            model=champion.label,
        )
    show_rows(
        to_records(found.measurements[["kind", "name", "segment", "value"]]),
        as_json,
        f"Drift: {found.verdict}",
    )
    err.print(
        found.sentence, *(f"\n{page}" for page in found.pages), highlight=False, soft_wrap=True
    )
