"""A broker's client of the Gridcast predictor: one file to take as it is; needs httpx, and pyarrow for the fast door only.

Where orjson is installed it writes and reads JSON, several times as fast.

    grid = Gridcast("http://127.0.0.1:3000", token="…", timeout=0.5)
    for row in grid.predict([{"job_id": "17", "source": "my-site", "user": "alice", "requested_walltime": 7200}]):
        print(row["walltime"], row["walltime_low"], row["walltime_high"])
    grid.report([{"job_id": "17", "source": "my-site", "submitted_at": "2026-11-21T09:30:00Z", "ended_at": "…", "walltime": 1830}])

``predict`` never keeps a broker waiting: when the predictor is down, overloaded or slower than the time limit, the answer is
the user's own request as value and upper end, and says so (``model_version`` is "request", ``fallback`` tells why).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as OutOfTime
from contextlib import suppress
from datetime import datetime
from typing import Any, cast, overload

import httpx

try:
    import orjson
except ImportError:  # a thousand jobs then take some milliseconds more
    orjson = None  # type: ignore[assignment]

JSON_TYPE = "application/json"
ARROW_TYPE = "application/vnd.apache.arrow.stream"
REQUESTS = {"walltime": "requested_walltime", "peak_memory": "requested_memory"}
"""What stands for each prediction when there is none: the field with what the user asked for."""

FALLBACK = ("", "_high", "_allocation", "_kill_limit")
"""The parts of a prediction that it stands for."""

Rows = list[dict[str, Any]]
Columns = dict[str, list[Any]]


class RefusedError(Exception):
    """The predictor refused the request as wrong, or the caller as unknown; the message is its sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(f"{status}: {sentence}")
        self.status = status


