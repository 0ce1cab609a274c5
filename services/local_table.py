"""A table of predictions in a local file, for adapters that may not query over the network.

Slurm's controller, for example, holds a lock meanwhile. The table has a row a key of the jobs
submitted lately, most specific first: ``job`` (user, program, project, queue, requested minutes
and cores, and GPUs where a job asks for some), ``program`` (user, program), ``user``, ``any``
(program of any user), ``all``. The first line says when and by which model it was written, and
what adapters may do with it (request_policy.py); the second names the columns: the number of
``jobs``, whether the user is ``new``, the ``longest`` of the jobs (s), and the predictions for the
next one. Rows are sorted by key, byte by byte, so that a reader finds one by bisection.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.errors import GridcastError, InputError
from infra.settings import Settings, split_list
from jobs.store import count_jobs, read_unique_contexts
from models.quantities.subjects import JOBS
from services.client import UNREACHABLE, Gridcast, RefusedError
from services.http.callers import own_token
from services.request_policy import MIB, RequestPolicy

if TYPE_CHECKING:
    from sqlalchemy import Engine

OWNER_FIELDS = ("user", "group", "project")
NAME_FIELDS = ("program", "job_name")
REQUESTS = ("requested_walltime", "requested_cores", "requested_memory", *JOBS.optional)
FIELDS = (*OWNER_FIELDS, *NAME_FIELDS, "queue", "site", *REQUESTS)
"""What the predictor is given of a kind of job: its fields at submission."""
OMITTED_FIELDS: dict[str, tuple[str, ...]] = {
    "job": (),
    "program": (),
    "user": (*NAME_FIELDS, *REQUESTS),
    "any": (*OWNER_FIELDS, *REQUESTS),
    "all": (*OWNER_FIELDS, *NAME_FIELDS, "queue", *REQUESTS),
}
"""What the predictor is not given for each level: fields that jobs of one key do not share."""
SUFFIXES = (
    *("", "_low", "_high", "_kill_limit"),
    *("_allocation", "_allocation_2", "_allocation_3", "_risk"),
)
BATCH_ROWS = 5_000
MAGIC = "gridcast-table 2"
UNSAFE = re.compile(rb"[\x00-\x20%|\x7f]")
HEADER = re.compile(r"(// |# (HELP )?)?gridcast[-_ ]table[_ ](--for \w+)?")
"""The begin of every file that ``replace_files`` writes."""


class NoAnswerError(GridcastError):
    """The predictor did not answer, or refused."""


class TableError(GridcastError):
    """The table could not be made; the old one remains."""


@dataclass(frozen=True)
class WrittenTable:
    """A table that was written.

    Attributes:
        jobs: How many its finest keys count.
        note: Why a file of requests has none; empty where it has some.
    """

    file: Path
    written_at: datetime
    model_version: str
    rows: int
    jobs: int
    note: str = ""


@dataclass(frozen=True)
class RecentPredictions:
    """Predictions of the jobs submitted lately.

    Attributes:
        rows: For each key of the table its ``key``, ``level`` and ``names``, ``fields``, ``jobs``,
            ``longest`` (s), and the ``answer`` of the predictor.
        source: Whose jobs.
        written_at: When.
        version: The model.
        jobs: How many jobs the finest keys count.
    """

    rows: list[dict[str, Any]]
    source: str
    written_at: datetime
    version: str
    jobs: int


def key(level: str, *values: Any) -> str:
    """Make the key of a row: the level and its values between bars, ``-`` for a missing one.

    >>> key("job", "ann", "re co|1", None, "short", 60, 1)
    'job|ann|re%20co%7C1|-|short|60|1'
    """
    return "|".join(
        (level, *("-" if pd.isna(value) or value == "" else _safe(str(value)) for value in values))
    )


def _safe(text: str) -> str:
    escaped = UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], text.encode("utf-8", "replace"))
    return escaped.decode()


def predict_recent(
    engine: Engine,
    predictor: Gridcast,
    *,
    source: str | None = None,
    days: float = 14,
    most: int = 20_000,
    now: datetime | None = None,
) -> RecentPredictions:
    """Predict each kind of job submitted lately, and each wider key.

    Args:
        engine: The store.
        predictor: Predicts.
        source: Whose jobs, where the store has several sources.
        days: How long ago the jobs were submitted at most.
        most: At most so many kinds of job, the commonest.
        now: The present.

    Raises:
        InputError: The store has several sources and none is named.
        TableError: The store has no such jobs, or the predictor does not answer.
    """
    now, source = now or datetime.now(UTC), _source(engine, source)
    kinds = read_unique_contexts(
        engine, FIELDS, since=now - timedelta(days=days), sources=[source], limit=most
    )
    if kinds.empty:
        where = engine.url.render_as_string(hide_password=True)
        raise TableError(
            f"{where} has no job of {source or 'any source'} submitted in the last {days:g} days, "
            "so no table is written (GRIDCAST_HOME names the data folder)"
        )
    rows = _rows(kinds.assign(source=source))
    try:
        answers, version = ask(predictor, [row["fields"] for row in rows])
    except NoAnswerError as error:
        raise TableError(f"{error}; the old table stands") from None
    for row, answer in zip(rows, answers, strict=True):
        row["answer"] = answer
    return RecentPredictions(rows, source, now, version, int(kinds["jobs"].sum()))


def write_table(
    engine: Engine,
    predictor: Gridcast,
    file: Path,
    *,
    policy: RequestPolicy | None = None,
    **choice: Any,
) -> WrittenTable:
    """Predict each kind of job submitted lately and replace the table.

    Args:
        engine: The store.
        predictor: Predicts.
        file: The table.
        policy: What adapters may write of it; off unless given.
        choice: Options of ``predict_recent``.

    Raises:
        InputError: As of ``predict_recent``.
        TableError: As of ``predict_recent``, or the file cannot be written; it stays as it is.
    """
    recent = predict_recent(engine, predictor, **choice)
    columns = _columns(row["answer"] for row in recent.rows)
    lines = sorted(_line(row, columns) for row in recent.rows)
    moment = recent.written_at
    stamp = f"{moment.timestamp():.0f}", f"{moment:%Y-%m-%dT%H:%M:%SZ}", _safe(recent.version)
    head = (
        (MAGIC, *stamp, str(len(lines)), *(policy or RequestPolicy()).cells()),
        ("key", "jobs", "new", "longest", *columns),
    )
    written = WrittenTable(file, moment, recent.version, len(lines), recent.jobs)
    replace_files(
        {
            file: "\n".join((*map("\t".join, head), *lines)) + "\n",
            file.with_suffix(".prom"): _metrics(written),
        }
    )
    return written


def own_predictor(settings: Settings) -> Gridcast:
    """A client of this data folder's predictor that waits longer than a broker does."""
    return Gridcast(settings.predictor_address, own_token(settings, "predict"), timeout=30)


