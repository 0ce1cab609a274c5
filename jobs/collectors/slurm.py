"""Collector of Slurm: ``sacct`` of a window of time, the columns that this version has, in UTC.

The predictions that the adapter for Slurm wrote on jobs are read too, for the prediction log.
"""

from __future__ import annotations

import re
import subprocess
from datetime import datetime, timedelta
from urllib.parse import unquote

import pandas as pd

from infra.errors import InputError
from infra.settings import environment_with
from jobs.collectors.contract import (
    PATIENCE,
    CollectError,
    Collector,
    Fetched,
    Window,
    program,
    run,
)
from jobs.readers.rows import first_id

REQUIRED = ("JobID", "Submit", "State")
_USED = """
JobIDRaw Cluster User Group Account Partition QOS Reservation Start Constraints End AdminComment
ElapsedRaw TimelimitRaw Timelimit Priority ReqCPUS AllocCPUS NNodes ReqNodes ReqMem ReqTRES
AllocTRES NodeList NTasks TotalCPU MaxRSS AveRSS MaxDiskRead AveDiskRead MaxDiskWrite AveDiskWrite
TRESUsageInTot TRESUsageOutTot ConsumedEnergyRaw ExitCode
"""
WANTED = (*REQUIRED, *_USED.split(), "JobName")
"""Columns that the reader of Slurm's accounting uses.

JobName is free text and stands last: no bar or line feed in it can move another column. The bars
of Constraints (``intel|amd``) and AdminComment cannot either: times and counts stand beside them.
"""


WRITTEN = re.compile(r"gridcast: (\d{1,9}) s \((\d{1,9})-(\d{1,9})\) by \w+ of ([^\s|,]{1,100})")
"""The admin comment that adapters/slurm/gridcast.lua writes on a job."""


def fetch(window: Window) -> Fetched:
    """Fetch all users' jobs that waited or ran in the window.

    ``where`` names a cluster; empty: that of this machine. Raises NoSystemError where there is no
    sacct, CollectError where it fails, InputError where it lacks a column that every job needs.
    """
    sacct, environment = _sacct()
    has = _columns(sacct, environment)
    if gone := [name for name in REQUIRED if name.lower() not in has]:
        raise InputError(
            f"this sacct has no column {gone[0]}, without which no job can be read:"
            " what does its --helpformat call it?"
        )
    path = window.folder / f"sacct {_moment(window.since)} to {_moment(window.until)}"
    run(
        [
            sacct,
            *_options(window, [has[name.lower()] for name in WANTED if name.lower() in has]),
            "--noconvert",
            "--duplicates",  # the earlier runs of jobs that were queued again
        ],
        path,
        environment,
    )
    return Fetched(
        (path,),
        notes=tuple(f"sacct has no column {name}" for name in WANTED if name.lower() not in has),
    )


def read_predictions(window: Window, source: str | None) -> pd.DataFrame:
    """Read the predictions that the adapter wrote on the window's jobs, as rows of the log.

    The adapter wrote each at submission, before there was an outcome. Only the admin comment is
    read: a job's owner may write and change the other comment.
    """
    sacct, environment = _sacct()
    has = _columns(sacct, environment)
    path = window.folder / "comments"
    if "admincomment" not in has:
        return pd.DataFrame()
    # Free text last: nothing in it can move another column.
    names = ["JobID", "JobIDRaw", "Cluster", "Submit", has["admincomment"]]
    run([sacct, *_options(window, names), "--allocations"], path, environment)
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        written, cells = WRITTEN.search(line), line.split("|", 4)
        if written and len(cells) == 5:
            name, raw, cluster, submitted, _ = cells
            answer = {
                "point": float(written[1]),
                "low": float(written[2]),
                "high": float(written[3]),
                "model_version": unquote(written[4]),
            }
            job = {
                "source": source or cluster or "slurm",
                "job_id": first_id(name, raw),
                "asked_at": submitted,
            }
            rows.append(
                {**job, "target": "walltime", **answer, "known_revision": 0, "shadow": False}
            )
    predictions = pd.DataFrame(rows)
    # A line that is not sacct's must not make this window fail for ever.
    return (
        predictions.assign(
            asked_at=pd.to_datetime(predictions["asked_at"], utc=True, errors="coerce")
        ).dropna(subset="asked_at")
        if rows
        else predictions
    )


def _sacct() -> tuple[str, dict[str, str]]:
    """The program and its environment: it prints times in its process's zone, which is UTC."""
    return program("sacct", "Slurm"), environment_with(
        {"TZ": "UTC", "SLURM_TIME_FORMAT": "standard"}
    )


def _options(window: Window, columns: list[str]) -> list[str]:
    clusters = [f"--clusters={window.where}"] if window.where else []
    # The seconds of the end belong to the window, as sacct has no smaller ones.
    times = [
        f"--starttime={_moment(window.since)}",
        f"--endtime={_moment(window.until + timedelta(seconds=1))}",
    ]
    return ["--allusers", "--parsable2", f"--format={','.join(columns)}", *clusters, *times]


def _columns(sacct: str, environment: dict[str, str]) -> dict[str, str]:
    """The columns that this sacct can print, by their names in lower case."""
    done = subprocess.run(  # noqa: S603
        [sacct, "--helpformat"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=PATIENCE,
        check=False,
    )
    has = {name.lower(): name for name in done.stdout.split()}
    if not has:
        raise CollectError(f"sacct --helpformat names no column: {done.stderr.strip()[:300]}")
    return has


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}"


SLURM = Collector(
    "slurm",
    fetch,
    "slurm",
    overlap=timedelta(hours=6),
    step=timedelta(days=1),
    read_predictions=read_predictions,
)
"""Windows of a day, and six hours again: slurmctld may reach its database late."""
