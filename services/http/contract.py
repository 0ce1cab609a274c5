"""The requests of the HTTP contract: limits, values, options and bodies, each declared once.

Decoding, the messages of refusals and the OpenAPI document follow from what is declared here,
and from the answers in ``answers`` and the endpoints in ``routes``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, defstruct
from msgspec.structs import fields, force_setattr

from jobs.labels import MAX_LABELS, MAX_NAME_CHARACTERS, MAX_VALUE_CHARACTERS
from jobs.schema import COLUMNS, EARLIEST, FIELDS, QUERY_FIELDS, STATUSES, TEXT_BYTES, Field
from models.ranking.candidates import CANDIDATE_FIELDS
from models.ranking.order import POLICIES
from models.ranking.slots import MAX_CORES
from models.ranking.slots import POLICIES as ORDERS

JSON_TYPE = "application/json"
ARROW_TYPE = "application/vnd.apache.arrow.stream"

MAX_JOBS = 100_000
"""Jobs of a request: the answer to more would take longer than a broker's matching loop has."""
MAX_CANDIDATES = 100_000
MAX_TASK_JOBS = 1_000_000
MAX_EXPLAINED = 100
"""Jobs explained in one request; each takes some milliseconds, for which others wait."""
MAX_QUANTILES = 20
MAX_JSON_BYTES = 32 * 2**20
MAX_ARROW_BYTES = 64 * 2**20
MAX_JSON_CONTAINERS = 4 * MAX_CANDIDATES + 100
"""Objects and lists in a JSON body: a job to rank is an object with labels and a list of objects.
"""
MAX_JSON_VALUES = (len(COLUMNS) + MAX_LABELS + 2) * MAX_JOBS + 100
"""Values in a JSON body: every field and label of every job."""

REQUIRED = ("job_id", "source")
"""Fields of every job in a request."""
FINISHED_REQUIRED = (*REQUIRED, "submitted_at")
FINISHED = ("completed", "failed", "cancelled", "timeout", "out_of_memory", "preempted", "unknown")
"""Statuses of a job that has ended."""
CANDIDATE_MEMBERS = (
    "site",
    "queue",
    "host_power",
    "input_bytes",
    *(field.name for field in CANDIDATE_FIELDS),
)
"""Fields in which the candidates of one job may differ."""
ID_FIELDS = tuple(field.name for field in FIELDS if field.name.endswith("_id"))
"""Fields in which a whole number is its decimal text."""
LABEL_FIELDS = tuple(field.name for field in FIELDS if field.kind == "labels")
WAITING_FIELDS = (
    Field("count", "number", "how many such jobs wait", outcome=False, lowest=1, highest=1e9),
    Field("quota_used", "number", "share of its user's quota in use", outcome=False, highest=1e6),
    Field("ran", "number", "run time that it is known to exceed", "s", outcome=False, highest=1e9),
)
"""Fields of a waiting job beside those of a job."""
MATCH_FIELDS = (*COLUMNS, *(field.name for field in WAITING_FIELDS))
FIELD_BY_NAME = {field.name: field for field in (*FIELDS, *CANDIDATE_FIELDS, *WAITING_FIELDS)}

# -- values


class Instant(datetime):
    """A time that an option names: ISO 8601 text, Unix seconds, or ``now``."""


def _rule(rule: str, **limits: Any) -> Meta:
    """Limits of an option, and the end of the sentence that refuses another value."""
    return Meta(extra={"rule": rule}, **limits)


Share = Annotated[float, _rule("must lie between 0.001 and 0.999", ge=0.001, le=0.999)]
Quantiles = Annotated[
    tuple[Share, ...],
    _rule(
        f"must be a list of at most {MAX_QUANTILES} numbers between 0 and 1",
        max_length=MAX_QUANTILES,
    ),
]
Count = Annotated[
    int, _rule(f"must be a whole number from 1 to {MAX_TASK_JOBS}", ge=1, le=MAX_TASK_JOBS)
]
Flag = Annotated[bool, _rule("must be true or false")]
Number = Annotated[float, _rule("must be a number")]
Weight = Annotated[float, _rule("must be a number from 0 to 1,000,000", ge=0, le=1e6)]
Seconds = Annotated[float, _rule("must be a number of seconds above 0, at most 1e9", gt=0, le=1e9)]


