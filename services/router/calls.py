"""Calls of many users divided among shards, and the answers merged; pure functions.

Jobs are copied as they came and only their users are read: the shards check everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from msgspec import DecodeError, Raw, Struct
from msgspec import json as msgspec_json
from msgspec.structs import asdict

from infra.aliases import Integers
from infra.shards import slots_of
from jobs.schema import COLUMNS
from models.engine.sharding import USER
from models.ranking.order import PARTS
from services.http import rank as rank_requests
from services.http.bodies import (
    OBJECTS,
    Shape,
    UndecodedJobs,
    check_job_count,
    decode,
    decode_items,
    read_body,
    read_stream,
    read_undecoded,
    set_members,
    unknown_field,
)
from services.http.columns import RowErrors, read_array, single_array
from services.http.contract import (
    ARROW_TYPE,
    JSON_TYPE,
    MATCH_FIELDS,
    MAX_EXPLAINED,
    MatchOptions,
    Options,
)
from services.http.errors import HTTPError
from services.http.match import read_match
from services.http.options import read_options
from services.http.requests import read_jobs_to_predict
from services.http.responses import joined, write_stream
from services.http.task import read_task

UNEQUAL = "the shards answer by models of different targets; try again in some seconds"
"""What is answered while some shards have a new champion already."""
_ANSWER: Any = msgspec_json.Decoder(dict[str, Raw])
_COLUMNS: Any = msgspec_json.Decoder(dict[str, list[Raw]])


@dataclass(frozen=True)
class Call:
    """The jobs of a request.

    Attributes:
        slots: The slot of each job's user (int64[n]).
        shape: The form of body and answer.
        take: The body of some of its jobs, by their positions.
        sizes: How many rows of the answer each job has; None: one (int64[n]).
    """

    slots: Integers
    shape: Shape
    take: Callable[[Integers], bytes]
    sizes: Integers | None = None

    def __len__(self) -> int:
        return len(self.slots)


class _User(Struct):
    user: Any = None


class _JobToRank(Struct):
    candidates: list[Raw]
    user: Any = None
    job_id: Any = None


_USERS: Any = msgspec_json.Decoder(list[_User])
_RANKED: Any = msgspec_json.Decoder(list[_JobToRank])
_JOB: Any = msgspec_json.Decoder(dict[str, Raw])


def read_call(name: str, media: str, body: bytes, query: Mapping[str, str]) -> Call:
    """Read the users of a call's jobs.

    Args:
        name: The endpoint: predict, match, rank or task.
        media: The media type.
        body: The body.
        query: Query parameters.

    Raises:
        HTTPError: 400, 413, 415 or 422, as a predictor answers.
    """
    try:
        if name == "rank":
            return _arrow_to_rank(body) if media == ARROW_TYPE else _json_to_rank(body)
        if name == "task":
            if media != JSON_TYPE:
                raise HTTPError(415, f"the content type must be {JSON_TYPE}")
            job = read_task(body).job.jobs
            users = job.column(USER).to_pylist() if USER in job.column_names else [None]
            return Call(slots_of_users(users), "rows", lambda _: body)
        names, kind = (MATCH_FIELDS, MatchOptions) if name == "match" else (COLUMNS, Options)
        if media == ARROW_TYPE:
            call = _arrow_of_jobs(body, names)
            chosen = read_options({}, query, kind)
        else:
            jobs = read_undecoded(body, kind, names, OBJECTS)
            call = _json_of_jobs(jobs)
            chosen = read_options(jobs.options, query, kind)
        if isinstance(chosen, Options) and chosen.explain and len(call) > MAX_EXPLAINED:
            raise HTTPError(
                422,
                f"at most {MAX_EXPLAINED} jobs are explained at once, these are {len(call)}",
            )
    except (HTTPError, DecodeError, UnicodeError) as error:
        check_call(name, media, body, query)
        if isinstance(error, HTTPError):
            raise
        raise HTTPError(400, f"the body is not JSON: {str(error)[:200]}") from None
    return call


def check_call(name: str, media: str, body: bytes, query: Mapping[str, str]) -> None:
    """Read a whole call as a predictor does, to refuse it with the same sentence.

    Args:
        name: The endpoint.
        media: The media type.
        body: The body.
        query: Query parameters.

    Raises:
        HTTPError: 400, 413, 415 or 422.
    """
    if name == "rank":
        rank_requests.read_rank(media, body, query)
    elif name == "match":
        read_match(media, body, query)
    elif name == "task":
        read_task(body)
    else:
        batch = read_body(media, body)
        read_options(batch.options, query, Options)
        read_jobs_to_predict(batch)


def slots_of_users(users: Iterable[Any]) -> Integers:
    """The slot of each job by its user; what is no text is refused by the shard of no user."""
    codes: dict[str, int] = {}
    coded = [codes.setdefault(user, len(codes)) if isinstance(user, str) else -1 for user in users]
    return slots_of(tuple(codes), np.array(coded, dtype=np.int64))


# -- JSON


def _json_of_jobs(jobs: UndecodedJobs) -> Call:
    if jobs.rows is not None:
        rows = jobs.rows
        users = [
            job.user for block in decode_items(rows, _USERS, "jobs", jobs.explain) for job in block
        ]
        return Call(slots_of_users(users), "rows", _taking_rows(rows, jobs.options))
    columns, end = jobs.columns, _end_with(jobs.options)
    users = [None] * len(jobs)
    if USER in columns:
        users = [msgspec_json.decode(user) for user in columns[USER]]

    def take_columns(positions: Integers) -> bytes:
        return b'{"columns":' + _write_columns(columns, positions.tolist()) + end

    return Call(slots_of_users(users), "columns", take_columns)


def _taking_rows(rows: Sequence[Any], options: Mapping[str, Any]) -> Callable[[Integers], bytes]:
    """Gives the body of some jobs, each as it came, with the options of the call."""
    end = _end_with(options)

    def take(positions: Integers) -> bytes:
        return b'{"jobs":[' + b",".join(rows[row] for row in positions.tolist()) + b"]" + end

    return take


def _end_with(options: Mapping[str, Any]) -> bytes:
    """The options as the last members of an object, and its end."""
    members = msgspec_json.encode(dict(options))[1:]
    return b"," + members if options else members


def _write_columns(columns: Mapping[str, Sequence[Raw]], rows: Sequence[int]) -> bytes:
    members = joined(
        b"%b:[%b]" % (orjson.dumps(name), b",".join([values[row] for row in rows]))
        for name, values in columns.items()
    )
    return b"".join((b"{", *members, b"}"))


def _json_to_rank(body: bytes) -> Call:
    def explain(*_: Any) -> HTTPError:
        return HTTPError(422, "the body is none of jobs with candidates")

    members = set_members(asdict(decode(body, rank_requests.BODY, explain)))
    items = members.pop("jobs", [])
    rows, users, names, sizes = list[Any](), list[Any](), list[str](), list[int]()
    for jobs in decode_items(items, _RANKED, "jobs", explain):
        for job in jobs:
            index = len(rows)
            names.append(rank_requests.text_name(job.job_id, index))
            users.append(job.user)
            sizes.append(len(job.candidates))
            row = items[index]
            if job.job_id in (None, ""):  # called by its index, which is another one in a shard
                row = msgspec_json.encode(_JOB.decode(row) | {"job_id": str(index)})
            rows.append(row)
    rank_requests.check_count(sum(sizes))
    rank_requests.check_unique(names)
    take = _taking_rows(rows, members)
    return Call(slots_of_users(users), "rows", take, np.array(sizes, dtype=np.int64))


# -- Arrow


def _arrow_of_jobs(body: bytes, names: Sequence[str]) -> Call:
    def check_name(name: str) -> None:
        if name not in names:
            raise HTTPError(422, unknown_field(name, names))

    columns, rows = read_stream(body, check_name, check_job_count)
    return Call(_slots_of_column(columns, rows), "arrow", lambda taken: _write(columns, taken))


def _arrow_to_rank(body: bytes) -> Call:
    """A call whose rows are candidates; those of a job are answered together."""
    columns, rows = read_stream(body, rank_requests.check_name, rank_requests.check_count)
    if "job_id" not in columns:
        raise HTTPError(422, "the candidates have no column job_id")
    names = read_array("job_id", columns["job_id"], RowErrors())
    if names.null_count:
        raise HTTPError(422, "a candidate has no job_id")
    job_of_row = names.dictionary_encode().indices.to_numpy()
    slots, sizes = _slots_of_column(columns, rows), np.bincount(job_of_row)
    order = np.argsort(job_of_row, kind="stable")
    ends = np.cumsum(sizes)
    slot_of_job = slots[order[ends - sizes]]
    if (differing := np.flatnonzero(slots != slot_of_job[job_of_row])).size:
        raise HTTPError(422, f"candidate {differing[0]}: its job has candidates of another user")

    def take(jobs: Integers) -> bytes:
        return _write(columns, np.concatenate([order[ends[j] - sizes[j] : ends[j]] for j in jobs]))

    return Call(slot_of_job, "arrow", take, sizes)


def _slots_of_column(columns: Mapping[str, pa.Array], rows: int) -> Integers:
    if USER not in columns:
        return slots_of((), np.full(rows, -1))
    users = read_array(USER, columns[USER], RowErrors())
    codes = users.indices.fill_null(-1).to_numpy().astype(np.int64)
    return slots_of(users.dictionary.to_pylist(), codes)


def _write(columns: Mapping[str, pa.Array], rows: Integers) -> bytes:
    positions = pa.array(rows)
    taken = {name: _as_text(values).take(positions) for name, values in columns.items()}
    return write_stream(taken, {})


def _as_text(values: pa.Array) -> pa.Array:
    """Values that Arrow can take: views of text are copied."""
    return values.cast(pa.string()) if pa.types.is_string_view(values.type) else values


# -- answers


def merge(call: Call, answers: Sequence[tuple[Integers, bytes]]) -> bytes:
    """Merge the answers of shards into that of one predictor.

    Args:
        call: What was asked for.
        answers: For each shard the positions of its jobs, ascending, and the body of its answer.

    Raises:
        HTTPError: 503 where the answers have different columns.
    """
    sizes = np.ones(len(call), np.int64) if call.sizes is None else call.sizes
    begins = np.cumsum(sizes) - sizes
    rows = np.concatenate(
        [np.repeat(begins[jobs], sizes[jobs]) + _ranges(sizes[jobs]) for jobs, _ in answers]
    )
    order = np.argsort(rows)
    # What is said of all rows is that of the shard with most of them.
    largest = max(range(len(answers)), key=lambda number: len(answers[number][0]))
    if call.shape == "arrow":
        return _merge_arrow(call, [body for _, body in answers], order, largest)
    members = [_ANSWER.decode(body) for _, body in answers]
    lists = "rows" if call.shape == "rows" else "columns"
    contents = [answer.pop(lists) for answer in members]
    if call.shape == "rows":
        merged = _merge_rows(call, contents, order)
    else:
        merged = _merge_columns([_COLUMNS.decode(content) for content in contents], order)
    abouts = [orjson.loads(msgspec_json.encode(answer)) for answer in members]
    rest = orjson.dumps(_merge_about(abouts, largest, order))[1:]
    return b'{"%b":%b,%b' % (lists.encode(), merged, rest)


def _ranges(sizes: Integers) -> Integers:
    """0, 1, … of each size, one after another."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _merge_about(abouts: Sequence[dict[str, Any]], largest: int, order: Integers) -> dict[str, Any]:
    """What is said beside the rows: unread fields of any, the canary's jobs, explanations."""
    explained = [item for shard in abouts for item in shard.pop("explanations", ())]
    about = dict(abouts[largest])
    if "unread" in about:
        unread = [name for shard in abouts for name in shard["unread"]]
        about["unread"] = [name for name in COLUMNS if name in unread]
    if canaries := [shard["canary"] for shard in abouts if "canary" in shard]:
        about["canary"] = canaries[0] | {"jobs": sum(canary["jobs"] for canary in canaries)}
    if explained:
        about["explanations"] = [explained[row] for row in order]
    return about


