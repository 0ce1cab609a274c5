"""What the page shows of models: versions, error and coverage over time, drift, decay, links."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from subprocess import Popen
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.components import on_loopback, prefect_address
from infra.errors import GridcastError
from infra.settings import Settings
from jobs.store import read_measurements
from models.quantities.targets import TARGETS
from models.releases.versions import STALE_AFTER
from services.dashboard.values import records

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from models.releases.versions import Version

TRAINING = ("-m", "gridcast", "train")
LOGIN = (
    "MLflow and Prefect ask for a login. MLflow: user gridcast, and as password a token with the "
    "scope admin, by default that of {file}. Prefect: gridcast:PASSWORD with the same one, unless "
    "PREFECT_SERVER_API_AUTH_STRING is set."
)
MAX_POINTS, MAX_MEASUREMENTS, MAX_VERSIONS, MAX_REPORTS = 5000, 50, 20, 4
CHART_LINES = {
    "mean absolute error": {"mae": "the champion", "baseline_mae": "the best baseline"},
    "share of outcomes within the 90 % range": {"coverage_90": "the champion"},
}
"""The charts of each target: which line shows which measurement."""
VERDICT_TITLES = {"drift": "Drift: columns that moved", "decay": "Decay: active alarms"}

DIGEST_TAG, ERROR_TAG = "benchmark_digest", "benchmark_mae_"
"""Tags of a version that was measured on the common benchmark."""

Chart = dict[str, Any]


def models(
    engine: Engine, settings: Settings, is_training: bool = False, now: datetime | None = None
) -> dict[str, Any]:
    """Give the versions, charts of what was measured of them, and links to other pages.

    While the registry is away, the measurements are given without the versions.

    Args:
        engine: The store.
        settings: Whose registry, and whether anybody may change something.
        is_training: Whether a training that was started here still runs.
        now: The present; default: the clock's.

    Returns:
        What the page shows. ``refusals`` says by button why it cannot work, "" where it can; each
        version has its own.
    """
    registered = read_registry(settings)
    versions, tested = registered.versions, tested_errors(engine)
    newest_digest = next(filter(None, (v.tags.get(DIGEST_TAG) for v in versions)), "")
    measured = {
        kind: read_measurements(engine, kind=kind, segment="all", latest=MAX_POINTS)
        for kind in ("decay", "accuracy", "drift")
    }
    newest = pd.concat(list(measured.values())).dropna(subset=["value"])
    newest = newest.sort_values("measured_at", ascending=False).head(MAX_MEASUREMENTS)
    return {
        "sentence": registered.sentence,
        "challenger": challenger(engine, settings, registered, now or datetime.now(UTC)),
        "versions": [
            {
                "version": version.version,
                "label": version.label,
                "alias": version.state,
                "created_at": version.created_at.isoformat(),
                "trained_until": version.tags.get("trained_until"),
                "jobs": version.tags.get("jobs"),
                "why": _why(version),
                "tested": tested.get(version.label, {}),
                "common_test": common_test(version, newest_digest),
                "refusal": _promotion_refusal(version, registered, settings),
            }
            for version in versions[:MAX_VERSIONS]
        ],
        "refusals": _refusals(registered, settings, is_training),
        "promotions": _promotions(versions),
        "charts": charts(measured),
        "measurements": records(newest[["measured_at", "kind", "name", "value"]]),
        "links": _links(settings),
        "login": LOGIN.format(file=settings.token_path) if settings.admin_token else "",
    }


def challenger(
    engine: Engine, settings: Settings, registered: Registered, now: datetime
) -> dict[str, Any] | None:
    """Give the version that waits, the evidence so far, and who may decide; None for none.

    Args:
        engine: The store.
        settings: Whose registry, and whether a challenger answers as the canary.
        registered: The versions.
        now: The present.
    """
    from models.releases.alias_moves import WHO_MAY_DECIDE
    from models.releases.registry import CHALLENGER
    from monitoring.canary import read_evidence

    waiting = [version for version in registered.versions if CHALLENGER in version.aliases]
    if not waiting or waiting[0] == registered.champion:
        return None
    version = waiting[0]
    evidence = read_evidence(engine, settings, now)
    by_itself = settings.promotion == "auto" and not registered.pinned and evidence is not None
    return {
        "version": version.version,
        "label": version.label,
        "share": settings.canary if evidence else None,
        "evidence": evidence and evidence.to_json(),
        "sentence": evidence.sentence if evidence else version.tags.get("compared", ""),
        "decision": "Its outcomes promote or withdraw it."
        if by_itself
        else "It waits for a person.",
        "approval": WHO_MAY_DECIDE,
        "refusal": _promotion_refusal(version, registered, settings),
        "withdrawal_refusal": _no_tokens(settings),
    }


@dataclass(frozen=True)
class Registered:
    """What the registry says: a sentence, all versions, the champion, and which is pinned.

    ``is_away`` where it cannot be read; the sentence says why.
    """

    sentence: str
    versions: list[Version]
    champion: Version | None = None
    pinned: str = ""
    is_away: bool = False


def read_registry(settings: Settings) -> Registered:
    """Read the registry; one that is away is a sentence."""
    from models.releases import registry

    try:
        versions = registry.versions(settings)
        champion, pinned = registry.champion(settings), registry.pinned(settings)
    except GridcastError as error:
        return Registered(str(error), [], is_away=True)
    first = (
        f"{champion.label} answers." if champion else "No model set answers yet: gridcast train."
    )
    return Registered(f"{first} {pinned}." if pinned else first, versions, champion, pinned)


def problems(settings: Settings, now: datetime) -> list[dict[str, Any]]:
    """Say what is wrong with the champion: there is none, or it is stale.

    Args:
        settings: Whose registry.
        now: The present.
    """
    registered = read_registry(settings)
    champion = registered.champion
    if champion is None:
        kind = "registry away" if registered.is_away else "no champion"
        return [{"kind": kind, "text": registered.sentence, "view": "models"}]
    trained = trained_until(champion)
    if now - trained <= STALE_AFTER:
        return []
    text = f"{champion.label} knows no job that ended later; gridcast train trains a new one"
    since = trained.isoformat()
    return [{"kind": "stale champion", "text": text, "since": since, "view": "models"}]


def trained_until(version: Version) -> datetime:
    """The end of a version's training window, else when it was made."""
    text = version.tags.get("trained_until")
    moment = datetime.fromisoformat(text) if text else version.created_at
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def tested_errors(engine: Engine) -> dict[str, dict[str, Any]]:
    """The error of each version on the later jobs that it was tested on, beside its rivals.

    Returns:
        By label the mean absolute error of the walltime by predictor (s), and its ``coverage_90``.
    """
    rows = read_measurements(engine, kind="evaluation", latest=MAX_POINTS)
    errors: dict[str, dict[str, Any]] = {}
    for row in rows.to_dict("records"):
        label, _, predictor = row["segment"].partition(" ")
        if " of " in predictor:  # of another source than the first
            continue
        if row["name"] == "walltime mae":
            errors.setdefault(label, {})[predictor] = row["value"]
        elif row["name"] == "walltime coverage_90" and predictor == "candidate":
            errors.setdefault(label, {})["coverage_90"] = row["value"]
    return errors


