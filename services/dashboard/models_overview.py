"""What the page shows of models: versions, error and coverage over time, drift, decay, links."""

from __future__ import annotations

import sys
from subprocess import Popen
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.errors import GridcastError
from infra.settings import Settings
from jobs.store import read_measurements
from models.quantities.targets import TARGETS
from services.dashboard.overview import records

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from models.releases.versions import Version

TRAINING = ("-m", "gridcast", "train")
MAX_POINTS, MAX_MEASUREMENTS, MAX_VERSIONS, MAX_REPORTS = 5000, 50, 20, 4
CHART_LINES = {
    "mean absolute error": {"mae": "the champion", "baseline_mae": "the best baseline"},
    "share of outcomes within the 90 % range": {"coverage_90": "the champion"},
}
"""The charts of each target: which line shows which measurement."""
VERDICT_TITLES = {"drift": "Drift: columns that moved", "decay": "Decay: active alarms"}

Chart = dict[str, Any]


def models(engine: Engine, settings: Settings) -> dict[str, Any]:
    """Give the versions, charts of what was measured of them, and links to other pages.

    While the registry is away, the measurements are given without the versions.
    """
    sentence, versions = _versions(settings)
    measured = {
        kind: read_measurements(engine, kind=kind, segment="all", latest=MAX_POINTS)
        for kind in ("decay", "accuracy", "drift")
    }
    newest = pd.concat(list(measured.values())).dropna(subset=["value"])
    newest = newest.sort_values("measured_at", ascending=False).head(MAX_MEASUREMENTS)
    return {
        "sentence": sentence,
        "versions": [
            {
                "version": version.version,
                "label": version.label,
                "alias": version.state,
                "created_at": version.created_at.isoformat(),
            }
            for version in versions[:MAX_VERSIONS]
        ],
        "promotions": _promotions(versions),
        "charts": charts(measured),
        "measurements": records(newest[["measured_at", "kind", "name", "value"]]),
        "links": _links(settings),
    }


def _versions(settings: Settings) -> tuple[str, list[Version]]:
    """A sentence about the champion, and all versions; an absent registry is the sentence."""
    from models.releases import registry

    try:
        versions = registry.versions(settings)
        champion, pinned = registry.champion(settings), registry.pinned(settings)
    except GridcastError as error:
        return str(error), []
    first = (
        f"{champion.label} answers." if champion else "No model set answers yet: gridcast train."
    )
    return f"{first} {pinned}." if pinned else first, versions


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
            drawn.append(_chart(f"{target}: {title}", unit, own))
    for kind, title in VERDICT_TITLES.items():
        verdicts = measured[kind][measured[kind]["name"] == "verdict"]
        drawn.append(_chart(title, "", {title.partition(": ")[2]: verdicts}))
    return [chart for chart in drawn if chart["lines"]]


def _chart(title: str, unit: str, lines: dict[str, pd.DataFrame]) -> Chart:
    drawn = []
    for name, rows in lines.items():
        rows = rows.dropna(subset=["value"]).sort_values("measured_at")
        times = [moment.isoformat() for moment in rows["measured_at"]]
        points = [list(point) for point in zip(times, rows["value"], strict=True)]
        if points:
            drawn.append({"name": name, "points": points})
    return {"title": title, "unit": unit, "lines": drawn}


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
    ours = f"http://{settings.host}"
    mlflow = (
        settings.displayed_tracking_url
        if settings.mlflow_url.startswith("http")
        else f"{ours}:{settings.mlflow_port}"
    )
    pages = sorted(
        (page.name for page in settings.folder("reports").glob("*Z-*.html")), reverse=True
    )[:MAX_REPORTS]
    return [
        ["MLflow: the versions and their evidence", f"{mlflow}/#/models/{settings.model_name}"],
        ["Prefect: flows and their runs", f"{ours}:{settings.prefect_port}/runs"],
        ["The predictor", f"{ours}:{settings.predictor_port}"],
        *([f"Evidently: {name.removesuffix('.html')}", f"/reports/{name}"] for name in pages),
    ]


def start_training(settings: Settings) -> None:
    """Start ``gridcast train`` as a process; a thread waits for its end, so that none is left."""
    with (settings.folder("logs") / "train.log").open("ab") as output:
        process = Popen(  # noqa: S603
            [sys.executable, *TRAINING], stdout=output, stderr=output, start_new_session=True
        )
    Thread(target=process.wait, name="training", daemon=True).start()
