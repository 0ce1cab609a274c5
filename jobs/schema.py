"""Job records: the fields that readers fill, tables keep and models read.

One declaration, ``FIELDS``, gives the DataFrame's columns, the store's table (whose migration is
written beside it), the requests of the API and the Arrow schema. A missing number is NaN, a missing
time NaT, a missing text None; never -1, 0 or "". Other kinds of record (``jobs.transfers``) are
further instances of ``Record``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from infra.aliases import Flags
from jobs.labels import LABELS_BYTES, clean_labels, repair_labels

Kind = Literal["text", "number", "time", "labels"]

TIME_TYPE: Final = "datetime64[us, UTC]"
EARLIEST = pd.Timestamp("1980-01-01", tz="UTC")
NO_TIME_UNTIL = pd.Timestamp("0001-01-03", tz="UTC")
NO_TIME_AROUND_1970 = pd.Timestamp("1969-12-31", tz="UTC"), pd.Timestamp("1970-01-02", tz="UTC")
CLOCK_TOLERANCE = timedelta(days=1)
CLOCK_SKEW = timedelta(seconds=1)
"""Times out of order by no more than this are taken as equal: clocks of two machines differ."""
YEAR = 366 * 86400.0
TEXT_BYTES = 512
"""Longest text of any field but the labels, in bytes of UTF-8.

