"""The store: job records, refused lines, the prediction log and measured numbers; the only place of SQL.

SQLite or PostgreSQL by one URL. Writers take a connection (``with engine.begin() as connection``), so that the caller says
what belongs together; readers take the engine and give DataFrames. Every time is UTC.
"""

from jobs.store.database import StoreAddressError, StoreError, connect, open_store
from jobs.store.measurements import add_measurements, read_measurements
from jobs.store.predictions import add_predictions, read_predictions
from jobs.store.records import (
    Added,
    add_jobs,
    any_ended,
    count_jobs,
    first_of,
    read_ended,
    read_ended_at,
    read_jobs,
    read_kinds,
    read_latest,
)
from jobs.store.rejects import add_rejects, read_rejects
from jobs.store.retention import Pruned, prune
from jobs.store.tasks import (
    add_task_predictions,
    first_tasks,
    latest_tasks,
    mark_told,
    read_thresholds,
    set_threshold,
    task_history,
    untold_tasks,
)

__all__ = [
    "Added",
    "Pruned",
    "StoreAddressError",
    "StoreError",
    "add_jobs",
    "add_measurements",
    "add_predictions",
    "add_rejects",
    "add_task_predictions",
    "any_ended",
    "connect",
    "count_jobs",
    "first_of",
    "first_tasks",
    "latest_tasks",
    "mark_told",
    "open_store",
    "prune",
    "read_ended",
    "read_ended_at",
    "read_jobs",
    "read_kinds",
    "read_latest",
    "read_measurements",
    "read_predictions",
    "read_rejects",
    "read_thresholds",
    "set_threshold",
    "task_history",
    "untold_tasks",
]
