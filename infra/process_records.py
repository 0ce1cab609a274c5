"""Records of running processes: small JSON files in the data folder, for other shells to read.

A process is identified by its pid and its start: pids are reused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write ``record``, which has a ``pid``, atomically.

    Raises:
        OSError: if it cannot be written; nothing of it is left.
    """
    with suppress(psutil.NoSuchProcess):
        record = {**record, "began": psutil.Process(record["pid"]).create_time()}
    scratch = path.with_suffix(".new")
    try:
        scratch.write_text(json.dumps(record))
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise


def read_record(path: Path) -> dict[str, Any]:
    """The record at ``path``, empty where none can be read."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def live_process(record: Mapping[str, Any]) -> psutil.Process | None:
    """The process of ``record`` if it still runs."""
    if "pid" not in record or "began" not in record:
        return None
    try:
        process = psutil.Process(record["pid"])
        same = abs(process.create_time() - record["began"]) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
