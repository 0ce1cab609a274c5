"""The latest update of all tasks, in files of the data folder: one writer, any readers."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from infra.background import ThreadStatus
from monitoring.site_status import SiteStatus
from monitoring.tasks.activity import Activity
from monitoring.tasks.task_sets import STATES_BY_SEVERITY
from monitoring.tasks.watch import COLUMNS

UPDATED_AT = b"updated_at"
_SITE_STATUS = TypeAdapter(SiteStatus)


class LatestTasks:
    """The tasks as of the last update, and how the threads do that update them.

    Args:
        folder: The folder ``tasks`` of the data folder.
    """

    def __init__(self, folder: Path) -> None:
        self._file, self._status_file = folder / "latest.arrow", folder / "status.json"
        self._activity_file = folder / "activity.json"
        self._activity: tuple[int, Activity] = (0, {})
        self._site_file = folder / "site.json"
        self._read: tuple[int, pd.DataFrame, str] = (0, pd.DataFrame(columns=list(COLUMNS)), "")

    def write(self, tasks: pd.DataFrame, now: datetime) -> None:
        """Replace the tasks by those of an update at ``now``."""
        table = pa.Table.from_pandas(tasks, preserve_index=False)
        metadata = {**(table.schema.metadata or {}), UPDATED_AT: now.isoformat().encode()}
        table = table.replace_schema_metadata(metadata)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as out:
            out.write_table(table)
        _replace(self._file, sink.getvalue().to_pybytes())

    def read(self) -> tuple[pd.DataFrame, str]:
        """The tasks, with COLUMNS, and when they were updated (ISO 8601, "" if never)."""
        try:
            changed = self._file.stat().st_mtime_ns
            if changed != self._read[0]:
                table = pa.ipc.open_file(pa.BufferReader(self._file.read_bytes())).read_all()
                moment = table.schema.metadata[UPDATED_AT].decode()
                self._read = changed, table.to_pandas(), moment
        except (OSError, pa.ArrowInvalid, KeyError):
            pass  # none yet: what was read last goes on being shown
        return self._read[1:]

    def write_activity(self, activity: Activity) -> None:
        """Replace the counts of jobs by those of the same update."""
        _replace(self._activity_file, orjson.dumps(activity))

    def read_activity(self) -> Activity:
        """The counts of jobs (``activity.summarise``) as of the last update; empty if never."""
        with suppress(OSError, orjson.JSONDecodeError):
            changed = self._activity_file.stat().st_mtime_ns
            if changed != self._activity[0]:
                self._activity = changed, orjson.loads(self._activity_file.read_bytes())
        return self._activity[1]

    def write_status(self, threads: list[ThreadStatus]) -> None:
        """Write how the threads do; a disk that refuses it is shown by the file's age."""
        status = {
            thread.name: {**thread.to_json(), "trouble": thread.trouble} for thread in threads
        }
        with suppress(OSError):
            _replace(self._status_file, orjson.dumps(status))

    def read_status(self) -> dict[str, dict[str, Any]]:
        """How each thread does, by its name; empty if none ever ran."""
        try:
            status: dict[str, dict[str, Any]] = orjson.loads(self._status_file.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return {}
        return status

    def write_site_status(self, status: SiteStatus) -> None:
        """Replace the state of the site."""
        _replace(self._site_file, _SITE_STATUS.dump_json(status))

    def read_site_status(self) -> SiteStatus | None:
        """The state of the site as it was last read; None if it never was."""
        try:
            return _SITE_STATUS.validate_json(self._site_file.read_bytes())
        except (OSError, ValidationError):
            return None


def order_by_severity(tasks: pd.DataFrame) -> pd.DataFrame:
    """Put tasks in order of the gravity of their state, then of their end."""
    rank = tasks["state"].map({state: index for index, state in enumerate(STATES_BY_SEVERITY)})
    ordered = tasks.assign(_rank=rank).sort_values(
        ["_rank", "median", "task"], kind="stable", ignore_index=True
    )
    return ordered.drop(columns="_rank")


def _replace(file: Path, content: bytes) -> None:
    draft = file.with_name(f"{file.name}.{os.getpid()}.new")
    try:
        draft.write_bytes(content)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
