"""The store: job records, refused lines, the prediction log and measured numbers; the only place of SQL.

SQLite or PostgreSQL by one URL. Writers take a connection (``with engine.begin() as connection``), so that the caller says
what belongs together; readers take the engine and give DataFrames. Every time is UTC.
"""

from jobs.store.database import StoreAddressError, StoreError, connect, open_store
from jobs.store.measurements import add_measurements, read_measurements
from jobs.store.predictions import add_predictions, read_predictions
from jobs.store.records import (
    AddResult,
    add_jobs,
    count_jobs,
    first_ended_of,
    has_ended_after,
    read_ended,
    read_ended_at,
    read_jobs,
    read_latest,
    read_unique_contexts,
)
from jobs.store.rejects import add_rejects, read_rejects
from jobs.store.retention import PruneResult, prune
from jobs.store.tasks import (
    add_task_predictions,
    first_task_predictions,
    latest_task_predictions,
    mark_notified,
    read_thresholds,
    set_threshold,
    task_history,
    unnotified_tasks,
)

__all__ = [
    "AddResult",
    "PruneResult",
    "StoreAddressError",
    "StoreError",
    "add_jobs",
    "add_measurements",
    "add_predictions",
    "add_rejects",
    "add_task_predictions",
    "connect",
    "count_jobs",
    "first_ended_of",
    "first_task_predictions",
    "has_ended_after",
    "latest_task_predictions",
    "mark_notified",
    "open_store",
    "prune",
    "read_ended",
    "read_ended_at",
    "read_jobs",
    "read_latest",
    "read_measurements",
    "read_predictions",
    "read_rejects",
    "read_thresholds",
    "read_unique_contexts",
    "set_threshold",
    "task_history",
    "unnotified_tasks",
]
