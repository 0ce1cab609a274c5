"""Commands that watch the model: drift against its training, and what retraining is worth."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands import meanings
from commands.inputs import Json, Page, load_jobs, note_page, page_path, reads_log, store
from commands.meanings import counted
from commands.progress import usual_seconds
from commands.tables import print_note, progress_bar, show_rows, to_records
from infra.errors import GridcastError, InputError
from infra.settings import prepare_environment

if TYPE_CHECKING:
    from jobs.ingest import ReadArguments
    from monitoring.decay.champion import DecayReport
    from monitoring.drift.report import DriftReport

MAX_ROWS, MAX_MEASURED = 30, 5000
"""Measurements that people are shown; --json and the page have all."""
REHEARSAL_COLUMNS = (
    "predictor", "policy", "mae", "mae_ratio", "mae_ratio_low", "mae_ratio_high", "coverage_90",
    "trainings", "promotions", "alarms",
)  # fmt: skip


@reads_log
def rehearse(
    logs: Annotated[
        list[str],
        typer.Argument(
            metavar="LOG...",
            help="Log files, or names of stored sources. Several are done side by side "
            "(GRIDCAST_DASK).",
        ),
    ],
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
    html: Page = None,
    as_json: Json = False,
    *,
    arguments: ReadArguments,
) -> None:
    """Backtest retraining: never, scheduled, on decay.

    Writes an HTML page with charts.
    """
    from infra.dask_workers import Workers
    from jobs.partitions import logs_of
    from models.engine.outcomes import require_outcomes
    from models.engine.training import find_target
    from monitoring.rehearsal.page import describe_benefit, write_page
    from monitoring.rehearsal.rehearse import rehearse as run
    from monitoring.rehearsal.rehearse import rehearse_each

    period = every and every * 86400
    if html and len(logs) > 1:
        raise InputError("--html names one page, and there is one for each log: omit it")
    names = [Path(log).name for log in logs]
    with Workers(prepare_environment().dask) as workers:
        if len(logs) > 1 or workers.local != 1:
            with progress_bar("backtesting the logs") as report:
                partitions = logs_of(logs, arguments)
                rehearsals = rehearse_each(partitions, target, warm_up, period, workers, report)
        else:
            jobs = load_jobs(logs[0], arguments)
            require_outcomes(jobs, (target,), names[0])
            expected = usual_seconds("rehearse", len(jobs))
            with progress_bar("backtesting the log", expected) as report:
                rehearsals = [
                    run(
                        jobs,
                        find_target(target),
                        warm_up=warm_up,
                        period=period,
                        progress=report,
                    )
                ]
    if as_json:
        labels = [{"log": name} if len(logs) > 1 else {} for name in names]
        results = zip(labels, rehearsals, strict=True)
        show_rows([{**label, **row} for label, result in results for row in result.rows], as_json)
    for name, rehearsal in zip(names, rehearsals, strict=True):
        if not as_json:
            count = len(rehearsal.truth)
            title = f"Rehearsal of {name}, {target}, {counted(count, 'job')} after the warm-up"
            meaning = meanings.of_rehearsal(rehearsal.rows)
            show_rows(rehearsal.rows, False, title, REHEARSAL_COLUMNS, meaning)
        for row in rehearsal.rows:
            if row["policy"] != "never":
                print_note(describe_benefit(row))
        note_page(write_page(rehearsal, name, page_path(html, f"rehearsal-{name}")))


def monitor(html: Page = None, as_json: Json = False) -> None:
    """Measure drift and decay since the training.

    Compares the jobs that ended since the champion's training with its training window, and its
    predictions with the outcomes; writes an HTML page with charts.
    """
    from flows.from_command_line import as_flow_run
    from jobs.store import read_measurements
    from models.releases import registry
    from models.releases.verification import load_model_set
    from monitoring.decay.champion import watch_champion
    from monitoring.decay.page import write_page
    from monitoring.drift.check import monitor as compare

    settings, engine, now = prepare_environment(), store(), datetime.now(UTC)
    champion = registry.champion(settings)
    if champion is None:
        raise GridcastError(
            "there is no champion to compare with: train one first (gridcast train)"
        )
    card = load_model_set(champion, settings).card

    def measure() -> tuple[DriftReport, DecayReport]:
        report = compare(engine, card, settings.folder("reports"), model=champion.label)
        progress("comparing the predictions with the outcomes", 0.7)
        return report, watch_champion(engine, champion.label, now, sources=card.sources)

    with progress_bar("comparing the recent jobs with the training window") as progress:
        report, decay = as_flow_run(
            "monitor", measure, lambda done: f"{done[0].sentence} {done[1].sentence}"
        )
    measured = read_measurements(engine, kind="decay", segment="all", latest=MAX_MEASURED)
    page = page_path(html, f"monitor-{champion.label}")
    rows = to_records(report.measurements[["kind", "name", "segment", "value"]])
    if as_json:
        show_rows(rows, as_json)
    else:
        of_all = rows_of_all(rows, report.verdict)
        columns = ("kind", "name", "value")
        show_rows(of_all[:MAX_ROWS], False, f"Drift: {report.verdict}", columns, report.sentence)
    print_note(decay.sentence)
    note_page(write_page(page, champion.label, report, decay, measured))
    for evidently in report.pages:
        print_note(f"Evidently's report: {evidently}")


def rows_of_all(rows: list[dict[str, Any]], verdict: str) -> list[dict[str, Any]]:
    """Select what was measured of all jobs, drift first, with the name of what its number counts.

    Args:
        rows: What was measured, with kind, name, segment and value.
        verdict: On drift; where it is unknown no columns were compared, and none are counted.
    """
    named = [
        row | {"name": "columns that drifted" if row["name"] == "verdict" else row["name"]}
        for row in rows
        if row["segment"] == "all" and (row["name"] != "verdict" or verdict != "unknown")
    ]
    return sorted(named, key=lambda row: (row["kind"] != "drift", -row["value"]))
