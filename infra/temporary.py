"""A component that runs for the time of a block, outside ``gridcast up``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from infra.components import Component
from infra.errors import GridcastError
from infra.process_groups import stop
from infra.settings import Settings
from infra.supervision import last_line, log_path, start, why_unready

READY_SECONDS = 300.0


@contextmanager
def running(settings: Settings, component: Component) -> Iterator[None]:
    """Start a component, enter the block once it is ready, and stop it afterwards.

    Raises GridcastError, with the last line of its log, where it ends or is not ready in time.
    """
    process = start(settings, component)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while reason := why_unready(settings, component):
            if time.monotonic() > deadline or process.poll() is not None:
                log = log_path(settings, component)
                raise GridcastError(
                    f"{component.name} did not become ready: {reason}; {last_line(log)} ({log})"
                )
            time.sleep(0.2)
        yield
    finally:
        stop(process.pid, component.stop_signal, component.stop_seconds)
        process.wait()
