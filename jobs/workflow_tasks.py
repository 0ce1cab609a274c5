"""Records of workflow tasks: the nodes of a workflow's runs, with host, stage-in and CPU time."""

from __future__ import annotations

from jobs.schema import YEAR, Field, Record

_FIELDS: tuple[Field, ...] = (
    Field("run_id", "text", "the run of the workflow", required=True, outcome=False),
    Field(
        "task_id", "text", "the task's name, the same in every run", required=True, outcome=False
    ),
    Field("source", "text", "which log the record comes from", required=True, outcome=False),
    Field("program", "text", "kind of task: executable or transformation", outcome=False),
    Field("site", "text", "computing site", outcome=False),
    Field("host", "text", "host or container that ran it", outcome=True),
    Field("submitted_at", "time", "when it was submitted", "UTC", required=True, outcome=False),
    Field("started_at", "time", "when it began to run", "UTC", outcome=True),
    Field("ended_at", "time", "when it stopped", "UTC", outcome=True),
    Field("status", "text", "state of the task: one of STATUSES", outcome=True),
    Field("walltime", "number", "how long it ran", "s", highest=10 * YEAR, outcome=True),
    Field("input_bytes", "number", "bytes staged in", "bytes", outcome=False),
    Field("stage_in_started_at", "time", "when the stage-in began", "UTC", outcome=True),
    Field("stage_in_ended_at", "time", "when the stage-in was done", "UTC", outcome=True),
    Field("stage_out_started_at", "time", "when the stage-out began", "UTC", outcome=True),
    Field("cpu_time", "number", "CPU time over all cores", "s", highest=1e13, outcome=True),
    Field("fault", "text", "fault that was injected, which no detector reads", outcome=True),
)

WORKFLOW_TASK = Record(
    "workflow task",
    _FIELDS,
    ("run_id", "task_id"),
    "walltime",
    tuple(field.name for field in _FIELDS if field.outcome),
    ("run_id", "task_id", "source", "submitted_at", "started_at", "ended_at"),
)
"""The declaration that the table's reader and the detectors follow; the store has no such table."""
