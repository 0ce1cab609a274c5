"""Ending a component with all processes that it has started: by session, descent or marker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "GRIDCAST_PART_OF"
"""The variable that all processes of components inherit: the data folder."""
NAME = "GRIDCAST_PART"
"""The variable that they inherit beside it: the component's name."""


def stop(pid: int, signal_number: int, seconds: float) -> None:
    """Stop a process, and kill what is left of its session and descendants.

    Args:
        pid: the process, which leads a session.
        signal_number: the signal by which it is asked to stop.
        seconds: how long it may take before it is killed.
    """
    family = _family(pid)
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(pid)
        leader.send_signal(signal_number)
        wait_until_ended({leader}, seconds)
    _kill({*family, *_family(pid)})


def kill_strays(home: Path, component: str = "") -> None:
    """Kill the processes that components of the data folder ``home`` left behind.

    Of one ``component`` or of all; in whatever session, and whatever their parent is now.
    """
    _kill(set(marked_processes(home, component)))


def _kill(processes: set[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until_ended(processes, 10.0)


def wait_until_ended(processes: set[psutil.Process], seconds: float) -> None:
    """Wait until all processes have ended, at most ``seconds``."""
    deadline = time.monotonic() + seconds
    while any(_runs(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)


def _runs(process: psutil.Process) -> bool:
    try:
        # A zombie has ended; init may be slow to reap it, and in a container may never do so.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _family(pid: int) -> list[psutil.Process]:
    """The process, its descendants, and all in the session that it leads."""
    family = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == pid:
                family.append(process)
    with suppress(psutil.NoSuchProcess):
        family += psutil.Process(pid).children(recursive=True)
    return family


def marked_processes(home: Path, component: str = "") -> Iterator[psutil.Process]:
    """The running processes that components of the data folder ``home`` started.

    Of one ``component`` or of all, but for this process and its parents.
    """
    this = psutil.Process()
    excluded = {this.pid, *(parent.pid for parent in this.parents())}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid in excluded:
                continue
            variables = process.environ()
            name = variables.get(NAME)
            if variables.get(MARK) == str(home.absolute()) and component in ("", name):
                yield process
