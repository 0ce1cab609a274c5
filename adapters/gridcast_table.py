#!/usr/bin/env python3
"""Gridcast's local table for what speaks Python: HTCondor's job router, its user maps, Snakemake. One file to copy, no package needed.

    foreseen.py                      HTCondor's <KEYWORD>_HOOK_TRANSLATE_JOB: a job's ClassAd in, the same with what is foreseen out
    foreseen.py map TABLE MAPFILE    a map file for CLASSAD_USER_MAPFILE_<name>: user, and user|program, to "seconds,low,high"
    from foreseen import minutes, megabytes      resources of Snakemake's rules

`gridcast table FILE --every 60` keeps the table. Nothing here rejects a job, waits or fails: where nothing is foreseen the job stays as
it is, with the reason beside it.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from math import ceil
from pathlib import Path
from urllib.parse import unquote

TABLE = "/var/lib/gridcast/predictions.tsv"
STALE_AFTER = 900
"""Seconds after which a table is called stale, and only informs: it no longer sets what a job did not ask for."""
UNUSABLE_AFTER = 86_400
"""Seconds after which its numbers are no longer told."""
OPT_OUT_USERS: frozenset[str] = frozenset()
OPT_OUT_PROGRAMS: frozenset[str] = frozenset()
SET_DURATION = False
"""Whether a routed job that gave no AllowedExecuteDuration gets one: the site must want it."""
MARGIN = 1.25
"""Times what one job in a hundred exceeds, or the longest that ran lately where that is more: a job would be killed there."""
UNSAFE = re.compile(rb"[\x00-\x20%|\x7f]")
ATTRIBUTE = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(.*)")


class NoPrediction(Exception):  # noqa: N818
    """Why nothing is foreseen of a job, in some words."""


def key(level: str, *values: object) -> str:
    """The key of a row of the table."""
    escaped = (
        UNSAFE.sub(lambda found: b"%%%02X" % found[0][0], str(value).encode()).decode()
        for value in values
    )
    return "|".join((level, *(text or "-" for text in escaped)))


def look_up(table: str | Path, keys: list[str]) -> dict[str, object]:
    """The row of the first of ``keys`` that the table has: numbers by column, ``level``, ``version`` and ``age`` (s).

    Raises NothingForeseen, saying why.
    """
    try:
        head, columns, *lines = Path(table).read_text(encoding="utf-8").split("\n")
        magic, written_at, _, version, _ = head.split("\t")
        age = time.time() - float(written_at)
    except OSError:
        raise NoPrediction("no table") from None
    except ValueError:
        raise NoPrediction("unreadable table") from None
    if magic != "gridcast-table 1":
        raise NoPrediction("unreadable table")
    if age > UNUSABLE_AFTER:
        raise NoPrediction(f"stale: the table is {age:.0f} s old")
    rows = {line.partition("\t")[0]: line for line in lines}
    found = next((rows[one] for one in keys if one in rows), None)
    if found is None:
        raise NoPrediction("nothing known of such jobs")
    name, *cells = found.split("\t")
    cells_by_column = zip(columns.split("\t")[1:], cells)  # noqa: B905  for Python before 3.10
    numbers = {column: float(cell) for column, cell in cells_by_column if cell != "-"}
    return {**numbers, "level": name.partition("|")[0], "version": version, "age": age}


# -- HTCondor


def translate(text: str, table: str | Path = TABLE) -> str:
    """A job's ClassAd, which follows a line of dashes, with what is foreseen of it: Gridcast… attributes, or GridcastReason."""
    lines = [line for line in text.rpartition("------\n")[2].splitlines() if line.strip()]
    ad = {found[1].lower(): found[2].strip() for found in map(ATTRIBUTE.fullmatch, lines) if found}
    user, program = (
        _text(ad.get("owner", "")),
        _text(ad.get("cmd", "")).replace("\\", "/").rpartition("/")[2],
    )
    if (
        user in OPT_OUT_USERS
        or program in OPT_OUT_PROGRAMS
        or ad.get("gridcastoff", "").lower() == "true"
    ):
        return "\n".join(lines) + "\n"
    try:
        keys = [key("program", user, program), key("user", user), key("any", program), key("all")]
        found = look_up(table, keys)
        told = [
            f"Gridcast{name} = {found[column]:.10g}"
            for name, column in ATTRIBUTES.items()
            if column in found
        ]
        told += [
            f'GridcastModel = "{_quoted(str(found["version"]))}"',
            f'GridcastOf = "{found["level"]}"',
        ]
        stale = float(str(found["age"])) > STALE_AFTER
        told += (
            [f'GridcastReason = "stale: the table is {found["age"]:.0f} s old"'] if stale else []
        )
        if (
            SET_DURATION
            and not stale
            and found["level"] == "program"
            and "allowedexecuteduration" not in ad
        ):
            longest = max(
                float(str(found["walltime_kill_limit"])), float(str(found.get("longest", 0)))
            )
            told.append(f"AllowedExecuteDuration = {ceil(longest * MARGIN)}")
    except NoPrediction as reason:
        told = [f'GridcastReason = "{reason}"']
    return "\n".join((*lines, *told)) + "\n"


