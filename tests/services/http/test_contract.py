"""Requests: jobs as known at submission, options, finished jobs."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa
import pytest

from jobs.schema import COLUMNS, OUTCOMES
from services.http.bodies import Batch, read_arrow, read_json
from services.http.contract import JSON_TYPE, Options
from services.http.errors import HTTPError
from services.http.openapi import describe
from services.http.options import read_options
from services.http.rank import read_rank
from services.http.requests import read_jobs_to_predict, read_outcomes
from services.http.task import read_task

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ENDED = {
    "job_id": "1",
    "source": "grid",
    "submitted_at": "2026-02-01T00:00:00Z",
    "started_at": "2026-02-01T00:01:00Z",
    "walltime": 60,
    "status": "completed",
}


def rows(*jobs: dict[str, Any]) -> Batch:
    return read_json(orjson.dumps({"jobs": list(jobs)}))


def test_a_job_without_submission_is_submitted_now() -> None:
    request = read_jobs_to_predict(
        rows(
            {"job_id": "1", "source": "grid"},
            {"job_id": "2", "source": "grid", "submitted_at": "2026-02-01T00:00:00Z"},
        ),
        NOW,
    )
    assert request.jobs["submitted_at"].to_pylist() == [NOW, datetime(2026, 2, 1, tzinfo=UTC)]


def test_outcomes_that_come_along_are_left_unread() -> None:
    request = read_jobs_to_predict(rows(ENDED | {"user": "alice"}), NOW)
    assert request.unread == ("started_at", "status", "walltime")
    assert set(request.jobs.column_names) == {"job_id", "source", "user", "submitted_at"}


def test_no_field_that_only_an_outcome_has_passes_the_door() -> None:
    everything = {
        name: ENDED.get(name, 1 if name in ("cores", "cpu_time") else None) for name in COLUMNS
    }
    request = read_jobs_to_predict(rows(everything), NOW)
    assert set(request.jobs.column_names) & set(OUTCOMES) == {"host_power"}, (
        "the broker may think of a host"
    )


@pytest.mark.parametrize(
    ("jobs", "sentence"),
    [
        ([{"source": "grid"}], "job 0: job_id is missing"),
        ([{"job_id": "1", "source": "grid"}, {"job_id": "2"}], "job 1: source is missing"),
        ([{"job_id": "", "source": "grid"}], "job 0: job_id is missing"),
        (
            [{"job_id": "1", "source": "grid", "events": -1}, {"job_id": 2}],
            "job 0: events is -1, not between 0 and 1e+15 events (and one more job is wrong)",
        ),
        ([{"job_id": "1", "source": "grid", "walltime": -1}], "job 0: walltime is -1"),
    ],
)
def test_a_job_that_cannot_be_read_refuses_the_request_by_its_index_and_field(
    jobs: list[dict[str, Any]], sentence: str
) -> None:
    with pytest.raises(HTTPError) as caught:
        read_jobs_to_predict(rows(*jobs), NOW)
    assert caught.value.status == 422
    assert caught.value.message.startswith(sentence)


def test_options_come_from_the_body_or_the_query() -> None:
    assert read_options({}, {}, Options) == Options()
    assert read_options({"quantiles": [0.5, 0.99, 0.5]}, {"coverage": "0.8"}, Options) == Options(
        (0.5, 0.99), 0.8
    )
    assert read_options(
        {}, {"quantiles": "0.5,0.99", "at": "2026-01-01T00:00:00Z"}, Options
    ) == Options((0.5, 0.99), 0.9, datetime(2026, 1, 1, tzinfo=UTC))
    assert (
        read_options({}, {"explain": "true"}, Options).explain
        and not read_options({}, {}, Options).explain
    )
    assert (
        read_options({}, {}, Options).keep and not read_options({"keep": False}, {}, Options).keep
    )
    assert (
        read_options({"classes": True}, {}, Options).classes
        and read_options({}, {"classes": "true"}, Options).classes
    )
    now = read_options({"at": "now"}, {}, Options).at
    assert now is not None and abs((datetime.now(UTC) - now).total_seconds()) < 60


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"quantile": 0.5}, "there is no option 'quantile'"),
        ({"quantiles": 0.5}, "quantiles must be a list"),
        ({"quantiles": [0.5] * 21}, "quantiles must be a list of at most 20"),
        ({"quantiles": [1.0]}, "quantiles must lie between"),
        ({"quantiles": ["x"]}, "quantiles must lie between"),
        ({"quantiles": [True]}, "quantiles must lie between"),
        ({"quantiles": "0.5,,"}, "quantiles must lie between"),
        ({"classes": 1}, "classes must be true or false"),
        ({"coverage": 0}, "coverage must lie between"),
        ({"coverage": None}, "coverage must lie between"),
        ({"coverage": [0.9]}, "coverage must lie between"),
        ({"at": "soon"}, "at is no time"),
        (
            {"at": "2999-01-01T00:00:00Z"},
            "at is no time to ask the history of: at is in the future",
        ),
    ],
)
def test_a_wrong_option_is_refused_with_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HTTPError) as caught:
        read_options(options, {}, Options)
    assert caught.value.status == 422
    assert caught.value.message.startswith(sentence)


def test_an_option_is_given_once() -> None:
    with pytest.raises(HTTPError, match="given twice"):
        read_options({"coverage": 0.8}, {"coverage": "0.8"}, Options)


def test_a_finished_job_gets_what_its_record_implies() -> None:
    reported = read_outcomes(rows(ENDED), NOW)
    assert not reported.rejected
    assert reported.jobs["ended_at"].tolist() == [datetime(2026, 2, 1, 0, 2, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"job_id": None}, "job_id is missing"),
        ({"submitted_at": None}, "submitted_at is missing"),
        ({"walltime": None}, "this is no finished job"),
        ({"status": "running"}, "this is no finished job"),
        ({"status": "done"}, "this is no finished job"),
        ({"walltime": -60}, "walltime is -60"),
        ({"walltime": "60"}, "walltime is text, not a number"),
        ({"started_at": "2026-01-01T00:00:00Z"}, "ended_at is before submitted_at"),
        ({"submitted_at": "2999-01-01T00:00:00Z"}, "submitted_at is in the future"),
        ({"status": 5}, "status is a number, not text"),
    ],
)
def test_a_job_that_cannot_be_true_is_rejected_and_the_others_are_kept(
    change: dict[str, Any], reason: str
) -> None:
    reported = read_outcomes(
        rows(ENDED, ENDED | {"job_id": "2"} | change, ENDED | {"job_id": "3"}), NOW
    )
    assert reported.jobs["job_id"].tolist() == ["1", "3"]
    assert [row["index"] for row in reported.rejected] == [1]
    assert reported.rejected[0]["reason"].startswith(reason)


def test_no_jobs_are_no_outcomes() -> None:
    reported = read_outcomes(rows(), NOW)
    assert len(reported.jobs) == 0
    assert reported.rejected == []


def test_a_job_that_says_nothing_of_its_status_is_finished_for_an_unknown_reason() -> None:
    assert read_outcomes(rows({k: v for k, v in ENDED.items() if k != "status"}), NOW).jobs[
        "status"
    ].tolist() == ["unknown"]


@pytest.mark.parametrize(
    ("optional", "reason"),
    [
        ({"requested_memory": -5}, "requested_memory is -5, not between"),
        ({"requested_cores": "four"}, "requested_cores is text, not a number"),
        ({"user": "x" * 600}, "user is longer than 512 bytes"),
        ({"peak_memory": 1e30}, "peak_memory is 1e+30, not between"),
    ],
)
def test_one_bad_optional_field_discards_no_true_outcome(
    optional: dict[str, Any], reason: str
) -> None:
    reported = read_outcomes(rows(ENDED | optional, ENDED | {"job_id": "2"}), NOW)
    assert reported.rejected == []
    assert [note["index"] for note in reported.left_out] == [0]
    assert reason in reported.left_out[0]["reason"]
    assert reported.jobs["walltime"].tolist() == [60, 60]
    assert reported.jobs[next(iter(optional))].isna().tolist() == [True, True]


@pytest.mark.parametrize("bad", [{"job_id": ""}, {"submitted_at": "soon"}, {"source": "a\0b"}])
def test_a_bad_essential_field_rejects_the_outcome(bad: dict[str, Any]) -> None:
    reported = read_outcomes(rows(ENDED | bad, ENDED | {"job_id": "2"}), NOW)
    assert [reject["index"] for reject in reported.rejected] == [0]
    assert reported.jobs["job_id"].tolist() == ["2"]


IDS = ("job_id", "task_id", "after_task_id", "request_id")


def test_whole_numbers_are_ids_in_every_form() -> None:
    numbers = dict.fromkeys(IDS, 123) | {"source": "grid"}
    for body in ({"jobs": [numbers]}, {"columns": {name: [v] for name, v in numbers.items()}}):
        jobs = read_jobs_to_predict(read_json(orjson.dumps(body)), NOW).jobs
        assert [jobs[name].to_pylist() for name in IDS] == [["123"]] * 4
    for kind in (pa.int64(), pa.uint8(), pa.int32()):
        columns = {name: pa.array([0, None], kind) for name in IDS if name != "job_id"}
        columns |= {"job_id": pa.array([7, 12], kind), "source": pa.array(["grid"] * 2)}
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, pa.table(columns).schema) as stream:
            stream.write_table(pa.table(columns))
        jobs = read_jobs_to_predict(read_arrow(sink.getvalue().to_pybytes()), NOW).jobs
        assert jobs["job_id"].to_pylist() == ["7", "12"]
        assert [jobs[name].to_pylist() for name in IDS[1:]] == [["0", None]] * 3


def test_whole_numbers_are_ids_of_outcomes_tasks_and_candidates() -> None:
    reported = read_outcomes(rows(ENDED | {"job_id": 2**63, "task_id": 0}), NOW)
    assert (reported.jobs["job_id"].item(), reported.jobs["task_id"].item()) == (str(2**63), "0")
    task = read_task(orjson.dumps({"task": {"source": "grid", "task_id": 5}, "jobs": 3}))
    assert task.job.jobs["task_id"].to_pylist() == ["5"]
    jobs = [{"job_id": number, "candidates": [{"site": "x"}]} for number in (1, 0)]
    ranked = read_rank(JSON_TYPE, orjson.dumps({"jobs": jobs}), {}).candidates
    assert ranked.job.values == ["1", "0"]


@pytest.mark.parametrize("value", [1.5, 2.0, True, ["1"]])
def test_no_other_value_is_an_id(value: Any) -> None:
    with pytest.raises(HTTPError, match=r"job 0: job_id is .*, not text or a whole number"):
        read_jobs_to_predict(rows({"job_id": value, "source": "grid"}), NOW)
    jobs = [{"job_id": value, "candidates": [{"site": "x"}]}]
    with pytest.raises(HTTPError, match=r"job 0: job_id is .*, not text or a whole number"):
        read_rank(JSON_TYPE, orjson.dumps({"jobs": jobs}), {})


def test_a_status_is_one_of_the_documented_ones() -> None:
    job = {"job_id": "1", "source": "grid"}
    statuses = describe()["components"]["schemas"]["JobToPredict"]["properties"]["status"]
    (documented,) = (kind["enum"] for kind in statuses["anyOf"] if "enum" in kind)
    for status in (*documented, None):
        read_jobs_to_predict(rows(job | {"status": status}), NOW)
    with pytest.raises(HTTPError, match="job 1: status is none of") as caught:
        read_jobs_to_predict(rows(job, job | {"status": "done"}), NOW)
    assert caught.value.status == 422
