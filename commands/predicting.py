"""Commands that let the champion answer: predictions of a file's jobs, a ranking of candidates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands import meanings
from commands.inputs import (
    Json,
    LogFormat,
    MapFile,
    Mapping,
    Output,
    Timezone,
    read_log_file,
    store,
)
from commands.tables import print_note, progress_bar, show_rows, to_records
from infra.errors import InputError
from infra.lineage import lineage, log_file, model_version
from infra.settings import prepare_environment

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 20
"""Predictions that people are shown; --json and -o have all."""


def predict(
    file: Annotated[
        Path, typer.Argument(help="A log or table of jobs; outcomes in it are not read.")
    ],
    log_format: LogFormat = None,
    mapping: Mapping = None,
    map_file: MapFile = None,
    timezone: Timezone = "UTC",
    quantile: Annotated[
        list[float] | None, typer.Option(min=0, max=1, help="A quantile to add; repeat.")
    ] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Predict the jobs of a file.

    With the champion, by what had ended in the store when each was submitted.
    """
    from jobs.export import require_suffix
    from jobs.ingest import read_arguments
    from models.releases.champion import predict_jobs
    from models.releases.noted_champion import find_champion

    if output:
        require_suffix(output)
    jobs = read_log_file(file, read_arguments(log_format, mapping, map_file, timezone))
    if jobs.empty:
        raise InputError(f"{file} has no job to predict")
    settings = prepare_environment()
    engine = store()
    with progress_bar("predicting") as report, lineage(settings, "predict") as run:
        champion = find_champion(settings)
        run.inputs.append(log_file(file))
        run.inputs += [model_version(settings, champion.version)] if champion else []
        answers = predict_jobs(engine, settings, jobs, tuple(quantile or ()), report)
        written = _write(answers, output) if output else 0
        run.outputs += [log_file(output)] if output else []
    if champion is None:
        print_note(
            "no version is champion yet, so the histories of the stored jobs predict alone: "
            "train one first (gridcast train)"
        )
    if in_training := int(answers["in_training"].sum()):
        print_note(
            f"{in_training:,} of these jobs were submitted before the champion was trained: its "
            "errors on them are no measure (gridcast evaluate gives one)"
        )
    if output:
        print_note(f"{written:,} predictions written to {output}")
        if not as_json:
            return
    columns = (
        "job_id",
        "walltime",
        "walltime_median",
        "walltime_low",
        "walltime_high",
        "cluster",
        "model_version",
        "cold_start",
    )
    rows = to_records(answers)
    title, meaning = f"Predictions for {file.name}, walltime in s", meanings.of_predictions(rows)
    rest = len(rows) - MAX_ROWS
    if rest > 0 and not as_json:
        rows = rows[:MAX_ROWS]
        meaning = f"{meaning} These are the first {MAX_ROWS}; -o FILE writes all."
    show_rows(rows, as_json, title, columns, meaning)


def _write(answers: pd.DataFrame, output: Path) -> int:
    import pyarrow as pa

    from jobs.export import write_batches

    return write_batches(
        iter(pa.Table.from_pandas(answers, preserve_index=False).to_batches()), output
    )


def rank(
    file: Annotated[
        Path, typer.Argument(help="JSON as POST /rank takes it: jobs, each with its candidates.")
    ],
    policy: Annotated[
        str | None,
        typer.Option(help="mean (default), conservative (mean + tuning · sd), quantile or first."),
    ] = None,
    tuning: Annotated[
        float | None, typer.Option(help="The tuning factor of conservative; default 1.")
    ] = None,
    level: Annotated[float | None, typer.Option(help="The level of quantile; default .9.")] = None,
    overlap: Annotated[
        bool | None,
        typer.Option("--overlap", help="The input is transferred while the job waits."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Rank sites, or replicas, for jobs.

    By when each job would be done there: wait, transfers and run.

    An option given here overrides the file's own.
    """
    from models.ranking.ranker import build_ranker
    from models.releases.champion import load_forecaster
    from services.http.contract import JSON_TYPE
    from services.http.errors import HTTPError
    from services.http.rank import read_rank

    arguments = {"policy": policy, "tuning": tuning, "level": level, "overlap": overlap}
    options = {name: str(value) for name, value in arguments.items() if value is not None}
    try:
        request = read_rank(JSON_TYPE, file.read_bytes(), options)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from None
    except HTTPError as error:
        raise InputError(f"{file}: {error.message}") from None
    engine = store()
    with progress_bar("learning"):
        ranker = build_ranker(engine, load_forecaster(engine, prepare_environment()))
    ranking = ranker.rank(request.candidates, request.rule, request.at).frame()
    numbers = (
        "rank",
        "total_mean",
        "total_sd",
        "total_low",
        "total_high",
        "wait",
        "transfer_in",
        "run",
        "transfer_out",
        "first",
        "in_time",
    )
    candidates = ("job_id", "rank", "site", *numbers[1:], "unknown", "queue", "input_at")
    columns = tuple(name for name in candidates if name in ranking or name not in numbers)
    title = f"Candidates by {request.rule.policy}, in s"
    rows = to_records(ranking)
    show_rows(rows, as_json, title, columns, meanings.of_ranking(rows))
