"""What a part has started itself, by session, descent or mark; and ending all of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "GRIDCAST_PART_OF"
"""The variable that every part and whatever it starts inherits: the data folder that it belongs to."""
NAME = "GRIDCAST_PART"
"""The variable beside it: the part's name."""


def stop(pid: int, by: int, grace: float) -> None:
    """End the session that ``pid`` leads: asked by the signal ``by``, after ``grace`` seconds killed, with all that it had started."""
    family = _family(pid)
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(pid)
        leader.send_signal(by)
        wait_until_ended({leader}, grace)
    _kill({*family, *_family(pid)})


def kill_strays(home: Path, part: str = "") -> None:
    """Kill what the parts (or one ``part``) of the data folder ``home`` left behind, in whatever session and whoever its parent is now."""
    _kill(set(marked_processes(home, part)))


def _kill(processes: set[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until_ended(processes, 10.0)


def wait_until_ended(processes: set[psutil.Process], seconds: float) -> None:
    """Wait until all have ended, ``seconds`` at most."""
    deadline = time.monotonic() + seconds
    while any(_runs(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)


def _runs(process: psutil.Process) -> bool:
    try:
        # One that has ended is a zombie until its parent asks, which init may be slow to do, or never do in a container.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _family(pid: int) -> list[psutil.Process]:
    """The process, its descendants, and whatever else is in the session that it leads."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == pid:
                found.append(process)
    with suppress(psutil.NoSuchProcess):
        found += psutil.Process(pid).children(recursive=True)
    return found


def marked_processes(home: Path, part: str = "") -> Iterator[psutil.Process]:
    """What the parts (or one ``part``) of the data folder ``home`` started and still runs, but for this process and its parents."""
    us = psutil.Process()
    ours = {us.pid, *(parent.pid for parent in us.parents())}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid in ours:
                continue
            marks = process.environ()
            if marks.get(MARK) == str(home.absolute()) and part in ("", marks.get(NAME)):
                yield process
