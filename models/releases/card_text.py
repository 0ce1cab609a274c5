"""The model card as text: short lists and tables that an engineer decides by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from models.engine.model_card import ModelCard
from models.quantities.targets import TARGETS
from models.refiner.clusters import GLOBAL
from models.releases.candidate import CandidateComparison
from models.releases.comparison import COMPARISON_BASELINES

MOST_NAMES = 20
"""At most so many clusters are listed."""


def write_model_card(card: ModelCard, comparison: CandidateComparison) -> str:
    """Write the model card in Markdown: targets, training data, errors on later jobs, limits."""
    window = card.window
    # Spaces, for a page to break the line at.
    histories = ", ".join(card.levels).replace("+", " + ")
    by = card.cluster_by
    clusters = f"by {by} and a global one" if by else "one for all jobs"
    lines = [
        "# What it predicts",
        *(f"- {name} [{TARGETS[name].unit}] of a job before it runs" for name in card.targets),
        "- each as a distribution: best single value, median, mean, ranges",
        "",
        "# What it was trained on",
        f"- {card.rows:,} jobs of {', '.join(card.sources) or 'an unnamed source'}",
        f"- submitted {window.first_submission[:16]} to {window.last_submission[:16]} UTC",
        f"- histories: {histories}",
        f"- CatBoost models: {clusters}",
        *_optional_fields(card),
        "",
        "# How it did on later jobs",
        f"- {comparison.sentence}",
        *_results(comparison.table),
    ]
    if len(comparison.later):
        lines += [
            "- the candidate was trained on the jobs that had ended by the time in the last "
            "column, and predicted all later ones:",
            "",
            markdown_table(_split_table(comparison)),
            "",
            markdown_table(comparison.table),
        ]
    lines += ["", "# Which model answers for which cluster"]
    for name, reports in card.clusters.items():
        lines += ["", f"**{name}** (errors: CRPS in {TARGETS[name].unit})", ""]
        lines += [markdown_table(cluster_table(reports).head(MOST_NAMES))]
    lines += [
        "",
        "# Limits",
        "- it knows only jobs like those above",
        "- a prediction for a user never seen is marked `cold_start` and has a wide range",
        "- its histories go on learning while it serves, so that live errors may differ from these",
        "- loaded by `mlflow.pyfunc` it has no stored history: it knows only the jobs of the frame "
        "that had ended, and answers otherwise than the service; ask the service for real answers",
    ]
    return "\n".join(lines)


def _optional_fields(card: ModelCard) -> list[str]:
    """A line a target with labels or facts that were tried: what those used are worth."""
    lines = []
    for target, rows in card.optional_fields.items():
        used = [f"{row['field']} ({row['gain']:.1%})" for row in rows if row["used"]]
        unused = [row["field"] for row in rows if not row["used"]]
        lines.append(
            f"- labels and facts used for {target}, and by how much each lowers the error of the "
            f"histories on later jobs: {', '.join(used) or 'none'}"
            + (f"; of no use: {', '.join(unused)}" if unused else "")
        )
    return lines


def _results(table: pd.DataFrame) -> list[str]:
    """A line a target: the candidate's error and coverage, and the best simple rule's error."""
    lines = []
    first = table["source"].iloc[0] if len(table) else ""
    for target, rows in table[table["source"] == first].groupby("target"):
        by_predictor = rows.set_index("predictor")
        candidate, unit = by_predictor.loc["candidate"], TARGETS[str(target)].unit
        rules = by_predictor[by_predictor.index.isin(COMPARISON_BASELINES)]["mae"].dropna()
        best = f"; best simple rule ({rules.idxmin()}) {_cell(rules.min())}" if len(rules) else ""
        lines.append(
            f"- {target}: mean absolute error {_cell(candidate['mae'])} {unit}{best}; "
            f"{candidate['coverage_90']:.0%} of outcomes within the 90 % range"
        )
    return lines


def _split_table(comparison: CandidateComparison) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "source": split.source,
            "jobs": split.jobs,
            "new since the champion": split.fresh,
            "compared on": split.later,
            "compared after": f"{split.since:%Y-%m-%d %H:%M}" if split.later else "too few jobs",
        }
        for split in comparison.splits
    )


def cluster_table(reports: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Tabulate which model answers for each cluster, and the errors by which it was chosen."""
    return pd.DataFrame(
        {
            "cluster": row["cluster"],
            "jobs": row["jobs"],
            "error of its own model": None if row["cluster"] == GLOBAL else row.get("crps"),
            "error of the global model": row.get(
                "crps" if row["cluster"] == GLOBAL else f"crps_{GLOBAL}"
            ),
            "error of the histories": row.get("crps_mixture"),
            "gain": row.get("gain"),
            "answers": "histories" if row["answers"] == "mixture" else row["answers"],
            "note": row.get("why"),
        }
        for row in reports
    )


def markdown_table(table: pd.DataFrame) -> str:
    """A table in Markdown, with numbers as people write them."""
    if table.empty:
        return "(nothing)"
    head = " | ".join(str(name).replace("_", " ") for name in table)
    body = [" | ".join(_cell(value) for value in row) for row in table.itertuples(index=False)]
    return "\n".join(
        f"| {line} |" for line in (head, " | ".join("---" for _ in table.columns), *body)
    )


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")
