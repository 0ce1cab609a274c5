"""The command line: one short command for each thing a person does.

A command reads its arguments, calls one function below and prints its table. Tables go to standard output, progress and
logs to standard error. Exit codes: 0 done, 1 failed, 2 wrong use or input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from infra.errors import GridcastError, InputError
from infra.settings import Settings, prepare_environment

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy import Engine

    from jobs.ingest import Reading
    from models.versions import Version

app = typer.Typer(
    help="Before a grid job runs: how long it will run and what it will use, with honest ranges.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
# A pipe has no width of its own; 80 columns would fold most tables.
out = Console(width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help='Print one object {"rows": [{…}]} to standard output, and nothing else there.')]
LogFormat = Annotated[
    str | None, typer.Option("--format", help="swf, slurm, condor, pbs, panda, nextflow or table; default: seen from the file.")
]
Mapping = Annotated[
    list[str] | None, typer.Option("--map", help="A table's column as COLUMN=FIELD[:UNIT], for instance run=walltime:s; repeat.")
]
MapFile = Annotated[Path | None, typer.Option(help="The column map in a TOML file.")]
Timezone = Annotated[str, typer.Option(help="Zone of times that carry none, for instance Europe/Paris.")]
ClusterBy = Literal["group", "site", "queue", "program", "kmeans"]
Source = Annotated[str | None, typer.Option(help="Only this source (a log or system); default: all that is stored.")]


def show(rows: list[dict[str, Any]], as_json: bool, title: str = "", columns: tuple[str, ...] = ()) -> None:
    """Print rows as a table for people (only ``columns``, if given) or whole as one JSON object for machines."""
    if as_json:
        sys.stdout.write(json.dumps({"rows": [_plain(row) for row in rows]}, default=str) + "\n")
        return
    table = Table(title=title or None, title_justify="left")
    names = columns or tuple(rows[0]) if rows else columns
    for name in names:
        table.add_column(name.replace("_", " "), justify="right" if rows and isinstance(rows[0].get(name), int | float) else "left")
    for row in rows:
        table.add_row(*(escape(_cell(row.get(name))) for name in names))
    out.print(table if rows else f"{title}: nothing" if title else "nothing")


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: a missing number is null."""
    return {key: None if isinstance(value, float) and value != value else value for key, value in row.items()}


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@contextmanager
def progress_bar(what: str) -> Iterator[Any]:
    """A progress bar on standard error; yields ``report(text, share done)``."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=not err.is_terminal) as progress:
        task = progress.add_task(what, total=None)

        def report(text: str, share: float | None = None) -> None:
            progress.update(task, completed=share or 0.0, total=None if share is None else 1.0, description=text)

        yield report


@app.command()
def demo(as_json: Json = False) -> None:
    """Run the whole loop once on generated jobs: log, store, training, MLflow, predictor, a broker's call, drift report."""
    with progress_bar("starting") as report:
        from flows.demo import demo as run

        rows = run(report)
    show(rows, as_json, "Gridcast's loop, once, on generated jobs")


@app.command()
def ingest(
    files: Annotated[list[Path], typer.Argument(help="Log files, or folders of them; .gz is read as it is.")],
    log_format: LogFormat = None,
    source: Annotated[str | None, typer.Option(help="Name of the log or system; default: what the file says, or its name.")] = None,
    mapping: Mapping = None,
    map_file: MapFile = None,
    timezone: Timezone = "UTC",
    as_json: Json = False,
) -> None:
    """Read job logs into the store; reading one again changes nothing."""
    from jobs.ingest import Ingested, ingest_files, reading

    how = reading(log_format, mapping, map_file, timezone)
    with progress_bar("reading") as report:

        def tell(done: Ingested) -> None:
            report(f"{done.file.name}: {done.read:,} records")

        results = ingest_files(_store(), files, source=source, progress=tell, **how)
    rows: list[dict[str, Any]] = [
        {
            "file": str(one.file),
            "format": one.format,
            "read": one.read,
            "added": one.added,
            "updated": one.updated,
            "unchanged": one.unchanged,
            "rejected": one.rejected,
            "notes": dict(one.notes),
            "error": one.error,
        }
        for one in results
    ]
    named = rows if as_json else [row | {"file": Path(row["file"]).name, "notes": _first_notes(row["notes"])} for row in rows]
    show(named, as_json, "Ingested", ("file", "format", "read", "added", "updated", "unchanged", "rejected", "notes"))
    for row in rows:
        if row["error"]:
            err.print(f"gridcast: {row['error']}", style="bold red", soft_wrap=True, highlight=False, markup=False)
    if any(row["error"] for row in rows):
        raise typer.Exit(InputError.exit_code)


