"""Requests of workflows' processes: a configuration for Nextflow, a profile for Snakemake.

Both override what the processes declare: memory and time by the attempt, from the rungs of
request_policy.py. Names come from logs, so only those that can be names of a process or rule are
written; the others are counted. Nothing is requested once the file is stale or GRIDCAST_OFF is set
in the environment of the workflow.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.store import read_highest_requests
from services.client import Gridcast
from services.local_table import WrittenTable, predict_recent, replace_files
from services.request_policy import (
    ANY,
    MIB,
    MINUTE,
    JobRequest,
    RequestPlan,
    RequestPolicy,
    plan_requests,
)

if TYPE_CHECKING:
    from sqlalchemy import Engine

STALE_AFTER = 900
"""Age (s) from which a file requests nothing, as of all adapters."""
LEVELS = ("program", "any")
"""Rows of the local table that count jobs of one process."""
PROCESS = re.compile(r"[A-Za-z_]\w*(?::[A-Za-z_]\w*)*", re.ASCII)
"""A process of Nextflow, by its name or with the workflows that it is in."""
RULE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
KILLED = (104, 137, 140, 143, 247)
"""Exit codes of tasks that were killed for their memory or time."""
OPT_OUT = "GRIDCAST_OFF"
Requests = Mapping[tuple[str | None, ...], tuple[float | None, float | None]]
"""Memory (bytes) and walltime (s), None for none, by (program,) and (user, program)."""


@dataclass(frozen=True)
class ProcessRequests:
    """The requests of a process or rule at its first attempt and after each failure."""

    name: str
    plan: RequestPlan
    most_memory: float | None = None
    """Bytes that its jobs requested at most, where no more may be written."""


def write_workflow_config(
    engine: Engine,
    predictor: Gridcast,
    file: Path,
    system: str,
    *,
    policy: RequestPolicy,
    user: str | None = None,
    **choice: Any,
) -> WrittenTable:
    """Predict the processes of recent workflows and write their requests.

    Args:
        engine: The store.
        predictor: Predicts.
        file: The configuration, or the profile's config.yaml.
        system: A key of ``WRITERS``.
        policy: Whose requests are written, and within what.
        user: Predict this user's jobs where there are some.
        choice: Options of ``predict_recent``.

    Raises:
        InputError: As of ``write_table``.
        TableError: As of ``write_table``.
    """
    recent = predict_recent(engine, predictor, **choice)
    highest = highest_requests(engine, recent.source)
    processes = plan_processes(recent.rows, highest, policy, user)
    names, render = WRITERS[system]
    named = [process for process in processes if names.fullmatch(process.name)]
    programs = [row["names"][0] for row in recent.rows if row["level"] == "any"]
    note = why_nothing(named, programs, policy, user, choice.get("days", 14))
    written = WrittenTable(file, recent.written_at, recent.version, len(named), recent.jobs, note)
    replace_files(render(named, len(processes) - len(named), written))
    return written


def highest_requests(engine: Engine, source: str) -> Requests:
    """Read the highest requests of each program and of each user's program.

    Of all stored jobs, not the recent ones only: those may have requested what was written here.
    """
    frame = read_highest_requests(engine, source)
    requests: dict[tuple[str | None, ...], tuple[float | None, float | None]] = {}
    for keys in (["program"], ["user", "program"]):
        highest = frame.groupby(keys)[["requested_memory", "requested_walltime"]].max()
        for names, *amounts in highest.astype(object).itertuples(name=None):
            memory, walltime = (None if amount != amount else amount for amount in amounts)
            requests[names if isinstance(names, tuple) else (names,)] = memory, walltime
    return requests


def why_nothing(
    processes: Iterable[ProcessRequests],
    programs: Iterable[Any],
    policy: RequestPolicy,
    user: str | None,
    days: float,
) -> str:
    """Say why nothing is requested of any process; empty where something is.

    Args:
        processes: Those that are written.
        programs: The names of all recent programs.
        policy: Whose requests are written, and within what.
        user: As of ``plan_processes``.
        days: How long ago recent jobs were submitted at most.
    """
    plans = [process.plan for process in processes]
    if any(map(_acts, plans)):
        return ""
    if policy.mode == "off":
        return "nothing is requested: GRIDCAST_REQUEST_MODE is off"
    reasons = []
    if policy.queues and ANY not in policy.queues:
        reasons.append("GRIDCAST_REQUEST_QUEUES is set, and processes have no queue")
    if policy.users and not {ANY, user} & set(policy.users):
        reasons.append("GRIDCAST_REQUEST_USERS is set: name one of these users by --user")
    names = [name for name in programs if isinstance(name, str)]
    for name in sorted({*policy.programs} - {ANY, *names}):
        near = "".join(f" (near: {text})" for text in difflib.get_close_matches(name, names, 1))
        reasons.append(f"{name}: no such process in the last {days:g} days{near}")
    counts = Counter(
        f"the mode is {plan.mode}"
        if plan.memory or plan.walltime
        else plan.reason.removeprefix("requests unchanged: ")
        for plan in plans
    )
    reasons += [
        f"{count} {'process' if count == 1 else 'processes'} unchanged: {reason}"
        for reason, count in counts.most_common(3)
    ]
    if not reasons:
        reasons = ["no name of a recent job can be one of a process or rule"]
    return f"nothing is requested: {'; '.join(reasons)}"


def plan_processes(
    rows: Iterable[dict[str, Any]],
    highest: Requests,
    policy: RequestPolicy,
    user: str | None = None,
) -> list[ProcessRequests]:
    """Plan the requests of each program that the policy covers, by name.

    No rung is above a program's highest request.

    Args:
        rows: As of ``RecentPredictions``.
        highest: The highest requests, as of ``highest_requests``.
        policy: Whose requests are written, and within what.
        user: Predict this user's jobs where there are some.
    """
    by_names = {(row["level"], row["names"]): row for row in rows if row["level"] in LEVELS}
    requests = []
    for (level, names), of_all in by_names.items():
        if level != "any" or not isinstance(names[0], str):
            continue
        name = names[0]
        row = by_names.get(("program", (user, name)), of_all)
        numbers = row["answer"] | {
            "level": row["level"],
            "jobs": row["jobs"],
            "new": int(row["answer"]["cold_start"]),
            "longest": row["longest"],
        }
        memory, walltime = highest.get(row["names"]) or highest.get((name,), (None, None))
        job = JobRequest(user, name, None, memory, walltime)
        plan = plan_requests(policy, numbers, job, levels=LEVELS)
        if plan.mode != "off":
            most = None if policy.above_request else memory
            requests.append(ProcessRequests(name, plan, most))
    # In Nextflow later selectors win: a qualified name's over that of its bare one.
    return sorted(requests, key=lambda process: (":" in process.name, process.name))


def nextflow(
    processes: Iterable[ProcessRequests], left_out: int, written: WrittenTable
) -> dict[Path, str]:
    """Render a configuration to be included last, and beside it the one with the requests.

    Args:
        processes: Names that match ``PROCESS``.
        left_out: How many other names there were.
        written: When, from what, and where.
    """
    requests = written.file.with_name(f"{written.file.name}.requests")
    until = int((written.written_at.timestamp() + STALE_AFTER) * 1000)
    path = str(requests.absolute()).replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    head = _head("//", "nextflow", left_out, written)
    include = (
        f"// Nothing after {_time(until / 1000)}, or where {OPT_OUT} is set.\n"
        f"includeConfig System.currentTimeMillis() < {until}L && !System.getenv('{OPT_OUT}') "
        f"? '{path}' : '/dev/null'\n"
    )
    blocks = "".join(map(_process_block, processes))
    return {requests: f"{head}process {{\n{blocks}}}\n", written.file: head + include}


def _process_block(process: ProcessRequests) -> str:
    name, plan = process.name, process.plan
    if not _acts(plan):
        return f"    // {name}: {plan.reason}\n"
    # A name with its workflows is matched as it is; a bare one in whatever workflow it is.
    lines = [f"withName: '{name if ':' in name else f'(.*:)?{name}'}' {{"]
    for directive, rungs, unit, size in (
        ("memory", plan.memory, "MB", MIB),
        ("time", plan.walltime, "m", MINUTE),
    ):
        if rungs:
            literals = ", ".join(f"{math.ceil(rung / size)}.{unit}" for rung in rungs)
            lines.append(
                f"    {directive} = {{ [{literals}][Math.min(task.attempt, {len(rungs)}) - 1] }}"
            )
    retries = max(len(plan.memory), len(plan.walltime)) - 1
    killed = ", ".join(map(str, KILLED))
    lines += [
        f"    errorStrategy = {{ task.exitStatus in [{killed}] ? 'retry' : 'finish' }}",
        f"    maxRetries = {retries}",
        f"    ext.gridcast = '{plan.reason}'",
        "}",
    ]
    return "".join(f"    {line}\n" for line in lines)


def snakemake(
    processes: Iterable[ProcessRequests], left_out: int, written: WrittenTable
) -> dict[Path, str]:
    """Render a profile's config.yaml.

    Args:
        processes: Names that match ``RULE``.
        left_out: How many other names there were.
        written: When, from what, and where.
    """
    until = int(written.written_at.timestamp() + STALE_AFTER)
    notes, rules, retries = [], [], 0
    for process in processes:
        notes.append(f"# {process.name}: {process.plan.reason}\n")
        if not _acts(process.plan):
            continue
        rules.append(f"  {json.dumps(process.name)}:\n")
        # Executors take mem_mb for MB or for MiB: no rung is above the request as either.
        most = (process.most_memory or math.inf) // MIB
        megabytes = [min(math.ceil(rung / 1e6), most) for rung in process.plan.memory]
        minutes = [rung // MINUTE for rung in process.plan.walltime]
        for resource, rungs in (("mem_mb", megabytes), ("runtime", minutes)):
            if rungs:
                expression = _by_attempt([int(rung) for rung in rungs], until)
                rules.append(f"    {resource}: {json.dumps(expression)}\n")
                retries = max(retries, len(rungs) - 1)
        rules.append(f"    gridcast: {json.dumps(repr(process.plan.reason))}\n")
    body = f"retries: {retries}\nset-resources:\n{''.join(rules)}" if rules else "{}\n"
    return {written.file: _head("#", "snakemake", left_out, written) + "".join(notes) + body}


def _by_attempt(rungs: list[int], until: int) -> str:
    """An expression of Snakemake's resources; the last rung, the request, for a stale profile.

    >>> _by_attempt([500, 900], 1000).partition(" if ")[0]
    '[500, 900][min(attempt, 2) - 1]'
    """
    fresh = f"__import__('time').time() < {until} and not __import__('os').environ.get('{OPT_OUT}')"
    return f"{rungs}[min(attempt, {len(rungs)}) - 1] if {fresh} else {rungs[-1]}"


def _acts(plan: RequestPlan) -> bool:
    return plan.mode == "act" and bool(plan.memory or plan.walltime)


def _head(comment: str, system: str, left_out: int, written: WrittenTable) -> str:
    version = re.sub(r"[^\w./-]", "?", written.model_version, flags=re.ASCII)
    lines = [
        f"gridcast table --for {system}: {written.rows} names, by {version}, "
        f"{_time(written.written_at.timestamp())}"
    ]
    if left_out:
        lines.append(f"{left_out} names left out: they cannot be names of a process or rule")
    return "".join(f"{comment} {line}\n" for line in lines)


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%dT%H:%M:%S%z}"


Renderer = Callable[[Iterable[ProcessRequests], int, WrittenTable], dict[Path, str]]
WRITERS: dict[str, tuple[re.Pattern[str], Renderer]] = {
    "nextflow": (PROCESS, nextflow),
    "snakemake": (RULE, snakemake),
}
"""For each workflow system the form of its names, and what renders its file."""
FILES: dict[str | None, str] = {"nextflow": "gridcast.config", "snakemake": "snakemake/config.yaml"}
"""Where each is written in the folder of tables by default."""
