"""Requests that rank candidates: reading ``POST /rank`` and writing its answer; pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from msgspec import UNSET, Raw, Struct
from msgspec import json as msgspec_json
from msgspec.structs import asdict

from infra.aliases import Array
from jobs.coded_jobs import Coded, CodedJobs
from jobs.schema import QUERY_FIELDS
from models.ranking.candidates import Candidates
from models.ranking.order import RankingError, Rule
from models.ranking.ranker import Ranked
from services.http.bodies import (
    Columns,
    decode,
    decode_items,
    media_type,
    read_columns,
    read_stream,
    set_members,
)
from services.http.columns import (
    MAX_COLUMN_BYTES,
    RowErrors,
    read_array,
    read_values,
    to_coded_jobs,
    wrong_type,
)
from services.http.contract import (
    ARROW_TYPE,
    CANDIDATE_MEMBERS,
    FIELD_BY_NAME,
    JSON_TYPE,
    MAX_CANDIDATES,
    RankOptions,
    unchecked,
)
from services.http.errors import HTTPError, quote
from services.http.options import read_options, unknown_option
from services.http.responses import joined, row_members, write_stream

JOB_FIELDS = tuple(dict.fromkeys((*QUERY_FIELDS, *CANDIDATE_MEMBERS)))
_Candidate: Any = unchecked("Candidate", CANDIDATE_MEMBERS)
_Job: Any = unchecked("Job", JOB_FIELDS, candidates=list[_Candidate])
_OPTIONS = RankOptions.__struct_fields__
BODY: Any = msgspec_json.Decoder(unchecked("Body", _OPTIONS, jobs=list[Raw]))
_JOBS: Any = msgspec_json.Decoder(list[_Job])
_FORM = 'the body must be an object with "jobs", a list of jobs, each with its "candidates"'


@dataclass(frozen=True)
class RankRequest:
    """Candidates to rank, by which rule, as of when (None: now), and whether Arrow is wanted."""

    candidates: Candidates
    rule: Rule
    at: datetime | None
    arrow: bool


def read_rank(content_type: str, body: bytes, query: Mapping[str, str]) -> RankRequest:
    """Read jobs with their candidates, or an Arrow stream with a row a candidate.

    Args:
        content_type: The Content-Type header.
        body: ``{"jobs": [{…, "candidates": [{"site": …}, …]}], "policy": …}`` or the stream.
        query: Options; they replace those of a JSON body.

    Raises:
        HTTPError: 400, 413, 415 or 422.
    """
    arrow = media_type(content_type) == ARROW_TYPE
    candidates, members = (_from_arrow(body), {}) if arrow else _from_json(body)
    own = {name: value for name, value in members.items() if name not in query}
    try:
        # What the query replaces is checked all the same.
        for options in (
            read_options(members, {}, RankOptions),
            read_options(own, query, RankOptions),
        ):
            rule = Rule(options.policy, options.tuning, options.level, options.overlap)
    except RankingError as error:
        raise HTTPError(422, str(error)) from None
    return RankRequest(candidates, rule, options.at, arrow)


# -- JSON


def _from_json(body: bytes) -> tuple[Candidates, dict[str, Any]]:
    """The candidates of a JSON body, and its options.

    A job's own values are typed once, not once a candidate: they may be long.
    """

    def explain(_: str, path: str, unknown: str | None) -> HTTPError:
        index = re.match(r"\.jobs\[(\d+)\]", path)
        if index is None:
            if unknown and not path:
                return unknown_option(unknown, _OPTIONS)
            return HTTPError(422, _FORM)
        if ".candidates[" in path:
            name = _job_name(items[int(index[1])], int(index[1]))
            wrong = f"has no field {quote(unknown)}" if unknown else "is not an object"
            names = ", ".join(CANDIDATE_MEMBERS)
            return HTTPError(422, f"a candidate of job {name} {wrong}; there are {names}")
        if unknown:
            return _unknown_field(unknown)
        return HTTPError(422, f"job {index[1]} must be an object with a list of candidates")

    members = asdict(decode(body, BODY, explain))
    items = members.pop("jobs")
    if items is UNSET:
        raise HTTPError(422, _FORM)
    names, sizes = list[str](), list[int]()
    of_jobs, of_candidates = Columns(JOB_FIELDS), Columns(CANDIDATE_MEMBERS)
    for jobs in decode_items(items, _JOBS, "jobs", explain):
        for job in jobs:
            index = len(names)
            names.append(text_name(job.job_id, index))
            if job.candidates is UNSET:
                raise HTTPError(422, f"job {index} must be an object with a list of candidates")
            if not job.candidates:
                raise HTTPError(422, f"job {names[index][:100]} has no candidates")
            sizes.append(len(job.candidates))
            of_candidates.add(job.candidates)
        of_jobs.add(jobs)
    check_count(sum(sizes))
    check_unique(names)
    candidates = _join(of_jobs.present | {"job_id": names}, of_candidates.present, np.array(sizes))
    return candidates, set_members(members)


def _job_name(job: Raw, index: int) -> str:
    """What a job is called in messages, where the job itself is wrong."""
    return text_name(msgspec_json.decode(job, type=_Name).job_id, index)[:100]


class _Name(Struct):
    job_id: Any = None


def text_name(job_id: Any, index: int) -> str:
    """The name of a job: its ``job_id``, or its index where there is none; raises HTTPError."""
    if job_id is None or job_id is UNSET or job_id == "":
        return str(index)
    if type(job_id) not in (str, int):
        raise HTTPError(422, f"job {index}: {wrong_type(FIELD_BY_NAME['job_id'], job_id)}")
    return str(job_id)


def check_unique(names: Sequence[str]) -> None:
    """Raise HTTPError (422) where two jobs have the same name."""
    seen = set[str]()
    for name in names:
        if name in seen:
            raise HTTPError(
                422,
                f"job {name[:100]} is there twice "
                "(a job without a job_id is called by its index, from 0)",
            )
        seen.add(name)


def _join(
    job_values: Mapping[str, Sequence[Any]], row_values: Mapping[str, Sequence[Any]], sizes: Array
) -> Candidates:
    """The candidates of decoded jobs; a candidate's value replaces its job's.

    Args:
        job_values: The values of the jobs by field; ``job_id`` is what each is called.
        row_values: The values of the candidates by field.
        sizes: The number of candidates of each job (int64[jobs]).
    """
    job_of_row = np.repeat(np.arange(len(sizes)), sizes)
    first_row = np.cumsum(sizes) - sizes
    of_jobs, job_errors = read_columns(job_values, read_values)
    of_rows, row_errors = read_columns(row_values, read_values)
    for index, reason in job_errors.by_row.items():
        row_errors.add(int(first_row[index]), reason)
    _refuse_errors(row_errors)
    columns = dict(to_coded_jobs(pa.table(of_jobs)).take(job_of_row).columns)
    if of_rows:
        for name, values in to_coded_jobs(pa.table(of_rows)).columns.items():
            own = np.array([value is not UNSET for value in row_values[name]])
            columns[name] = _override(columns[name], values, own) if name in columns else values
    names = list(job_values["job_id"])
    return _candidates(Coded(job_of_row, names), CodedJobs(columns, len(job_of_row)))


def _override(of_job: Any, of_row: Any, own: Array) -> Any:
    """A column of which a candidate has its ``own`` value (bool[n]), or else its job's."""
    if not isinstance(of_job, Coded):
        return np.where(own, of_row, of_job)
    codes = {text: code for code, text in enumerate(of_job.values)}
    moved = np.array([codes.setdefault(text, len(codes)) for text in of_row.values] + [-1])
    return Coded(np.where(own, moved[of_row.codes], of_job.codes), list(codes))