class UnavailableError(Exception):
    """The predictor did not answer in time, or cannot now; the message says which."""

    def __init__(self, why: str, retry_after: float = 1.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Gridcast:
    """A predictor at ``url``; ``timeout`` (s) is the longest that ``predict`` may take, connection and all."""

    def __init__(
        self, url: str = "http://127.0.0.1:3000", token: str | None = None, timeout: float = 0.5
    ) -> None:
        self.timeout = timeout
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # Proxies of the environment are for the outside world; the predictor is a neighbour.
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)
        # httpx bounds each step of a call, not the whole; a thread that is left behind bounds it for sure.
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
    ) -> Rows | Columns:
        """Predict ``jobs``, given as rows or as columns by name; the answer has the same form, a row a job, in the same order.

        With ``classes`` it has the likeliest class of each target too; jobs that are only thought of are asked about without ``keep``.
        Raises RefusedError when the predictor says that the jobs or the token are wrong.
        """
        as_columns = isinstance(jobs, dict)
        body: dict[str, Any] = {"columns": jobs} if as_columns else {"jobs": list(jobs)}
        body |= (
            {"quantiles": list(quantiles), "coverage": coverage}
            | ({"at": at} if at else {})
            | ({"classes": True} if classes else {})
        )
        body |= {} if keep else {"keep": False}
        key = "columns" if as_columns else "rows"
        try:
            answer = self._in_time(
                lambda: _load(self._post("/predict", _dump(body), JSON_TYPE).content)
            )
            return cast(Rows | Columns, answer[key])
        except UnavailableError as error:
            if as_columns:
                rows = [
                    dict(zip(body["columns"], values, strict=True))
                    for values in zip(*body["columns"].values(), strict=True)
                ]
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
    ) -> Any:
        """Predict a pyarrow Table of jobs by the fast door; returns a Table, a row a job, in the same order."""
        import pyarrow as pa

        query: dict[str, Any] = (
            {"coverage": coverage}
            | ({"at": at} if at else {})
            | ({"classes": "true"} if classes else {})
        )
        if chosen := ",".join(str(level) for level in quantiles):
            query["quantiles"] = chosen
        try:
            return self._arrow("/predict", table, query)
        except UnavailableError as error:
            wanted = [name for name in ("job_id", *REQUESTS.values()) if name in table.column_names]
            return pa.Table.from_pylist(_requests(table.select(wanted).to_pylist(), str(error)))

    def rank(self, jobs: Iterable[Mapping[str, Any]], **options: Any) -> Rows:
        """Where each of ``jobs``, each with its ``candidates``, would be done first: a row a candidate, those of a job best first.

        ``options`` are policy, tuning, level, overlap and at. Raises RefusedError, and UnavailableError where the predictor cannot say
        in time.
        """
        body = {"jobs": list(jobs), **options}
        return cast(
            Rows,
            self._in_time(lambda: _load(self._post("/rank", _dump(body), JSON_TYPE).content))[
                "rows"
            ],
        )

    def rank_arrow(self, table: Any, **options: Any) -> Any:
        """``rank`` by the fast door: a pyarrow Table with a row a candidate, its job's fields in it; returns a Table."""
        return self._arrow("/rank", table, options)

    def explain(self, jobs: Iterable[Mapping[str, Any]], *, at: str | None = None) -> Rows:
        """Why each of at most 100 ``jobs`` gets its answer: histories, similar jobs, contributions and allocation, by target.

        Raises RefusedError, and UnavailableError where the predictor cannot say in time.
        """
        body = {"jobs": list(jobs), "explain": True} | ({"at": at} if at else {})
        answer = self._in_time(
            lambda: _load(self._post("/predict", _dump(body), JSON_TYPE).content)
        )
        return cast(Rows, answer["explanations"])

    def task(
        self,
        task: Mapping[str, Any],
        jobs: int,
        *,
        at_once: int | None = None,
        at: str | None = None,
    ) -> dict[str, Any]:
        """What ``jobs`` jobs with the fields of ``task`` need: per job, altogether, and as PanDA's ``scout_prediction``.

        Raises RefusedError, and UnavailableError where the predictor cannot say in time.
        """
        body = (
            {"task": dict(task), "jobs": jobs}
            | ({"at_once": at_once} if at_once else {})
            | ({"at": at} if at else {})
        )
        return cast(
            dict[str, Any],
            self._in_time(lambda: _load(self._post("/task", _dump(body), JSON_TYPE).content)),
        )

    def report(
        self, jobs: Iterable[Mapping[str, Any]] | Columns, patience: float = 30.0
    ) -> dict[str, Any]:
        """Report finished jobs; returns counts of added, updated and unchanged, and ``rejected`` with index and reason.

        While the predictor cannot take them they are sent again, which changes nothing twice, for ``patience`` s; then
        UnavailableError is raised, and the jobs are still the caller's to report. Raises RefusedError.
        """
        body = _dump({"columns": jobs} if isinstance(jobs, dict) else {"jobs": list(jobs)})
        deadline = time.monotonic() + patience
        while True:
            try:
                answer: dict[str, Any] = self._post(
                    "/outcomes", body, JSON_TYPE, limit=max(patience, self.timeout)
                ).json()
                return answer
            except UnavailableError as error:
                if time.monotonic() + error.retry_after > deadline:
                    raise
                time.sleep(error.retry_after)

    def model(self) -> dict[str, Any]:
        """What answers: model version, how it was trained, its history, and what is wrong. Raises UnavailableError."""
        answer: dict[str, Any] = self._send(self._http.build_request("GET", "/model")).json()
        return answer

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

    def _arrow(self, path: str, table: Any, query: dict[str, Any]) -> Any:
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        body = sink.getvalue().to_pybytes()
        answer = self._in_time(lambda: self._post(path, body, ARROW_TYPE, query).content)
        with pa.ipc.open_stream(answer) as stream:
            return stream.read_all()

    def _post(
        self,
        path: str,
        body: bytes,
        content_type: str,
        query: dict[str, Any] | None = None,
        limit: float | None = None,
    ) -> httpx.Response:
        headers = {"Content-Type": content_type}
        request = self._http.build_request(
            "POST", path, content=body, params=query, headers=headers, timeout=limit or self.timeout
        )
        return self._send(request)

    def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            response = self._http.send(request)
        except httpx.TimeoutException:
            raise UnavailableError("the predictor did not answer in time") from None
        except httpx.HTTPError as error:
            raise UnavailableError(f"the predictor cannot be reached: {error}") from None
        if response.status_code == 200:
            return response
        sentence = _sentence(response)
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise UnavailableError(
                f"the predictor cannot answer now: {sentence}",
                _seconds(response.headers.get("Retry-After", "1")),
            )
        raise RefusedError(response.status_code, sentence)


def _requests(rows: Iterable[Mapping[str, Any]], why: str) -> Rows:
    """For each job what its user asked for, in the place of a prediction."""
    return [
        {
            "job_id": row.get("job_id"),
            **{
                f"{target}{part}": row.get(field)
                for target, field in REQUESTS.items()
                for part in FALLBACK
            },
            "cluster": "none",
            "model_version": "request",
            "cold_start": True,
            "fallback": why,
        }
        for row in rows
    ]


def _columns(rows: Rows) -> Columns:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _dump(body: Mapping[str, Any]) -> bytes:
    """JSON with times as ISO 8601 and NaN as null."""
    if orjson:
        with suppress(
            TypeError
        ):  # such as a whole number of more than 64 bits, which json can write
            return orjson.dumps(body, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)
    try:
        return json.dumps(body, default=_plain, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        return json.dumps(
            _without_nan(body), default=_plain, allow_nan=False, separators=(",", ":")
        ).encode()


def _load(body: bytes) -> Any:
    return orjson.loads(body) if orjson else json.loads(body)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
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
    try:
        return min(max(float(text), 0.1), 60.0)
    except ValueError:
        return 1.0
