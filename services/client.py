"""A broker's client of the Gridcast predictor: one file to copy; needs httpx, for Arrow pyarrow.

Where orjson is installed it writes and reads JSON, several times as fast.

    grid = Gridcast("http://127.0.0.1:3000", token_file="gridcast-data/token", timeout=0.5)
    job = {"job_id": "17", "source": "my-site", "user": "alice", "requested_walltime": 7200}
    for row in grid.predict([job]):
        print(row["walltime"], row["walltime_low"], row["walltime_high"])
    outcome = {"submitted_at": "2026-11-21T09:30:00Z", "ended_at": "…", "walltime": 1830}
    grid.report([{"job_id": "17", "source": "my-site", **outcome}])

``predict`` never keeps a broker waiting: when the predictor is down, overloaded or slower than the
time limit, the answer is the user's own request as value and upper end, and is marked as such
(``model_version`` is "request", ``fallback`` the reason).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as OutOfTime
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast, overload
from urllib.parse import quote

import httpx

try:
    import orjson
except ImportError:  # a thousand jobs then take some milliseconds more
    orjson = None  # type: ignore[assignment]

JSON_TYPE = "application/json"
ARROW_TYPE = "application/vnd.apache.arrow.stream"
REQUESTS = {"walltime": "requested_walltime", "peak_memory": "requested_memory"}
"""The field that replaces each target's prediction when there is none: the user's own request."""

USER_HEADER = "X-Gridcast-User"
"""Names the user of all jobs of a call, percent-encoded; empty where they name none."""

FALLBACK = ("", "_high", "_allocation", "_kill_limit")
"""The numbers of a target that it replaces."""

UNREACHABLE = "the predictor cannot be reached"

Rows = list[dict[str, Any]]
Columns = dict[str, list[Any]]


class RefusedError(Exception):
    """The predictor refused the request as wrong, or the caller as unknown.

    Args:
        status: The HTTP status code.
        sentence: The reason, as the predictor gave it.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(f"{status}: {sentence}")
        self.status = status


