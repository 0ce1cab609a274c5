"""Starting, watching and stopping the servers: behind ``gridcast up``, ``down`` and ``status``.

Each part is a child in a session of its own, so that Ctrl-C reaches only this process, which then stops the parts in order, and
so that whatever a part has started itself can be found and ended with it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO
from urllib.parse import urlsplit

import psutil

from infra.components import Component
from infra.errors import GridcastError, InputError
from infra.process_groups import kill_strays, stop, wait_until_ended
from infra.process_records import live_process, read_record, write_record
from infra.settings import Settings
from infra.supervision import (
    Child,
    is_responding,
    last_line,
    log_path,
    record_path,
    record_state,
    start,
    watch,
)

PATIENCE = 120.0
"""Seconds that a part has to become ready."""
TRIES = 3
"""Crashes before a part has ever been ready, after which ``up`` gives up."""


UP = "up"
"""The record of the process that supervises the others."""


class ProcessError(GridcastError):
    """A part did not start; the message names it and its log."""


class ConflictError(InputError):
    """A port is in use, or Gridcast is already up; the message says which and what to do."""


def up(
    settings: Settings,
    parts: Sequence[Component],
    *,
    say: Callable[[str], None] = print,
    when_ready: Callable[[], None] = lambda: None,
) -> None:
    """Start ``parts`` in order, watch them, and stop them all on Ctrl-C or SIGTERM; returns once nothing is left.

    ``say`` hears one sentence for each thing that happens, ``when_ready`` is called once, when every part is ready.
    Raises ConflictError before anything starts, ProcessError where a part never becomes ready; either way nothing is left behind.
    """
    say = _without_fail(say)
    with _only_one(settings, parts), _asked_to_stop() as asked:
        for leftover in _stop_recorded(settings):
            say(f"{leftover} was left behind by an earlier run and is stopped")
        kill_strays(settings.home)
        _check_ports(parts)
        children: dict[str, Child] = {}
        try:
            for part in parts:
                if not all(children[name].ready for name in part.after):
                    _wait(settings, [children[name] for name in part.after], asked, say)
                if asked.is_set():
                    return
                children[part.name] = Child(part, start(settings, part), time.monotonic())
                record_state(settings, children[part.name], "starting")
            _wait(settings, list(children.values()), asked, say)
            if not asked.is_set():
                when_ready()
            while not asked.wait(0.2):
                for child in children.values():
                    watch(settings, child, say)
        finally:
            for child in reversed(children.values()):
                say(f"stopping {child.part.name}")
                if not child.restart_at:
                    stop(child.process.pid, child.part.stop_signal, child.part.stop_seconds)
                child.process.wait()
                record_path(settings, child.part.name).unlink(missing_ok=True)
            kill_strays(settings.home)


def down(settings: Settings) -> list[str]:
    """Stop everything that any ``up`` started on this data folder; returns the names of what ran, and may be called at any time.

    It goes by what was recorded: which parts there were, and what the settings are now, makes no difference.
    """
    records = _records(settings)
    running = [name for name, record in records.items() if live_process(record) is not None]
    supervisor = live_process(read_record(record_path(settings, UP)))
    if supervisor is not None:
        with suppress(psutil.NoSuchProcess):
            supervisor.terminate()
            wait_until_ended(
                {supervisor}, sum(record["stop_seconds"] + 5 for record in records.values()) + 5
            )
            supervisor.kill()
    _stop_recorded(settings)
    kill_strays(settings.home)
    with suppress(ConflictError), _only_one(settings, ()):
        pass  # which takes away what a killed supervisor left
    return running


def status(settings: Settings, parts: Sequence[Component]) -> list[dict[str, Any]]:
    """A row a part: ``part``, ``state`` (up, starting, restarting, failing, down), ``pid``, ``address``, ``since`` (UTC), ``note``.

    The parts are those of ``running_components``.
    """
    is_up = live_process(read_record(record_path(settings, UP))) is not None
    records = _records(settings)
    rows = []
    for part in running_components(settings, parts):
        name, record = part.name, records.get(part.name, {})
        process = live_process(record)
        state = "down"
        if process is not None:
            # What it said of itself is old news; whether it answers is asked now.
            state = record["state"]
            if state == "up" and part.address.startswith("http") and not is_responding(part):
                state = "failing"
        elif record.get("state") == "restarting" and is_up:
            state = "restarting"
        alive = process is not None
        row = {
            "part": name,
            "state": state,
            "pid": record["pid"] if alive else None,
            "address": part.address,
        }
        rows.append(
            row | {"since": record["since"] if alive else None, "note": record.get("note", "")}
        )
    return rows


def running_components(settings: Settings, parts: Sequence[Component]) -> list[Component]:
    """The parts that ``up`` was given, if it runs, as far as their records tell of them; else ``parts``."""
    supervised = read_record(record_path(settings, UP))
    if live_process(supervised) is None:
        return list(parts)
    records = _records(settings)
    return [
        _recalled(name, records.get(name, {}), settings.any_token) for name in supervised["parts"]
    ]


def _recalled(name: str, record: dict[str, Any], token: str) -> Component:
    asked = token if record.get("guarded") else ""
    return Component(
        name,
        (),
        address=record.get("address", ""),
        ready_path=record.get("ready_path", "/"),
        ready_log_text=record.get("ready_log_text", ""),
        token=asked,
    )


def _wait(
    settings: Settings,
    children: Sequence[Child],
    asked: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Watch ``children`` until all are ready or a stop is asked for."""
    deadline = time.monotonic() + PATIENCE
    while not all(child.ready for child in children) and not asked.wait(0.2):
        for child in children:
            watch(settings, child, say)
            if not child.ready and (child.crashes >= TRIES or time.monotonic() > deadline):
                why = (
                    f"ended {child.crashes} times"
                    if child.crashes >= TRIES
                    else f"was not ready after {PATIENCE:.0f} s"
                )
                log = log_path(settings, child.part)
                raise ProcessError(f"{child.part.name} {why}: {last_line(log)} (its log is {log})")


