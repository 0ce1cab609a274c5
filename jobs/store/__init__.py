"""The store: jobs, attempts, rejects, the prediction log, measured values; the only place of SQL.

SQLite or PostgreSQL, chosen by a URL. Functions that write take a connection (``with
engine.begin() as connection``), so that the caller decides what is one transaction; functions that
read take the engine and return DataFrames. Every time is UTC.
"""

from jobs.store.attempts import read_attempts
from jobs.store.audit import read_audit
from jobs.store.database import (
    StoreAddressError,
    StoreError,
    connect,
    open_store,
    write_transaction,
)
from jobs.store.export import EXPORTED, export_batches
from jobs.store.measurements import add_measurements, read_measurements
from jobs.store.predictions import (
    add_predictions,
    read_canary_answers,
    read_predicted_and_actual,
    read_predictions,
    read_predictions_of,
)
from jobs.store.publications import StoredPublication, publish, read_publications
from jobs.store.records import (
    AddResult,
    add_counted,
    add_jobs,
    count_jobs,
    first_ended_of,
    has_ended_after,
    read_ended,
    read_ended_at,
    read_highest_requests,
    read_jobs,
    read_latest,
    read_newest,
    read_owners,
    read_revision,
    read_unique_contexts,
)
from jobs.store.rejects import add_rejects, read_rejects, stored_bytes
from jobs.store.retention import PruneResult, drop_source, dropped_at, prune
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
    "EXPORTED",
    "AddResult",
    "PruneResult",
    "StoreAddressError",
    "StoreError",
    "StoredPublication",
    "add_counted",
    "add_jobs",
    "add_measurements",
    "add_predictions",
    "add_rejects",
    "add_task_predictions",
    "connect",
    "count_jobs",
    "drop_source",
    "dropped_at",
    "export_batches",
    "first_ended_of",
    "first_task_predictions",
    "has_ended_after",
    "latest_task_predictions",
    "mark_notified",
    "open_store",
    "prune",
    "publish",
    "read_attempts",
    "read_audit",
    "read_canary_answers",
    "read_ended",
    "read_ended_at",
    "read_highest_requests",
    "read_jobs",
    "read_latest",
    "read_measurements",
    "read_newest",
    "read_owners",
    "read_predicted_and_actual",
    "read_predictions",
    "read_predictions_of",
    "read_publications",
    "read_rejects",
    "read_revision",
    "read_thresholds",
    "read_unique_contexts",
    "set_threshold",
    "stored_bytes",
    "task_history",
    "unnotified_tasks",
    "write_transaction",
]