def value_type(field: Field, required: bool = False) -> Any:
    """The type of one field of a job, with its limits and its meaning."""
    meaning = f"{field.meaning} ({field.unit})" if field.unit else field.meaning
    value: Any
    if field.kind == "number":
        value = Annotated[float, Meta(ge=field.lowest, le=field.highest, description=meaning)]
    elif field.kind == "time":
        meaning += (
            "; ISO 8601 (UTC unless it has an offset) or Unix seconds, "
            f"from {EARLIEST:%Y} to a day from now"
        )
        value = Annotated[Annotated[datetime, Meta(tz=True)] | float, Meta(description=meaning)]
    elif field.kind == "labels":
        text = Annotated[str, Meta(max_length=MAX_VALUE_CHARACTERS)]
        name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]
        meaning += f"; an object of texts and numbers, in all at most {field.max_bytes} bytes"
        value = Annotated[
            dict[name, text | float], Meta(max_length=MAX_LABELS, description=meaning)
        ]
    elif field.name == "status":
        value = Annotated[Literal[STATUSES], Meta(description=meaning)]
    else:
        meaning += f"; at most {TEXT_BYTES} bytes of UTF-8"
        if field.name in ID_FIELDS:
            meaning += "; a whole number is taken as its text"
        value = Annotated[
            str,
            Meta(
                min_length=int(required),
                max_length=TEXT_BYTES,
                pattern="^[^\\x00]*$",
                description=meaning,
            ),
        ]
        value = value | int if field.name in ID_FIELDS else value
    return value if required else value | None


def _list(item: Any, **limits: Any) -> Any:
    return Annotated[list[item], Meta(**limits)]


def _struct(name: str, members: Iterable[tuple[Any, ...]], **options: Any) -> type[Struct]:
    return defstruct(
        name, list(members), forbid_unknown_fields=True, kw_only=True, module=__name__, **options
    )


def job_struct(name: str, names: Iterable[str], required: Iterable[str] = ()) -> type[Struct]:
    """A job as an object with the fields ``names``, of which ``required`` must be there."""
    kinds = {field: value_type(FIELD_BY_NAME[field], field in required) for field in names}
    return _struct(
        name,
        ((field, kind, *(() if field in required else (None,))) for field, kind in kinds.items()),
    )


def column_struct(job: type[Struct]) -> type[Struct]:
    """Jobs as an object with a list of values for each field; all lists have one length."""
    columns = (
        (field.name, _list(field.type, max_length=MAX_JOBS), *(() if field.required else (UNSET,)))
        for field in fields(job)
    )
    return _struct(f"{job.__name__}Columns", columns)


def unchecked(name: str, names: Iterable[str], value: Any = Any, **more: Any) -> type[Struct]:
    """The struct that decodes an object with members ``names``: UNSET where one is missing.

    Values are checked later, by column, so that one wrong job is named and the others are kept.
    Labels stay JSON until then: each distinct object is decoded once.

    Args:
        name: The name of the struct.
        names: The names of the members.
        value: The type of their values.
        **more: Further members and their types.
    """
    members = [(name, Raw if name in LABEL_FIELDS else value) for name in names]
    members += list(more.items())
    return defstruct(
        name,
        [(member, kind if kind is Any else kind | UnsetType, UNSET) for member, kind in members],
        forbid_unknown_fields=True,
        gc=False,
    )


