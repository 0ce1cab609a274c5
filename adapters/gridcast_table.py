#!/usr/bin/env python3
"""Gridcast's local table for HTCondor's job router and user maps, and for Snakemake.

It needs Python 3.8 and no package. Requests are written only where services/request_policy.py is
copied beside it, as gridcast_request_policy.py, and the site's rules (in the table) allow it.

    gridcast_table.py                      HTCondor's <KEYWORD>_HOOK_TRANSLATE_JOB: reads a job's
                                           ClassAd, writes it with its prediction
    gridcast_table.py map TABLE MAPFILE    a file for CLASSAD_USER_MAPFILE_<name>: from user, and
                                           user|program, to "seconds,low,high", and where requests
                                           may be written three rungs of memory (MiB) and a limit
    from gridcast_table import minutes, megabytes    resources of Snakemake's rules

`gridcast table FILE --every 60` keeps the table current. Nothing here rejects a job, waits or
fails: without a prediction the job stays as it is, with the reason beside it.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

try:
    from gridcast_request_policy import (
        MIB,
        JobRequest,
        RequestPolicy,
        plan_requests,
    )
except ImportError:
    try:  # in Gridcast's own checkout
        from services.request_policy import MIB, JobRequest, RequestPolicy, plan_requests
    except ImportError:
        RequestPolicy = None

TABLE = "/var/lib/gridcast/predictions.tsv"
STALE_AFTER = 900
"""Age (s) from which a table only informs: it no longer sets what a job did not request."""
UNUSABLE_AFTER = 86_400
"""Age (s) from which its numbers are not used at all."""
OPT_OUT_USERS: frozenset[str] = frozenset()
OPT_OUT_PROGRAMS: frozenset[str] = frozenset()
SET_DURATION = False
"""Whether a routed job without AllowedExecuteDuration gets one: the site must want it."""
MARGIN = 1.25
"""Factor on what one job in a hundred exceeds, or on the longest recent one where that is more:
a job would be killed there."""
FORMATS = ("gridcast-table 1", "gridcast-table 2")
UNSAFE = re.compile(rb"[\x00-\x20%|\x7f]")
ATTRIBUTE = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(.*)")
RUNG = "{name}[min({{size({name}) - 1, NumHoldsByReason.{hold} ?: 0}})]"
"""A ladder's rung after so many holds for its lack, as a ClassAd expression."""
RELEASE = (
    "({condition} && {name}[min({{size({name}), NumHoldsByReason.{hold}}}) - 1]"
    " < {name}[size({name}) - 1]) ?: false"
)
"""Whether a job that is held for lack of a resource has a further rung."""
LADDERS = {
    "RequestMemory": {
        "name": "GridcastMemory",
        "hold": "JobOutOfResources",
        "condition": "HoldReasonCode == 34 && HoldReasonSubCode == 102",
    },
    "AllowedExecuteDuration": {
        "name": "GridcastDuration",
        "hold": "JobExecuteExceeded",
        "condition": "HoldReasonCode == 47",
    },
}
"""Where the ladder of each request is kept on the job, and the holds after which it is climbed."""
ATTRIBUTES = {
    "Walltime": "walltime",
    "WalltimeLow": "walltime_low",
    "WalltimeHigh": "walltime_high",
    "PeakMemory": "peak_memory",
    "PeakMemoryHigh": "peak_memory_high",
}


class NoPrediction(Exception):  # noqa: N818
    """There is no prediction for a job; the message says why in a few words."""


def key(level: str, *values: object) -> str:
    """Make the key of a row of the table."""
    escaped = (
        UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], str(value).encode()).decode()
        for value in values
    )
    return "|".join((level, *(text or "-" for text in escaped)))


def look_up(table: str | Path, keys: list[str]) -> dict[str, object]:
    """Find the row of the first of ``keys`` that the table has.

    Returns:
        Its numbers by column, and ``level``, ``version``, ``age`` (s) and the cells of ``policy``.

    Raises:
        NoPrediction: There is no usable table, or no such row.
    """
    try:
        head, columns, *lines = Path(table).read_text(encoding="utf-8").split("\n")
        magic, written_at, _, version, _, *policy = head.split("\t")
        age = time.time() - float(written_at)
    except OSError:
        raise NoPrediction("no table") from None
    except ValueError:
        raise NoPrediction("unreadable table") from None
    if magic not in FORMATS:
        raise NoPrediction("unreadable table")
    if age > UNUSABLE_AFTER:
        raise NoPrediction(f"stale: the table is {age:.0f} s old")
    rows = {line.partition("\t")[0]: line for line in lines}
    row = next((rows[name] for name in keys if name in rows), None)
    if row is None:
        raise NoPrediction("nothing known of such jobs")
    name, *cells = row.split("\t")
    cells_by_column = zip(columns.split("\t")[1:], cells)  # noqa: B905  for Python before 3.10
    numbers = {column: float(cell) for column, cell in cells_by_column if cell != "-"}
    level = name.partition("|")[0]
    return {**numbers, "level": level, "version": version, "age": age, "policy": policy}


