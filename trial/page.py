"""The page of a trial: one HTML file for an operator and their head of computing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.evaluation import html_page
from models.evaluation.backtest import OURS
from scheduling.outcome import wait_statistics
from trial.advice import LEAST_SHARE, Winners
from trial.claims import TOLERANCE, Claim, interval
from trial.figures import limit_figures, memory_figures
from trial.pictures import pictures
from trial.results import (
    MAX_JOBS,
    MAX_REPLAYED_JOBS,
    NAMES,
    Trial,
    WaitStudy,
    check_since,
    savings,
)
from trial.wording import duration, number, percent, shorten, size

if TYPE_CHECKING:
    pass

Row = Mapping[str, Any]

HOUR, DAY, MIB, GIB = 3600.0, 86400.0, 2.0**20, 2.0**30
WORTHWHILE = 0.05
"""A smaller share of what is requested is not worth a change."""
SAME_WAITS = 0.05
"""Replayed mean waits that differ by a smaller share are about the same."""
POOR_REPLAY, LEAST_WAIT = 3.0, 60.0
"""A replay whose median wait is so many times off the recorded one is a poor model of the site;
of medians, each at least so many seconds."""


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
    latest = f" (the latest {MAX_JOBS:,}; {trial.left_out:,} earlier ones were left out)"
    yield paragraph(
        f"{len(jobs):,} jobs submitted from {since} to {until}{latest if trial.left_out else ''}. "
        "Each was predicted at its submission from jobs that had ended by then. Settings and "
        "claims come from the first 70 % of the jobs; what was realised comes from the last "
        f"30 %, submitted since {check_since(trial):%Y-%m-%d}, on which nothing was chosen."
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
            "Ask for: the larger of the median predicted run time (or memory) and of what all but "
            f"{percent(trial.risk)} of such jobs used. "
            "“keep” where that is no less than the request, or where jobs are killed at their "
            "request, so that their need is unknown. Unused: requested and not used; saved: what "
            "Gridcast's requests for each single job would have taken away. Rows with under "
            f"{percent(LEAST_SHARE)} of what is unused are left out."
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
    sentences = [no_limits] if (no_limits := why_no_limits(trial)) else []
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
            f"time.{_today(saving)}"
            if share > 0
            else f"Gridcast's requests would have saved none of the {of_what}.{_today(saving)}"
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


def why_no_limits(trial: Trial) -> str:
    """Why nothing about time limits was judged, and what to add to the log; empty if it was."""
    if trial.limits is not None:
        return ""
    nothing = "Nothing about time limits could be judged: "
    if "walltime" not in trial.judged:
        return f"{nothing}too few jobs report a run time. Add the columns started_at and ended_at."
    stated = int((trial.jobs["requested_walltime"] > 0).sum())
    return (
        f"{nothing}{f'only {stated:,} jobs state' if stated else 'no job states'} a requested "
        "walltime. Add the column requested_walltime (Timelimit of sacct, field 9 of SWF; of a "
        "table of your own by --map COLUMN=requested_walltime:s) and run this again."
    )


def _today(saving: Row) -> str:
    """How many jobs ran to their request, and whose limit equals it; empty of memory."""
    if saving["at_request"] is None:
        return ""
    count = max(saving["jobs"], 1)
    return (
        f" Today {percent(saving['at_request'] / count)} of the jobs ran to their requested "
        "walltime or past it, with or without Gridcast; the time limit of "
        f"{percent(saving['limit_is_request'] / count)} equals their request."
    )


def actions(trial: Trial) -> list[str]:
    """What the site should do next, the most useful first."""
    steps = [no_limits] if (no_limits := why_no_limits(trial)) else []
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
    if time and trial.limits:
        killed = percent(time["killed_or_retried"] / max(time["jobs"], 1))
        too_many = time["killed_or_retried"] > 1.5 * trial.risk * time["jobs"]
        saved, accepted = percent(shares["core hours"]), percent(trial.risk)
        killed_of = f"{killed} of the jobs would be killed earlier than their request would"
        steps.append(
            f"Leave time limits as they are: {saved} of the requested core hours saved, {killed} "
            f"of the jobs killed earlier than their request would; {accepted} was accepted."
            if shares["core hours"] <= WORTHWHILE
            else f"Do not shorten time limits without asking: {killed_of}, and {accepted} was "
            "accepted. Show users the advice below instead."
            if too_many
            else f"Let Gridcast write time limits, {trial.limits.setting.in_words()}: {killed_of}, "
            f"{accepted} was accepted, and requested core hours fall by {saved}."
        )
    if trial.waits and time:
        steps.append(_expected_waits(trial.waits))
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
        "Watch before you act: with gridcast up running, gridcast trial --shadow 7d --collect "
        "slurm (or condor, pbs, panda) predicts live for a week, touches nothing and rewrites this "
        "page each night."
    )
    return steps


def _expected_waits(study: WaitStudy) -> str:
    before, after = (float(waits.mean()) for waits in (study.before.waits, study.after.waits))
    same = abs(after - before) < SAME_WAITS * before or before == after
    expected = "about the same" if same else "shorter" if after < before else "longer"
    return (
        f"Expect {expected} waits from shorter limits alone: replayed, the mean wait goes from "
        f"{duration(before)} to {duration(after)}.{_poor_replay(study)}"
    )


def _poor_replay(study: WaitStudy) -> str:
    """That the replay is a poor model, where its median wait is far off; else empty."""
    if study.recorded is None:
        return ""
    medians = [float(np.median(waits)) for waits in (study.recorded, study.before.waits)]
    low, high = sorted(max(median, LEAST_WAIT) for median in medians)
    if high <= POOR_REPLAY * low:
        return ""
    recorded, replayed = (duration(median) for median in medians)
    return (
        f" But the replay is a poor model of this site: its median wait is {replayed}, and "
        f"{recorded} was recorded."
    )


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
            "not stated" if row["requested"] is None else f"{row['requested']:,.0f} {row['unit']}",
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
    if not (of_resources := savings(trial)):
        return html_page.paragraph(
            "No saving could be judged: the log states neither requested walltimes nor memory in "
            "use. The table of what could not be judged says what is missing."
        )
    for row in of_resources:
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
                "not counted"
                if row["at_request"] is None
                else f"{row['at_request']:,} ({percent(row['at_request'] / max(row['jobs'], 1))})",
                "counted" if row["lost"] is None else f"{row['lost']:,.0f} core hours",
            ]
        )
    note = html_page.paragraph(
        "A time limit frees no core by itself: it lets the scheduler plan and backfill. Memory "
        "that is requested and not used is blocked for others."
    )
    headings = (
        *("", "requested", "with Gridcast", "saved", "95 % interval"),
        *("killed or retried by Gridcast's request", "ran to their request or past it today"),
        "lost by second runs",
    )
    today = "".join(html_page.paragraph(_today(row).strip()) for row in of_resources if _today(row))
    return html_page.table(headings, rows) + today + note


def _claims(claims: Sequence[Claim]) -> str:
    claims = sorted(claims, key=lambda claim: claim.claimed is None)
    rows = [
        [
            claim.name,
            number(claim.claimed, claim.unit) if claim.claimed is not None else "not claimed",
            number(claim.realised, claim.unit),
            f"{number(claim.low, claim.unit)} to {number(claim.high, claim.unit)}",
            claim.interval_of or "–",
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
        "of",
        "unit",
        f"within {percent(TOLERANCE)}?",
    )
    return html_page.table(headings, rows, text=True, wrong=missed) + html_page.paragraph(
        "The interval is of the claim where one is made, else of what was realised."
    )


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
    yield html_page.paragraph(
        f"EASY backfilling of {_replayed_jobs(study)} on "
        f"{study.before.machine.processors:,} processors, the size that the log states or "
        "implies. A replay knows no outages, priorities, memory or reservations: compare the two "
        "replays with each other, and take the recorded waits as the measure of how far a replay "
        f"is from this site.{_poor_replay(study)}"
    )


def _replayed_jobs(study: WaitStudy) -> str:
    """Which jobs were replayed, and why not all."""
    replayed = len(study.before.trace)
    wanted = min(study.sampled_of, MAX_REPLAYED_JOBS)
    jobs = f"the {wanted:,} jobs of the last 30 %"
    if wanted < study.sampled_of:
        jobs = f"the latest {wanted:,} of the {study.sampled_of:,} jobs of the last 30 %"
    if replayed < wanted:
        jobs += f", without {wanted - replayed:,} that never ran or state too little,"
    return jobs


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