PostgreSQL indexes at most 2,704 bytes a row: five such columns fit in a key.
"""
SHOWN_CHARACTERS = 100

STATUSES = (
    "waiting",
    "running",
    "completed",
    "failed",
    "cancelled",
    "timeout",
    "out_of_memory",
    "preempted",
    "unknown",
)
"""Every state a reader may give a job. ``timeout`` is a kill at the walltime limit."""


@dataclass(frozen=True)
class Field:
    """One column of a job record: its kind, its unit, the range of sane values and what it means.

    ``outcome`` tells the fields that are unknown at submission, so that no feature may read them of
    a job that has not ended; ``zero_is_unknown`` is set where a 0 can only mean that nothing was
    requested or measured. Values above the highest become it where the field is ``clipped``. A
    ``first_report`` changes while the job waits: of several reports the first one's is stored.
    """

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    lowest: float = 0.0
    highest: float = 1e18
    required: bool = False
    zero_is_unknown: bool = False
    _: KW_ONLY
    outcome: bool
    clipped: bool = False
    first_report: bool = False

    @property
    def max_bytes(self) -> int:
        """Longest text of the field, in bytes of UTF-8."""
        return LABELS_BYTES if self.kind == "labels" else TEXT_BYTES


FIELDS: tuple[Field, ...] = (
    Field(
        "job_id",
        "text",
        "the batch system's own name of the job, unique within its source",
        required=True,
        outcome=False,
    ),
    Field("task_id", "text", "the task, array or workflow that the job belongs to", outcome=False),
    Field(
        "after_task_id",
        "text",
        "a task of the same source that must end before the job's own task can begin",
        outcome=False,
    ),
    Field(
        "request_id",
        "text",
        "the request, campaign or workflow that the job's task belongs to",
        outcome=False,
    ),
    Field(
        "source", "text", "which log or system the record comes from", required=True, outcome=False
    ),
    Field("user", "text", "user who submitted the job", outcome=False),
    Field("group", "text", "the virtual organisation (VO) or unix group", outcome=False),
    Field("project", "text", "the account, campaign or pipeline it is booked on", outcome=False),
    Field("program", "text", "executable, processing type or workflow process", outcome=False),
    Field("job_name", "text", "the submitter's own label: job name or tag", outcome=False),
    Field("queue", "text", "queue or partition of the batch system", outcome=False),
    Field(
        "site",
        "text",
        "computing site, cluster or computing element that was requested, or chosen by a broker",
        outcome=False,
    ),
    Field("host", "text", "worker node that ran it", outcome=True),
    Field(
        "host_power", "number", "speed of the host", "HEPScore per core", highest=1e6, outcome=True
    ),
    Field(
        "requested_walltime",
        "number",
        "requested walltime, at which the system may kill the job",
        "s",
        highest=10 * YEAR,
        zero_is_unknown=True,
        outcome=False,
    ),
    Field(
        "requested_cores",
        "number",
        "requested cores",
        "cores",
        lowest=1,
        highest=1e8,
        outcome=False,
    ),
    Field(
        "requested_memory",
        "number",
        "requested memory, whole job",
        "bytes",
        highest=1e17,
        zero_is_unknown=True,
        outcome=False,
    ),
    Field(
        "requested_gpus", "number", "requested GPUs, whole job", "GPUs", highest=1e6, outcome=False
    ),
    Field("gpu_type", "text", "model of GPU that was requested, such as a100", outcome=False),
    Field(
        "requested_nodes",
        "number",
        "requested nodes; of a range the smallest number",
        "nodes",
        highest=1e7,
        zero_is_unknown=True,
        outcome=False,
    ),
    Field("qos", "text", "quality of service that was requested", outcome=False),
    Field("reservation", "text", "reservation that the job was submitted to", outcome=False),
    Field("constraint", "text", "features that its nodes must have", outcome=False),
    Field(
        "priority",
        "number",
        "the batch system's priority of the job, at submission or first reported",
        lowest=-1e12,
        highest=1e12,
        first_report=True,
        outcome=False,
    ),
    Field(
        "fair_share",
        "number",
        "Slurm's level_fs (shares of the account divided by its usage), at submission or first "
        "reported; infinity becomes the highest value",
        highest=1e6,
        clipped=True,
        first_report=True,
        outcome=False,
    ),
    Field(
        "exclusive",
        "number",
        "1 where the job asked for nodes of its own, 0 where it shares them",
        highest=1,
        outcome=False,
    ),
    Field("labels", "labels", "further facts of the site's own, by name", outcome=False),
    Field("input_bytes", "number", "size of the input", "bytes", outcome=False),
    Field("input_files", "number", "input files", "files", highest=1e12, outcome=False),
    Field("events", "number", "physics events to process", "events", highest=1e15, outcome=False),
    Field("submitted_at", "time", "when it entered the queue", "UTC", required=True, outcome=False),
    Field("started_at", "time", "when it began to run", "UTC", outcome=True),
    Field("ended_at", "time", "when it stopped, for whatever reason", "UTC", outcome=True),
    Field("status", "text", "state of the job: one of STATUSES", outcome=True),
    Field("cores", "number", "cores allocated", "cores", lowest=1, highest=1e8, outcome=True),
    Field("walltime", "number", "how long it ran", "s", highest=10 * YEAR, outcome=True),
    Field("cpu_time", "number", "CPU time over all cores", "s", highest=1e13, outcome=True),
    Field(
        "peak_memory",
        "number",
        "largest memory in use, whole job",
        "bytes",
        highest=1e17,
        zero_is_unknown=True,
        outcome=True,
    ),
    Field("read_bytes", "number", "bytes read", "bytes", outcome=True),
    Field("written_bytes", "number", "bytes written", "bytes", outcome=True),
    Field(
        "nodes",
        "number",
        "nodes allocated",
        "nodes",
        highest=1e7,
        zero_is_unknown=True,
        outcome=True,
    ),
    Field(
        "energy",
        "number",
        "energy used by its nodes",
        "J",
        highest=1e15,
        zero_is_unknown=True,
        outcome=True,
    ),
    Field(
        "gpu_time",
        "number",
        "GPU time used: the utilisation of its GPUs times how long it ran",
        "s",
        highest=1e13,
        outcome=True,
    ),
    Field(
        "peak_gpu_memory",
        "number",
        "largest GPU memory in use, whole job",
        "bytes",
        highest=1e17,
        outcome=True,
    ),
)

OUTCOMES = tuple(field.name for field in FIELDS if field.outcome)
"""Fields unknown at submission: no feature may read them of a job that has not ended."""
QUERY_FIELDS = tuple(
    field.name for field in FIELDS if field.name not in OUTCOMES or field.name == "host_power"
)
"""Fields that a request for a prediction may have: no outcomes, but the power of a planned host."""


@dataclass(frozen=True)
class Record:
    """A kind of record: its fields, the two that name it, and the one that says how long it took.

    ``outcomes`` are those that cannot be known at its submission, ``essential`` those without whose
    sound values the record is rejected: any other is left out where it cannot be true.
    """

    name: str
    fields: tuple[Field, ...]
    identity: tuple[str, str]
    elapsed: str
    outcomes: tuple[str, ...]
    essential: tuple[str, ...]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of the fields, in order."""
        return tuple(field.name for field in self.fields)

    @cached_property
    def of_kind(self) -> dict[Kind, tuple[str, ...]]:
        """The names of the fields of each kind."""
        return {
            kind: tuple(field.name for field in self.fields if field.kind == kind)
            for kind in get_args(Kind)
        }

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """The fields by name."""
        return {field.name: field for field in self.fields}

    @cached_property
    def first_reported(self) -> tuple[str, ...]:
        """The fields of which the first report is stored."""
        return tuple(field.name for field in self.fields if field.first_report)

    @property
    def required(self) -> tuple[str, ...]:
        """The fields without which a record is none."""
        return tuple(field.name for field in self.fields if field.required)


