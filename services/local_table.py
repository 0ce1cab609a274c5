"""A table of predictions in a local file, for adapters that may not ask over the network: Slurm's controller holds a lock meanwhile.

A row a kind of job that was submitted lately, found by a key, most telling first: ``job`` (user, program, project, queue, minutes and
cores asked for), ``program`` (user, program), ``user``, ``any`` (program of anybody), ``all``. The first line says when and by which model
it was written, the second names the columns: how many ``jobs`` there were, whether the user is ``new``, the ``longest`` of them (s), and
what is foreseen of the next. Rows stand in the order of their keys, byte by byte, so that a reader finds one in twenty
looks without reading the others.
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
from infra.settings import Settings
from jobs.store import count_jobs, read_unique_contexts
from services.client import Gridcast, RefusedError
from services.http.authentication import token_with_scopes

if TYPE_CHECKING:
    from sqlalchemy import Engine

WHO = ("user", "group", "project")
WHAT = ("program", "job_name")
REQUESTS = ("requested_walltime", "requested_cores", "requested_memory")
FIELDS = (*WHO, *WHAT, "queue", "site", *REQUESTS)
"""What of a kind of job is known when it is submitted, and told to the predictor."""
OMITTED_FIELDS: dict[str, tuple[str, ...]] = {
    "job": (),
    "program": (),
    "user": (*WHAT, *REQUESTS),
    "any": (*WHO, *REQUESTS),
    "all": (*WHO, *WHAT, "queue", *REQUESTS),
}
"""What a row of each level does not tell the predictor: what jobs with its key do not share."""
ENDS = ("", "_low", "_high", "_kill_limit", "_allocation", "_risk")
AT_ONCE = 5_000
MAGIC = "gridcast-table 1"
UNSAFE = re.compile(rb"[\x00-\x20%|\x7f]")


class NoAnswerError(GridcastError):
    """The predictor did not answer, or refused."""


class TableError(GridcastError):
    """No table could be made; the old one stands, and grows old."""


@dataclass(frozen=True)
class WrittenTable:
    """A table that was written: where, when, by which model, its rows, and how many jobs are kinds of its finest."""

    file: Path
    written_at: datetime
    model_version: str
    rows: int
    jobs: int


def key(level: str, *values: Any) -> str:
    """The key of a row: the level and its values between bars, ``-`` for one that is not known.

    >>> key("job", "ann", "re co|1", None, "short", 60, 1)
    'job|ann|re%20co%7C1|-|short|60|1'
    """
    return "|".join(
        (level, *("-" if pd.isna(value) or value == "" else _safe(str(value)) for value in values))
    )


def _safe(text: str) -> str:
    escaped = UNSAFE.sub(lambda found: b"%%%02X" % found[0][0], text.encode("utf-8", "replace"))
    return escaped.decode()


def write_table(
    engine: Engine,
    predictor: Gridcast,
    file: Path,
    *,
    source: str | None = None,
    days: float = 14,
    most: int = 20_000,
    now: datetime | None = None,
) -> WrittenTable:
    """Ask for a prediction of each kind of job of the last ``days`` (the ``most`` commonest), and put the table in the file's place.

    Raises InputError where the store has several sources and none is named, TableError where the predictor does not answer or the file
    cannot be written; the file stays as it is then.
    """
    now, source = now or datetime.now(UTC), _source(engine, source)
    kinds = read_unique_contexts(
        engine, FIELDS, since=now - timedelta(days=days), sources=[source], limit=most
    )
    rows = _rows(kinds.assign(source=source))
    try:
        answers, version = ask(predictor, [row["fields"] for row in rows])
    except NoAnswerError as error:
        raise TableError(f"{error}; the old table stands") from None
    columns = _columns(answers)
    lines = sorted(_line(row, answer, columns) for row, answer in zip(rows, answers, strict=True))
    stamp = (
        MAGIC,
        f"{now.timestamp():.0f}",
        f"{now:%Y-%m-%dT%H:%M:%SZ}",
        _safe(version),
        str(len(lines)),
    )
    written = WrittenTable(file, now, version, len(lines), int(kinds["jobs"].sum()))
    try:
        _replace(
            file,
            "\n".join(
                ("\t".join(stamp), "\t".join(("key", "jobs", "new", "longest", *columns)), *lines)
            )
            + "\n",
        )
        _replace(file.with_suffix(".prom"), _metrics(written))
    except OSError as error:
        raise TableError(f"{file} cannot be written: {error.strerror or error}") from None
    return written


def own_predictor(settings: Settings) -> Gridcast:
    """This data folder's predictor, asked as a broker asks it, with patience."""
    token = token_with_scopes(settings.tokens.get_secret_value(), "predict")
    return Gridcast(settings.predictor_address, token, timeout=30)


