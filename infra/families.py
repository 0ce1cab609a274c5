"""What a part has started itself, by session, descent or mark; and ending all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "GRIDCAST_PART_OF"
"""The variable that every part and whatever it starts inherits: the data folder that it belongs to."""


def stop(pid: int, by: int, grace: float) -> None:
    """End the session that ``pid`` leads: asked by the signal ``by``, after ``grace`` seconds killed, with all that it had started."""
    family = _family(pid)
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(pid)
        leader.send_signal(by)
        with suppress(psutil.TimeoutExpired):
            leader.wait(grace)
    _kill({*family, *_family(pid)})


def end_strays(home: Path) -> None:
    """Kill what parts of the data folder ``home`` left behind, in whatever session and whoever its parent is now."""
    _kill(set(_marked(str(home.absolute()))))


def _kill(processes: set[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


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


def _marked(home: str) -> Iterator[psutil.Process]:
    us = psutil.Process()
    ours = {us.pid, *(parent.pid for parent in us.parents())}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid not in ours and process.environ().get(MARK) == home:
                yield process
