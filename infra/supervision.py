"""Starting and watching the process of a component, and restarting it with increasing delay.

Its record (pid, state, note) and its log are files of the data folder, which ``down`` and
``status`` read in other shells.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from infra.components import Component
from infra.process_groups import MARK, NAME, kill_strays, stop
from infra.process_records import write_record
from infra.settings import Settings, environment_with

MAX_DELAY = 60.0
"""Most seconds before a restart of a component that keeps crashing: 1, 2, 4, …"""
MAX_REASON_BYTES = 10_000
"""Bytes that are read of the answer of a server that is not ready."""
MAX_LOG_BYTES = 50 * 2**20
"""Size at which a log is rotated; one earlier log is kept."""


@dataclass
class Child:
    """A component's process, its state (as in its record) and its crashes so far."""

    component: Component
    process: subprocess.Popen[bytes]
    started: float
    ready: bool = False
    crashes: int = 0
    restart_at: float = 0.0
    note: str = ""
    waits_for: str = ""
    state: str = "starting"
    recorded: bool = False


def watch(settings: Settings, child: Child, report: Callable[[str], None]) -> None:
    """Check a component once, and restart it when its delay after a crash is over.

    Args:
        settings: the settings.
        child: the component's process.
        report: called with a sentence for each change.
    """
    now = time.monotonic()
    name = child.component.name
    _rotate(log_path(settings, child.component))
    if not child.recorded:
        record_state(settings, child, child.state)
    if child.restart_at:
        if now >= child.restart_at:
            _restart(settings, child, report)
        return
    code = child.process.poll()
    if code is not None:
        # Its descendants too: a worker in another session would hold the port of the next.
        stop(child.process.pid, child.component.stop_signal, child.component.stop_seconds)
        kill_strays(settings.home, name)
        cause = (
            f"was killed by {signal.Signals(-code).name}"
            if code < 0
            else f"ended with exit code {code}"
        )
        child.note = f"{cause} at {datetime.now(UTC):%H:%M:%S} UTC"
        delay = _delay(child)
        record_state(settings, child, "restarting")
        report(f"{name} {cause}; it starts again in {delay:.0f} s")
    elif not child.ready:
        child.waits_for = why_unready(settings, child.component)
        if child.waits_for:
            return
        child.ready = True
        record_state(settings, child, "up")
        report(
            f"{name} is ready{f' at {child.component.address}' if child.component.address else ''}"
        )


def _rotate(log: Path) -> None:
    """Copy and truncate a long log, which its process goes on writing to.

    A line written at that moment may be lost.
    """
    with suppress(OSError):
        if log.stat().st_size > MAX_LOG_BYTES:
            earlier = log.with_suffix(".log.1")
            try:
                shutil.copyfile(log, earlier)
            except OSError:  # the disk is full
                earlier.unlink(missing_ok=True)
            os.truncate(log, 0)


def _delay(child: Child) -> float:
    """Count a crash, and return the seconds until the restart."""
    now = time.monotonic()
    child.crashes = child.crashes + 1 if now - child.started < MAX_DELAY else 1
    delay = min(2.0 ** (child.crashes - 1), MAX_DELAY)
    child.restart_at = now + delay
    return delay


def _restart(settings: Settings, child: Child, report: Callable[[str], None]) -> None:
    """Start a component again, or delay it where that fails, as on a full disk."""
    child.started = time.monotonic()
    try:
        child.process = start(settings, child.component)
    except OSError as error:
        child.note = f"cannot be started: {error.strerror}"
        report(f"{child.component.name} {child.note}; it is tried again in {_delay(child):.0f} s")
        return
    child.restart_at, child.ready = 0.0, False
    record_state(settings, child, "starting")


def start(settings: Settings, component: Component) -> subprocess.Popen[bytes]:
    """Write a component's files, rotate its log and start its process.

    Raises:
        OSError: if that fails, as where the disk is full.
    """
    for name, text in component.files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)
        path.write_text(text)
    log = log_path(settings, component)
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    variables = {MARK: str(settings.home.absolute()), NAME: component.name}
    with log.open("ab") as file:  # appended to, so that it can be truncated
        return subprocess.Popen(  # noqa: S603
            component.command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment_with({**component.environment, **variables}),
            start_new_session=True,
        )


def why_unready(settings: Settings, component: Component) -> str:
    """Why a component is not ready, by a text in its log or its answer to a request; else ""."""
    if text := component.ready_log_text:
        is_ready = text in log_path(settings, component).read_text(errors="replace")
        return "" if is_ready else f"its log does not say {text!r} yet"
    return _refusal(component)


def is_responding(component: Component) -> bool:
    """Whether a component answers 200 to a request for its ``ready_path``."""
    return not _refusal(component)


def _refusal(component: Component) -> str:
    """What a component answers to a request for its ``ready_path``; "" for 200."""
    headers = {"Authorization": f"Bearer {component.token}"} if component.token else {}
    request = Request(component.address + component.ready_path, headers=headers)  # noqa: S310
    try:
        with urlopen(request, timeout=2) as response:  # noqa: S310
            status, reason = response.status, ""
    except HTTPError as error:
        status, reason = error.code, ""
        with suppress(OSError, ValueError, KeyError, TypeError):
            reason = f": {json.loads(error.read(MAX_REASON_BYTES))['detail']}"
    except OSError as error:  # refused, or too slow
        return f"{component.ready_path} is not answered: {getattr(error, 'reason', error)}"
    return "" if status == 200 else f"{component.ready_path} answers {status}{reason}"


def record_state(settings: Settings, child: Child, state: str) -> None:
    """Record the state of a component; where the disk is full the next check tries again.

    Args:
        settings: the settings.
        child: the component's process.
        state: ``starting``, ``up`` or ``restarting``.
    """
    component, child.state = child.component, state
    record = {
        "pid": child.process.pid,
        "state": state,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "note": child.note,
        "address": component.address,
        "ready_path": component.ready_path,
        "ready_log_text": component.ready_log_text,
        "guarded": bool(component.token),
        "stop_seconds": component.stop_seconds,
        "stop_signal": component.stop_signal,
    }
    with suppress(OSError):
        child.recorded = False
        write_record(record_path(settings, component.name), record)
        child.recorded = True


def record_path(settings: Settings, name: str) -> Path:
    """The file of the record of a component, or of ``up`` itself."""
    return settings.folder("run") / f"{name}.json"


def log_path(settings: Settings, component: Component) -> Path:
    """The file of a component's output."""
    return settings.folder("logs") / f"{component.name}.log"


def last_line(log: Path) -> str:
    """The last line of a log, at most 200 characters."""
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it wrote nothing"