def _first_notes(notes: dict[str, int], most: int = 2) -> str:
    told = [f"{count:,} × {note}" for note, count in notes.items()]
    return "; ".join(told[:most]) + (f"; and {len(told) - most} more (--json)" if len(told) > most else "")


@app.command()
def rejects(
    file: Annotated[Path | None, typer.Option(help="Only those of this file.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, by file and line.")] = 100,
    as_json: Json = False,
) -> None:
    """Show the records that were refused, with file, line and reason."""
    from jobs.store import read_rejects

    show(_records(read_rejects(_store(), file=file, limit=limit)), as_json, "Rejected records")


@app.command(name="jobs")
def jobs_command(as_json: Json = False) -> None:
    """Count what is stored, a row a source."""
    from jobs.store import count_jobs

    show(_records(count_jobs(_store())), as_json, "Stored jobs")


@app.command()
def generate(
    file: Annotated[Path, typer.Argument(help="Where to write: .csv, .parquet or .swf, with .gz if wished.")],
    jobs: Annotated[int, typer.Option(min=1)] = 20_000,
    days: Annotated[float, typer.Option(min=0.01)] = 30,
    seed: int = 0,
    change: Annotated[list[str] | None, typer.Option(help="Plant a change as KIND@DAY, for instance slow_program@20; repeat.")] = None,
    as_json: Json = False,
) -> None:
    """Write a log of generated jobs, with changes planted on request; the same seed gives the same log."""
    from jobs.workload import generate as make
    from jobs.workload import read_change
    from jobs.writers import write_jobs

    made = make(jobs=jobs, days=days, seed=seed, changes=[read_change(text) for text in change or []])
    write_jobs(made.jobs, file)
    rows = [{"file": str(file), "jobs": len(made.jobs), "source": "generated", "seed": seed, "planted": ", ".join(change or []) or None}]
    show(rows, as_json, "Generated jobs")


@app.command()
def train(
    source: Source = None,
    cluster_by: Annotated[ClusterBy | None, typer.Option(help="A model a cluster too, where it wins on later jobs.")] = None,
    as_json: Json = False,
) -> None:
    """Train on the stored jobs, judge on the latest of them, register in MLflow, and promote what is better."""
    from models.release import release

    with progress_bar("training") as report:
        made = release(_store(), prepare_environment(), sources=[source] if source else None, cluster_by=cluster_by, progress=report)
    version = made.version.label
    show(
        [{"version": version, "promoted": made.promoted, **row} for row in made.rows], as_json, f"{version} on jobs later than its training"
    )
    err.print(f"{version}: {'champion, ' if made.promoted else ''}{made.why}", highlight=False)


@app.command()
def promote(
    version: Annotated[int, typer.Argument(help="Number of the version in MLflow.")],
    why: Annotated[str, typer.Option(help="Kept with the version.")] = "asked for",
    as_json: Json = False,
) -> None:
    """Make a version the champion, if it loads and answers; the predictor serves it within seconds."""
    from models import release

    with progress_bar("trying the version out"):
        promoted = release.promote(version, prepare_environment(), by=_me(), why=why)
    show([_version(promoted)], as_json, "Champion")


@app.command()
def rollback(why: Annotated[str, typer.Option(help="Kept with the version.")] = "asked for", as_json: Json = False) -> None:
    """Give the place back to the version that the champion replaced."""
    from models import registry

    show([_version(registry.rollback(by=_me(), why=why))], as_json, "Champion")


@app.command()
def pin(
    version: Annotated[int, typer.Argument(help="Number of the version in MLflow; it is promoted first if it does not serve.")],
    why: Annotated[str, typer.Option(help="Kept with the pin.")] = "asked for",
    as_json: Json = False,
) -> None:
    """Keep a version as champion until it is unpinned: no retraining and no rollback takes its place."""
    from models import registry, release

    settings = prepare_environment()
    with progress_bar("trying the version out"):
        release.promote(version, settings, by=_me(), why=why)
        pinned = registry.pin(by=_me(), why=why)
    show([_version(pinned)], as_json, "Pinned")


@app.command()
def unpin() -> None:
    """Let the champion be replaced again by what is better."""
    from models import registry

    held = registry.pinned()
    registry.unpin()
    _say(f"no longer: {held}" if held else "nothing was pinned")


