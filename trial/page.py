"""The page of a trial: one HTML file for an operator and their head of computing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.evaluation import html_page
from models.evaluation.backtest import OURS
from scheduling.outcome import wait_statistics
from trial.advice import Winners
from trial.claims import SHARES, TOLERANCE, Claim, interval
from trial.figures import limit_figures, memory_figures
from trial.pictures import pictures
from trial.results import MAX_JOBS, NAMES, Trial, savings
from trial.wording import duration, number, percent, shorten, size

if TYPE_CHECKING:
    pass

Row = Mapping[str, Any]

HOUR, DAY, MIB, GIB = 3600.0, 86400.0, 2.0**20, 2.0**30
WORTHWHILE = 0.05
"""A smaller share of what is requested is not worth a change."""


def write_page(trial: Trial, path: Path, live: Sequence[Row] = ()) -> Path:
    """Write the page of a trial.

    Args:
        trial: The trial.
        path: The file.
        live: Of a trial on live jobs, a row a target: see ``trial.shadow.live_rows``.

    Returns:
        The file.
    """
    content = "".join(_sections(trial, live)).replace(" %", "\u00a0%")
    return html_page.write_html(path, f"What Gridcast would have saved: {trial.name}", content)


def _sections(trial: Trial, live: Sequence[Row]) -> Iterator[str]:
    jobs, heading, paragraph = trial.jobs, html_page.heading, html_page.paragraph
    since, until = (f"{at:%Y-%m-%d}" for at in jobs["submitted_at"].iloc[[0, -1]])
    yield paragraph(verdict(trial), lead=True)
    yield heading("What to do on Monday")
    yield html_page.listing(actions(trial))
    if live:
        yield heading("Predicted live, before the jobs had ended")
        yield _live(live)
    check = trial.jobs["submitted_at"].iloc[int(len(jobs) * SHARES["check"][0])]
    latest = f" (the latest {MAX_JOBS:,}; {trial.left_out:,} earlier ones were left out)"
    yield paragraph(
        f"{len(jobs):,} jobs submitted from {since} to {until}{latest if trial.left_out else ''}. "
        "Each was predicted at its submission from jobs that had ended by then. Settings and "
        "claims come from the first 70 % of the jobs; what was realised comes from the last "
        f"30 %, submitted since {check:%Y-%m-%d}, on which nothing was chosen."
    )
    yield heading("What requests cost in the last 30 days of the log")
    yield _cost(trial)
    yield heading("What Gridcast would have saved in the last 30 % of the log")
    yield _savings(trial)
    yield heading("Claimed and realised")
    yield _claims(trial.claims)
    yield heading("Pictures")
    yield html_page.figures(pictures(trial))
    yield paragraph(
        "Calibration: the nearer to the diagonal, the better; steps are values that repeat exactly."
    )
    yield heading("How well jobs were predicted")
    yield _accuracy(trial)
    yield from _waits(trial)
    for table in trial.winners:
        yield heading(f"{table.field.capitalize()}s with most to be won in the last 30 days")
        yield _winners(table)
    if trial.winners:
        yield paragraph(
            "Ask for: the larger of the median prediction and of what all but "
            f"{percent(trial.risk)} of such jobs used. "
            "“keep” where that is no less than the request, or where jobs are killed at their "
            "request, so that their need is unknown. Unused: requested and not used; saved: what "
            "Gridcast's requests for each single job would have taken away."
        )
    yield heading("Coverage by month")
    yield _coverage(trial)
    yield heading("What could not be judged, and why")
    rows = [[name, f"{count:,}", why] for name, count, why in trial.not_judged]
    yield html_page.table(("what", "jobs", "why"), rows, text=True)
    yield heading("How the numbers were come by")
    yield html_page.table(
        ("number", "how"), [[claim.name, claim.how] for claim in trial.claims], text=True
    )
    yield paragraph(
        "Core hours: walltime × cores of each job. GiB·h: memory × run time. 95 % intervals: "
        "bootstrap of weeks of submissions (of half days on logs under a month). The trial took "
        f"{duration(trial.seconds)}."
    )


def verdict(trial: Trial) -> str:
    """What was found, in two or three sentences."""
    sentences = []
    for saving in savings(trial):
        share = 1 - saving["with_gridcast"] / max(saving["requested"], 1e-9)
        unit, killed = saving["resource"], saving["killed_or_retried"] / max(saving["jobs"], 1)
        assumed = unit == "GiB·h" and trial.memory is not None and trial.memory.assumed
        of_what = f"{saving['requested']:,.0f} {unit} requested"
        if assumed:
            of_what = f"{saving['requested']:,.0f} GiB·h that 4 GiB a job hold"
        sentences.append(
            f"Of the {of_what} in the last 30 % of the log, Gridcast's requests would have taken "
            f"away {percent(share)}, and {percent(killed)} of the jobs would have run a second "
            "time."
            if share > 0
            else f"Gridcast's requests would have saved none of the {of_what}."
        )
    claimed = [claim for claim in trial.claims if claim.within_tolerance is not None]
    missed = sum(claim.is_wrong for claim in claimed)
    if claimed:
        sentences.append(
            f"{len(claimed)} figures were claimed from the first 70 %; "
            + (
                f"{missed} of them did not come true (in red below)."
                if missed
                else f"all came true within {percent(TOLERANCE)}."
            )
        )
    else:
        sentences.append("This log changes too much for any figure to be claimed in advance.")
    return " ".join(sentences)


def actions(trial: Trial) -> list[str]:
    """What the site should do next, the most useful first."""
    steps = []
    by_resource = {saving["resource"]: saving for saving in savings(trial)}
    shares = {
        resource: 1 - saving["with_gridcast"] / max(saving["requested"], 1e-9)
        for resource, saving in by_resource.items()
    }
    memory, time = by_resource.get("GiB·h"), by_resource.get("core hours")
    if memory and trial.memory and trial.memory.assumed:
        steps.append(
            "Let jobs request memory: most state none, so the batch system cannot pack nodes by "
            "it. The tables below say what to set as a default for each user and queue."
        )
    elif memory and shares["GiB·h"] > WORTHWHILE:
        retried = memory["killed_or_retried"] / max(memory["jobs"], 1)
        effect = (
            f"{percent(shares['GiB·h'])} of the requested GiB·h become free and "
            f"{percent(retried)} of the jobs run again with more."
        )
        missed = any(claim.is_wrong and "memory" in claim.name for claim in trial.claims)
        steps.append(
            "Only observe Gridcast's memory requests for now: a claim about memory did not come "
            f"true (in red below). In the last 30 % {effect}"
            if missed
            else f"Let Gridcast write memory requests, with its retry ladder: {effect} Begin with "
            "the programs in the table below."
        )
    elif memory:
        steps.append("Leave memory requests as they are: Gridcast would save too little of them.")
    if time and trial.limits and shares["core hours"] > WORTHWHILE:
        killed = time["killed_or_retried"] / max(time["jobs"], 1)
        steps.append(
            f"Let Gridcast write time limits: {percent(killed)} of the jobs outlived theirs, "
            f"{percent(trial.limits.risk)} were accepted, and requested core hours fall by "
            f"{percent(shares['core hours'])}."
            if killed <= 1.5 * trial.limits.risk
            else f"Do not shorten time limits without asking: {percent(killed)} of the jobs would "
            f"have outlived theirs, and {percent(trial.limits.risk)} were accepted. Show users the "
            "advice below instead."
        )
    if trial.waits and time:
        before, after = trial.waits.before.waits.mean(), trial.waits.after.waits.mean()
        steps.append(
            f"Expect {'shorter' if after < before else 'no shorter'} waits from shorter limits "
            f"alone: replayed, the mean wait goes from {duration(before)} to {duration(after)}."
        )
    for table in trial.winners[:1]:
        advised = [row for row in table.rows if row["time_ask_for"] or row["memory_ask_for"]]
        for row in advised[:3]:
            wanted = [
                f"{text(row[f'{name}_ask_for'])} instead of {text(row[f'{name}_requested'])}"
                for name, text in (("time", duration), ("memory", size))
                if row[f"{name}_ask_for"] and row[f"{name}_requested"]
            ]
            if wanted:
                steps.append(f"Ask {table.field} {row[table.field]} to request {wanted[0]}.")
    steps.append(
        "Watch before you act: gridcast trial --shadow 7d --collect slurm (or condor, pbs, panda) "
        "predicts live for a week, touches nothing and rewrites this page each night."
    )
    return steps


def _live(rows: Sequence[Row]) -> str:
    cells = [
        [
            NAMES[row["target"]],
            f"{row['predicted']:,}",
            f"{row['ended']:,}",
            "–" if row["coverage_90"] is None else percent(row["coverage_90"]),
            "–"
            if row["mae"] is None
            else (size if row["target"] == "peak_memory" else duration)(row["mae"]),
        ]
        for row in rows
    ]
    headings = ("", "predicted", "ended since", "within the 90 % range", "mean error")
    return html_page.table(headings, cells)


def _cost(trial: Trial) -> str:
    rows = [
        [
            row["resource"],
            f"{row['requested']:,.0f} {row['unit']}",
            f"{row['used']:,.0f} {row['unit']}",
            percent(1 - row["used"] / row["requested"]) if row["requested"] else "–",
            f"{row['jobs']:,}",
            f"{row['not_counted']:,}",
        ]
        if row["jobs"]
        else [row["resource"], "not stated", "–", "–", "0", f"{row['not_counted']:,}"]
        for row in trial.cost
    ]
    return html_page.table(
        ("", "requested", "used", "unused", "jobs counted", "without request or use"), rows
    )


def _savings(trial: Trial) -> str:
    spans = {}
    if trial.limits:
        spans["core hours"] = limit_figures(trial.jobs, trial.limits)[0]
    if trial.memory:
        spans["GiB·h"] = memory_figures(trial.jobs, trial.memory)[0]
    rows = []
    for row in savings(trial):
        figure = spans[row["resource"]]
        inside = trial.windows.contains("check", figure.rows)
        span = interval(figure, trial.windows, inside)
        assumed = row["resource"] == "GiB·h" and trial.memory and trial.memory.assumed
        again = row["killed_or_retried"]
        rows.append(
            [
                row["resource"] + (" (4 GiB assumed)" if assumed else ""),
                f"{row['requested']:,.0f}",
                f"{row['with_gridcast']:,.0f}",
                percent(span.value) if span else "–",
                f"{percent(span.low)} to {percent(span.high)}" if span else "–",
                f"{again:,} of {row['jobs']:,} ({percent(again / max(row['jobs'], 1))})",
                "counted" if row["lost"] is None else f"{row['lost']:,.0f} core hours",
            ]
        )
    note = html_page.paragraph(
        "A time limit frees no core by itself: it lets the scheduler plan and backfill. Memory "
        "that is requested and not used is blocked for others."
    )
    headings = (
        *("", "requested", "with Gridcast", "saved", "95 % interval"),
        *("killed or retried", "lost by second runs"),
    )
    return html_page.table(headings, rows) + note


def _claims(claims: Sequence[Claim]) -> str:
    claims = sorted(claims, key=lambda claim: claim.claimed is None)
    rows = [
        [
            claim.name,
            number(claim.claimed, claim.unit) if claim.claimed is not None else "not claimed",
            number(claim.realised, claim.unit),
            f"{number(claim.low, claim.unit)} to {number(claim.high, claim.unit)}",
            claim.unit,
            claim.reason or "holds",
        ]
        for claim in claims
    ]
    missed = {index for index, claim in enumerate(claims) if claim.is_wrong}
    headings = (
        "what",
        "claimed",
        "realised",
        "95 % interval",
        "unit",
        f"within {percent(TOLERANCE)}?",
    )
    return html_page.table(headings, rows, text=True, wrong=missed)


def _accuracy(trial: Trial) -> str:
    rows = []
    for target, judged in trial.judged.items():
        text = size if target == "peak_memory" else duration
        for row in judged.accuracy:
            covered = row["coverage_90"]
            name = {OURS: "Gridcast", "request": "the request"}.get(
                row["predictor"], f"best simple rule: {row['predictor']}"
            )
            rows.append(
                [
                    NAMES[target],
                    name,
                    f"{row['jobs']:,}",
                    text(row["mae"]),
                    text(row["median_ae"]),
                    percent(row["apa"]),
                    "–" if covered is None else percent(covered),
                ]
            )
    headings = (
        *("", "predicted by", "jobs", "mean error", "median error"),
        *("accuracy", "within the 90 % range"),
    )
    return html_page.table(headings, rows) + html_page.paragraph(
        "Jobs of the last 30 %. Accuracy: the mean of the smaller over the larger of predicted and "
        "actual; 100 % is perfect."
    )


def _waits(trial: Trial) -> Iterator[str]:
    if trial.waits is None:
        return
    study = trial.waits
    yield html_page.heading("What shorter requests would do to waits")
    rows = []
    for name, waits in (
        ("recorded in the log", study.recorded),
        ("replayed with the site's requests", study.before.waits),
        ("replayed with Gridcast's time limits", study.after.waits),
    ):
        if waits is not None:
            figures = wait_statistics(waits)
            names = ("mean_wait", "median_wait", "p95_wait", "max_wait")
            rows.append([name, *(duration(figures[column]) for column in names)])
    yield html_page.table(("", "mean wait", "median", "95 of 100 under", "longest"), rows)
    sampled = (
        f"the latest {len(study.before.trace):,} of {study.sampled_of:,} jobs of the last 30 %"
        if len(study.before.trace) < study.sampled_of
        else f"the {len(study.before.trace):,} jobs of the last 30 %"
    )
    yield html_page.paragraph(
        f"EASY backfilling of {sampled} on {study.before.machine.processors:,} processors, the "
        "size that the log states or implies. A replay knows no outages, priorities, memory or "
        "reservations: compare the two replays with each other, and take the recorded waits as "
        "the measure of how far a replay is from this site."
    )


def _winners(table: Winners) -> str:
    has_time = any(row["time_requested"] for row in table.rows)
    has_memory = any(row["waste_gibh"] > 0 for row in table.rows)
    headings = [table.field, "jobs"]
    if has_time:
        headings += ["unused core h", "saved core h", "time requested", "used (95 %)", "ask for"]
    if has_memory:
        headings += ["unused GiB·h", "saved GiB·h", "memory requested", "used (95 %)", "ask for"]
    rows = []
    for row in table.rows:
        cells = [shorten(row[table.field]), f"{row['jobs']:,}"]
        if has_time:
            cells += [f"{row['unused_hours']:,.0f}", f"{row['saved_hours']:,.0f}"]
            cells += _advice(row, "time", duration)
        if has_memory:
            cells += [f"{row['waste_gibh']:,.0f}", f"{row['saved_gibh']:,.0f}"]
            cells += _advice(row, "memory", size)
        rows.append(cells)
    return html_page.table(headings, rows)


def _advice(row: Row, name: str, text: Any) -> list[str]:
    requested, used, wanted = (row[f"{name}_{end}"] for end in ("requested", "used_95", "ask_for"))
    return [
        "none" if requested is None else text(requested),
        "–" if used is None else text(used),
        "keep" if wanted is None else text(wanted),
    ]


def _coverage(trial: Trial) -> str:
    periods: dict[str, dict[str, str]] = {}
    for target, judged in trial.judged.items():
        for row in judged.evaluation.period_rows:
            if row["predictor"] == OURS:
                cell = f"{percent(row['coverage_90'])} of {row['jobs']:,}"
                periods.setdefault(str(row["period"]), {})[target] = cell
    names = list(trial.judged)
    rows = [
        [period, *(cells.get(name, "–") for name in names)] for period, cells in periods.items()
    ]
    note = html_page.paragraph("The share of outcomes within the 90 % range; 90 % is right.")
    return html_page.table(("period", *(NAMES[name] for name in names)), sorted(rows)) + note