# -- HTCondor


def translate(text: str, table: str | Path = TABLE) -> str:
    """Add a prediction to a job's ClassAd.

    Args:
        text: The ClassAd, after a line of dashes.
        table: The local table.

    Returns:
        The ClassAd with Gridcast… attributes, or with GridcastReason.
    """
    lines = [line for line in text.rpartition("------\n")[2].splitlines() if line.strip()]
    matches = [match for match in map(ATTRIBUTE.fullmatch, lines) if match]
    ad = {match[1].lower(): match[2].strip() for match in matches}
    user = _text(ad.get("owner", ""))
    program = _text(ad.get("cmd", "")).replace("\\", "/").rpartition("/")[2]
    opted_out = user in OPT_OUT_USERS or program in OPT_OUT_PROGRAMS
    if not opted_out and ad.get("gridcastoff", "").lower() != "true":
        keys = [key("program", user, program), key("user", user), key("any", program), key("all")]
        try:
            row = look_up(table, keys)
        except NoPrediction as reason:
            lines.append(f'GridcastReason = "{reason}"')
        else:
            added = _attributes(row, ad) + _requests(row, ad, user, program)
            names = {line.partition(" = ")[0].lower() for line in added}
            lines = [line for line in lines if line.partition("=")[0].strip().lower() not in names]
            lines += added
    return "\n".join(lines) + "\n"