@app.command()
def history(as_json: Json = False) -> None:
    """Show every version: why it was trained, on what, how it did, who or what promoted it, when it served, why it left."""
    from models import registry

    registry.settle()
    shown = ("version", "state", "created_at", "jobs", "why_trained", "compared", "promoted_by", "promoted_why", "served", "left")
    show([_version(one) for one in registry.versions()], as_json, "Versions", shown)
    if held := registry.pinned():
        _say(held)


@app.command()
def monitor(as_json: Json = False) -> None:
    """Compare the jobs that ended since the champion was trained with its training window; writes an HTML report."""
    from models import registry
    from models.release import load
    from monitoring.watch import monitor as look

    settings = prepare_environment()
    champion = registry.champion(settings)
    if champion is None:
        raise GridcastError("there is no champion to compare with: train one first (gridcast train)")
    with progress_bar("looking at the recent jobs"):
        found = look(_store(), load(champion, settings).card, settings.folder("reports"), model=champion.label)
    show(_records(found.measurements[["kind", "name", "segment", "value"]]), as_json, f"Drift: {found.verdict}")
    err.print(found.sentence, *(f"\n{page}" for page in found.pages), highlight=False, soft_wrap=True)


@app.command()
def predict(
    file: Annotated[Path, typer.Argument(help="A log or table of jobs; outcomes in it are not looked at.")],
    log_format: LogFormat = None,
    mapping: Mapping = None,
    map_file: MapFile = None,
    timezone: Timezone = "UTC",
    quantile: Annotated[list[float] | None, typer.Option(min=0, max=1, help="A quantile to add; repeat.")] = None,
    as_json: Json = False,
) -> None:
    """Predict the jobs of a file with the champion, by histories of what the store knew had ended at each submission."""
    from jobs.ingest import reading
    from models.release import predict as ask

    jobs = _read(file, reading(log_format, mapping, map_file, timezone))
    with progress_bar("predicting") as report:
        answers = ask(_store(), prepare_environment(), jobs, tuple(quantile or ()), report)
    if known := int(answers["in_training"].sum()):
        _say(f"{known:,} of these jobs were submitted before the champion was trained: do not judge it by them (gridcast evaluate would)")
    shown = ("job_id", "walltime", "walltime_median", "walltime_low", "walltime_high", "cluster", "model_version", "cold_start")
    show(_records(answers), as_json, f"Predictions for {file.name}, walltime in s", shown)


@app.command()
def evaluate(
    log: Annotated[str | None, typer.Argument(help="A log file, or the name of a stored source; default: all that is stored.")] = None,
    target: Annotated[str, typer.Option(help="walltime, peak_memory, cpu_time or io.")] = "walltime",
    warm_up: Annotated[float, typer.Option(help="Share of the jobs that are only learned from.")] = 0.1,
    predictor: Annotated[list[str] | None, typer.Option(help="Only these rows; repeat.")] = None,
    allocation: Annotated[bool, typer.Option("--allocation", help="Memory set aside instead: waste and failures, a row a policy.")] = False,
    at: Annotated[Literal["submission", "start"], typer.Option(help="With --allocation: when each job is asked about.")] = "submission",
    input_known: Annotated[
        bool, typer.Option("--input-known", help="With --allocation: what a job read stands for the size of its input, known beforehand.")
    ] = False,
    price: Annotated[float, typer.Option(min=0, help="With --allocation: what a failure costs beside its waste, in GiB·h.")] = 1.0,
    log_format: LogFormat = None,
    mapping: Mapping = None,
    map_file: MapFile = None,
    timezone: Timezone = "UTC",
    as_json: Json = False,
) -> None:
    """Live through a log in time order and compare Gridcast with every baseline; logged to MLflow with plots."""
    from jobs.ingest import reading
    from models.baselines import IDEAL
    from models.evaluation import evaluate as judge
    from models.evidence import record_evaluation
    from models.training import find_target

    settings = prepare_environment()
    jobs = _jobs_of(log, reading(log_format, mapping, map_file, timezone))
    name = Path(log).name if log else "the store"
    if allocation:
        _evaluate_allocation(jobs, name, settings, as_json, warm_up=warm_up, at=at, input_known=input_known, price=price)
        return
    with progress_bar("living through the log") as report:
        found = judge(jobs, find_target(target), warm_up, predictor, report)
    shown = ("predictor", "mae", "median_ae", "rmse", "r2", "r2_log", "mape", "apa", "under", "pinball", "crps", "coverage_90", "width_90")
    show(found.rows, as_json, f"{target} [{found.unit}] of {name}, {len(found.jobs):,} jobs after the warm-up", shown)
    if any(row["predictor"] == IDEAL.name for row in found.rows):
        err.print(f"{IDEAL.name} is {IDEAL.meaning}", highlight=False)
    run = record_evaluation(found, name, settings)
    err.print(f"logged to MLflow as run {run}, with tables by cluster, period and for long jobs, and plots", highlight=False)


