"""The predictor as a broker meets it: a real BentoML server on a real store and a real registry."""

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import orjson
import pandas as pd
import pyarrow as pa
import pytest

from jobs.schema import COLUMNS
from services.http.contract import ARROW_TYPE, JSON_TYPE
from tests.services.conftest import Predictor, stored, wait_for

Rows = list[dict[str, Any]]


def post(
    predictor: Predictor, path: str, body: object, kind: str = JSON_TYPE, **query: Any
) -> httpx.Response:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return predictor.http.post(path, content=content, headers={"Content-Type": kind}, params=query)


def arrow(rows: Rows) -> bytes:
    names = sorted({name for row in rows for name in row})
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    times = [
        name for name in ("submitted_at", "started_at", "ended_at") if name in table.column_names
    ]
    for name in times:
        table = table.set_column(
            table.schema.get_field_index(name), name, table[name].cast(pa.timestamp("us", "UTC"))
        )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def read_arrow(response: httpx.Response) -> pa.Table:
    with pa.ipc.open_stream(response.content) as stream:
        return stream.read_all()


def test_a_job_is_answered_with_values_ranges_and_who_answered(
    predictor: Predictor, waiting: Rows
) -> None:
    answer = post(predictor, "/predict", {"jobs": waiting[:3]}).json()
    assert [row["job_id"] for row in answer["rows"]] == [job["job_id"] for job in waiting[:3]]
    for row in answer["rows"]:
        for target in ("walltime", "peak_memory"):
            assert 0 <= row[f"{target}_low"] <= row[f"{target}_median"] <= row[f"{target}_high"]
            assert row[f"{target}_high"] <= row[f"{target}_kill_limit"]
            assert row[target] > 0 and row[f"{target}_mean"] > 0 and row[f"{target}_sd"] >= 0
        assert row["walltime_high"] <= row["walltime_allocation"] <= row["walltime_kill_limit"]
        assert (
            0
            < row["peak_memory_allocation"]
            <= row["peak_memory_allocation_2"]
            <= row["peak_memory_allocation_3"]
        )
        assert 0 <= row["peak_memory_risk"] < 0.5
        assert row["model_version"] == answer["model_version"] == "gridcast-1"
        assert row["cold_start"] is False


def test_rows_columns_and_arrow_give_equal_answers(predictor: Predictor, waiting: Rows) -> None:
    names = sorted({name for job in waiting for name in job})
    options = {"quantiles": [0.5, 0.99], "coverage": 0.8, "classes": True}
    rows = post(predictor, "/predict", {"jobs": waiting, **options}).json()
    columns = post(
        predictor,
        "/predict",
        {"columns": {name: [job.get(name) for job in waiting] for name in names}, **options},
    ).json()
    table = read_arrow(
        post(
            predictor,
            "/predict",
            arrow(waiting),
            ARROW_TYPE,
            quantiles="0.5,0.99",
            coverage=0.8,
            classes="true",
        )
    )
    assert len(rows["rows"]) == len(waiting)
    assert {"walltime_q0.5", "walltime_q0.99", "walltime_low"} <= set(rows["rows"][0])
    assert {row["walltime_class"] for row in rows["rows"]} <= {1, 2, 3, 4, 5}
    assert all(0.2 <= row["walltime_class_probability"] <= 1 for row in rows["rows"])
    assert columns["columns"] == {
        name: [row[name] for row in rows["rows"]] for name in rows["rows"][0]
    }
    for by_arrow, by_json in zip(table.to_pylist(), rows["rows"], strict=True):
        assert by_arrow == by_json


def test_what_to_set_aside_and_where_to_stop_a_job_stay_within_its_request(
    predictor: Predictor, waiting: Rows
) -> None:
    for row, job in zip(
        post(predictor, "/predict", {"jobs": waiting, "coverage": 0.5}).json()["rows"],
        waiting,
        strict=True,
    ):
        assert (
            row["walltime_high"]
            <= row["walltime_allocation"]
            <= row["walltime_kill_limit"]
            <= job.get("requested_walltime", 1e9)
        )


def test_a_narrower_coverage_gives_a_narrower_range_and_ninety_percent_is_the_default(
    predictor: Predictor, waiting: Rows
) -> None:
    def width(**options: Any) -> float:
        answer = post(predictor, "/predict", {"jobs": waiting, **options}).json()
        assert "walltime_q0.25" not in answer["rows"][0]
        return sum(row["walltime_high"] - row["walltime_low"] for row in answer["rows"])

    assert width(coverage=0.5) < width() == width(coverage=0.9) < width(coverage=0.98)


