"""Shards that join, leave, are lost and come back while calls go on: real predictors behind `gridcast route`."""

import math
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from infra.settings import Settings, environment_with
from infra.shards import shard_of_slots, slot_of
from jobs.schema import OUTCOMES
from jobs.store import open_store, read_jobs
from models.engine.model_set import ModelSet
from tests.ports import free_port
from tests.services.conftest import (
    ROOT,
    Predictor,
    as_rows,
    new_home,
    publish,
    running,
    wait_for,
)

pytestmark = pytest.mark.skipif(
    "GRIDCAST_TEST_SHARDS" not in os.environ,
    reason="starts nine predictors, for minutes: `just shards`",
)
Rows = list[dict[str, Any]]
CALLERS, JOBS = 3, 40
FEW = int(os.environ.get("GRIDCAST_TEST_SHARDS", "2"))
MANY = FEW + 1
"""The shards before, and while one more has joined."""
LOST = f"shard {MANY}/{MANY}, which"
SLOT = {"cores": 64, "seconds_left": 6 * 3600.0, "memory": 2e11, "policy": "gain", "risk": 0.3}


@dataclass
class Load:
    """Callers that predict, match and report without pause, and what they were answered by phase.

    ``matched`` is one predictor's answer to the match of the queries from a position on.
    """

    router: str
    queries: Rows
    expected: dict[str, dict[str, Any]]
    matched: dict[int, dict[str, Any]]
    outcomes: list[Rows]
    phase: str = "start"
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    calls: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    reported: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def predict(self, first: int) -> None:
        try:
            self._predict(first)
        except Exception as error:
            self.wrong.append(f"{self.phase}: {error!r}")

    def _predict(self, first: int) -> None:
        with httpx.Client(base_url=self.router, timeout=120, trust_env=False) as http:
            while not self.ended.is_set():
                first = (first + 7) % (len(self.queries) - JOBS)
                jobs = self.queries[first : first + JOBS]
                answer = self._call(http, "/predict", predict_body(jobs))
                rows = answer["rows"] if answer else []
                if answer and [row["job_id"] for row in rows] != [job["job_id"] for job in jobs]:
                    self.wrong.append(f"{self.phase}: order")
                for row in rows:
                    self._compare(row, self.expected[row["job_id"]])
                start = first // JOBS * JOBS
                if answer := self._call(http, "/match", match_body(self.queries, start)):
                    expected = self.matched[start]
                    for row, same in zip(answer["rows"], expected["rows"], strict=True):
                        self._compare(row, same)
                    self._compare(answer | {"rows": 0}, expected | {"rows": 0})

    def _call(self, http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """The answer; None where it is the refusal that the lost shard's users get."""
        phase = self.phase
        response = http.post(path, json=body)
        self.statuses[phase, response.status_code] += 1
        self.calls[path, response.status_code] += 1
        if response.status_code == 200:
            return dict(response.json())
        if response.status_code != 503 or LOST not in response.text:
            self.wrong.append(f"{phase}: {path} {response.status_code} {response.text[:200]}")
        return None

    def _compare(self, row: dict[str, Any], expected: dict[str, Any]) -> None:
        if differing := differences(row, expected):
            self.wrong.append(f"{self.phase}: {row.get('job_id')}: {differing}")

    def report(self) -> None:
        with httpx.Client(base_url=self.router, timeout=120, trust_env=False) as http:
            for batch in self.outcomes:
                while http.post("/outcomes", json={"jobs": batch}).status_code != 200:
                    self.ended.wait(0.5)
                self.reported += len(batch)
                self.ended.wait(0.5)

    def wait_for_calls(self, phase: str, calls: int = 12) -> Counter[int]:
        """The statuses of a phase, once it has had so many calls."""
        self.phase = phase
        wait_for(
            lambda: (
                self.wrong
                or sum(n for (name, _), n in self.statuses.items() if name == phase) >= calls
            ),
            f"calls of the phase {phase}",
        )
        assert self.wrong == []
        return Counter({status: n for (name, status), n in self.statuses.items() if name == phase})


def predict_body(jobs: Rows) -> dict[str, Any]:
    return {"jobs": jobs, "at": jobs[0]["submitted_at"]}


def match_body(queries: Rows, start: int) -> dict[str, Any]:
    jobs = queries[start : start + JOBS]
    return {"jobs": jobs, "at": jobs[0]["submitted_at"], **SLOT}


def differences(row: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """The values of a row that are not those of one predictor, numbers to 1e-6."""
    return {
        name: (row.get(name), value)
        for name, value in expected.items()
        if row.get(name) != value
        and not (isinstance(value, float) and math.isclose(row[name], value, rel_tol=1e-6))
    } | {name: row[name] for name in row.keys() - expected.keys()}


@contextmanager
def loaded(load: Load) -> Iterator[Load]:
    threads = [threading.Thread(target=load.predict, args=(11 * n,)) for n in range(CALLERS)]
    threads.append(threading.Thread(target=load.report))
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.ended.set()
        for thread in threads:
            thread.join(240)
            assert not thread.is_alive()


@contextmanager
def routing(folder: Path, ring: Path) -> Iterator[str]:
    """`gridcast route`; yields its address."""
    port = free_port()
    variables = environment_with(
        {
            "GRIDCAST_HOME": str(folder),
            "GRIDCAST_ROUTER_PORT": str(port),
            "GRIDCAST_SHARD_ADDRESSES": str(ring),
            "GRIDCAST_WATCH_SECONDS": "0.5",
            "GRIDCAST_OPEN_ON_LOOPBACK": "true",
        }
    )
    command = [sys.executable, "-m", "gridcast", "route"]
    with (folder / "router.log").open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=out, stderr=out)
    address = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=address, trust_env=False, timeout=60) as http:
            wait_for(lambda: process.poll() is not None or is_ready(http), "the router")
        assert process.poll() is None, (folder / "router.log").read_text()
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) in (0, -signal.SIGTERM)