def _evaluate_allocation(jobs: pd.DataFrame, name: str, settings: Settings, as_json: bool, **how: Any) -> None:
    from models.evidence import record_allocation
    from models.waste import evaluate_allocation

    with progress_bar("living through the log") as report:
        rows = evaluate_allocation(jobs, progress=report, **how)
    show(rows, as_json, f"Memory set aside for {rows[0]['jobs']:,} jobs of {name}, waste in GiB·h", tuple(rows[0]))
    err.print(f"logged to MLflow as run {record_allocation(rows, name, how, settings)}", highlight=False)


@app.command()
def replay(
    log: Annotated[str, typer.Argument(help="A log file, or the name of a stored source.")],
    policy: Annotated[
        list[str] | None, typer.Option(help="fcfs, easy, easy-sjbf, xfactor, gridcast …; repeat. Default: easy, gridcast.")
    ] = None,
    predictor: Annotated[
        list[str] | None, typer.Option(help="request, perfect, last-two, template, gridcast …; repeat. Default: request, gridcast.")
    ] = None,
    corrector: Annotated[list[str] | None, typer.Option(help="request, incremental or remaining; repeat. Default: request.")] = None,
    bound: Annotated[
        float | None, typer.Option(help="Hours after which a job is served first; inf for never. Default: the policy's.")
    ] = None,
    machine: Annotated[
        str | None, typer.Option(help="Processors, or a TOML or JSON file of pools; default: what the log's header says, else its peak.")
    ] = None,
    version: Annotated[int | None, typer.Option(help="Ask this version of the model, trained on what ended before the log begins.")] = None,
    day: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The day that the page draws; default: the busiest.")] = None,
    log_format: LogFormat = None,
    mapping: Mapping = None,
    map_file: MapFile = None,
    timezone: Timezone = "UTC",
    as_json: Json = False,
) -> None:
    """Say what a prediction is worth: run a log again under scheduling policies; an HTML page, logged to MLflow with plots."""
    from jobs.ingest import reading
    from scheduling.comparison import against_first
    from scheduling.machine import find_machine
    from scheduling.report import report as write_page
    from scheduling.worth import HOUR, SHOWN, record_replays, replay_each, trained, ways

    settings = prepare_environment()
    asked = ways(policy, predictor, corrector, None if bound is None else bound * HOUR)
    file = Path(log) if Path(log).exists() else None
    jobs = _jobs_of(log, reading(log_format, mapping, map_file, timezone))
    with progress_bar("replaying") as report:
        learned = None if version is None else trained(version, jobs, _store(), settings)
        done = replay_each(jobs, find_machine(machine, file, jobs), asked, report, learned)
    rows = against_first(done)
    name = Path(log).name
    title = f"Replay of {name}, {len(done[0].trace):,} jobs on {done[0].machine.processors:,} processors, waits in s"
    show(rows, as_json, title, SHOWN)
    page = write_page(done, settings.folder("reports") / f"replay-{name}", day)
    err.print(f"{page}\nlogged to MLflow as run {record_replays(done, name, settings, learned)}", highlight=False, soft_wrap=True)


@app.command()
def rehearse(
    log: Annotated[str, typer.Argument(help="A log file, or the name of a stored source.")],
    target: Annotated[str, typer.Option(help="walltime, peak_memory, cpu_time or io.")] = "walltime",
    warm_up: Annotated[float, typer.Option(help="Share of the jobs that the first models are trained on.")] = 0.1,
    every: Annotated[
        float | None, typer.Option(min=0.01, help="Days between two trainings of the schedule; default: a tenth of the log's time.")
    ] = None,
    log_format: LogFormat = None,
    mapping: Mapping = None,
    map_file: MapFile = None,
    timezone: Timezone = "UTC",
    as_json: Json = False,
) -> None:
    """Say what retraining is worth: live through a log, retrained never, on a schedule and on decay; an HTML page with plots."""
    from jobs.ingest import reading
    from models.training import find_target
    from monitoring.rehearsal import rehearse as live
    from monitoring.rehearsal_page import worth, write_page

    settings = prepare_environment()
    jobs = _log_or_source(log, reading(log_format, mapping, map_file, timezone))
    with progress_bar("living through the log") as report:
        found = live(jobs, find_target(target), warm_up=warm_up, period=every and every * 86400, progress=report)
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
    show(found.rows, as_json, f"Rehearsal of {name}, {target}, {len(found.truth):,} jobs after the warm-up", shown)
    for row in found.rows:
        if row["policy"] != "never":
            _say(worth(row))
    _say(str(write_page(found, name, settings.folder("reports") / f"rehearsal-{name}")))