ATTRIBUTES = {
    "Walltime": "walltime",
    "WalltimeLow": "walltime_low",
    "WalltimeHigh": "walltime_high",
    "PeakMemory": "peak_memory",
    "PeakMemoryHigh": "peak_memory_high",
}


def _text(literal: str) -> str:
    found = re.fullmatch(r'"((?:[^"\\]|\\.)*)"', literal)
    return re.sub(r"\\(.)", r"\1", found[1]) if found else ""


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def write_map(table: str | Path, file: str | Path) -> int:
    """Write a map file for ClassAds' ``userMap`` in the file's place; returns its lines. An old table gives an empty map."""
    try:
        age = float(look_up(table, [key("all")])["age"])  # type: ignore[arg-type]
    except NoPrediction:
        age = float("inf")
    _, columns, *rows = (
        Path(table).read_text(encoding="utf-8").split("\n") if age <= STALE_AFTER else ("", "")
    )
    lines = []
    for row in rows:
        found = dict(zip(columns.split("\t"), row.split("\t")))  # noqa: B905
        level, *who = found["key"].split("|")
        shown = [unquote(one) for one in who]
        if level not in ("user", "program") or len(found) < len(columns.split("\t")):
            continue
        left_alone = shown[0] in OPT_OUT_USERS or (
            level == "program" and shown[-1] in OPT_OUT_PROGRAMS
        )
        # A line of a map ends at a control character, whoever named his program so.
        if not left_alone and "|".join(shown).isprintable():
            told = ",".join(found[name] for name in ("walltime", "walltime_low", "walltime_high"))
            lines.append(f'* "{_quoted("|".join(shown))}" {told}\n')
    beside = Path(f"{file}.new")
    beside.write_text("".join(lines), encoding="utf-8")
    beside.replace(file)
    return len(lines)


# -- Snakemake


def minutes(
    rule: str, otherwise: int, user: str = "", table: str | Path = TABLE
) -> Callable[..., int]:
    """The resource ``runtime`` of a rule: what one job in a hundred exceeds, with a margin, and more after each failure."""
    return _resource(rule, otherwise, user, table, "walltime_kill_limit", 60.0)


def megabytes(
    rule: str, otherwise: int, user: str = "", table: str | Path = TABLE
) -> Callable[..., int]:
    """The resource ``mem_mb`` of a rule: what wastes least, and more after each failure."""
    return _resource(rule, otherwise, user, table, "peak_memory_allocation", 1e6)


def _resource(
    rule: str, otherwise: int, user: str, table: str | Path, column: str, unit: float
) -> Callable[..., int]:
    keys = ([key("program", user, rule)] if user else []) + [key("any", rule)]

    def resource(wildcards: object, attempt: int) -> int:  # Snakemake gives what the names ask for
        try:
            found = look_up(table, keys)
            if float(str(found["age"])) > STALE_AFTER:
                raise NoPrediction("stale")
            foreseen = ceil(float(str(found[column])) * MARGIN / unit)
        except (NoPrediction, KeyError) as reason:
            sys.stderr.write(
                f"gridcast: nothing foreseen for rule {rule} ({reason}): {otherwise} is asked for\n"
            )
            foreseen = otherwise
        return max(1, foreseen) * attempt

    return resource


def main(words: list[str]) -> int:
    """The hook, or the writer of maps; the hook answers with the job as it came whatever happens."""
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
