"""Commands about versions of the model: train, promote, pin, roll back, list."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands import meanings
from commands.inputs import ClusterBy, Json, Source, current_user, store
from commands.meanings import counted
from commands.progress import usual_seconds
from commands.tables import print_note, progress_bar, show_rows
from infra.errors import InputError
from infra.settings import Settings, prepare_environment

if TYPE_CHECKING:
    from models.releases.versions import Version

VersionName = Annotated[
    str, typer.Argument(metavar="VERSION", help="A version, as 3 or gridcast-3 (gridcast history).")
]
Why = Annotated[str, typer.Option(help="The reason, kept with the version.")]
TAGS = (
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


def train(
    source: Source = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="What to predict, the most important first; repeat. "
            "Default: the champion's, or walltime."
        ),
    ] = None,
    cluster_by: Annotated[
        ClusterBy | None,
        typer.Option(
            help="What tells clusters apart, each with a model of its own where that wins on later "
            "jobs; none: one model. Default: the champion's, else group, site or kmeans, whichever "
            "the jobs tell first."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a model; promote it if it is better.

    On the stored jobs, compared on the latest of them, registered in MLflow.
    """
    from flows.from_command_line import train_as_flow_run
    from jobs.store import count_jobs
    from models.releases.automatic_rollback import training_lock
    from models.releases.pipeline import TrainingOptions, TrainingPipeline

    settings = prepare_environment()
    options = TrainingOptions(tuple(target or ()), cluster_by, (source,) if source else ())
    engine = store()
    expected = usual_seconds("train", int(count_jobs(engine)["ended"].sum()))
    with training_lock(settings), progress_bar("training", expected) as report:
        release = train_as_flow_run(TrainingPipeline(engine, settings, options, report), settings)
    version = release.version.label
    columns = ("source", "target", "predictor", "jobs", "mae", "median_ae", "apa", "coverage_90")
    show_rows(
        [{"version": version, "promoted": release.promoted, **row} for row in release.rows],
        as_json,
        f"{version} on jobs later than its training",
        columns,
        meanings.of_training(release.rows),
    )
    for row in release.source_rows:
        print_note(
            f"{row['source']}: trained on {counted(row['jobs'], 'job')}, compared on "
            f"{row['compared_on'] or 'none: too few are new'}"
        )
    verdict = "champion: " if release.promoted else "not promoted, "
    print_note(f"{version}: {verdict}{release.why}")


def promote(version: VersionName, why: Why = "asked for", as_json: Json = False) -> None:
    """Make a version the champion.

    If it loads and answers; the predictor serves it in seconds.
    """
    champion = _promote(version, why)
    _show_champion(champion, "Champion", as_json)
    if refused_why := champion.tags.get("refused_why"):
        print_note(f"{champion.label} had been refused: {refused_why}")


def challenge(version: VersionName, why: Why = "asked for", as_json: Json = False) -> None:
    """Make a version the challenger.

    If it loads and answers; it predicts in the shadow, or with GRIDCAST_CANARY a share of the jobs.
    """
    from models.releases import champion

    settings = prepare_environment()
    number = _number_to("challenger", version, settings)
    with progress_bar("trying the version out"):
        challenger = champion.challenge(number, settings, by=current_user(), why=why)
    share = f"answers {settings.canary:.1%} of the jobs" if settings.canary else "is in the shadow"
    row = _row(challenger)
    meaning = f"{row['version']} {share}; predictors follow within seconds."
    show_rows([row], as_json, "Challenger", ("version", "state", "jobs"), meaning)


def rollback(why: Why = "asked for", as_json: Json = False) -> None:
    """Return to the champion before."""
    from models.releases import registry

    _show_champion(registry.rollback(by=current_user(), why=why), "Champion", as_json)


def withdraw(why: Why = "asked for", as_json: Json = False) -> None:
    """Refuse the challenger.

    It predicts no more, neither in the shadow nor as the canary; the champion stays.
    """
    from models.releases import registry

    row = _row(registry.withdraw(by=current_user(), why=why))
    meaning = f"{row['version']} is challenger no longer; predictors follow within seconds."
    show_rows([row], as_json, "Withdrawn", ("version", "state", "left"), meaning)


def pin(version: VersionName, why: Why = "asked for", as_json: Json = False) -> None:
    """Keep a version as champion.

    Promoted if need be; no retraining or rollback replaces it.
    """
    from models.releases import registry

    _promote(version, why)
    _show_champion(registry.pin(by=current_user(), why=why), "Pinned", as_json)


def unpin() -> None:
    """Let a better version replace the champion."""
    from models.releases import registry

    pinned = registry.pinned()
    registry.unpin()
    print_note(f"no longer: {pinned}" if pinned else "nothing was pinned")


def history(as_json: Json = False) -> None:
    """List all versions, how good, and who chose them.

    Why and on what each was trained, by whom it was promoted, and when it served.
    """
    from models.releases import registry

    registry.reconcile()
    columns = (
        "version",
        "state",
        "jobs",
        "compared",
        "promoted_why",
        "left",
        "why_trained",
        "promoted_by",
        "created_at",
        "served",
    )
    rows = [_row(version) for version in registry.versions()]
    show_rows(rows, as_json, "Versions", columns, meanings.of_versions(rows))
    if pinned := registry.pinned():
        print_note(pinned)


def version_number(text: str, model_name: str) -> int:
    """Read the number of a version, as ``3`` or ``gridcast-3``; raises InputError."""
    match = re.fullmatch(rf"(?:{re.escape(model_name)}-)?(\d{{1,9}})", text.strip())
    if match is None:
        raise InputError(
            f"{text} names no version of {model_name}: give its number, such as 3 or "
            f"{model_name}-3 (gridcast history lists them)"
        )
    return int(match[1])


def _number_to(action: str, version: str, settings: Settings) -> int:
    """The number of a version to change; what names none is in the audit log as refused."""
    from models.releases.audited_changes import recording_refusal

    with recording_refusal(settings, action, current_user()):
        return version_number(version, settings.model_name)


def _promote(version: str, why: str) -> Version:
    from flows.from_command_line import as_flow_run
    from models.releases import champion

    settings = prepare_environment()
    number = _number_to("promote", version, settings)
    with progress_bar("trying the version out"):
        return as_flow_run(
            "promote",
            lambda: champion.promote(number, settings, by=current_user(), why=why),
            lambda done: f"{done.label} is champion: {why}",
        )


def _show_champion(version: Version, title: str, as_json: bool) -> None:
    row = _row(version)
    columns = ("version", "state", "jobs", "promoted_by", "promoted_why")
    meaning = f"{row['version']} serves now; predictors follow within seconds."
    show_rows([row], as_json, title, columns, meaning)


def _row(version: Version) -> dict[str, Any]:
    tags, is_champion = version.tags, version.state == "champion"
    now = f"{tags.get('promoted_at', '?')} to now" if is_champion else None
    left = "refused_why" if version.state == "refused" else "retired_why"
    return {
        "version": version.label,
        "state": version.state,
        "created_at": version.created_at.isoformat(),
        **{name: tags.get(name) for name in TAGS},
        "served": "; ".join(period for period in (tags.get("served"), now) if period) or None,
        "left": None if is_champion else tags.get(left),
    }