def _requests(row: dict[str, object], ad: dict[str, str], user: str, program: str) -> list[str]:
    """The lines that write the ladders of memory and duration into a job, or say why not.

    A job with a retry or release of its own keeps its requests, as does one whose request is an
    expression. After a hold for its lack the next rung holds and the job is released; after the
    last, its own request, it stays held as it would have been.
    """
    if RequestPolicy is None:
        return []
    own_retry = "transformonevict" in ad or ad.get("periodicrelease", "false").lower() != "false"
    memory, duration = (
        int(ad[name.lower()]) if ad.get(name.lower(), "").isdigit() else None for name in LADDERS
    )
    job = JobRequest(
        user, program, None, memory and memory * MIB, duration, can_retry=not own_retry
    )
    policy: Any = row["policy"]
    is_fresh = float(str(row["age"])) <= STALE_AFTER
    if "requestmemory" in ad and memory is None:  # an expression
        row = {name: value for name, value in row.items() if not name.startswith("peak_memory")}
    plan = plan_requests(RequestPolicy.parse(policy), row, job, is_fresh)
    lines = [f'GridcastReason = "{plan.reason}"'] if plan.reason and is_fresh else []
    if plan.mode != "act":
        return lines
    ladders = (tuple(rung // MIB for rung in plan.memory), plan.walltime)
    releases = []
    for (attribute, ladder), rungs in zip(LADDERS.items(), ladders):  # noqa: B905
        if rungs:
            lines.append(f"{ladder['name']} = {{{', '.join(map(str, rungs))}}}")
            lines.append(f"{attribute} = {RUNG.format(**ladder)}")
            releases.append(f"({RELEASE.format(**ladder)})")
    if releases:
        lines.append(f"PeriodicRelease = {' || '.join(releases)}")
    return lines


def _attributes(row: dict[str, object], ad: dict[str, str]) -> list[str]:
    """The lines that a row of the table adds to the job ``ad``."""
    lines = [
        f"Gridcast{name} = {row[column]:.10g}"
        for name, column in ATTRIBUTES.items()
        if column in row
    ]
    lines.append(f'GridcastModel = "{_quoted(str(row["version"]))}"')
    lines.append(f'GridcastOf = "{row["level"]}"')
    if float(str(row["age"])) > STALE_AFTER:
        lines.append(f'GridcastReason = "stale: the table is {row["age"]:.0f} s old"')
    elif SET_DURATION and row["level"] == "program" and "allowedexecuteduration" not in ad:
        limits = (float(str(row.get(name, 0))) for name in ("walltime_kill_limit", "longest"))
        lines.append(f"AllowedExecuteDuration = {ceil(max(limits) * MARGIN)}")
    return lines


def _text(literal: str) -> str:
    match = re.fullmatch(r'"((?:[^"\\]|\\.)*)"', literal)
    return re.sub(r"\\(.)", r"\1", match[1]) if match else ""


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def write_map(table: str | Path, file: str | Path) -> int:
    """Write a map file for ClassAds' ``userMap``; returns its lines, 0 for a stale table."""
    try:
        age = float(str(look_up(table, [key("all")])["age"]))
    except NoPrediction:
        age = float("inf")
    lines = []
    if age <= STALE_AFTER:
        _, columns, *rows = Path(table).read_text(encoding="utf-8").split("\n")
        names = columns.split("\t")
        policy = look_up(table, [key("all")])["policy"]
        cells = (row.split("\t") for row in rows)
        complete = (dict(zip(names, row)) for row in cells if len(row) >= len(names))  # noqa: B905
        lines = [line for line in (_map_line(row, policy) for row in complete) if line]
    draft = Path(f"{file}.new")
    draft.write_text("".join(lines), encoding="utf-8")
    draft.replace(file)
    return len(lines)


def _map_line(row: dict[str, str], policy: Any) -> str:
    level, *escaped = row["key"].split("|")
    if level not in ("user", "program"):
        return ""
    names = [unquote(name) for name in escaped]
    if names[0] in OPT_OUT_USERS or (level == "program" and names[-1] in OPT_OUT_PROGRAMS):
        return ""
    principal = "|".join(names)
    if not principal.isprintable():  # a control character would end the line
        return ""
    numbers = ",".join(row[name] for name in ("walltime", "walltime_low", "walltime_high"))
    if level == "program" and RequestPolicy is not None:
        numbers += _map_rungs(row, policy, *names)
    return f'* "{_quoted(principal)}" {numbers}\n'


def _map_rungs(row: dict[str, str], policy: Any, user: str, program: str) -> str:
    """Three rungs of memory (MiB) and a limit (s), 0 for none, where requests may be written.

    What a job requests is not known yet: the transform keeps below it.
    """
    numbers = {name: float(cell) for name, cell in row.items() if name != "key" and cell != "-"}
    rules = RequestPolicy.parse(policy)
    highest = JobRequest(user, program, None, memory=float(1 << 60), walltime=float(1 << 40))
    plan = plan_requests(rules, {**numbers, "level": "program"}, highest)
    if plan.mode != "act" or not (plan.memory or plan.walltime):
        return ""
    rungs = [rung // MIB for rung in plan.memory[:-1]]
    rungs = (rungs + rungs[-1:] * 3)[:3] or [0, 0, 0]
    return "".join(f",{number}" for number in (*rungs, *(plan.walltime[:1] or (0,))))


# -- Snakemake


def _resource(
    column: str,
    unit: float,
    rule: str,
    otherwise: int,
    user: str = "",
    table: str | Path = TABLE,
) -> Callable[..., int]:
    """Make a resource of a rule, with a margin.

    Args:
        column: The column of the table.
        unit: The resource's unit in the column's.
        rule: The rule.
        otherwise: The amount without a prediction.
        user: Whose jobs, if the table is to be asked by user.
        table: The local table.

    Returns:
        A function of wildcards and attempt; each attempt asks for more.
    """
    keys = ([key("program", user, rule)] if user else []) + [key("any", rule)]

    def resource(wildcards: object, attempt: int) -> int:  # Snakemake passes arguments by name
        try:
            row = look_up(table, keys)
            if float(str(row["age"])) > STALE_AFTER:
                raise NoPrediction("stale")
            amount = ceil(float(str(row[column])) * MARGIN / unit)
        except (NoPrediction, KeyError) as reason:
            sys.stderr.write(
                f"gridcast: no prediction for rule {rule} ({reason}): {otherwise} is requested\n"
            )
            amount = otherwise
        return max(1, amount) * attempt

    return resource


minutes = partial(_resource, "walltime_kill_limit", 60.0)
"""The resource ``runtime`` of a rule: what one job in a hundred exceeds."""
megabytes = partial(_resource, "peak_memory_allocation", 1e6)
"""The resource ``mem_mb`` of a rule: the allocation that wastes least."""


def main(words: list[str]) -> int:
    """Run the hook or write a map; the hook returns the job unchanged whatever happens."""
    if words[:1] == ["map"] and len(words) == 3:
        write_map(words[1], words[2])
        return 0
    text = sys.stdin.read()
    try:
        sys.stdout.write(translate(text))
    except Exception as error:
        sys.stdout.write(text.rpartition("------\n")[2])
        sys.stderr.write(f"gridcast: {error!r}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