def test_an_unknown_user_site_and_program_get_a_wider_range_and_a_flag(
    predictor: Predictor, waiting: Rows
) -> None:
    usual = waiting[0]
    strange = usual | {
        "job_id": "strange",
        "user": "nobody",
        "group": "none",
        "site": "nowhere",
        "program": "new",
        "project": "x",
        "job_name": "y",
    }
    first, second = post(predictor, "/predict", {"jobs": [usual, strange]}).json()["rows"]
    assert (first["cold_start"], second["cold_start"]) == (False, True)
    assert (
        second["walltime_high"] / second["walltime_low"]
        > first["walltime_high"] / first["walltime_low"]
    )


def test_the_outcome_of_a_job_that_is_asked_about_changes_nothing(
    predictor: Predictor, waiting: Rows, finished: Rows
) -> None:
    plain = post(predictor, "/predict", {"jobs": waiting[:50]}).json()
    leaking = post(predictor, "/predict", {"jobs": finished[:50]}).json()
    assert leaking["rows"] == plain["rows"]
    assert {"walltime", "ended_at"} <= set(leaking["unread"])


@pytest.mark.parametrize("body", [{"jobs": []}, {"columns": {"job_id": [], "source": []}}])
def test_no_jobs_are_answered_by_no_predictions(predictor: Predictor, body: dict[str, Any]) -> None:
    response = post(predictor, "/predict", body)
    assert response.status_code == 200
    answer = response.json()
    assert answer["rows"] == [] if "jobs" in body else not any(answer["columns"].values())


@pytest.mark.parametrize(
    ("body", "kind", "status", "sentence"),
    [
        (b"{", JSON_TYPE, 400, "not JSON"),
        (b"[" * 1_000_000, JSON_TYPE, 400, "not JSON"),
        ({"jobs": [{"job_id": "1"}]}, JSON_TYPE, 422, "job 0: source is missing"),
        (
            {"jobs": [{"job_id": "1", "source": "x", "requested_cores": -3}]},
            JSON_TYPE,
            422,
            "job 0: requested_cores is -3",
        ),
        (
            {"jobs": [{"job_id": "1", "source": "x", "nope": 1}]},
            JSON_TYPE,
            422,
            "job 0: there is no field 'nope'",
        ),
        (
            {"columns": {"job_id": ["1"], "submitted_at": ["2026-01-01"]}},
            JSON_TYPE,
            422,
            "the column source is missing",
        ),
        ({"jobs": [{}] * 100_001}, JSON_TYPE, 413, "more than 100000 jobs"),
        (b" " * (33 * 2**20), JSON_TYPE, 413, "larger than 32 MiB"),
        ({"jobs": []}, "text/plain", 415, "content type"),
        (b"cos\nsystem\n(S'touch /tmp/owned'\ntR.", "application/x-pickle", 415, "content type"),
        (b"--x\r\n" * 1000, "multipart/form-data; boundary=x", 415, "content type"),
        (b"nonsense", ARROW_TYPE, 400, "not a valid Arrow stream"),
    ],
)
def test_a_bad_request_is_refused_with_one_sentence(
    predictor: Predictor, body: object, kind: str, status: int, sentence: str
) -> None:
    for path in ("/predict", "/outcomes"):
        response = post(predictor, path, body, kind)
        if path == "/outcomes" and "job 0" in sentence and "nope" not in sentence:
            assert (
                response.json()["rejected"][0]["index"] == 0
            )  # a bad finished job is rejected by itself
            continue
        assert response.status_code == status
        assert sentence in response.json()["error"]


def test_a_hundred_megabytes_whose_size_is_not_told_are_refused_before_they_are_all_read(
    predictor: Predictor,
) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1600):
            sent += 65536
            yield b" " * 65536

    before = predictor.worker().memory_info().rss
    with contextlib.suppress(httpx.WriteError):  # refused and closed while we were still sending
        assert (
            predictor.http.post(
                "/predict", content=endless(), headers={"Content-Type": JSON_TYPE}
            ).status_code
            == 413
        )
    assert sent < 50 * 2**20
    assert predictor.worker().memory_info().rss - before < 100 * 2**20