def is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def test_no_answer_is_wrong_and_no_outcome_lost_while_shards_change(
    tmp_path: Path, grid_jobs: pd.DataFrame, model_set: ModelSet
) -> None:
    # What ended before the model was trained changes no weights: answers as of an earlier time stay equal, job for job.
    users = [f"{user}-{n % 5}" for n, user in enumerate(grid_jobs["user"])]  # of all shards
    grid_jobs = grid_jobs.assign(user=users)
    trained = grid_jobs.head(1200).sort_values("ended_at").reset_index(drop=True)
    early, late = trained.head(900), trained.tail(300)
    asked_at = early["ended_at"].max()
    queries = as_rows(
        grid_jobs.tail(300).assign(submitted_at=asked_at).drop(columns=list(OUTCOMES))
    )
    home = new_home(tmp_path / "store", early)
    publish(model_set, home)
    common = Settings(home=home)
    shared = {
        "GRIDCAST_DATABASE_URL": common.store_url,
        "GRIDCAST_MLFLOW_URL": common.tracking_url,
    }

    def start(stack: ExitStack, name: str, shard: str) -> Predictor:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return stack.enter_context(running(folder, GRIDCAST_SHARD=shard, **shared))

    def start_ring(stack: ExitStack, count: int, name: str) -> list[Predictor]:
        return [start(stack, f"{name}-{n}", f"{n}/{count}") for n in range(1, count + 1)]

    ring = tmp_path / "ring"

    def name_ring(predictors: list[Predictor]) -> None:
        draft = ring.with_suffix(".new")
        entries = (f"{n}/{len(predictors)}={p.url}\n" for n, p in enumerate(predictors, 1))
        draft.write_text("".join(entries))
        draft.rename(ring)

    def wait_for_ring(router: str, count: int) -> None:
        with httpx.Client(base_url=router, trust_env=False, timeout=60) as http:
            wait_for(
                lambda: f"gridcast_router_shards {count}.0" in http.get("/metrics").text,
                f"the router to use {count} shards",
            )

    with ExitStack() as stack:
        body = {"jobs": queries, "at": queries[0]["submitted_at"], "keep": False}
        with running(home, **shared) as one:
            rows = one.http.post("/predict", json=body).json()["rows"]
            matched = {
                start: one.http.post("/match", json=match_body(queries, start)).json()
                for start in range(0, len(queries), JOBS)
            }
        assert {row["model_version"] for row in rows} == {"gridcast-1"}
        assert any(answer["cores_chosen"] for answer in matched.values())
        expected = {row["job_id"]: row for row in rows}
        few_stack, many_stack, lost_stack = (stack.enter_context(ExitStack()) for _ in range(3))
        few = start_ring(few_stack, FEW, "few")
        name_ring(few)
        router = stack.enter_context(routing(tmp_path, ring))
        batches = [as_rows(late.iloc[n : n + 5]) for n in range(0, 300, 5)]
        with loaded(Load(router, queries, expected, matched, batches)) as load:
            assert load.wait_for_calls("few shards").keys() == {200}

            load.phase = "one joins"
            many = [start(many_stack, f"many-{n}", f"{n}/{MANY}") for n in range(1, MANY)]
            last = start(lost_stack, f"many-{MANY}", f"{MANY}/{MANY}")
            name_ring([*many, last])
            wait_for_ring(router, MANY)
            assert load.wait_for_calls("many shards").keys() == {200}
            few_stack.close()
            assert load.wait_for_calls("the few have ended").keys() == {200}

            load.phase = "a shard is killed"
            last.worker().kill()
            last.process.kill()
            last.process.wait(120)
            lost_stack.close()
            assert 503 in load.wait_for_calls("a shard is lost")
            with httpx.Client(base_url=router, trust_env=False, timeout=60) as http:
                shards = shard_of_slots(MANY)
                others = [job for job in queries if shards[slot_of(job.get("user", ""))] != MANY]
                answer = http.post("/predict", json={**body, "jobs": others})
                assert answer.status_code == 200
                for row in answer.json()["rows"]:
                    assert differences(row, expected[row["job_id"]]) == {}
            back = start(many_stack, f"many-{MANY}", f"{MANY}/{MANY}")
            name_ring([*many, back])
            load.phase = "a shard comes back"
            own = {**body, "jobs": [job for job in queries if job not in others]}
            with httpx.Client(base_url=router, trust_env=False, timeout=60) as http:
                wait_for(
                    lambda: http.post("/predict", json=own).status_code == 200,
                    "the shard to be back",
                )
            assert load.wait_for_calls("many again").keys() == {200}

            load.phase = "one leaves"
            few = start_ring(few_stack, FEW, "few")
            name_ring(few)
            wait_for_ring(router, FEW)
            many_stack.close()
            assert load.wait_for_calls("few again").keys() == {200}
            wait_for(lambda: load.reported == 300, "all outcomes to be reported")
        assert load.wrong == []
        for phase in ("one joins", "one leaves"):
            assert load.statuses[phase, 200] > 0
            assert load.statuses[phase, 503] == 0
        print(dict(load.statuses), dict(load.calls))
        engine = open_store(common.store_url)
        assert set(read_jobs(engine)["job_id"]) == set(trained["job_id"])
        engine.dispose()
