"""Ports for the servers that tests start, and servers in threads that end with their test."""

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from filelock import FileLock

FIRST, LAST = 15_000, 32_000
"""Below the ports that the kernel gives to whoever binds port 0 or connects."""
COUNTER = Path(tempfile.gettempdir()) / f"gridcast-test-ports-{os.getuid()}"


def free_port() -> int:
    """A port that nobody listens on, and that no other test of this computer is given for long.

    A server that starts later finds it free: the kernel gives it to nobody, and all processes of
    tests count through the same ports.
    """
    with FileLock(f"{COUNTER}.lock"):
        for _ in range(LAST - FIRST):
            try:
                port = int(COUNTER.read_text()) + 1
            except (OSError, ValueError):
                port = FIRST
            port = port if FIRST <= port < LAST else FIRST
            COUNTER.write_text(str(port))
            with socket.socket() as probe:
                try:
                    probe.bind(("", port))
                except OSError:
                    continue
            return port
    raise AssertionError(f"all ports from {FIRST} to {LAST} are taken")


@contextmanager
def served_in_thread(app: Any, **options: Any) -> Iterator[str]:
    """Serve an ASGI application by uvicorn from a thread, which ends with the context.

    Args:
        app: The application.
        options: Further settings of uvicorn.

    Yields:
        The address, once the server answers.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings: dict[str, Any] = {"log_level": "error", "timeout_graceful_shutdown": 5} | options
        server = uvicorn.Server(uvicorn.Config(app, **settings))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server ended by itself"
                thread.join(0.05)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(120)
            assert not thread.is_alive(), "the server is left behind"
