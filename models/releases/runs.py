"""Runs of MLflow and the processes that opened them: what a dead one left open is closed."""

from __future__ import annotations

import os
import socket
from typing import Any

import psutil


def this_process() -> str:
    """How a run names the process that opened it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def close_orphans(client: Any, experiment: str) -> None:
    """Close the runs that processes of this host left open when they died."""
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        host, _, pid = run.data.tags.get("process", "").partition(":")
        if host == socket.gethostname() and pid.isdigit() and not psutil.pid_exists(int(pid)):
            client.set_terminated(run.info.run_id, "KILLED")
