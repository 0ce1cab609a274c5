"""Starting, watching and stopping the servers: behind ``gridcast up``, ``down`` and ``status``.

Each part is a child in a session of its own, so that Ctrl-C reaches only this process, which then stops the parts in order, and
so that whatever a part has started itself can be found and ended with it. Its record (pid, since when, note) and its log lie
in the data folder, where ``down`` and ``status`` read them from another shell.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.request import urlopen

import psutil

from infra.errors import GridcastError, InputError
from infra.parts import Part
from infra.records import live_process, read_record, write_record
from infra.settings import Settings, environment_with

PATIENCE = 120.0
"""Seconds that a part has to become ready."""
LONGEST_WAIT = 60.0
"""Seconds between two restarts of a part that keeps crashing: 1, 2, 4 … up to this."""
TRIES = 3
"""Crashes before a part has ever been ready, after which ``up`` gives up."""


class ProcessError(GridcastError):
    """A part did not start; the message names it and its log."""


class TakenError(InputError):
    """A port is in use, or Gridcast is already up; the message says which and what to do."""


@dataclass
class _Child:
    """A part as it runs now."""

    part: Part
    process: subprocess.Popen[bytes]
    started: float
    ready: bool = False
    crashes: int = 0
    restart_at: float = 0.0
    note: str = ""


def up(
    settings: Settings,
    parts: Sequence[Part],
    *,
    say: Callable[[str], None] = print,
    when_ready: Callable[[], None] = lambda: None,
) -> None:
    """Start ``parts`` in order, watch them, and stop them all on Ctrl-C or SIGTERM; returns once nothing is left.

    ``say`` hears one sentence for each thing that happens, ``when_ready`` is called once, when every part is ready.
    Raises TakenError before anything starts, ProcessError where a part never becomes ready; either way nothing is left behind.
    """
    with _only_one(settings), _asked_to_stop() as asked:
        for leftover in _stop_recorded(settings, parts):
            say(f"{leftover} was left behind by an earlier run and is stopped")
        _check_ports(parts)
        children: dict[str, _Child] = {}
        try:
            for part in parts:
                if not all(children[name].ready for name in part.after):
                    _wait(settings, [children[name] for name in part.after], asked, say)
                if asked.is_set():
                    return
                children[part.name] = _Child(part, _start(settings, part), time.monotonic())
                _record(settings, children[part.name], "starting")
            _wait(settings, list(children.values()), asked, say)
            if not asked.is_set():
                when_ready()
            while not asked.wait(0.2):
                for child in children.values():
                    _watch(settings, child, say)
        finally:
            for child in reversed(children.values()):
                say(f"stopping {child.part.name}")
                if not child.restart_at:
                    _stop(child.process.pid, child.part.grace)
                child.process.wait()
                _record_path(settings, child.part.name).unlink(missing_ok=True)


def down(settings: Settings, parts: Sequence[Part]) -> list[str]:
    """Stop everything that ``up`` started on this data folder; returns the names of what ran, and may be called at any time."""
    running = [row["part"] for row in status(settings, parts) if row["pid"] is not None]
    supervisor = live_process(read_record(_record_path(settings, "up")))
    if supervisor is not None:
        with suppress(psutil.NoSuchProcess):
            supervisor.terminate()
            with suppress(psutil.TimeoutExpired):
                supervisor.wait(sum(part.grace + 5 for part in parts) + 5)
            supervisor.kill()
    _stop_recorded(settings, parts)
    _record_path(settings, "up").unlink(missing_ok=True)
    return running


def status(settings: Settings, parts: Sequence[Part]) -> list[dict[str, Any]]:
    """A row a part: ``part``, ``state`` (up, starting, restarting, failing, down), ``pid``, ``address``, ``since`` (UTC), ``note``."""
    rows = []
    for part in parts:
        record = read_record(_record_path(settings, part.name))
        process = live_process(record)
        state = "down"
        if process is not None:
            # What it said of itself is old news; whether it answers is asked now.
            state = record["state"]
            if state == "up" and part.address and not _answers(part):
                state = "failing"
        elif record.get("state") == "restarting" and live_process(read_record(_record_path(settings, "up"))) is not None:
            state = "restarting"
        alive = process is not None
        rows.append(
            {
                "part": part.name,
                "state": state,
                "pid": record["pid"] if alive else None,
                "address": part.address,
                "since": record["since"] if alive else None,
                "note": record.get("note", ""),
            }
        )
    return rows


def _wait(settings: Settings, children: Sequence[_Child], asked: threading.Event, say: Callable[[str], None]) -> None:
    """Watch ``children`` until all are ready or a stop is asked for."""
    deadline = time.monotonic() + PATIENCE
    while not all(child.ready for child in children) and not asked.wait(0.2):
        for child in children:
            _watch(settings, child, say)
            if not child.ready and (child.crashes >= TRIES or time.monotonic() > deadline):
                why = f"ended {child.crashes} times" if child.crashes >= TRIES else f"was not ready after {PATIENCE:.0f} s"
                log = _log_path(settings, child.part)
                raise ProcessError(f"{child.part.name} {why}: {_last_line(log)} (its log is {log})")


def _watch(settings: Settings, child: _Child, say: Callable[[str], None]) -> None:
    """Look at ``child`` once: note that it became ready, or that it ended, and restart it when its wait is over."""
    now = time.monotonic()
    name = child.part.name
    if child.restart_at:
        if now >= child.restart_at:
            child.process, child.started, child.restart_at, child.ready = _start(settings, child.part), now, 0.0, False
            _record(settings, child, "starting")
        return
    code = child.process.poll()
    if code is not None:
        _stop(child.process.pid, child.part.grace)  # what it had started itself
        child.crashes = child.crashes + 1 if now - child.started < LONGEST_WAIT else 1
        wait = min(2.0 ** (child.crashes - 1), LONGEST_WAIT)
        child.restart_at = now + wait
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        child.note = f"{cause} at {datetime.now(UTC):%H:%M:%S} UTC"
        _record(settings, child, "restarting")
        say(f"{name} {cause}; it starts again in {wait:.0f} s")
    elif not child.ready and _is_ready(settings, child.part):
        child.ready = True
        _record(settings, child, "up")
        say(f"{name} is ready{f' at {child.part.address}' if child.part.address else ''}")


def _start(settings: Settings, part: Part) -> subprocess.Popen[bytes]:
    log = _log_path(settings, part)
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    with log.open("wb") as file:
        return subprocess.Popen(  # noqa: S603  our own commands
            part.command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment_with(part.environment),
            start_new_session=True,
        )


def _stop(pid: int, grace: float) -> None:
    """End the session that ``pid`` leads: asked first, and after ``grace`` seconds killed, with all that it had started."""
    family = _family(pid)
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(pid)
        leader.terminate()
        with suppress(psutil.TimeoutExpired):
            leader.wait(grace)
    for process in {*family, *_family(pid)}:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=grace)


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


def _stop_recorded(settings: Settings, parts: Sequence[Part]) -> list[str]:
    """Stop parts whose supervisor was killed and could not."""
    stopped = []
    for part in reversed(parts):
        path = _record_path(settings, part.name)
        process = live_process(read_record(path))
        if process is not None:
            _stop(process.pid, part.grace)
            stopped.append(part.name)
        path.unlink(missing_ok=True)
    return stopped


def _check_ports(parts: Sequence[Part]) -> None:
    for part in parts:
        if not part.address:
            continue
        host, _, port = part.address.removeprefix("http://").rpartition(":")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, int(port)))
            except OSError as error:
                hint = f"; set {part.setting} to a free one" if part.setting else ""
                raise TakenError(
                    f"{part.name} cannot listen on {host} port {port}: {os.strerror(error.errno or 0).lower()}{hint}"
                ) from None


def _is_ready(settings: Settings, part: Part) -> bool:
    if part.address:
        return _answers(part)
    return part.says in _log_path(settings, part).read_text(errors="replace")


def _answers(part: Part) -> bool:
    try:
        with urlopen(part.address + part.ready, timeout=2) as answer:  # noqa: S310  our own address
            return bool(answer.status == 200)
    except OSError:  # refused, too slow, or an error status
        return False


def _record(settings: Settings, child: _Child, state: str) -> None:
    write_record(
        _record_path(settings, child.part.name),
        {"pid": child.process.pid, "state": state, "since": datetime.now(UTC).isoformat(timespec="seconds"), "note": child.note},
    )


def _record_path(settings: Settings, name: str) -> Path:
    return settings.folder("run") / f"{name}.json"


def _log_path(settings: Settings, part: Part) -> Path:
    return settings.folder("logs") / f"{part.name}.log"


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return lines[-1][:200] if lines else "it said nothing"


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    path = _record_path(settings, "up")
    with path.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TakenError(
                f"Gridcast is already up on {settings.home} (pid {read_record(path).get('pid')}); `gridcast down` stops it"
            ) from None
        write_record(path, {"pid": os.getpid()})
        yield
        path.unlink(missing_ok=True)


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, while this runs."""
    asked = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