def prediction_function(
    predictor: Gridcast,
) -> Callable[[list[dict[str, Any]], Iterable[float]], list[dict[str, Any]]]:
    """``ask`` of a predictor, for whoever does not know one; the answers alone."""
    return lambda rows, quantiles: ask(predictor, rows, quantiles)[0]


def _source(engine: Engine, source: str | None) -> str:
    stored = count_jobs(engine)["source"].tolist()
    if source is None and len(stored) > 1:
        raise InputError(
            f"the store has jobs of {', '.join(stored[:10])}: say whose table it is to be, by --source"
        )
    return source or (stored[0] if stored else "")


def _rows(kinds: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a key, with the fields of the latest kind of job that has it, less what its level forgets."""
    kinds = kinds.sort_values(["submitted_at", "jobs"], ascending=False, kind="stable")
    user, name = kinds["user"], kinds["program"].fillna(kinds["job_name"])
    minutes, cores = (
        (-(-kinds["requested_walltime"] // 60)).astype("Int64"),
        np.ceil(kinds["requested_cores"]).astype("Int64"),
    )
    values = {
        "job": (user, name, kinds["project"], kinds["queue"], minutes, cores),
        "program": (user, name),
        "user": (user,),
        "any": (name,),
    }
    rows: dict[str, dict[str, Any]] = {}
    for level, forgotten in OMITTED_FIELDS.items():
        told = kinds.drop(columns=["submitted_at", "jobs", "longest", *forgotten]).astype(object)
        told = told.where(told.notna(), None)
        keys = zip(*values[level], strict=True) if level in values else repeat((), len(kinds))
        for fields, jobs, longest, parts in zip(
            told.to_dict("records"), kinds["jobs"], kinds["longest"].fillna(0.0), keys, strict=True
        ):
            row = rows.setdefault(key(level, *parts), {"fields": fields, "jobs": 0, "longest": 0.0})
            row["jobs"] += int(jobs)
            row["longest"] = max(row["longest"], float(longest))
    return [{"key": one, **row} for one, row in rows.items()]


def ask(
    predictor: Gridcast, rows: list[dict[str, Any]], quantiles: Iterable[float] = ()
) -> tuple[list[dict[str, Any]], str]:
    """What a predictor says of jobs that are only thought of, in their order, and which model says so; raises UnansweredError."""
    answers: list[dict[str, Any]] = []
    for start in range(0, len(rows), AT_ONCE):
        part = [
            {**row, "job_id": str(start + place)}
            for place, row in enumerate(rows[start : start + AT_ONCE])
        ]
        try:
            answers += predictor.predict(part, quantiles=quantiles, keep=False)
        except RefusedError as error:
            raise NoAnswerError(
                f"the predictor refused jobs that were only thought of: {error}"
            ) from None
        if why := answers[-1].get("fallback"):
            raise NoAnswerError(str(why))
    return answers, str(answers[0]["model_version"]) if answers else "none"


def _columns(answers: Iterable[dict[str, Any]]) -> list[str]:
    """The numbers that the table has, of each target that the model predicts."""
    first = next(iter(answers), {})
    targets = [name.removesuffix("_median") for name in first if name.endswith("_median")]
    return [f"{target}{end}" for target in targets for end in ENDS if f"{target}{end}" in first]


def _line(row: dict[str, Any], answer: dict[str, Any], columns: list[str]) -> str:
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


def _replace(file: Path, text: str) -> None:
    """Put ``text`` in the place of a file at once: a reader has the old one or the new one, whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as new:
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
        beside.chmod(0o644)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def _metrics(written: WrittenTable) -> str:
    """What Prometheus' node exporter reads from a text file: it goes on saying how old the table is when nobody writes it any more."""
    return (
        "# HELP gridcast_table_written_timestamp_seconds When the table of predictions was written.\n"
        "# TYPE gridcast_table_written_timestamp_seconds gauge\n"
        f"gridcast_table_written_timestamp_seconds {written.written_at.timestamp():.0f}\n"
        "# HELP gridcast_table_rows Kinds of job and wider keys in the table.\n"
        "# TYPE gridcast_table_rows gauge\n"
        f"gridcast_table_rows {written.rows}\n"
    )