def _stop_recorded(settings: Settings) -> list[str]:
    """Stop parts whose supervisor was killed and could not, the latest first."""
    stopped = []
    for name, record in sorted(
        _records(settings).items(), key=lambda item: -item[1].get("began", 0.0)
    ):
        process = live_process(record)
        if process is not None:
            stop(process.pid, record["stop_signal"], record["stop_seconds"])
            stopped.append(name)
        record_path(settings, name).unlink(missing_ok=True)
    return stopped


def _check_ports(parts: Sequence[Component]) -> None:
    for part in parts:
        if why := port_conflict(part):
            raise ConflictError(why)


def port_conflict(part: Component) -> str:
    """Why ``part`` cannot listen at its address, in one sentence; empty where it can, or has no address."""
    if not part.address:
        return ""
    place = urlsplit(part.address)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((place.hostname, place.port or 0))
        except OSError as error:
            hint = f"; set {part.port_setting} to a free one" if part.port_setting else ""
            return f"{part.name} cannot listen on {place.hostname} port {place.port}: {os.strerror(error.errno or 0).lower()}{hint}"
    return ""


def _records(settings: Settings) -> dict[str, dict[str, Any]]:
    """What is recorded of each part that runs, or ran when its supervisor was killed."""
    found = {
        path.stem: read_record(path)
        for path in sorted(settings.folder("run").glob("*.json"))
        if path.stem != UP
    }
    return {
        name: {
            "stop_seconds": Component.stop_seconds,
            "stop_signal": Component.stop_signal,
            **record,
        }
        for name, record in found.items()
    }


def _without_fail(say: Callable[[str], None]) -> Callable[[str], None]:
    """``say``, but what cannot be said, as to a file on a full disk, is left unsaid: the parts are worth more."""

    def try_to_say(text: str) -> None:
        with suppress(OSError):
            say(text)

    return try_to_say


@contextmanager
def _only_one(settings: Settings, parts: Sequence[Component]) -> Iterator[None]:
    path, lock = record_path(settings, UP), settings.folder("run") / "up.lock"
    try:
        claim = _claim(lock)
    except BlockingIOError:
        pid = read_record(path).get("pid")
        raise ConflictError(
            f"Gridcast is already up on {settings.home} (pid {pid}); `gridcast down` stops it"
        ) from None
    with claim:
        write_record(path, {"pid": os.getpid(), "parts": [part.name for part in parts]})
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


def _claim(lock: Path) -> TextIO:
    """The file ``lock``, claimed until it is closed; raises BlockingIOError where another process has it."""
    while True:
        file = lock.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it before may have taken the file away when it ended.
            if lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        except BlockingIOError:
            file.close()
            raise
        file.close()


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