_TIMES = ("submitted_at", "started_at", "ended_at")
JOB = Record(
    "job", FIELDS, ("source", "job_id"), "walltime", OUTCOMES,
    ("source", "job_id", "status", *_TIMES),
)  # fmt: skip
COLUMNS = JOB.columns
OF_KIND = JOB.of_kind


def _wrong(values: pd.Series, field: Field) -> Flags:
    """Which values are present and cannot be the field's (bool[n])."""
    if field.kind == "number":
        numbers = values.to_numpy(float)
        return np.asarray((numbers < field.lowest) | (numbers > field.highest))
    if field.kind == "time":
        return (values < EARLIEST).to_numpy(bool)
    missing = values.isna().to_numpy(bool)
    if missing.all():
        return np.zeros(len(values), bool)
    if field.name == "status":
        return ~values.isin(STATUSES).to_numpy(bool) & ~missing
    if field.kind == "labels":
        return (values != repair_labels(values)[0]).to_numpy(bool, na_value=False) & ~missing
    texts = pa.array(values, from_pandas=True)
    # PostgreSQL stores no NUL character.
    wrong = pc.or_(pc.greater(pc.binary_length(texts), TEXT_BYTES), pc.match_substring(texts, "\0"))
    return np.asarray(pc.fill_null(wrong, False))


def _complaint(field: Field) -> str:
    if field.kind == "number":
        return f"{field.name} is not between {field.lowest:g} and {field.highest:g}"
    if field.kind == "time":
        return f"{field.name} is before {EARLIEST:%Y}"
    if field.name == "status":
        return "status is not a known state"
    if field.kind == "labels":
        return "labels is no JSON object of texts and numbers"
    return f"{field.name} is longer than {TEXT_BYTES} bytes or has a NUL character"


def conform(frame: pd.DataFrame, record: Record = JOB) -> pd.DataFrame:
    """Give ``frame`` the fields of the ``record``, all of them, in order and in their types.

    Unknown columns are dropped. An empty text, and a value that cannot be read as its type, is
    missing: a reader that rejects such a row does so itself. A time without a zone is in UTC.

    >>> conform(pd.DataFrame({"job_id": [7], "submitted_at": ["2026-01-01"]}))["job_id"].tolist()
    ['7']
    """
    read = {"number": _as_numbers, "time": _as_times, "text": _as_texts, "labels": _as_labels}
    no_text = pd.Series(None, range(len(frame)), "str").array
    absent = {"number": np.nan, "text": no_text, "labels": no_text}
    absent["time"] = pd.Series(pd.NaT, range(len(frame)), TIME_TYPE).array
    columns = {
        field.name: read[field.kind](frame[field.name]).array
        if field.name in frame
        else absent[field.kind]
        for field in record.fields
    }
    conformed = pd.DataFrame(columns, index=frame.index)
    for field in record.fields:
        if field.clipped and field.name in frame:
            conformed[field.name] = conformed[field.name].clip(upper=field.highest)
    return conformed


def _as_numbers(values: pd.Series) -> pd.Series:
    return values if values.dtype == float else pd.to_numeric(values, errors="coerce").astype(float)


def _as_times(values: pd.Series) -> pd.Series:
    if pd.api.types.is_datetime64_any_dtype(values):
        return (values.dt.tz_localize("UTC") if values.dt.tz is None else values).astype(TIME_TYPE)
    # One column may mix zones, fractions and days without a time: no format is guessed from the
    # first value.
    times = pd.to_datetime(values, utc=True, errors="coerce", format="ISO8601").astype(TIME_TYPE)
    unread = times.isna() & values.notna()
    if unread.any():
        times[unread] = pd.to_datetime(
            values[unread], utc=True, errors="coerce", format="mixed"
        ).astype(TIME_TYPE)
    return times


def _as_texts(values: pd.Series) -> pd.Series:
    try:
        texts = values if values.dtype == "str" else values.astype("str")
    except UnicodeEncodeError:  # half a character, as of a name that is not UTF-8
        texts = values.map(
            lambda value: str(value).encode("utf-8", "replace").decode(), na_action="ignore"
        ).astype("str")
    is_empty = texts == ""
    return texts.mask(is_empty) if is_empty.any() else texts


def _as_labels(values: pd.Series) -> pd.Series:
    """Labels as JSON texts, whether they come as such or as dicts."""
    if values.dtype == object:
        values = values.map(lambda value: clean_labels(value)[0] if type(value) is dict else value)
    return _as_texts(values)


