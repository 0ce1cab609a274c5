"""What the page shows of models: the versions, their error and coverage over time, drift, decay, promotions, and where more is told."""

from __future__ import annotations

import sys
from subprocess import Popen
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.settings import Settings
from jobs.store import read_measurements
from models.quantities.targets import TARGETS
from services.dashboard.overview import records

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from models.releases.versions import Version

TRAINING = ("-m", "gridcast", "train")
MOST_POINTS, MOST_MEASUREMENTS, MOST_VERSIONS, MOST_REPORTS = 5000, 50, 20, 4
MEASURED = {
    "mean absolute error": {"mae": "the champion", "baseline_mae": "the best baseline"},
    "share of outcomes within the 90 % range": {"coverage_90": "the champion"},
}
"""What is drawn of each target, and which line shows which number."""
VERDICTS = {"drift": "Drift: columns that moved", "decay": "Decay: alarms that stand"}

Chart = dict[str, Any]


def models(engine: Engine, settings: Settings) -> dict[str, Any]:
    """The model sets, charts of what was measured of them, and where more is told."""
    from models.releases import registry

    versions = registry.versions(settings)
    champion, pinned = registry.champion(settings), registry.pinned(settings)
    found = {
        kind: read_measurements(engine, kind=kind, segment="all", latest=MOST_POINTS)
        for kind in ("decay", "accuracy", "drift")
    }
    newest = (
        pd.concat(list(found.values()))
        .dropna(subset=["value"])
        .sort_values("measured_at", ascending=False)
        .head(MOST_MEASUREMENTS)
    )
    answers = (
        f"{champion.label} answers." if champion else "No model set answers yet: gridcast train."
    )
    return {
        "sentence": " ".join(filter(None, (answers, f"{pinned}." if pinned else ""))),
        "versions": [
            {
                "version": v.version,
                "label": v.label,
                "alias": v.state,
                "created_at": v.created_at.isoformat(),
            }
            for v in versions[:MOST_VERSIONS]
        ],
        "promotions": _promotions(versions),
        "charts": charts(found),
        "measurements": records(newest[["measured_at", "kind", "name", "value"]]),
        "links": _links(settings),
    }


def charts(found: dict[str, pd.DataFrame]) -> list[Chart]:
    """Lines over time from measurements by kind: error and coverage of each target, then drift and decay; empty ones are left out."""
    # Decay counts open jobs as ended ones will be; of targets that it does not follow there is plain accuracy.
    followed = {name.rpartition(" ")[0] for name in found["decay"]["name"]}
    others = [name.rpartition(" ")[0] not in followed for name in found["accuracy"]["name"]]
    rows = pd.concat([found["decay"], found["accuracy"][np.array(others, dtype=bool)]])
    drawn = []
    for target in (name for name in TARGETS if rows["name"].str.startswith(f"{name} ").any()):
        for what, lines in MEASURED.items():
            unit = TARGETS[target].unit if "error" in what else ""
            own = {label: rows[rows["name"] == f"{target} {name}"] for name, label in lines.items()}
            drawn.append(_chart(f"{target}: {what}", unit, own))
    for kind, title in VERDICTS.items():
        verdicts = found[kind][found[kind]["name"] == "verdict"]
        drawn.append(_chart(title, "", {title.partition(": ")[2]: verdicts}))
    return [chart for chart in drawn if chart["lines"]]


def _chart(title: str, unit: str, lines: dict[str, pd.DataFrame]) -> Chart:
    known = {
        name: rows.dropna(subset=["value"]).sort_values("measured_at")
        for name, rows in lines.items()
    }
    points = {
        name: [
            [at.isoformat(), value]
            for at, value in zip(rows["measured_at"], rows["value"], strict=True)
        ]
        for name, rows in known.items()
        if len(rows)
    }
    return {
        "title": title,
        "unit": unit,
        "lines": [{"name": name, "points": values} for name, values in points.items()],
    }


def _promotions(versions: list[Version]) -> list[dict[str, str]]:
    """When which version became the champion, by whom and why, newest first."""
    made = [
        {
            "at": v.tags["promoted_at"],
            "label": v.label,
            "by": v.tags.get("promoted_by", ""),
            "why": v.tags.get("promoted_why", ""),
        }
        for v in versions
        if "promoted_at" in v.tags
    ]
    return sorted(made, key=lambda one: one["at"], reverse=True)


def _links(settings: Settings) -> list[list[str]]:
    """Names and addresses of the other pages; Evidently's newest reports are served by this one."""
    ours = f"http://{settings.host}"
    mlflow = (
        settings.displayed_tracking_url
        if settings.mlflow_url.startswith("http")
        else f"{ours}:{settings.mlflow_port}"
    )
    pages = sorted(
        (page.name for page in settings.folder("reports").glob("*Z-*.html")), reverse=True
    )[:MOST_REPORTS]
    return [
        ["MLflow: the versions and their evidence", f"{mlflow}/#/models/{settings.model_name}"],
        ["Prefect: flows and their runs", f"{ours}:{settings.prefect_port}/runs"],
        ["The predictor", f"{ours}:{settings.predictor_port}"],
        *([f"Evidently: {name.removesuffix('.html')}", f"/reports/{name}"] for name in pages),
    ]


def start_training(settings: Settings) -> None:
    """Start a training as a process of its own, as ``gridcast train`` does; a thread waits for its end, so that it leaves no zombie."""
    with (settings.folder("logs") / "train.log").open("ab") as output:
        process = Popen(  # noqa: S603
            [sys.executable, *TRAINING], stdout=output, stderr=output, start_new_session=True
        )
    Thread(target=process.wait, name="training", daemon=True).start()