# -- options


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """How to answer ``POST /predict``.

    Without ``at`` each job is predicted from the outcomes available when it was submitted.
    """

    quantiles: Quantiles = ()
    coverage: Share = 0.9
    at: Instant | None = None
    classes: Annotated[Flag, Meta(description="the likeliest class of each target too")] = False
    explain: Annotated[Flag, Meta(description=f"why, too; at most {MAX_EXPLAINED} jobs")] = False
    keep: Annotated[
        Flag, Meta(description="false: hypothetical jobs, left out of the prediction log")
    ] = True
    within: (
        Annotated[
            Seconds,
            Meta(
                description="the probability that each walltime is at most this, too; of a job "
                "with started_at, given that it has not ended by now (or at)"
            ),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        levels = dict.fromkeys(round(level, 6) for level in self.quantiles)
        force_setattr(self, "quantiles", tuple(levels))
        force_setattr(self, "coverage", round(self.coverage, 6))


class NoOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """An endpoint without options."""


class TaskOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """The number of jobs of a task, how many may run at once (None: all), and as of when."""

    jobs: Count
    at_once: Count | None = None
    at: Instant | None = None


class RankOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """How to order candidates, and as of when (None: now)."""

    policy: Annotated[
        str, _rule("must be text"), Meta(extra_json_schema={"enum": list(POLICIES)})
    ] = "mean"
    tuning: Number = 1.0
    level: Number = 0.9
    overlap: Flag = False
    at: Instant | None = None


class MatchOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """The slot that a pilot advertises, the order of the waiting jobs, and the risk.

    Without ``site`` or ``host_power`` those of the jobs are used, without ``memory`` it is no
    matter.
    """

    cores: Annotated[
        float,
        _rule(f"must be a whole number from 1 to {MAX_CORES}", ge=1, le=MAX_CORES, multiple_of=1),
    ]
    seconds_left: Seconds
    memory: Annotated[float, _rule("must be a number of bytes above 0", gt=0)] | None = None
    host_power: Annotated[float, _rule("must be a number above 0", gt=0)] | None = None
    site: (
        Annotated[str, _rule("must be text of 1 to 200 characters", min_length=1, max_length=200)]
        | None
    ) = None
    policy: Annotated[
        str, _rule("must be text"), Meta(extra_json_schema={"enum": list(ORDERS)})
    ] = "alice"
    wait_weight: Weight = 1.0
    quota_weight: Weight = 1.0
    priority_weight: Weight = 1.0
    gain_weight: Weight = 0.0
    risk: Annotated[float, _rule("must be a number from 0 to 1", ge=0, le=1)] = 0.02
    kill_price: Annotated[
        float, _rule("must be a number of core seconds, 0 or more", ge=0, le=1e12)
    ] = 0.0
    at: Instant | None = None


# -- bodies

JobToPredict = job_struct("JobToPredict", COLUMNS, REQUIRED)
FinishedJob = job_struct("FinishedJob", COLUMNS, FINISHED_REQUIRED)
TaskJob = job_struct("TaskJob", QUERY_FIELDS, ("source",))
Candidate = job_struct("Candidate", CANDIDATE_MEMBERS)
JobToRank = _struct(
    "JobToRank",
    (
        *((field.name, field.type, None) for field in fields(TaskJob)),
        *((name, value_type(FIELD_BY_NAME[name]), None) for name in CANDIDATE_MEMBERS[-4:]),
        ("candidates", _list(Candidate, min_length=1)),
    ),
)


def _body(name: str, member: str, content: Any, options: type[Struct]) -> type[Struct]:
    """An object with ``member`` and, beside it, the options."""
    return _struct(name, ((member, content),), bases=(options,), frozen=True)


def _batch(job: type[Struct], options: type[Struct]) -> tuple[type[Struct], type[Struct]]:
    """The two forms of a body of jobs: a list of objects, or an object of lists."""
    rows = _list(job, max_length=MAX_JOBS)
    return (
        _body(f"{job.__name__}Body", "jobs", rows, options),
        _body(f"{job.__name__}ColumnsBody", "columns", column_struct(job), options),
    )


PREDICT_BODIES = _batch(JobToPredict, Options)
OUTCOMES_BODIES = _batch(FinishedJob, NoOptions)
WaitingJob = job_struct("WaitingJob", MATCH_FIELDS, REQUIRED)
MATCH_BODIES = _batch(WaitingJob, MatchOptions)
TaskBody = _body("TaskBody", "task", TaskJob, TaskOptions)
RankBody = _body(
    "RankBody",
    "jobs",
    _list(JobToRank, max_length=MAX_CANDIDATES),
    RankOptions,
)