def request_policy(settings: Settings) -> RequestPolicy:
    """The policy of the settings ``request_…``."""
    return RequestPolicy(
        settings.request_mode,
        tuple(split_list(settings.request_users)),
        tuple(split_list(settings.request_programs)),
        tuple(split_list(settings.request_queues)),
        settings.request_least_jobs,
        settings.request_least_memory * MIB,
        settings.request_least_walltime,
        settings.request_above,
    )


def prediction_function(
    predictor: Gridcast,
) -> Callable[[list[dict[str, Any]], Iterable[float]], list[dict[str, Any]]]:
    """Give ``ask`` of a predictor, without the version, to a caller without clients."""
    return lambda rows, quantiles: ask(predictor, rows, quantiles)[0]


def _source(engine: Engine, source: str | None) -> str:
    stored = count_jobs(engine)["source"].tolist()
    if source is None and len(stored) > 1:
        raise InputError(
            f"the store has jobs of {', '.join(stored[:10])}: name the table's source by --source"
        )
    return source or (stored[0] if stored else "")


def _rows(kinds: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a key, with the fields of its latest kind of job, less those its level omits."""
    kinds = kinds.sort_values(["submitted_at", "jobs"], ascending=False, kind="stable")
    user, name = kinds["user"], kinds["program"].fillna(kinds["job_name"])
    minutes, cores = (
        (-(-kinds["requested_walltime"] // 60)).astype("Int64"),
        np.ceil(kinds["requested_cores"]).astype("Int64"),
    )
    gpus = kinds["requested_gpus"].mask(kinds["requested_gpus"] == 0).astype("Int64")
    values = {
        "job": (user, name, kinds["project"], kinds["queue"], minutes, cores, gpus),
        "program": (user, name),
        "user": (user,),
        "any": (name,),
    }
    rows: dict[str, dict[str, Any]] = {}
    for level, omitted in OMITTED_FIELDS.items():
        fields_of_rows = kinds.drop(columns=["submitted_at", "jobs", "longest", *omitted]).astype(
            object
        )
        fields_of_rows = fields_of_rows.where(fields_of_rows.notna(), None)
        keys = zip(*values[level], strict=True) if level in values else repeat((), len(kinds))
        for fields, jobs, longest, names in zip(
            fields_of_rows.to_dict("records"),
            kinds["jobs"],
            kinds["longest"].fillna(0.0),
            keys,
            strict=True,
        ):
            if level == "job" and pd.isna(names[-1]):
                names = names[:-1]
            new = {"level": level, "names": names, "fields": fields, "jobs": 0, "longest": 0.0}
            row = rows.setdefault(key(level, *names), new)
            row["jobs"] += int(jobs)
            row["longest"] = max(row["longest"], float(longest))
    return [{"key": name, **row} for name, row in rows.items()]


def ask(
    predictor: Gridcast, rows: list[dict[str, Any]], quantiles: Iterable[float] = ()
) -> tuple[list[dict[str, Any]], str]:
    """Predict jobs that are not recorded.

    Args:
        predictor: Predicts.
        rows: The fields of each job.
        quantiles: Further quantiles.

    Returns:
        The answers in the order of the jobs, and the model version.

    Raises:
        NoAnswerError: The predictor does not answer, or refuses.
    """
    answers: list[dict[str, Any]] = []
    for start in range(0, len(rows), BATCH_ROWS):
        batch = [
            {**row, "job_id": str(number)}
            for number, row in enumerate(rows[start : start + BATCH_ROWS], start)
        ]
        try:
            answers += predictor.predict(batch, quantiles=quantiles, keep=False)
        except RefusedError as error:
            raise NoAnswerError(f"the predictor refused hypothetical jobs: {error}") from None
        if reason := answers[-1].get("fallback"):
            is_down = str(reason).startswith(UNREACHABLE)
            raise NoAnswerError(f"{reason}{' (gridcast up starts it)' if is_down else ''}")
    return answers, str(answers[0]["model_version"]) if answers else "none"


def _columns(answers: Iterable[dict[str, Any]]) -> list[str]:
    """The columns of numbers, for each target that the model predicts."""
    first = next(iter(answers), {})
    targets = [name.removesuffix("_median") for name in first if name.endswith("_median")]
    return [
        f"{target}{suffix}"
        for target in targets
        for suffix in SUFFIXES
        if f"{target}{suffix}" in first
    ]


def _line(row: dict[str, Any], columns: list[str]) -> str:
    answer = row["answer"]
    numbers = ("-" if answer[name] is None else f"{answer[name]:.10g}" for name in columns)
    return "\t".join(
        (
            row["key"],
            str(row["jobs"]),
            "1" if answer["cold_start"] else "0",
            f"{row['longest']:.10g}",
            *numbers,
        )
    )


def replace_files(texts: dict[Path, str]) -> None:
    """Replace files, each at once: a reader has the old text or the new one.

    Args:
        texts: By file, in the order in which they are replaced.

    Raises:
        InputError: One exists and was not written by this function; all stay as they are.
        TableError: One cannot be written; it and those after it stay as they are.
    """
    for file, text in texts.items():
        _refuse_foreign(file, text)
    for file, text in texts.items():
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("w", encoding="utf-8", newline="\n") as new:
                new.write(text)
                new.flush()
                os.fsync(new.fileno())
            draft.chmod(0o644)
            draft.replace(file)
        except OSError as error:
            raise TableError(f"{file} cannot be written: {error.strerror or error}") from None
        finally:
            draft.unlink(missing_ok=True)


def _refuse_foreign(file: Path, text: str) -> None:
    """Raise InputError where a file has another header than the text that would replace it."""
    try:
        with file.open("rb") as old:
            begin = old.read(200)
    except FileNotFoundError:
        return
    except OSError as error:
        raise TableError(f"{file} cannot be replaced: {error.strerror}") from None
    header = HEADER.match(text)
    if begin and not (header and begin.startswith(header[0].encode())):
        raise InputError(f"{file} was not written by this command, so it is not replaced")


def _metrics(written: WrittenTable) -> str:
    """Metrics for Prometheus' node exporter, which tell the table's age when nobody writes it."""
    return (
        "# HELP gridcast_table_written_timestamp_seconds When the table was written.\n"
        "# TYPE gridcast_table_written_timestamp_seconds gauge\n"
        f"gridcast_table_written_timestamp_seconds {written.written_at.timestamp():.0f}\n"
        "# HELP gridcast_table_rows Kinds of job and wider keys in the table.\n"
        "# TYPE gridcast_table_rows gauge\n"
        f"gridcast_table_rows {written.rows}\n"
    )