# -- Arrow


def _from_arrow(body: bytes) -> Candidates:
    columns, rows = read_stream(body, check_name, check_count)
    if not rows:
        raise HTTPError(422, "there is no candidate to rank")
    if "job_id" not in columns:
        raise HTTPError(422, "the candidates have no column job_id")
    typed, errors = read_columns(columns, read_array)
    names = typed["job_id"].dictionary_encode()
    errors.add_where(names.is_null().to_numpy(zero_copy_only=False), "job_id is missing")
    _refuse_errors(errors)
    job = Coded(names.indices.to_numpy().astype(np.int64), names.dictionary.to_pylist())
    return _candidates(job, to_coded_jobs(pa.table(typed)))


def check_name(name: str) -> None:
    """Raise HTTPError (422) where no job or candidate has such a field."""
    if name not in JOB_FIELDS:
        raise _unknown_field(name)


# -- both


def _unknown_field(name: str) -> HTTPError:
    return HTTPError(422, f"there is no field {quote(name)} of a job or a candidate")


def check_count(candidates: int) -> None:
    """Raise HTTPError for no candidate (422) and for too many (413)."""
    if not candidates:
        raise HTTPError(422, "there is no candidate to rank")
    if candidates > MAX_CANDIDATES:
        raise HTTPError(
            413,
            f"the request holds more than {MAX_CANDIDATES} candidates; "
            "send them in several requests",
        )


