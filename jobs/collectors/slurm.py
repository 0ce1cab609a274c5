"""Collector of Slurm: ``sacct`` of a window of time, the columns that this version of it has, times in UTC."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta

from infra.errors import InputError
from infra.settings import environment_with
from jobs.collectors.contract import PATIENCE, CollectError, Collector, Fetched, Window, program, run

REQUIRED = ("JobID", "Submit", "State")
_USED = """
JobIDRaw Cluster User Group Account JobName Partition Start End ElapsedRaw TimelimitRaw Timelimit ReqCPUS AllocCPUS NNodes ReqNodes ReqMem
ReqTRES NodeList NTasks TotalCPU MaxRSS AveRSS MaxDiskRead AveDiskRead MaxDiskWrite AveDiskWrite TRESUsageInTot TRESUsageOutTot
"""
WANTED = (*REQUIRED, *_USED.split())
"""What the reader of Slurm's accounting uses; JobName is the one free text, so that a bar in it can be told from those between columns."""


def fetch(window: Window) -> Fetched:
    """All jobs that waited or ran in the window, every user's; ``where`` names a cluster, empty for the one of this machine.

    Raises NoSystemError where there is no sacct, CollectError where it fails, InputError where it lacks a column that every job needs.
    """
    sacct = program("sacct", "Slurm")
    # Its times carry no zone: they are this process's, and in UTC no hour comes twice.
    environment = environment_with({"TZ": "UTC", "SLURM_TIME_FORMAT": "standard"})
    columns, absent = _columns(sacct, environment)
    which = [f"--clusters={window.where}"] if window.where else []
    options = ["--allusers", "--parsable2", "--noconvert", f"--format={','.join(columns)}", *which]
    # The seconds of the end belong to the window, as sacct has no smaller ones.
    times = [f"--starttime={_moment(window.since)}", f"--endtime={_moment(window.until + timedelta(seconds=1))}"]
    path = window.folder / f"sacct {_moment(window.since)} to {_moment(window.until)}"
    run([sacct, *options, *times], path, environment)
    return Fetched((path,), notes=tuple(f"sacct has no column {name}" for name in absent))


def _columns(sacct: str, environment: dict[str, str]) -> tuple[list[str], list[str]]:
    """The columns that this sacct can print of those that are wanted, and those that it cannot."""
    done = subprocess.run(  # noqa: S603  the system's own program, no shell
        [sacct, "--helpformat"], capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False
    )
    has = {name.lower(): name for name in done.stdout.split()}
    if not has:
        raise CollectError(f"sacct --helpformat names no column: {done.stderr.strip()[:300]}")
    if gone := [name for name in REQUIRED if name.lower() not in has]:
        raise InputError(f"this sacct has no column {gone[0]}, without which no job can be read: what does its --helpformat call it?")
    return [has[name.lower()] for name in WANTED if name.lower() in has], [name for name in WANTED if name.lower() not in has]


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}"


SLURM = Collector("slurm", fetch, "slurm", overlap=timedelta(hours=6), step=timedelta(days=1))
"""The collector to put in the list: a day at a time, and six hours again, for what slurmctld could tell its database only later."""