def common_test(version: Version, digest: str) -> dict[str, Any] | None:
    """Give the error of a version on the jobs that all recent versions were tested on.

    Args:
        version: The version, whose tags have the numbers.
        digest: Of the newest test; a version that was tested on other jobs has none here.

    Returns:
        ``mae``, ``baseline`` (of the best simple rule), their ``unit``, ``coverage`` and ``jobs``.
    """
    tags = version.tags
    error = next((name for name in tags if name.startswith(ERROR_TAG)), "")
    if not digest or tags.get(DIGEST_TAG) != digest or not error:
        return None
    unit = error.removeprefix(ERROR_TAG)
    numbers = {"mae": error, "baseline": f"benchmark_baseline_mae_{unit}"}
    numbers |= {"coverage": "benchmark_coverage_90", "jobs": "benchmark_jobs"}
    values = {key: float(tags[name]) if name in tags else None for key, name in numbers.items()}
    return {**values, "unit": unit}


def _why(version: Version) -> str:
    """Why a version was promoted, refused, or waits."""
    tags = version.tags
    if version.state in ("champion", "retired") and "promoted_why" in tags:
        return f"promoted by {tags.get('promoted_by', '?')}: {tags['promoted_why']}"
    if "refused_why" in tags:
        return f"refused: {tags['refused_why']}"
    return tags.get("compared", "")


def _no_tokens(settings: Settings) -> str:
    has_tokens = bool(settings.all_tokens)
    return "" if has_tokens else "set GRIDCAST_TOKENS, a token with the scope admin, to change this"