def _refuse_errors(errors: RowErrors) -> None:
    if errors.by_row:
        index = min(errors.by_row)
        raise HTTPError(422, f"candidate {index}: {errors.by_row[index]}")


def _candidates(job: Coded, columns: CodedJobs) -> Candidates:
    """Candidates whose answer, which repeats their names, is not too long."""
    repeated = [job, *(columns[name] for name in ("site", "queue", "input_at") if name in columns)]
    if sum(map(_text_bytes, repeated)) > MAX_COLUMN_BYTES:
        raise HTTPError(
            413,
            f"the answer would hold more than {MAX_COLUMN_BYTES // 2**20} MiB of names; "
            "send the candidates in several requests",
        )
    return Candidates(job, columns)


def _text_bytes(column: Coded) -> int:
    lengths = np.array([*map(len, column.values), 0])
    return int(lengths[column.codes].sum())


# -- the answer


def write_rank(ranked: Ranked, model_version: str, arrow: bool) -> tuple[str, bytes]:
    """Content type and body of an answer, the candidates of each job best first.

    Args:
        ranked: The candidates in order.
        model_version: Which model predicted their run times.
        arrow: Write an Arrow stream instead of ``{"rows": […], "model_version": …}``.
    """
    if arrow:
        columns = {"job_id": _array(ranked.job).dictionary_decode()}
        columns |= {name: _array(column) for name, column in ranked.columns.items()}
        return ARROW_TYPE, write_stream(columns, {"model_version": model_version})
    values = {"job_id": ranked.job, **ranked.columns}
    members = row_members({name: _plain(column) for name, column in values.items()}, len(ranked))
    rows = joined(b"{" + row + b"}" for row in members)
    about = orjson.dumps({"model_version": model_version})
    return JSON_TYPE, b"".join((b'{"rows":[', *rows, b"],", about[1:]))


def _plain(column: Any) -> Callable[[slice], list[Any]]:
    """Python values of some rows of a column, None for missing."""
    if isinstance(column, Coded):
        texts = [*column.values, None]
        return lambda rows: [texts[code] for code in column.codes[rows].tolist()]
    return lambda rows: column[rows].tolist()


def _array(column: Any) -> pa.Array:
    if not isinstance(column, Coded):
        return pa.array(column, from_pandas=True)
    return pa.DictionaryArray.from_arrays(
        pa.array(column.codes.astype(np.int32), mask=column.codes < 0),
        pa.array(column.values, pa.string()),
    )