class UnavailableError(Exception):
    """The predictor did not answer in time, cannot now, or gave no answer of its own.

    Args:
        why: The reason.
        retry_after: Seconds after which to try again.
    """

    def __init__(self, why: str, retry_after: float = 1.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Gridcast:
    """A predictor.

    Args:
        url: Its address.
        token: A bearer token; one with the scope predict, for ``report`` the scope report.
        timeout: The longest that ``predict`` may take, connection and all, in seconds.
        token_file: File of the token, instead of ``token``.

    Raises:
        OSError: The file cannot be read.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:3000",
        token: str | None = None,
        timeout: float = 0.5,
        token_file: str | Path | None = None,
    ) -> None:
        self.timeout = timeout
        if token_file:
            token = Path(token_file).read_text(encoding="utf-8").strip()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # Proxies of the environment are for the outside world; the predictor is near.
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)
        # httpx bounds each step of a call, not all of it; waiting for a thread bounds it for sure.
        self._calls = ThreadPoolExecutor(4, "gridcast")

    @overload
    def predict(
        self,
        jobs: Columns,
        *,
        quantiles: Iterable[float] = (),
        coverage: float = 0.9,
        at: str | None = None,
        classes: bool = False,
        keep: bool = True,
        within: float | None = None,
    ) -> Columns: ...

    @overload
    def predict(
        self,
        jobs: Iterable[Mapping[str, Any]],
        *,
        quantiles: Iterable[float] = (),
        coverage: float = 0.9,
        at: str | None = None,
        classes: bool = False,
        keep: bool = True,
        within: float | None = None,
    ) -> Rows: ...

    def predict(
        self,
        jobs: Iterable[Mapping[str, Any]] | Columns,
        *,
        quantiles: Iterable[float] = (),
        coverage: float = 0.9,
        at: str | None = None,
        classes: bool = False,
        keep: bool = True,
        within: float | None = None,
    ) -> Rows | Columns:
        """Predict jobs.

        Args:
            jobs: Rows, or columns by name; the answer has the same form and order, a row a job.
            quantiles: Further quantiles of each target (shares).
            coverage: The share of outcomes within the predicted ranges.
            at: The time of the history to predict from; default each job's submission.
            classes: Give the likeliest class of each target too.
            keep: Record the answer for monitoring; False for hypothetical jobs.
            within: Give the probability that each walltime is at most so many seconds, too.

        Raises:
            RefusedError: The jobs or the token are wrong.
        """
        as_columns = isinstance(jobs, dict)
        body: dict[str, Any] = {"columns": jobs} if as_columns else {"jobs": list(jobs)}
        body |= _set(quantiles=list(quantiles), at=at, classes=classes, within=within)
        body |= {"coverage": coverage} | ({} if keep else {"keep": False})
        key = "columns" if as_columns else "rows"
        try:
            return cast(Rows | Columns, self._json("/predict", body, key))
        except UnavailableError as error:
            if as_columns:
                values = zip(*body["columns"].values(), strict=True)
                rows = [dict(zip(body["columns"], row, strict=True)) for row in values]
                return _columns(_requests(rows, str(error)))
            return _requests(body["jobs"], str(error))

    def predict_arrow(
        self,
        table: Any,
        *,
        quantiles: Iterable[float] = (),
        coverage: float = 0.9,
        at: str | None = None,
        classes: bool = False,
        within: float | None = None,
    ) -> Any:
        """Predict a pyarrow Table of jobs as an Arrow stream, which is the fastest way.

        Args:
            table: The jobs.
            quantiles: As of ``predict``.
            coverage: As of ``predict``.
            at: As of ``predict``.
            classes: As of ``predict``.
            within: As of ``predict``.

        Returns:
            A Table, a row a job, in the same order.
        """
        import pyarrow as pa

        levels, flag = ",".join(map(str, quantiles)), "true" if classes else ""
        query = {"coverage": coverage, **_set(quantiles=levels, at=at, classes=flag, within=within)}
        try:
            return self._arrow("/predict", table, query)
        except UnavailableError as error:
            wanted = [name for name in ("job_id", *REQUESTS.values()) if name in table.column_names]
            return pa.Table.from_pylist(_requests(table.select(wanted).to_pylist(), str(error)))

    def rank(self, jobs: Iterable[Mapping[str, Any]], **options: Any) -> Rows:
        """Rank where jobs, each with its ``candidates``, would be done first.

        Args:
            jobs: The jobs.
            options: policy, tuning, level, overlap and at.

        Returns:
            A row a candidate, those of a job best first.

        Raises:
            RefusedError: The request is wrong.
            UnavailableError: There is no answer in time.
        """
        return cast(Rows, self._json("/rank", {"jobs": list(jobs), **options}, "rows"))

    def rank_arrow(self, table: Any, **options: Any) -> Any:
        """``rank`` as an Arrow stream: a Table of a row a candidate with its job's fields."""
        return self._arrow("/rank", table, options)

    def match(
        self, jobs: Iterable[Mapping[str, Any]], cores: int, seconds_left: float, **options: Any
    ) -> Rows:
        """Order waiting jobs, best first, for the slot that a pilot advertises.

        Args:
            jobs: The jobs, or kinds of job with their ``count``.
            cores: Of the slot.
            seconds_left: Until the slot ends.
            options: memory, site, host_power, policy, weights, risk, kill_price and at.

        Returns:
            A row a job; ``chosen`` is how many of it to start.

        Raises:
            RefusedError: The request is wrong.
            UnavailableError: There is no answer in time.
        """
        slot = {"cores": cores, "seconds_left": seconds_left, **options}
        return cast(Rows, self._json("/match", {"jobs": list(jobs), **slot}, "rows"))

    def match_arrow(self, table: Any, cores: int, seconds_left: float, **options: Any) -> Any:
        """``match`` as an Arrow stream: a Table of a row a job.

        Args:
            table: The jobs.
            cores: Of the slot.
            seconds_left: Until the slot ends.
            options: As of ``match``.
        """
        slot = {"cores": cores, "seconds_left": seconds_left, **options}
        return self._arrow("/match", table, slot)

    def explain(
        self, jobs: Iterable[Mapping[str, Any]], *, at: str | None = None, keep: bool = True
    ) -> Rows:
        """Explain the predictions of at most 100 jobs.

        Args:
            jobs: The jobs.
            at: As of ``predict``.
            keep: As of ``predict``.

        Returns:
            For each job and target its histories, similar jobs, contributions and allocation.

        Raises:
            RefusedError: The request is wrong.
            UnavailableError: There is no answer in time.
        """
        body = {"jobs": list(jobs), "explain": True, "keep": keep, **_set(at=at)}
        return cast(Rows, self._json("/predict", body, "explanations"))

    def task(
        self,
        task: Mapping[str, Any],
        jobs: int,
        *,
        at_once: int | None = None,
        at: str | None = None,
    ) -> dict[str, Any]:
        """Predict the needs of a task: per job, in total, and as PanDA's ``scout_prediction``.

        Args:
            task: Fields of one of its jobs.
            jobs: How many there are.
            at_once: How many may run at a time; default all.
            at: The time of the history to predict from; default now.

        Raises:
            RefusedError: The request is wrong.
            UnavailableError: There is no answer in time.
        """
        body = {"task": dict(task), "jobs": jobs, **_set(at_once=at_once, at=at)}
        return cast(dict[str, Any], self._json("/task", body))

    def report(
        self, jobs: Iterable[Mapping[str, Any]] | Columns, patience: float = 30.0
    ) -> dict[str, Any]:
        """Report finished jobs, again and again while the predictor cannot take them.

        Args:
            jobs: Rows, or columns by name.
            patience: Seconds to try; sending jobs twice changes nothing.

        Returns:
            Counts of added, updated and unchanged, and ``rejected`` with index and reason.

        Raises:
            RefusedError: The request is wrong.
            UnavailableError: The patience has ended; the jobs are still the caller's to report.
        """
        body = _dump({"columns": jobs} if isinstance(jobs, dict) else {"jobs": list(jobs)})
        deadline = time.monotonic() + patience
        headers, limit = {"Content-Type": JSON_TYPE}, max(patience, self.timeout)
        while True:
            try:
                content = self._post("/outcomes", body, headers, limit=limit)
                return cast(dict[str, Any], _load(content))
            except UnavailableError as error:
                if time.monotonic() + error.retry_after > deadline:
                    raise
                time.sleep(error.retry_after)

    def model(self) -> dict[str, Any]:
        """The model that answers: version, training, history, and what is wrong.

        Raises:
            UnavailableError: There is no answer in time.
        """
        return cast(dict[str, Any], _load(self._send(self._http.build_request("GET", "/model"))))

    def __enter__(self) -> Gridcast:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._calls.shutdown(wait=False, cancel_futures=True)
        self._http.close()

    def _in_time(self, call: Callable[[], Any]) -> Any:
        try:
            return self._calls.submit(call).result(self.timeout)
        except OutOfTime:
            raise UnavailableError("the predictor did not answer in time") from None

    def _json(self, path: str, body: Mapping[str, Any], *member: str) -> Any:
        """The answer to a JSON body, or a ``member`` of it."""
        headers = {"Content-Type": JSON_TYPE, **_user_header(body)}
        return self._in_time(lambda: _load(self._post(path, _dump(body), headers), *member))

    def _arrow(self, path: str, table: Any, query: dict[str, Any]) -> Any:
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        body, users = sink.getvalue().to_pybytes(), [None]
        if "user" in table.column_names:
            users = table.column("user").unify_dictionaries().unique().to_pylist()
        headers = {"Content-Type": ARROW_TYPE, **_user_header({"columns": {"user": users}})}
        answer = self._in_time(lambda: self._post(path, body, headers, query))
        try:
            with pa.ipc.open_stream(answer) as stream:
                return stream.read_all()
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(answer) from error

    def _post(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        query: Any = None,
        limit: float = 0,
    ) -> bytes:
        request = self._http.build_request(
            "POST", path, content=body, params=query, headers=headers, timeout=limit or self.timeout
        )
        return self._send(request)

    def _send(self, request: httpx.Request, repeats: int = 3) -> bytes:
        try:
            response = self._http.send(request)
            if repeats and response.status_code == 502:
                raise httpx.RemoteProtocolError(response.text)
        except httpx.TimeoutException:
            raise UnavailableError("the predictor did not answer in time") from None
        except httpx.HTTPError as error:
            if repeats and isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
                time.sleep(0.1)  # its predictor ended; the proxy then chooses another
                return self._send(request, repeats - 1)
            raise UnavailableError(f"{UNREACHABLE}: {error}") from None
        if response.status_code == 200:
            return response.content
        if response.status_code == 421 and request.headers.pop(USER_HEADER, None) is not None:
            return self._send(request, repeats)  # the user has another shard now: the router knows
        sentence = _sentence(response)
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise UnavailableError(
                f"the predictor cannot answer now: {sentence}",
                _seconds(response.headers.get("Retry-After", "1")),
            )
        raise RefusedError(response.status_code, sentence)


def _requests(rows: Iterable[Mapping[str, Any]], why: str) -> Rows:
    """For each job what its user requested, instead of a prediction."""
    fields = {target + number: REQUESTS[target] for target in REQUESTS for number in FALLBACK}
    about = {"cluster": "none", "model_version": "request", "cold_start": True, "fallback": why}
    return [
        {name: row.get(field) for name, field in {"job_id": "job_id", **fields}.items()} | about
        for row in rows
    ]


def _user_header(body: Mapping[str, Any]) -> dict[str, str]:
    """The header by which a proxy finds the shard of the jobs' one user; nothing for several."""
    jobs = [body["task"]] if "task" in body else body.get("jobs", ())
    users = [job.get("user") for job in jobs]
    if "columns" in body:
        users = list(body["columns"].get("user", [None]))
    user = users[0] if users else 0
    if not isinstance(user, str | None) or any(name != user for name in users):
        return {}
    return {USER_HEADER: quote(user or "", safe="", errors="replace")}


def _set(**options: Any) -> dict[str, Any]:
    """The options that differ from their defaults."""
    return {name: value for name, value in options.items() if value}


def _columns(rows: Rows) -> Columns:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _dump(body: Mapping[str, Any]) -> bytes:
    """JSON with times as ISO 8601 and NaN as null."""
    if orjson:
        # A whole number of more than 64 bits is a TypeError; json can write it.
        with suppress(TypeError):
            return orjson.dumps(body, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)
    write = partial(json.dumps, default=_plain, allow_nan=False, separators=(",", ":"))
    try:
        return write(body).encode()
    except ValueError:
        return write(_without_nan(body)).encode()


def _load(body: bytes, *members: str) -> Any:
    """A JSON answer, or a member of it.

    A proxy may answer 200 with a page of its own: UnavailableError, as if nobody had answered.
    """
    try:
        answer = orjson.loads(body) if orjson else json.loads(body)
        if not isinstance(answer, dict):
            raise TypeError
        for member in members:
            answer = answer[member]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(body) from error
    return answer


def _unreadable(body: bytes) -> UnavailableError:
    return UnavailableError(f"the answer is none of a predictor's: {body[:80]!r}")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "item"):  # a numpy number
        return value.item()
    raise TypeError(f"a job cannot hold a {type(value).__name__}")


def _sentence(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]


def _seconds(text: str) -> float:
    """The seconds of a Retry-After header, within bounds; 1 where it is a date or nonsense."""
    try:
        seconds = float(text)
    except ValueError:
        return 1.0
    return min(max(seconds, 0.1), 60.0) if seconds == seconds else 1.0
