"""The call that ranks candidates: its body read, bounded, and its answer written; pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa

from models.ranking.order import RankingError, Rule
from models.ranking.ranker import CANDIDATE, REQUESTED
from services.bodies import ARROW_TYPE, JSON_TYPE, parse_json, refuse_compression
from services.doors import read_moment
from services.refusal import RefusalError

MOST_CANDIDATES = 100_000
OF_CANDIDATE = ("site", "queue", "input_bytes", *CANDIDATE)
"""What may differ between the candidates of a job; the rest is told of the job."""
OPTIONS = ("policy", "tuning", "level", "overlap", "at")


@dataclass(frozen=True)
class RankAsked:
    """Candidates to rank, a row each with its job's fields, by which rule, as of when (None: now), and whether Arrow is wanted."""

    candidates: pd.DataFrame
    rule: Rule
    at: datetime | None
    arrow: bool


def read_rank(content_type: str, body: bytes, query: Mapping[str, str]) -> RankAsked:
    """Read ``{"jobs": [{…, "candidates": [{"site": …}, …]}], "policy": …}`` or an Arrow stream with a row a candidate.

    Options of an Arrow body are in the ``query``. Raises RefusalError (400, 413, 415, 422).
    """
    if content_type.partition(";")[0].strip().lower() == ARROW_TYPE:
        return _asked(_from_arrow(body), dict(query), arrow=True)
    given = parse_json(body)
    if not isinstance(given, dict) or not isinstance(given.get("jobs"), list):
        raise RefusalError(422, 'the body must be an object with "jobs", a list of jobs, each with its "candidates"')
    rows = [row for place, job in enumerate(given.pop("jobs")) for row in _rows(place, job)]
    return _asked(pd.DataFrame(rows), given | dict(query), arrow=False)


def _rows(place: int, job: Any) -> list[dict[str, Any]]:
    if not isinstance(job, dict) or not isinstance(candidates := job.get("candidates"), list):
        raise RefusalError(422, f"job {place} must be an object with a list of candidates")
    name = str(job.get("job_id") or place)
    if not candidates:
        raise RefusalError(422, f"job {name[:100]} has no candidates")
    told = {key: value for key, value in job.items() if key != "candidates"} | {"job_id": name}
    for candidate in candidates:
        if not isinstance(candidate, dict) or (strange := [key for key in candidate if key not in OF_CANDIDATE]):
            wrong = f"has no field {strange[0][:100]!r}" if isinstance(candidate, dict) else "is not an object"
            raise RefusalError(422, f"a candidate of job {name[:100]} {wrong}; there are {', '.join(OF_CANDIDATE)}")
    return [told | candidate for candidate in candidates]


def _from_arrow(body: bytes) -> pd.DataFrame:
    try:
        refuse_compression(body)
        with pa.ipc.open_stream(pa.py_buffer(body)) as stream:
            batches = []
            rows = 0
            for batch in stream:
                rows += batch.num_rows
                _check(rows)
                batch.validate(full=True)
                batches.append(batch)
            return pa.Table.from_batches(batches, stream.schema).to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RefusalError(400, f"the body is not a valid Arrow stream: {(str(error).splitlines() or ['?'])[0][:200]}") from None


def _asked(candidates: pd.DataFrame, options: dict[str, Any], arrow: bool) -> RankAsked:
    _check(len(candidates))
    if candidates.empty or "job_id" not in candidates:
        raise RefusalError(422, "there is no candidate to rank" if candidates.empty else "the candidates have no column job_id")
    known = {*REQUESTED, *OF_CANDIDATE}
    for name in candidates.columns:
        if name not in known:
            raise RefusalError(422, f"there is no field {str(name)[:100]!r} of a job or a candidate")
    if unknown := [name for name in options if name not in OPTIONS]:
        raise RefusalError(422, f"there is no option {unknown[0][:100]!r} here; there are {', '.join(OPTIONS)}")
    try:
        overlap = str(options.get("overlap", False)).lower() in ("true", "1")
        rule = Rule(str(options.get("policy", "mean")), float(options.get("tuning", 1)), float(options.get("level", 0.9)), overlap)
    except (RankingError, TypeError, ValueError) as error:
        raise RefusalError(422, str(error)) from None
    return RankAsked(candidates, rule, read_moment(options.get("at")), arrow)


def _check(candidates: int) -> None:
    if candidates > MOST_CANDIDATES:
        raise RefusalError(413, f"the request holds more than {MOST_CANDIDATES} candidates; send them in several requests")


def write_rank(ranked: pd.DataFrame, model_version: str, arrow: bool) -> tuple[str, bytes]:
    """Content type and body: ``{"rows": […], "model_version": …}`` or an Arrow stream, the candidates of each job best first."""
    if arrow:
        batch = pa.RecordBatch.from_pandas(ranked, preserve_index=False).replace_schema_metadata({"model_version": model_version})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        return ARROW_TYPE, bytes(sink.getvalue())
    rows = ranked.astype(object).where(ranked.notna(), None).to_dict("records")
    return JSON_TYPE, orjson.dumps({"rows": rows, "model_version": model_version}, option=orjson.OPT_SERIALIZE_NUMPY)
