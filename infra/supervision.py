"""A part as it runs: its process is started, watched, put off where it does not last, and what is known of it is recorded.

Its record (pid, since when, note) and its log lie in the data folder, where ``down`` and ``status`` read them from another shell.
"""

from __future__ import annotations

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
from urllib.request import Request, urlopen

from infra.components import Component
from infra.process_groups import MARK, NAME, kill_strays, stop
from infra.process_records import write_record
from infra.settings import Settings, environment_with

LONGEST_WAIT = 60.0
"""Seconds between two restarts of a part that keeps crashing: 1, 2, 4 … up to this."""
LONGEST_LOG = 50 * 2**20
"""Bytes after which a log begins anew; the one before it is kept. A trouble may be told every few seconds for weeks."""


@dataclass
class Child:
    """A part as it runs now."""

    part: Component
    process: subprocess.Popen[bytes]
    started: float
    ready: bool = False
    crashes: int = 0
    restart_at: float = 0.0
    note: str = ""
    state: str = "starting"
    recorded: bool = False


def watch(settings: Settings, child: Child, say: Callable[[str], None]) -> None:
    """Look at ``child`` once: note that it became ready, or that it ended, and restart it when its wait is over."""
    now = time.monotonic()
    name = child.part.name
    _keep_short(log_path(settings, child.part))
    if not child.recorded:
        record_state(settings, child, child.state)
    if child.restart_at:
        if now >= child.restart_at:
            _start_again(settings, child, say)
        return
    code = child.process.poll()
    if code is not None:
        # What it had started itself: also a worker in a session of its own, which would hold the port and answer for the next.
        stop(child.process.pid, child.part.stop_signal, child.part.stop_seconds)
        kill_strays(settings.home, name)
        cause = (
            f"was killed by {signal.Signals(-code).name}"
            if code < 0
            else f"ended with exit code {code}"
        )
        child.note = f"{cause} at {datetime.now(UTC):%H:%M:%S} UTC"
        wait = _put_off(child)
        record_state(settings, child, "restarting")
        say(f"{name} {cause}; it starts again in {wait:.0f} s")
    elif not child.ready and _is_ready(settings, child.part):
        child.ready = True
        record_state(settings, child, "up")
        say(f"{name} is ready{f' at {child.part.address}' if child.part.address else ''}")


def _keep_short(log: Path) -> None:
    """Let a log that is long begin anew under the part that goes on writing it; what it says at that moment may be lost."""
    with suppress(OSError):
        if log.stat().st_size > LONGEST_LOG:
            earlier = log.with_suffix(".log.1")
            try:
                shutil.copyfile(log, earlier)
            except OSError:  # a full disk has no room for both
                earlier.unlink(missing_ok=True)
            os.truncate(log, 0)


def _put_off(child: Child) -> float:
    """Seconds until the next start of a part that ended, longer each time that it did not last."""
    now = time.monotonic()
    child.crashes = child.crashes + 1 if now - child.started < LONGEST_WAIT else 1
    wait = min(2.0 ** (child.crashes - 1), LONGEST_WAIT)
    child.restart_at = now + wait
    return wait


def _start_again(settings: Settings, child: Child, say: Callable[[str], None]) -> None:
    """Start a part that ended; where that cannot be, as on a full disk, it is put off."""
    child.started = time.monotonic()
    try:
        child.process = start(settings, child.part)
    except OSError as error:
        child.note = f"cannot be started: {error.strerror}"
        say(f"{child.part.name} {child.note}; it is tried again in {_put_off(child):.0f} s")
        return
    child.restart_at, child.ready = 0.0, False
    record_state(settings, child, "starting")


def start(settings: Settings, part: Component) -> subprocess.Popen[bytes]:
    """Start a part, its files written and the log of its last start kept; raises OSError, as where the disk is full."""
    for place, text in part.files.items():
        path = Path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)
        path.write_text(text)
    log = log_path(settings, part)
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as file:  # appended to, so that it can be cut short
        return subprocess.Popen(  # noqa: S603
            part.command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment_with(
                {**part.environment, MARK: str(settings.home.absolute()), NAME: part.name}
            ),
            start_new_session=True,
        )


def _is_ready(settings: Settings, part: Component) -> bool:
    if part.ready_log_text:
        return part.ready_log_text in log_path(settings, part).read_text(errors="replace")
    return is_responding(part)


def is_responding(part: Component) -> bool:
    """Whether ``part`` says that it is ready."""
    asked = Request(  # noqa: S310
        part.address + part.ready_path,
        headers={"Authorization": f"Bearer {part.token}"} if part.token else {},
    )
    try:
        with urlopen(asked, timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:  # refused, too slow, or an error status
        return False


def record_state(settings: Settings, child: Child, state: str) -> None:
    """Note how a part stands; where the disk is full that waits for the next look."""
    part, child.state = child.part, state
    told = {
        "pid": child.process.pid,
        "state": state,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "note": child.note,
    }
    how = {
        "address": part.address,
        "ready_path": part.ready_path,
        "ready_log_text": part.ready_log_text,
        "guarded": bool(part.token),
    }
    how |= {"stop_seconds": part.stop_seconds, "stop_signal": part.stop_signal}
    with suppress(OSError):
        child.recorded = False
        write_record(record_path(settings, part.name), told | how)
        child.recorded = True


def record_path(settings: Settings, name: str) -> Path:
    """Where it is recorded how a part, or ``up`` itself, stands."""
    return settings.folder("run") / f"{name}.json"


def log_path(settings: Settings, part: Component) -> Path:
    """Where what a part says is kept."""
    return settings.folder("logs") / f"{part.name}.log"


def last_line(log: Path) -> str:
    """The last that a part said, at most 200 characters."""
    lines = (
        [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if log.exists()
        else []
    )
    return lines[-1][:200] if lines else "it said nothing"