def _promotion_refusal(version: Version, registered: Registered, settings: Settings) -> str:
    """Why a version cannot be promoted, "" if it can."""
    if registered.champion and registered.champion.version == version.version:
        return "it answers now"
    if version.state == "unfinished":
        return "its training was stopped before it was complete"
    if registered.pinned:
        return f"{registered.pinned}: unpin it first"
    return _no_tokens(settings)


def _refusals(registered: Registered, settings: Settings, is_training: bool) -> dict[str, str]:
    """Why each button cannot work, "" where it can."""
    refusal = registered.sentence if registered.is_away else _no_tokens(settings)
    training = "a training runs: its version will be listed here" if is_training else ""
    no_pin = "" if registered.champion else "there is no champion to pin"
    return {
        "retrain": refusal or training,
        "pin": refusal or no_pin or (registered.pinned and f"{registered.pinned}"),
        "unpin": refusal or ("" if registered.pinned else "no version is pinned"),
    }


def charts(measured: dict[str, pd.DataFrame]) -> list[Chart]:
    """Lines over time of each target's error and coverage, then of drift and decay."""
    # Decay counts open jobs as ended ones will be; accuracy is for targets that it does not watch.
    watched = {name.rpartition(" ")[0] for name in measured["decay"]["name"]}
    accuracy = measured["accuracy"]
    extra = [name.rpartition(" ")[0] not in watched for name in accuracy["name"]]
    rows = pd.concat([measured["decay"], accuracy[np.array(extra, dtype=bool)]])
    drawn = []
    for target in (name for name in TARGETS if rows["name"].str.startswith(f"{name} ").any()):
        for title, lines in CHART_LINES.items():
            unit = TARGETS[target].unit if "error" in title else ""
            own = {label: rows[rows["name"] == f"{target} {name}"] for name, label in lines.items()}
            drawn.append(_chart(f"{target}: {title}", unit, own, 1 if unit == "" else None))
    for kind, title in VERDICT_TITLES.items():
        verdicts = measured[kind][measured[kind]["name"] == "verdict"]
        drawn.append(_chart(title, "", {title.partition(": ")[2]: verdicts}))
    return [chart for chart in drawn if chart["lines"]]


def _chart(
    title: str, unit: str, lines: dict[str, pd.DataFrame], most: float | None = None
) -> Chart:
    """One chart; its axis begins at 0 and ends at ``most``, where the quantity cannot be larger."""
    drawn = []
    for name, rows in lines.items():
        rows = rows.dropna(subset=["value"]).sort_values("measured_at")
        times = [moment.isoformat() for moment in rows["measured_at"]]
        points = [list(point) for point in zip(times, rows["value"], strict=True)]
        if points:
            drawn.append({"name": name, "points": points})
    return {"title": title, "unit": unit, "lines": drawn, "most": most}


def _promotions(versions: list[Version]) -> list[dict[str, str]]:
    """When which version became the champion, by whom and why, newest first."""
    promotions = [
        {
            "at": version.tags["promoted_at"],
            "label": version.label,
            "by": version.tags.get("promoted_by", ""),
            "why": version.tags.get("promoted_why", ""),
        }
        for version in versions
        if "promoted_at" in version.tags
    ]
    return sorted(promotions, key=lambda promotion: promotion["at"], reverse=True)


def _links(settings: Settings) -> list[list[str]]:
    """Names and addresses of other pages; Evidently's newest reports are served by this one."""
    ours, loopback = (f"http://{s.host_in_url}" for s in (settings, on_loopback(settings)))
    mlflow = (
        settings.displayed_tracking_url
        if settings.mlflow_url.startswith("http")
        else f"{loopback}:{settings.mlflow_port}"
    )
    pages = sorted(
        (page.name for page in settings.folder("reports").glob("*Z-*.html")), reverse=True
    )[:MAX_REPORTS]
    return [
        ["MLflow: the versions and their evidence", f"{mlflow}/#/models/{settings.model_name}"],
        ["Prefect: flows and their runs", prefect_address(settings)],
        ["The predictor", f"{ours}:{settings.predictor_port}"],
        *([f"Evidently: {name.removesuffix('.html')}", f"/reports/{name}"] for name in pages),
    ]


def start_training(settings: Settings) -> Popen[bytes]:
    """Start ``gridcast train`` as a process; a thread waits for its end, so that none is left."""
    with (settings.folder("logs") / "train.log").open("ab") as output:
        process = Popen(  # noqa: S603
            [sys.executable, *TRAINING], stdout=output, stderr=output, start_new_session=True
        )
    Thread(target=process.wait, name="training", daemon=True).start()
    return process