def leave_out_bad_fields(
    jobs: pd.DataFrame, record: Record = JOB
) -> tuple[pd.DataFrame, Counter[str]]:
    """Empty the fields of conformed ``jobs`` that cannot be true and are not essential.

    Returns the jobs, and how often each field was left out, by a note.
    """
    columns: dict[str, pd.Series] = {}
    notes: Counter[str] = Counter()
    for field in record.fields:
        values = jobs[field.name]
        if field.name in ("started_at", "ended_at"):
            # Where there is none, some systems print the first second of 1970, or of the year 1.
            wrong = values < NO_TIME_UNTIL
            wrong |= values.between(*NO_TIME_AROUND_1970)
        elif field.name in record.essential:
            continue
        elif field.kind == "labels":
            if values.notna().any():
                columns[field.name], faults = repair_labels(values)
                notes.update({f"{fault}: left out": n for fault, n in faults.items()})
            continue
        else:
            if field.name == record.elapsed:
                values = values.mask(values.between(-CLOCK_SKEW.total_seconds(), 0), 0.0)
                columns[field.name] = values
            wrong = pd.Series(_wrong(values, field), jobs.index)
            if field.name == record.elapsed:  # it can be missed only where the times say it too
                wrong &= jobs["started_at"].notna() & jobs["ended_at"].notna()
        if wrong.any():
            columns[field.name] = values.mask(wrong)
            notes[f"{_complaint(field)}: left out"] += int(wrong.sum())
    return jobs.assign(**columns), notes


def derive_fields(jobs: pd.DataFrame, record: Record = JOB) -> pd.DataFrame:
    """Derive what the record implies: walltime from start and end, end from start and walltime.

    The start follows from end and walltime. Times out of order by no more than ``CLOCK_SKEW`` are
    made equal, and a 0 that means "unknown" becomes missing.
    """
    jobs = jobs.copy()
    for field in record.fields:
        if field.zero_is_unknown and (is_zero := jobs[field.name] == 0).any():
            jobs[field.name] = jobs[field.name].mask(is_zero)
    for earlier, later in (("submitted_at", "started_at"), ("started_at", "ended_at")):
        early_by = jobs[earlier] - jobs[later]
        skewed = (early_by > pd.Timedelta(0)) & (early_by <= CLOCK_SKEW)
        if skewed.any():
            jobs[later] = jobs[later].mask(skewed, jobs[earlier]).astype(TIME_TYPE)
    seconds = (jobs["ended_at"] - jobs["started_at"]).dt.total_seconds()
    elapsed = jobs[record.elapsed] = jobs[record.elapsed].fillna(seconds)
    # A time outside the field's range cannot be added to a time; split_valid rejects its record.
    sane = elapsed.mask(_wrong(elapsed, record.by_name[record.elapsed]))
    ran = pd.to_timedelta(sane, unit="s").astype("timedelta64[us]")
    jobs["ended_at"] = jobs["ended_at"].fillna(jobs["started_at"] + ran).astype(TIME_TYPE)
    jobs["started_at"] = jobs["started_at"].fillna(jobs["ended_at"] - ran).astype(TIME_TYPE)
    return jobs


def split_valid(
    jobs: pd.DataFrame, now: datetime | None = None, record: Record = JOB
) -> tuple[pd.DataFrame, pd.Series]:
    """Split conformed ``jobs`` into the valid rows and the reasons for rejecting the others.

    Args:
        jobs: conformed rows.
        now: bounds the future, no time may lie more than a day after it; default: the clock.
        record: the kind of record.

    Returns:
        The valid rows, and a Series of one sentence a rejected row under the row's own index.
    """
    latest = pd.Timestamp(now or datetime.now(UTC)) + CLOCK_TOLERANCE
    jobs_index, jobs = jobs.index, jobs.reset_index(drop=True)
    reasons: dict[int, str] = {}

    def refuse(wrong: Flags, reason: str, values: pd.Series | None = None) -> None:
        for row in np.flatnonzero(wrong).tolist():
            value = "" if values is None else f": {str(values[row])[:SHOWN_CHARACTERS]}"
            reasons.setdefault(row, reason + value)

    for field in record.fields:
        values = jobs[field.name]
        if field.required:
            refuse(values.isna().to_numpy(bool), f"{field.name} is missing")
        refuse(_wrong(values, field), _complaint(field), values)
    for name in record.of_kind["time"]:
        refuse((jobs[name] > latest).to_numpy(bool), f"{name} is in the future")
    for later, earlier in (
        ("ended_at", "started_at"),
        ("ended_at", "submitted_at"),
        ("started_at", "submitted_at"),
    ):
        refuse((jobs[later] < jobs[earlier]).to_numpy(bool), f"{later} is before {earlier}")
    rows = sorted(reasons)
    keep = np.ones(len(jobs), bool)
    keep[rows] = False
    jobs.index = jobs_index
    return jobs[keep] if rows else jobs, pd.Series(
        [reasons[row] for row in rows], index=jobs_index[rows], dtype=object
    )
