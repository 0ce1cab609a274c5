"""The call that ranks candidates: its body read, bounded, and its answer written; pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from jobs.coded_jobs import Coded
from jobs.schema import QUERY_FIELDS
from models.ranking.candidates import CANDIDATE_COLUMNS, Candidates
from models.ranking.order import RankingError, Rule
from models.ranking.ranker import Ranked
from services.http.bodies import ARROW_TYPE, JSON_TYPE, parse_json, read_columns, read_stream
from services.http.columns import RowErrors, read_array, read_values, to_coded_jobs
from services.http.contract import read_time_option
from services.http.errors import HTTPError

MAX_CANDIDATES = 100_000
OF_CANDIDATE = ("site", "queue", "host_power", "input_bytes", *CANDIDATE_COLUMNS)
"""What may differ between the candidates of a job; the rest is told of the job."""
OPTIONS = ("policy", "tuning", "level", "overlap", "at")
_KNOWN = frozenset({*QUERY_FIELDS, *OF_CANDIDATE})


@dataclass(frozen=True)
class RankRequest:
    """Candidates to rank, by which rule, as of when (None: now), and whether Arrow is wanted."""

    candidates: Candidates
    rule: Rule
    at: datetime | None
    arrow: bool


def read_rank(content_type: str, body: bytes, query: Mapping[str, str]) -> RankRequest:
    """Read ``{"jobs": [{…, "candidates": [{"site": …}, …]}], "policy": …}`` or an Arrow stream with a row a candidate.

    Options of an Arrow body are in the ``query``. Raises HTTPError (400, 413, 415, 422).
    """
    if content_type.partition(";")[0].strip().lower() == ARROW_TYPE:
        return _asked(_from_arrow(body), dict(query), arrow=True)
    given = parse_json(body)
    if not isinstance(given, dict) or not isinstance(given.get("jobs"), list):
        raise HTTPError(
            422,
            'the body must be an object with "jobs", a list of jobs, each with its "candidates"',
        )
    jobs = [_rows(place, job) for place, job in enumerate(given.pop("jobs"))]
    names = [rows[0]["job_id"] for rows in jobs]
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise HTTPError(
            422,
            f"job {twice[:100]} is there twice (a job without a job_id is called by its place, from 0)",
        )
    rows = [row for rows in jobs for row in rows]
    _check(len(rows))
    columns = {
        name: [row.get(name) for row in rows]
        for name in dict.fromkeys(name for row in rows for name in row)
    }
    return _asked(_typed(columns, len(rows), read_values), given | dict(query), arrow=False)


def _rows(place: int, job: Any) -> list[dict[str, Any]]:
    if not isinstance(job, dict) or not isinstance(candidates := job.get("candidates"), list):
        raise HTTPError(422, f"job {place} must be an object with a list of candidates")
    name = str(job.get("job_id") or place)
    if not candidates:
        raise HTTPError(422, f"job {name[:100]} has no candidates")
    told = {key: value for key, value in job.items() if key != "candidates"} | {"job_id": name}
    for candidate in candidates:
        if not isinstance(candidate, dict) or (
            strange := [key for key in candidate if key not in OF_CANDIDATE]
        ):
            wrong = (
                f"has no field {strange[0][:100]!r}"
                if isinstance(candidate, dict)
                else "is not an object"
            )
            raise HTTPError(
                422, f"a candidate of job {name[:100]} {wrong}; there are {', '.join(OF_CANDIDATE)}"
            )
    return [told | candidate for candidate in candidates]


def _from_arrow(body: bytes) -> Candidates:
    columns, rows = read_stream(body, _check_once, _check)
    return _typed(columns, rows, read_array)


def _check_once(names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise HTTPError(422, "a column is there twice")


def _typed(
    columns: Mapping[str, Any], rows: int, read: Callable[[str, Any, RowErrors], pa.Array]
) -> Candidates:
    """Columns of any kind as candidates; what no field can hold is refused by row and field."""
    if not rows or "job_id" not in columns:
        raise HTTPError(
            422, "the candidates have no column job_id" if rows else "there is no candidate to rank"
        )
    if strange := [name for name in columns if name not in _KNOWN]:
        raise HTTPError(422, f"there is no field {str(strange[0])[:100]!r} of a job or a candidate")
    typed, errors = read_columns(columns, read)
    names = typed["job_id"].dictionary_encode()
    if names.null_count:
        errors.add(
            int(np.flatnonzero(names.is_null().to_numpy(zero_copy_only=False))[0]),
            "job_id is missing",
        )
    if errors.by_row:
        index = min(errors.by_row)
        raise HTTPError(422, f"candidate {index}: {errors.by_row[index]}")
    job = Coded(names.indices.to_numpy().astype(np.int64), names.dictionary.to_pylist())
    return Candidates(job, to_coded_jobs(pa.table(typed)))


def _asked(candidates: Candidates, options: dict[str, Any], arrow: bool) -> RankRequest:
    if unknown := [name for name in options if name not in OPTIONS]:
        raise HTTPError(
            422, f"there is no option {unknown[0][:100]!r} here; there are {', '.join(OPTIONS)}"
        )
    try:
        overlap = str(options.get("overlap", False)).lower() in ("true", "1")
        rule = Rule(
            str(options.get("policy", "mean")),
            float(options.get("tuning", 1)),
            float(options.get("level", 0.9)),
            overlap,
        )
    except (RankingError, TypeError, ValueError) as error:
        raise HTTPError(422, str(error)) from None
    return RankRequest(candidates, rule, read_time_option(options.get("at")), arrow)


def _check(candidates: int) -> None:
    if candidates > MAX_CANDIDATES:
        raise HTTPError(
            413,
            f"the request holds more than {MAX_CANDIDATES} candidates; send them in several requests",
        )


def write_rank(ranked: Ranked, model_version: str, arrow: bool) -> tuple[str, bytes]:
    """Content type and body: ``{"rows": […], "model_version": …}`` or an Arrow stream, the candidates of each job best first."""
    if arrow:
        columns = {
            "job_id": _array(ranked.job).dictionary_decode(),
            **{name: _array(column) for name, column in ranked.columns.items()},
        }
        batch = pa.RecordBatch.from_pydict(columns).replace_schema_metadata(
            {"model_version": model_version}
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        return ARROW_TYPE, bytes(sink.getvalue())
    frame = ranked.frame()
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return JSON_TYPE, orjson.dumps(
        {"rows": rows, "model_version": model_version}, option=orjson.OPT_SERIALIZE_NUMPY
    )


def _array(column: Any) -> pa.Array:
    if not isinstance(column, Coded):
        return pa.array(column, from_pandas=True)
    return pa.DictionaryArray.from_arrays(
        pa.array(column.codes.astype(np.int32), mask=column.codes < 0),
        pa.array(column.values, pa.string()),
    )
