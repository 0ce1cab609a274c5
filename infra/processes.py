"""Starting, watching and stopping the components: ``gridcast up``, ``down`` and ``status``.

Each component is a child in a session of its own, so that Ctrl-C reaches only this process, which
then stops the components in order, each with all processes that it has started.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import psutil
from filelock import FileLock, Timeout

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

PATIENCE = 300.0
"""Seconds that a component may take to become ready."""
ELSEWHERE = "answers; not started by `gridcast up` of this data folder"
"""The note of a component that systemd, a container or another account runs."""
MAX_CRASHES = 3
"""Crashes of a component before it was ever ready, after which ``up`` gives up."""
UP = "up"
"""The record of the supervising process."""

Report = Callable[[str], None]


class ProcessError(GridcastError):
    """A component did not start; the message names it and its log."""


class ConflictError(InputError):
    """A port is in use, or Gridcast is already up."""


def up(
    settings: Settings,
    components: Sequence[Component],
    *,
    say: Report = print,
    when_ready: Callable[[], None] = lambda: None,
) -> None:
    """Start components in order, watch them, and stop them on Ctrl-C or SIGTERM.

    Args:
        settings: the settings.
        components: what to start.
        say: called with a sentence for each event.
        when_ready: called once, when every component is ready.

    Raises:
        ConflictError: before anything is started.
        ProcessError: if a component never becomes ready; all are stopped.
    """
    report, show = _suppressing_errors(say), _suppressing_errors(when_ready)
    with _exclusive(settings, components), _stop_signals() as stopping:
        for name in _stop_recorded(settings):
            report(f"{name} was left behind by an earlier run and is stopped")
        kill_strays(settings.home)
        for component in components:
            if conflict := port_conflict(component):
                raise ConflictError(conflict)
        children: dict[str, Child] = {}
        try:
            for component in components:
                required = [children[name] for name in component.after]
                if not all(child.ready for child in required):
                    _wait(settings, required, stopping, report)
                if stopping.is_set():
                    return
                child = Child(component, start(settings, component), time.monotonic())
                children[component.name] = child
                record_state(settings, child, "starting")
            _wait(settings, list(children.values()), stopping, report)
            if not stopping.is_set():
                show()
            while not stopping.wait(0.2):
                for child in children.values():
                    watch(settings, child, report)
        finally:
            for child in reversed(children.values()):
                component = child.component
                report(f"stopping {component.name}")
                if not child.restart_at:
                    stop(child.process.pid, component.stop_signal, component.stop_seconds)
                child.process.wait()
                record_path(settings, component.name).unlink(missing_ok=True)
            kill_strays(settings.home)


def down(settings: Settings) -> list[str]:
    """Stop everything that ``up`` started on this data folder; returns the names of what ran.

    It uses the records only, not the present settings, and may be called at any time.
    """
    records = _records(settings)
    running = [name for name, record in records.items() if live_process(record) is not None]
    supervisor = live_process(read_record(record_path(settings, UP)))
    if supervisor is not None:
        seconds = 5 + sum(record["stop_seconds"] + 5 for record in records.values())
        with suppress(psutil.NoSuchProcess):
            supervisor.terminate()
            wait_until_ended({supervisor}, seconds)
            supervisor.kill()
    _stop_recorded(settings)
    kill_strays(settings.home)
    with suppress(ConflictError), _exclusive(settings, ()):
        pass  # removes the files of a killed supervisor
    return running


def is_up(settings: Settings, component: str = UP) -> bool:
    """Whether ``up``, or one of its components, runs on this data folder."""
    return live_process(read_record(record_path(settings, component))) is not None


def status(settings: Settings, components: Sequence[Component]) -> list[dict[str, Any]]:
    """One row per component of ``running_components``.

    A row has ``part`` (its name), ``state`` (up, starting, restarting, failing, down or unknown),
    ``pid``, ``address``, ``since`` (UTC) and ``note``. A component that systemd or a container runs
    has no record here: it is up where its address answers, and unknown where it has none.
    """
    supervised = is_up(settings)
    records = _records(settings)
    rows = []
    for component in running_components(settings, components):
        record = records.get(component.name, {})
        is_alive = live_process(record) is not None
        state = "down"
        if is_alive:
            # The record may be outdated: whether it answers is checked now.
            state = record["state"]
            if state == "up" and component.address.startswith("http"):
                state = "up" if is_responding(component) else "failing"
        elif record.get("state") == "restarting" and supervised:
            state = "restarting"
        elif not supervised and component.address.startswith("http") and is_responding(component):
            state, record = "up", {"note": ELSEWHERE}
        rows.append(
            {
                "part": component.name,
                "state": state,
                "pid": record["pid"] if is_alive else None,
                "address": component.address,
                "since": record["since"] if is_alive else None,
                "note": record.get("note", ""),
            }
        )
    if any(row["note"] == ELSEWHERE for row in rows):
        for row in rows:
            if row["state"] == "down" and not row["address"]:
                row |= {"state": "unknown", "note": "has no address to ask"}
    return rows


def running_components(settings: Settings, components: Sequence[Component]) -> list[Component]:
    """The components of a running ``up``, as far as they are recorded; else ``components``."""
    supervisor = read_record(record_path(settings, UP))
    if live_process(supervisor) is None:
        return list(components)
    records = _records(settings)
    return [
        _recorded_component(name, records.get(name, {}), settings.any_token)
        for name in supervisor["parts"]
    ]


def _recorded_component(name: str, record: dict[str, Any], token: str) -> Component:
    return Component(
        name,
        (),
        address=record.get("address", ""),
        ready_path=record.get("ready_path", "/"),
        ready_log_text=record.get("ready_log_text", ""),
        token=token if record.get("guarded") else "",
    )


def _wait(
    settings: Settings, children: Sequence[Child], stopping: threading.Event, report: Report
) -> None:
    """Watch ``children`` until all are ready or a stop is requested.

    The patience begins anew whenever what they wait for was not seen before: reading a large store
    takes long.
    """
    deadline, seen = time.monotonic() + PATIENCE, set[str]()
    while not all(child.ready for child in children) and not stopping.wait(0.2):
        for child in children:
            watch(settings, child, report)
            log = log_path(settings, child.component)
            if not child.ready and child.crashes >= MAX_CRASHES:
                raise ProcessError(
                    f"{child.component.name} ended {child.crashes} times: {last_line(log)} "
                    f"(its log is {log})"
                )
        waiting = [child for child in children if not child.ready]
        reasons = "; ".join(f"{child.component.name}: {child.waits_for}" for child in waiting)
        if reasons not in seen:
            deadline = time.monotonic() + PATIENCE
            seen.add(reasons)
        if waiting and time.monotonic() > deadline:
            logs = ", ".join(str(log_path(settings, child.component)) for child in waiting)
            raise ProcessError(
                f"not ready, and no step on for {PATIENCE:.0f} s: {reasons} ({logs})"
            )


def _stop_recorded(settings: Settings) -> list[str]:
    """Stop components whose supervisor was killed, the latest first; returns their names."""
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


def port_conflict(component: Component) -> str:
    """Why a component cannot listen at its address, in one sentence; empty where it can."""
    if not component.address:
        return ""
    url = urlsplit(component.address)
    family = socket.AF_INET6 if ":" in (url.hostname or "") else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((url.hostname, url.port or 0))
        except OSError as error:
            setting, cause = component.port_setting, os.strerror(error.errno or 0).lower()
            hint = f"; set {setting} to a free one" if setting else ""
            return (
                f"{component.name} cannot listen on {url.hostname} port {url.port}: {cause}{hint}"
            )
    return ""


def _records(settings: Settings) -> dict[str, dict[str, Any]]:
    """The records of all components that run, or ran when their supervisor was killed."""
    defaults = {"stop_seconds": Component.stop_seconds, "stop_signal": Component.stop_signal}
    return {
        path.stem: defaults | read_record(path)
        for path in sorted(settings.folder("run").glob("*.json"))
        if path.stem != UP
    }


def _suppressing_errors(say: Callable[..., None]) -> Callable[..., None]:
    """``say``, but without its errors, as of output to a full disk: the components matter more.

    Rich ends the program where nothing reads its output any more, as of ``gridcast up | tee``.
    """

    def report(*texts: str) -> None:
        with suppress(OSError, SystemExit):
            say(*texts)

    return report


@contextmanager
def _exclusive(settings: Settings, components: Sequence[Component]) -> Iterator[None]:
    """The record of ``up``, of which there is one a data folder."""
    path = record_path(settings, UP)
    lock = FileLock(settings.folder("tmp") / "up.lock", mode=0o600, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        pid = read_record(path).get("pid")
        raise ConflictError(
            f"Gridcast is already up on {settings.home} (pid {pid}); `gridcast down` stops it"
        ) from None
    try:
        names = [component.name for component in components]
        write_record(path, {"pid": os.getpid(), "parts": names})
        yield
    finally:
        path.unlink(missing_ok=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, while the context lasts."""
    stopping = threading.Event()

    def set_event(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    before = {
        number: signal.signal(number, set_event) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
