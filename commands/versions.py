"""Commands about versions of the model: train, promote, pin, go back, ask the champion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.inputs import (
    ClusterBy,
    Json,
    LogFormat,
    MapFile,
    Mapping,
    Source,
    Timezone,
    current_user,
    read_log_file,
    store,
)
from commands.tables import err, print_note, progress_bar, show_rows, to_records
from infra.errors import InputError
from infra.settings import prepare_environment

if TYPE_CHECKING:
    from models.releases.versions import Version


def train(
    source: Source = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="What to predict, the most important first; repeat. Default: the champion's, or walltime."
        ),
    ] = None,
    cluster_by: Annotated[
        ClusterBy | None,
        typer.Option(
            help="A model a cluster too, where it wins on later jobs; default: the champion's."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train on the stored jobs, judge on the latest of them, register in MLflow, and promote what is better."""
    from models.releases.automatic_rollback import training_lock
    from models.releases.release import release

    settings = prepare_environment()
    with training_lock(settings), progress_bar("training") as report:
        made = release(
            store(),
            settings,
            targets=target,
            sources=[source] if source else None,
            cluster_by=cluster_by,
            progress=report,
        )
    version = made.version.label
    show_rows(
        [{"version": version, "promoted": made.promoted, **row} for row in made.rows],
        as_json,
        f"{version} on jobs later than its training",
    )
    err.print(f"{version}: {'champion, ' if made.promoted else ''}{made.why}", highlight=False)


def promote(
    version: Annotated[int, typer.Argument(help="Number of the version in MLflow.")],
    why: Annotated[str, typer.Option(help="Kept with the version.")] = "asked for",
    as_json: Json = False,
) -> None:
    """Make a version the champion, if it loads and answers; the predictor serves it within seconds."""
    from models.releases import release

    settings = prepare_environment()
    with progress_bar("trying the version out"):
        _known(version)
        promoted = release.promote(version, settings, by=current_user(), why=why)
    show_rows([_version(promoted)], as_json, "Champion")


def rollback(
    why: Annotated[str, typer.Option(help="Kept with the version.")] = "asked for",
    as_json: Json = False,
) -> None:
    """Give the place back to the version that the champion replaced."""
    from models.releases import registry

    show_rows([_version(registry.rollback(by=current_user(), why=why))], as_json, "Champion")


def pin(
    version: Annotated[
        int,
        typer.Argument(
            help="Number of the version in MLflow; it is promoted first if it does not serve."
        ),
    ],
    why: Annotated[str, typer.Option(help="Kept with the pin.")] = "asked for",
    as_json: Json = False,
) -> None:
    """Keep a version as champion until it is unpinned: no retraining and no rollback takes its place."""
    from models.releases import registry, release

    settings = prepare_environment()
    with progress_bar("trying the version out"):
        _known(version)
        release.promote(version, settings, by=current_user(), why=why)
        pinned = registry.pin(by=current_user(), why=why)
    show_rows(
        [_version(pinned)],
        as_json,
        "Pinned",
        ("version", "state", "jobs", "promoted_by", "promoted_why"),
    )


def _known(version: int) -> None:
    from models.releases import registry

    if version not in (one.version for one in registry.versions()):
        raise InputError(f"there is no version {version}: gridcast history shows which there are")


def unpin() -> None:
    """Let the champion be replaced again by what is better."""
    from models.releases import registry

    held = registry.pinned()
    registry.unpin()
    print_note(f"no longer: {held}" if held else "nothing was pinned")


def history(as_json: Json = False) -> None:
    """Show every version: why it was trained, on what, how it did, who or what promoted it, when it served, why it left."""
    from models.releases import registry

    registry.reconcile()
    shown = (
        "version",
        "state",
        "created_at",
        "jobs",
        "why_trained",
        "compared",
        "promoted_by",
        "promoted_why",
        "served",
        "left",
    )
    show_rows([_version(one) for one in registry.versions()], as_json, "Versions", shown)
    if held := registry.pinned():
        print_note(held)


def predict(
    file: Annotated[
        Path, typer.Argument(help="A log or table of jobs; outcomes in it are not looked at.")
    ],
    log_format: LogFormat = None,
    mapping: Mapping = None,
    map_file: MapFile = None,
    timezone: Timezone = "UTC",
    quantile: Annotated[
        list[float] | None, typer.Option(min=0, max=1, help="A quantile to add; repeat.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict the jobs of a file with the champion, by histories of what the store knew had ended at each submission."""
    from jobs.ingest import read_arguments
    from models.releases.release import predict_jobs

    jobs = read_log_file(file, read_arguments(log_format, mapping, map_file, timezone))
    with progress_bar("predicting") as report:
        answers = predict_jobs(store(), prepare_environment(), jobs, tuple(quantile or ()), report)
    if known := int(answers["in_training"].sum()):
        print_note(
            f"{known:,} of these jobs were submitted before the champion was trained: do not judge it by them (gridcast evaluate would)"
        )
    shown = (
        "job_id",
        "walltime",
        "walltime_median",
        "walltime_low",
        "walltime_high",
        "cluster",
        "model_version",
        "cold_start",
    )
    show_rows(to_records(answers), as_json, f"Predictions for {file.name}, walltime in s", shown)


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
        bool | None, typer.Option("--overlap", help="The input comes while the job waits.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say where jobs would be done first, or from which replica to copy: wait, transfers and run as ranges, by what the store knows.

    An option given here goes before the file's own.
    """
    from models.ranking.ranker import build_ranker
    from models.releases.release import load_forecaster
    from services.http.contract import JSON_TYPE
    from services.http.errors import HTTPError
    from services.http.rank import read_rank

    given = {"policy": policy, "tuning": tuning, "level": level, "overlap": overlap}
    options = {name: str(value) for name, value in given.items() if value is not None}
    try:
        asked = read_rank(JSON_TYPE, file.read_bytes(), options)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from None
    except HTTPError as error:
        raise InputError(f"{file}: {error.message}") from None
    engine = store()
    with progress_bar("learning"):
        known = build_ranker(engine, load_forecaster(engine, prepare_environment()))
    found = known.rank(asked.candidates, asked.rule, asked.at).frame()
    parts = (
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
    shown = (
        "job_id",
        "site",
        "queue",
        "input_at",
        *(name for name in parts if name in found),
        "unknown",
    )
    show_rows(to_records(found), as_json, f"Where first, by {asked.rule.policy}, in s", shown)


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
        served = "; ".join(
            part for part in (served, f"{version.tags.get('promoted_at', '?')} to now") if part
        )
    left = (
        version.tags.get("refused_why")
        if version.state == "refused"
        else version.tags.get("retired_why")
    )
    told_of = {"served": served, "left": left if version.state != "champion" else None}
    known = {
        "version": version.label,
        "state": version.state,
        "created_at": version.created_at.isoformat(),
    }
    return known | {name: version.tags.get(name) for name in told} | told_of