def test_compressed_bodies_are_refused(predictor: Predictor) -> None:
    response = predictor.http.post(
        "/predict", content=b"x", headers={"Content-Type": JSON_TYPE, "Content-Encoding": "gzip"}
    )
    assert response.status_code == 415


def test_mutated_streams_never_break_the_worker(predictor: Predictor, waiting: Rows) -> None:
    body, worker = arrow(waiting[:20]), predictor.worker().pid
    statuses = set()
    for index in range(0, len(body), len(body) // 150):
        mutant = body[:index] + bytes([body[index] ^ 0xFF]) + body[index + 1 :]
        statuses.add(post(predictor, "/predict", mutant, ARROW_TYPE).status_code)
    assert statuses <= {200, 400, 413, 422}
    assert len(statuses) > 1
    assert predictor.worker().pid == worker


def test_finished_jobs_are_stored_before_yes_and_change_the_next_answer(
    predictor: Predictor, waiting: Rows, finished: Rows
) -> None:
    new = [
        job | {"job_id": f"new-{index}", "user": "newcomer", "program": "fresh", "walltime": 777.0}
        for index, job in enumerate(finished[:12])
    ]
    for job in new:
        del job["ended_at"]
    ask = {"jobs": [waiting[0] | {"user": "newcomer", "program": "fresh"}], "at": "now"}
    before = post(predictor, "/predict", ask).json()["rows"][0]
    first = post(predictor, "/outcomes", {"jobs": new}).json()
    after = post(predictor, "/predict", ask).json()["rows"][0]
    again = post(predictor, "/outcomes", arrow(new), ARROW_TYPE).json()
    assert first == {"added": 12, "updated": 0, "unchanged": 0, "rejected": []}
    assert again == {"added": 0, "updated": 0, "unchanged": 12, "rejected": []}
    assert set(stored(predictor)["job_id"]) >= {job["job_id"] for job in new}
    assert (before["cold_start"], after["cold_start"]) == (True, False)
    assert abs(after["walltime"] - 777) < abs(before["walltime"] - 777)
    assert after == post(predictor, "/predict", ask).json()["rows"][0]


def test_an_earlier_run_that_is_reported_is_kept_as_an_attempt(
    predictor: Predictor, finished: Rows
) -> None:
    from jobs.store import open_store, read_attempts

    last = finished[22] | {"job_id": "run twice", "status": "completed"}
    times = {name: pd.Timestamp(last[name]) for name in ("submitted_at", "started_at", "ended_at")}
    earlier = {name: str(time - pd.Timedelta(days=2)) for name, time in times.items()}
    lost = last | earlier | {"status": "out_of_memory", "requested_memory": 7e9}
    for job in (last, lost, lost):
        post(predictor, "/outcomes", {"jobs": [job]})
    jobs = stored(predictor)
    jobs = jobs[jobs["job_id"] == "run twice"]
    assert jobs["status"].tolist() == ["completed"]
    engine = open_store(predictor.settings.store_url)
    attempts = read_attempts(engine, jobs)
    engine.dispose()
    assert attempts[["status", "requested_memory"]].values.tolist() == [["out_of_memory", 7e9]]
    assert attempts["ended_at"].tolist() == [pd.Timestamp(earlier["ended_at"])]


def test_impossible_outcomes_are_named_and_the_others_kept(
    predictor: Predictor, finished: Rows
) -> None:
    good = finished[20] | {"job_id": "good"}
    answer = post(
        predictor,
        "/outcomes",
        {"jobs": [good | {"walltime": -1, "ended_at": None}, good, {"job_id": "odd"}]},
    ).json()
    assert answer["added"] == 1
    assert [row["index"] for row in answer["rejected"]] == [0, 2]
    assert answer["rejected"][0]["reason"].startswith("walltime is -1")


def test_an_outcome_with_a_bad_optional_field_is_kept_and_says_what_was_left_out(
    predictor: Predictor, finished: Rows
) -> None:
    job = finished[21] | {"job_id": "bad memory", "peak_memory": -5}
    answer = post(predictor, "/outcomes", {"jobs": [job]}).json()
    assert (answer["added"], answer["rejected"]) == (1, [])
    assert [row["index"] for row in answer["left_out"]] == [0]
    assert answer["left_out"][0]["reason"].startswith("peak_memory is -5")


def test_candidates_are_ranked_alike_by_both_doors(predictor: Predictor, finished: Rows) -> None:
    sites = list(dict.fromkeys(job["site"] for job in finished))[:3]
    jobs = [
        {
            "job_id": "a",
            "user": finished[0]["user"],
            "candidates": [{"site": site} for site in sites],
        }
    ]
    response = predictor.http.post("/rank", json={"jobs": jobs})
    assert response.status_code == 200, response.text
    rows = response.json()["rows"]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert {row["site"] for row in rows} == set(sites)
    assert all(row["total_low"] <= row["total_median"] <= row["total_high"] for row in rows)
    flat = [{"job_id": "a", "user": finished[0]["user"], "site": site} for site in sites]
    table = read_arrow(post(predictor, "/rank", arrow(flat), ARROW_TYPE))
    assert table["site"].to_pylist() == [row["site"] for row in rows]


def test_a_pilot_gets_the_jobs_that_end_in_its_time(predictor: Predictor, waiting: Rows) -> None:
    jobs = [
        {
            **job,
            "requested_cores": 1 + number % 3,
            "submitted_at": f"2026-11-01T{number % 24:02}:00",
        }
        for number, job in enumerate(waiting)
    ]
    slot = {"cores": 8, "memory": 64e9, "policy": "gain"}
    answers = [
        predictor.http.post("/match", json={"jobs": jobs, **slot, "seconds_left": seconds}).json()
        for seconds in (600, 6_000, 60_000)
    ]
    ends = [{row["job_id"]: row["p_ends"] for row in answer["rows"]} for answer in answers]
    for sooner, later in pairwise(ends):
        assert all(later[job] >= sooner[job] for job in sooner)
    assert sum(ends[2].values()) > sum(ends[0].values()) + 1
    cores = {job["job_id"]: job["requested_cores"] for job in jobs}
    for answer in answers:
        chosen = sum(row["chosen"] * cores[row["job_id"]] for row in answer["rows"])
        assert chosen == answer["cores_chosen"] <= 8
        assert answer["gain_of_choice"] <= answer["gain_bound"]
    assert answers[2]["cores_chosen"] == 8
    kinds = [
        {"job_id": job["job_id"], "source": "grid", "user": job["user"], "count": 2} for job in jobs
    ]
    options = {"cores": 4, "seconds_left": 6000, "at": "2026-11-02T00:00:00Z"}
    columns = {name: [kind[name] for kind in kinds] for name in kinds[0]}
    by_columns = post(predictor, "/match", {"columns": columns, **options}).json()["columns"]
    table = read_arrow(post(predictor, "/match", arrow(kinds), ARROW_TYPE, **options))
    assert {name: table[name].to_pylist() for name in table.column_names} == by_columns


def test_a_running_job_ends_within_a_time_with_the_probability_of_what_is_left(
    predictor: Predictor, waiting: Rows
) -> None:
    job, at = waiting[0], datetime(2026, 11, 2, tzinfo=UTC)
    body = {"at": at.isoformat(), "within": 5000, "keep": False}
    started = (at - timedelta(seconds=4000)).isoformat()
    jobs = [job, {**job, "job_id": "runs", "started_at": started}]
    answer = predictor.http.post("/predict", json={"jobs": jobs, **body}).json()
    fresh, running = (row["walltime_within"] for row in answer["rows"])
    before = predictor.http.post("/predict", json={"jobs": jobs[:1], **body, "within": 4000}).json()
    so_far = before["rows"][0]["walltime_within"]
    assert 0 < so_far < fresh < 1
    assert running == pytest.approx((fresh - so_far) / (1 - so_far), abs=1e-6)
    assert "started_at" not in answer["unread"]


def test_the_model_endpoint_tells_what_answers_and_on_what_history(predictor: Predictor) -> None:
    model = predictor.http.get("/model").json()
    assert model["model_version"] == "gridcast-1"
    assert model["state"] == "serving"
    assert model["troubles"] == {}
    assert model["card"]["rows"] == 1200
    assert {"window", "clusters"} <= set(model["card"])
    assert model["history"]["jobs"] >= 1200


def test_liveness_readiness_documents_and_page_answer_without_the_network(
    predictor: Predictor,
) -> None:
    for path in ("/livez", "/readyz", "/model", "/metrics", "/docs.json", "/openapi.json", "/"):
        assert predictor.http.get(path).status_code == 200, path
    page = predictor.http.get("/").text
    assert "http://" not in page and "https://" not in page
    for asset in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert f"./static_content/{asset}" in page
        assert predictor.http.get(f"/static_content/{asset}").status_code == 200
    document = predictor.http.get("/docs.json").json()
    assert set(document["components"]["schemas"]["JobToPredict"]["properties"]) == set(COLUMNS)


def test_metrics_count_what_was_asked_and_name_no_job_or_user(
    predictor: Predictor, waiting: Rows
) -> None:
    post(predictor, "/predict", {"jobs": waiting[:5]})
    predictor.http.get("/no-such-page")
    text = predictor.http.get("/metrics").text
    for name in (
        "gridcast_requests_total",
        "gridcast_jobs_total",
        "gridcast_request_duration_seconds_bucket",
        "gridcast_history_jobs",
    ):
        assert name in text
    for private in (*{job["user"] for job in waiting}, waiting[0]["job_id"], "no-such-page"):
        assert f'"{private}"' not in text


def test_every_answer_is_recorded_for_joining_with_its_outcome(
    predictor: Predictor, waiting: Rows
) -> None:
    from jobs.store import open_store, read_predictions

    ask = [job | {"job_id": f"logged-{index}"} for index, job in enumerate(waiting[:10])]
    answer = post(predictor, "/predict", {"jobs": ask, "coverage": 0.5}).json()
    engine = open_store(predictor.settings.store_url)

    def recorded() -> Any:
        rows = read_predictions(engine)
        rows = rows[rows["job_id"].str.startswith("logged-")]
        return rows.to_dict("records") if len(rows) == 20 else None

    rows = {(row["job_id"], row["target"]): row for row in wait_for(recorded, "the prediction log")}
    engine.dispose()
    for row in answer["rows"]:
        logged = rows[row["job_id"], "walltime"]
        assert logged["point"] == row["walltime"]
        assert (
            logged["low"] <= row["walltime_low"]
        )  # the log holds the 90 % range, whatever was asked for
        assert logged["model_version"] == "gridcast-1"
        assert logged["known_revision"] >= 1  # what the history held by then


def test_a_foreign_host_or_origin_is_refused(predictor: Predictor) -> None:
    assert predictor.http.get("/model", headers={"Host": "evil.example"}).status_code == 400
    assert (
        predictor.http.get("/model", headers={"Origin": "https://evil.example"}).status_code == 403
    )
    assert predictor.http.get("/model", headers={"Origin": predictor.url}).status_code == 200


def test_what_is_asked_stays_out_of_the_log(predictor: Predictor, waiting: Rows) -> None:
    post(predictor, "/predict", {"jobs": [waiting[0] | {"user": "zaphod-the-secret"}]})
    post(
        predictor, "/predict", {"jobs": [waiting[0] | {"user": "zaphod-the-secret", "events": -1}]}
    )
    post(predictor, "/outcomes", {"jobs": [waiting[0] | {"user": "zaphod-the-secret"}]})
    assert "zaphod" not in predictor.log.read_text()


def test_a_refused_request_is_told_of_in_the_log_under_the_id_that_its_caller_got(
    predictor: Predictor, waiting: Rows
) -> None:
    named = {"Content-Type": JSON_TYPE, "X-Request-ID": "broker-7.42"}
    response = predictor.http.post(
        "/predict", content=orjson.dumps({"jobs": [waiting[0] | {"events": -1}]}), headers=named
    )
    assert (response.status_code, response.headers["X-Request-ID"]) == (422, "broker-7.42")
    line = next(line for line in predictor.log.read_text().splitlines() if "broker-7.42" in line)
    logged = orjson.loads(line[line.index("{") : line.rindex("}") + 1])
    assert logged.pop("ms") > 0
    assert logged == {
        "request_id": "broker-7.42",
        "endpoint": "predict",
        "door": "json",
        "status": 422,
        "jobs": 0,
    }


def test_many_callers_at_once_get_the_answers_that_one_would(
    predictor: Predictor, waiting: Rows
) -> None:
    batches = [waiting[index : index + 40] for index in range(0, 400, 40)]
    alone = [post(predictor, "/predict", {"jobs": batch}).json()["rows"] for batch in batches]
    together: list[Any] = [None] * len(batches)

    def ask(index: int) -> None:
        with httpx.Client(base_url=predictor.url, trust_env=False, timeout=60) as http:
            together[index] = http.post("/predict", json={"jobs": batches[index]}).json()["rows"]

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