@app.command()
def serve() -> None:
    """Serve the champion over HTTP on this machine until Ctrl-C."""
    from infra.parts import parts
    from infra.processes import up as run

    settings = prepare_environment()
    only = [replace(part, after=()) for part in parts(settings, servers=False) if part.name == "predictor"]
    run(settings, only, say=_say, when_ready=lambda: _say(f"the predictor answers on {only[0].address}"))


@app.command()
def up() -> None:
    """Start MLflow, Prefect, the predictor and the schedules; Ctrl-C stops them all."""
    from infra.parts import parts
    from infra.processes import up as run

    settings = prepare_environment()
    wanted = parts(settings)
    run(settings, wanted, say=_say, when_ready=lambda: show([{"part": part.name, "address": part.address} for part in wanted], False, "Up"))


@app.command()
def down() -> None:
    """Stop what `gridcast up` started on this data folder."""
    from infra.parts import parts
    from infra.processes import down as stop

    stopped = stop(prepare_environment(), parts(prepare_environment()))
    _say(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


@app.command()
def status(as_json: Json = False) -> None:
    """Say what runs, where, and how fresh the champion is."""
    from infra.parts import parts
    from infra.processes import status as look
    from models import registry

    settings = prepare_environment()
    rows = look(settings, parts(settings))
    row = {
        "part": "champion",
        "state": "none",
        "pid": None,
        "address": settings.tracking_url_shown,
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
    show(rows, as_json, "Gridcast")


def _version(version: Version) -> dict[str, Any]:
    told = (
        "jobs",
        "trained_from",
        "trained_until",
        "why_trained",
        "compared",
        "promoted_by",
        "promoted_why",
        "promoted_at",
        "retired_at",
        "retired_why",
        "refused_why",
    )
    served = version.tags.get("served")
    if version.state == "champion":
        served = "; ".join(part for part in (served, f"{version.tags.get('promoted_at', '?')} to now") if part)
    left = version.tags.get("refused_why") if version.state == "refused" else version.tags.get("retired_why")
    told_of = {"served": served, "left": left if version.state != "champion" else None}
    known = {"version": version.label, "state": version.state, "created_at": version.created_at.isoformat()}
    return known | {name: version.tags.get(name) for name in told} | told_of


def _me() -> str:
    return f"{getuser()} by gridcast"


def _say(sentence: str) -> None:
    err.print(sentence, highlight=False, soft_wrap=True)


def _read(file: Path, how: Reading) -> pd.DataFrame:
    from jobs.ingest import read_log

    with progress_bar(f"reading {file.name}") as report:
        jobs, read = read_log(file, progress=lambda done: report(f"{done.read:,} records"), **how)
    if read.rejected:
        err.print(f"{read.rejected:,} of {read.read:,} records of {file.name} were rejected; gridcast ingest keeps them with their reasons")
    return jobs


def _jobs_of(log: str | None, how: Reading) -> pd.DataFrame:
    """The jobs of a log file, or of a stored source of that name, or all that is stored; InputError when there are none."""
    if log and Path(log).exists():
        return _read(Path(log), how)
    from jobs.store import read_jobs

    jobs = read_jobs(_store(), sources=[log] if log else None)
    if jobs.empty:
        raise InputError(f"there is no file and no stored source called {log}" if log else "nothing is stored: gridcast ingest FILE")
    return jobs


def _log_or_source(log: str, how: Reading) -> pd.DataFrame:
    """The jobs of a log file, or of a stored source where there is no such file."""
    from jobs.store import read_jobs

    jobs = _read(Path(log), how) if Path(log).exists() else read_jobs(_store(), sources=[log])
    if jobs.empty:
        raise InputError(f"there is no file and no stored source called {log}")
    return jobs


def _store() -> Engine:
    from jobs.store import open_store

    return open_store(prepare_environment().store_url)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.to_dict("records")  # type: ignore[return-value]


def main() -> None:
    """Run the command line; a GridcastError becomes its one sentence and its exit code."""
    try:
        prepare_environment()
        app()
    except GridcastError as error:
        err.print(f"gridcast: {error}", style="bold red", soft_wrap=True, highlight=False, markup=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
