"""A router before real shards answers as one predictor does, or refuses as one does."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from pydantic import SecretStr

from infra.shards import shard_of_slots, slot_of
from services.client import ARROW_TYPE, JSON_TYPE
from tests.services.conftest import wait_for
from tests.services.router.conftest import (
    COUNT,
    READER,
    TOKEN,
    Servers,
    Shards,
    client_of,
    ring_text,
)

Body = dict[str, Any]


def shard_of(row: Body) -> int:
    return int(shard_of_slots(COUNT)[slot_of(row.get("user") or "")])


def columns_of(rows: list[Body]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def arrow_of(rows: list[Body]) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({name: pa.array(values) for name, values in columns_of(rows).items()})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def read_arrow(response: httpx.Response) -> tuple[list[Body], Any, list[Any]]:
    table = pa.ipc.open_stream(response.content).read_all()
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    return table.to_pylist(), about, [(field.name, field.type) for field in table.schema]


@pytest.fixture(scope="module")
def rows(waiting: list[Body]) -> list[Body]:
    """Jobs of users of both shards, of which some name no user; with labels and a null."""
    rows = [dict(row) for row in waiting[::6][:60]]
    for index in range(0, 60, 7):
        del rows[index]["user"]
    for index in range(1, 60, 4):
        rows[index]["user"] = f"zoë {index}"  # without a history
    rows[3]["user"] = None
    rows[5]["labels"] = {"campaign": 'ü, "1"'}
    assert {shard_of(row) for row in rows} == {1, 2}
    return rows


def both(servers: Servers, path: str, body: Body, **query: Any) -> list[httpx.Response]:
    return [client.post(path, json=body, params=query) for client in (servers.router, servers.one)]


@pytest.mark.parametrize("form", ["jobs", "columns"])
def test_the_answer_is_that_of_one_predictor(servers: Servers, rows: list[Body], form: str) -> None:
    jobs = rows if form == "jobs" else columns_of(rows)
    body = {form: jobs, "quantiles": [0.25], "coverage": 0.8, "classes": True, "within": 3600}
    routed, alone = both(servers, "/predict", body)
    assert alone.status_code == 200, alone.text
    assert (routed.status_code, routed.json()) == (200, alone.json())
    assert list(routed.json()) == list(alone.json())
    assert routed.headers["content-type"] == alone.headers["content-type"]


def test_the_answer_to_an_arrow_stream_is_that_of_one_predictor(
    servers: Servers, rows: list[Body]
) -> None:
    plain = [{name: value for name, value in row.items() if name != "labels"} for row in rows]
    routed, alone = (
        client.post(
            "/predict",
            content=arrow_of(plain),
            params={"quantiles": "0.1,0.5"},
            headers={"Content-Type": ARROW_TYPE},
        )
        for client in (servers.router, servers.one)
    )
    assert alone.status_code == 200, alone.text
    assert read_arrow(routed) == read_arrow(alone)


def test_explanations_are_in_the_order_of_the_jobs(servers: Servers, rows: list[Body]) -> None:
    routed, alone = both(servers, "/predict", {"jobs": rows[:12], "explain": True, "keep": False})
    names = [[item["job_id"] for item in answer.json()["rows"]] for answer in (routed, alone)]
    assert names[0] == names[1] == [row["job_id"] for row in rows[:12]]
    targets = [
        [sorted(item) for item in answer.json()["explanations"]] for answer in (routed, alone)
    ]
    assert targets[0] == targets[1]
    # A hundred a call, not a shard.
    routed, alone = both(servers, "/predict", {"jobs": rows * 2, "explain": True})
    assert (routed.status_code, routed.json()) == (422, alone.json())


def test_jobs_are_ranked_as_by_one_predictor(servers: Servers, rows: list[Body]) -> None:
    sites = sorted({row["site"] for row in rows})
    fields = ("job_id", "source", "user", "requested_walltime", "submitted_at")
    jobs: list[Body] = []
    for index, row in enumerate(rows[:20]):
        job = {name: row[name] for name in fields if name in row}
        job["candidates"] = [{"site": site} for site in sites[: 1 + index % 3]]
        jobs.append(job)
    del jobs[4]["job_id"]
    jobs[9]["candidates"][0]["deadline"] = 4000.0
    at = rows[0]["submitted_at"]
    routed, alone = both(servers, "/rank", {"jobs": jobs, "at": at})
    assert alone.status_code == 200, alone.text
    assert (routed.status_code, routed.json()) == (200, alone.json())
    assert [list(row) for row in routed.json()["rows"]] == [
        list(row) for row in alone.json()["rows"]
    ]
    table = [
        {**{name: job.get(name) for name in fields}, "job_id": str(index), **candidate}
        for index, job in enumerate(jobs)
        for candidate in job["candidates"]
    ]
    routed, alone = (
        client.post(
            "/rank",
            content=arrow_of([*table[1::2], *table[::2]]),  # candidates of a job are apart
            params={"at": at},
            headers={"Content-Type": ARROW_TYPE},
        )
        for client in (servers.router, servers.one)
    )
    assert alone.status_code == 200, alone.text
    assert read_arrow(routed) == read_arrow(alone)


def test_a_task_and_waiting_jobs_of_one_shard_are_answered_by_it(
    servers: Servers, rows: list[Body]
) -> None:
    task = {"source": rows[1]["source"], "user": rows[1]["user"], "requested_walltime": 3600}
    at = rows[0]["submitted_at"]
    routed, alone = both(servers, "/task", {"task": task, "jobs": 10, "at": at})
    assert alone.status_code == 200
    assert routed.json() == alone.json()
    slot = {"cores": 8, "seconds_left": 7200, "at": at}
    own = [row for row in rows if shard_of(row) == 2]
    routed, alone = both(servers, "/match", {"jobs": own, **slot})
    assert alone.status_code == 200
    assert (routed.status_code, routed.json()) == (200, alone.json())


@pytest.mark.parametrize("form", ["jobs", "columns", "arrow"])
@pytest.mark.parametrize("policy", ["alice", "gain"])
def test_waiting_jobs_of_all_shards_are_chosen_for_a_slot_as_by_one_predictor(
    servers: Servers, rows: list[Body], form: str, policy: str
) -> None:
    waiting = [
        {name: value for name, value in row.items() if name != "labels"}
        | {"count": 1 + index % 3, "priority": index % 5, "ran": 600.0 * (index % 2)}
        | {"requested_memory": 1e9 if index % 4 else None, "requested_cores": 1 + index % 2}
        for index, row in enumerate(rows)
    ]
    slot: Body = {
        "cores": 24,
        "seconds_left": 5 * 3600,
        "memory": 3e10,
        "policy": policy,
        "risk": 0.3,
    }
    slot["at"] = rows[-1]["submitted_at"]
    if form == "arrow":
        routed, alone = (
            client.post(
                "/match",
                content=arrow_of(waiting),
                params=slot,
                headers={"Content-Type": ARROW_TYPE},
            )
            for client in (servers.router, servers.one)
        )
        assert alone.status_code == 200, alone.text
        assert read_arrow(routed) == read_arrow(alone)
        return
    body = {form: waiting if form == "jobs" else columns_of(waiting), **slot}
    routed, alone = both(servers, "/match", body)
    assert alone.status_code == 200, alone.text
    assert (routed.status_code, routed.json()) == (200, alone.json())
    assert list(routed.json()) == list(alone.json())
    chosen = alone.json()["rows" if form == "jobs" else "columns"]
    counts = [row["chosen"] for row in chosen] if form == "jobs" else chosen["chosen"]
    assert sum(counts) > 1
    assert alone.json()["cores_chosen"] <= 24


def test_waiting_jobs_of_all_shards_are_refused_as_by_one_predictor(
    servers: Servers, rows: list[Body]
) -> None:
    slot = {"cores": 8, "seconds_left": 7200}
    # Without a time of the caller's, every shard predicts as of the router's.
    routed, alone = both(servers, "/match", {"jobs": rows, **slot})
    assert routed.status_code == alone.status_code == 200
    assert len(routed.json()["rows"]) == len(rows)
    for wrong in ({"policy": "luck"}, {"cores": 0}, {"jobs": [*rows, {"job_id": "x"}]}):
        routed, alone = both(servers, "/match", {"jobs": rows, **slot, **wrong})
        assert alone.status_code == 422
        assert (routed.status_code, routed.json()) == (422, alone.json())
    # What the router asks the shards is for callers of a predictor's token only.
    assert servers.router.post("/outlook", json={"jobs": rows, **slot}).status_code == 404
    own = {"jobs": [row for row in rows if shard_of(row) == 1], **slot}
    with client_of(servers.addresses[0], "") as stranger:
        assert stranger.post("/outlook", json=own).status_code == 401
    with client_of(servers.addresses[0]) as caller:
        assert caller.post("/outlook", json=own).headers["content-type"] == ARROW_TYPE
        assert caller.post("/outlook", json={"jobs": rows, **slot}).status_code == 421
        assert "/outlook" not in caller.get("/docs.json").json()["paths"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: rows[41].update(requested_walltime=-1),
        lambda rows: rows[41].update(requested_walltime="much"),
        lambda rows: rows[41].update(user=7),
        lambda rows: rows[41].update(usr="x"),
        lambda rows: rows[41].pop("source"),
        lambda rows: rows.__setitem__(41, 3),
        lambda rows: rows.extend(rows * 2000),
    ],
)
def test_a_refusal_is_that_of_one_predictor(
    servers: Servers, rows: list[Body], spoil: Callable[[list[Body]], None]
) -> None:
    spoilt = [dict(row) for row in rows]
    spoil(spoilt)
    routed, alone = both(servers, "/predict", {"jobs": spoilt})
    assert alone.status_code in (413, 422)
    assert (routed.status_code, routed.json()) == (alone.status_code, alone.json())
    routed, alone = both(servers, "/predict", {"jobs": rows, "coverage": 7})
    assert (routed.status_code, routed.json()) == (422, alone.json())
    routed, alone = (
        client.post("/predict", content=b"{", headers={"Content-Type": JSON_TYPE})
        for client in (servers.router, servers.one)
    )
    assert (routed.status_code, routed.json()) == (400, alone.json())


def test_a_job_of_others_is_named_by_its_position_in_the_whole_call(
    servers: Servers, rows: list[Body], cluster: Shards
) -> None:
    bound, owner = "a-token-of-one-owner", rows[2]["user"]
    own = [row for row in rows if row.get("user") == owner]
    stranger = next(row for row in rows if shard_of(row) != shard_of(own[0]))
    settings = cluster.settings.model_copy(
        update={"tokens": SecretStr(f"{TOKEN}:predict,{bound}:predict+user={owner}")}
    )
    bounded = Shards(settings, cluster.one, cluster.shards)
    with ExitStack() as stack:
        addresses = [stack.enter_context(bounded.served(live)) for live in cluster.shards]
        router = stack.enter_context(bounded.router(ring_text(addresses)))
        caller = stack.enter_context(client_of(str(router.base_url), bound))
        assert caller.post("/predict", json={"jobs": own}).status_code == 200
        refused = caller.post("/predict", json={"jobs": [*own, stranger]})
        assert refused.status_code == 403
        assert refused.json()["detail"].startswith(f"job {len(own)}: the token is bound to ")


def test_access_is_that_of_a_predictor(servers: Servers, rows: list[Body]) -> None:
    address = str(servers.router.base_url)
    with client_of(address, "") as stranger, client_of(address, READER) as reader:
        assert stranger.post("/predict", json={"jobs": rows}).status_code == 401
        assert stranger.get("/metrics").status_code == 401
        assert stranger.get("/livez").status_code == stranger.get("/readyz").status_code == 200
        outcome = reader.post("/outcomes", json={"jobs": []})
        assert (outcome.status_code, "report" in outcome.json()["detail"]) == (403, True)
    assert servers.router.get("/nothing").status_code == 404
    assert servers.router.get("/predict").status_code == 405
    assert servers.router.get("/model").json()["model_version"]
    answer = servers.router.post("/predict", json={"jobs": rows}, headers={"X-Request-ID": "7"})
    assert answer.headers["x-request-id"] == "7"
    text = servers.router.get("/metrics").text
    assert 'gridcast_router_jobs_total{shard="2"}' in text
    assert "gridcast_router_shards 2.0" in text


def test_outcomes_reach_every_shard(
    cluster: Shards, servers: Servers, rows: list[Body], finished: list[Body]
) -> None:
    answer = servers.router.post("/outcomes", json={"jobs": finished[:100]})
    assert answer.json()["added"] == 100
    cluster.catch_up()
    later = [row | {"submitted_at": finished[-1]["ended_at"]} for row in rows]
    routed, alone = both(servers, "/predict", {"jobs": later})
    for own, same in zip(routed.json()["rows"], alone.json()["rows"], strict=True):
        assert own["job_id"] == same["job_id"]
        # Weights and calibration learn from the shard's own users.
        assert own["walltime"] == pytest.approx(same["walltime"], rel=0.5)


def test_a_lost_shard_costs_its_own_users_only_until_it_is_back(
    cluster: Shards, rows: list[Body], tmp_path: Path
) -> None:
    of_first = [row for row in rows if shard_of(row) == 1]
    file = tmp_path / "ring"
    with cluster.served(cluster.shards[0]) as first:
        with cluster.served(cluster.shards[1]) as second:
            file.write_text(ring_text([first, second]))
        with cluster.router(str(file)) as router:  # the second has ended
            ready = router.get("/readyz")
            assert ready.status_code == 200
            assert ready.text.startswith("shard 2/2 has no ready predictor (http://127.0.0.1:")
            assert ready.text.endswith(": refused)")
            assert router.post("/predict", json={"jobs": of_first}).status_code == 200
            lost = router.post("/predict", json={"jobs": rows})
            assert lost.status_code == 503
            assert lost.headers["retry-after"] == "1"
            index = next(index for index, row in enumerate(rows) if shard_of(row) == 2)
            assert (
                f"shard 2/2, which has the histories of the user of job {index}, "
                in (lost.json()["detail"])
            )
            report = [{**rows[0], "walltime": 5.0, "ended_at": rows[0]["submitted_at"]}]
            for _ in range(2):  # in turn, also from the lost one on
                assert router.post("/outcomes", json={"jobs": report}).status_code == 200
            # A wrong list changes nothing.
            file.write_text("1/2=http://127.0.0.1:1")
            waits = "gridcast_router_addresses_waiting 1.0"
            wait_for(lambda: waits in router.get("/metrics").text, "the wrong list to be noted")
            with cluster.served(cluster.shards[1]) as again:
                file.write_text(ring_text([first, again]))
                wait_for(
                    lambda: router.post("/predict", json={"jobs": rows}).status_code == 200,
                    "the shard to be back",
                )
    nowhere = "1/2=http://127.0.0.1:1,2/2=http://127.0.0.1:2"
    with cluster.router(nowhere) as router:
        unready = router.get("/readyz")
        assert unready.status_code == 503
        assert unready.json()["detail"] == (
            "not ready yet: shard 1/2 has no ready predictor (http://127.0.0.1:1: refused); "
            "shard 2/2 has no ready predictor (http://127.0.0.1:2: refused)"
        )


def test_a_predictor_of_another_shard_is_never_believed(
    cluster: Shards, servers: Servers, rows: list[Body]
) -> None:
    first, second = servers.addresses
    with cluster.router(ring_text([second, first])) as swapped:
        refused = swapped.post("/predict", json={"jobs": rows})
        assert refused.status_code == 503
        assert "answered 421" in refused.json()["detail"]
    one = str(servers.one.base_url)
    with cluster.router(f"1/2={one},2/2={first}|{second}") as either:
        for _ in range(2):
            answer = either.post("/predict", json={"jobs": rows})
            assert answer.status_code == 200
            assert [row["job_id"] for row in answer.json()["rows"]] == [
                row["job_id"] for row in rows
            ]