def _merge_rows(call: Call, contents: Sequence[Raw], order: Integers) -> bytes:
    rows = [row for content in contents for row in OBJECTS.decode(content)]
    if call.sizes is not None:
        rows = _with_all_columns([_JOB.decode(row) for row in rows])
    return b"[" + b",".join([rows[row] for row in order.tolist()]) + b"]"


def _with_all_columns(rows: Sequence[Mapping[str, Raw]]) -> list[bytes]:
    """Ranked candidates with the columns that any shard gives: an absent share of time is 0."""
    columns = _all_columns([tuple(names) for names in {tuple(row): None for row in rows}])
    absent = {name: Raw(b"0.0" if name in PARTS else b"null") for name in columns}
    return [
        msgspec_json.encode({name: row.get(name, absent[name]) for name in columns}) for row in rows
    ]


def _all_columns(columns: Sequence[Sequence[str]]) -> list[str]:
    """The columns of any ranking, in the order of one that has them all."""
    present = {name for names in columns for name in names}
    longest = max(columns, key=len)
    names = [name for name in longest if name not in (*PARTS, "in_time")]
    middle = names.index("first")
    parts = [name for name in PARTS if name in present]
    in_time = ["in_time"] if "in_time" in present else []
    return [*names[:middle], *parts, "first", *in_time, *names[middle + 1 :]]


def _merge_columns(answers: Sequence[Mapping[str, Sequence[Raw]]], order: Integers) -> bytes:
    if any(list(answer) != list(answers[0]) for answer in answers):
        raise HTTPError(503, UNEQUAL, retry_after=1)
    together = {
        name: [value for answer in answers for value in answer[name]] for name in answers[0]
    }
    return _write_columns(together, order.tolist())


def _merge_arrow(call: Call, bodies: Sequence[bytes], order: Integers, largest: int) -> bytes:
    tables = [pa.ipc.open_stream(body).read_all() for body in bodies]
    metadata = dict(tables[largest].schema.metadata or {})
    if b"gridcast" in metadata:
        abouts = [orjson.loads(table.schema.metadata[b"gridcast"]) for table in tables]
        metadata[b"gridcast"] = orjson.dumps(_merge_about(abouts, largest, order))
    if call.sizes is not None:
        columns = _all_columns([table.column_names for table in tables])
        tables = [_with_columns(table, columns) for table in tables]
    if any(table.column_names != tables[0].column_names for table in tables):
        raise HTTPError(503, UNEQUAL, retry_after=1)
    table = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    table = table.combine_chunks()
    positions = pa.array(order)
    return write_stream(
        {name: single_array(table.column(name)).take(positions) for name in table.column_names},
        metadata,
    )


def _with_columns(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    rows = len(table)
    absent = {
        name: pa.array(np.zeros(rows)) if name in PARTS else pa.nulls(rows, pa.float64())
        for name in columns
    }
    present = set(table.column_names)
    return pa.table(
        {name: table.column(name) if name in present else absent[name] for name in columns}
    )
