"""Bounds: no body within the limits takes more memory, or more time, than its size allows."""

import asyncio
import gc
import json
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from services.http.admission import Admission, CancelledWork, Work, run
from services.http.contract import JSON_TYPE, MAX_ARROW_BYTES, MAX_JSON_BYTES
from services.http.errors import HTTPError
from services.http.rank import read_rank
from services.http.task import read_task
from tests.services.http.hostile_bodies import ARROW_BODIES, ENDPOINTS, JSON_BODIES, LONG, MB

ROOT = Path(__file__).parents[3]
MAX_MEMORY = 320 * MB
"""Bytes that reading one body may take beside the body itself: some 240 MB in the worst case."""
HANG = 1500


@pytest.fixture(scope="module")
def answers() -> list[list[Any]]:
    """What became of every hostile body at every endpoint, each read in a process of its own."""
    module = "tests.services.http.hostile_bodies"
    run = subprocess.run(
        [sys.executable, "-m", module], cwd=ROOT, capture_output=True, timeout=HANG, check=True
    )
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_every_body_is_within_the_limits_and_answered_in_bounded_memory_and_time(
    answers: list[list[Any]],
) -> None:
    assert len(answers) == len(JSON_BODIES) * len(ENDPOINTS) + len(ARROW_BODIES) * 3
    for name, endpoint, size, status, message, memory in answers:
        limit = MAX_JSON_BYTES if name in JSON_BODIES else MAX_ARROW_BYTES
        assert size <= limit, (name, size)
        assert status in (200, 400, 413, 415, 422), (name, endpoint, status, message)
        assert memory < MAX_MEMORY, (name, endpoint, memory // MB, message)
        assert len(message) < 500, (name, endpoint, message)


@pytest.mark.parametrize(
    ("name", "endpoint", "status", "sentence"),
    [
        ("objects", "predict", 413, "objects and lists"),
        ("objects", "rank", 413, "objects and lists"),
        ("task of a list", "task", 413, "objects and lists"),
        ("empty candidates", "rank", 413, "objects and lists"),
        ("numbers", "predict", 413, "values"),
        ("candidates of a job with long texts", "rank", 413, "64 MiB of names"),
        ("a name twice at the end", "rank", 422, "job 99998 is there twice"),
        ("long name of a field", "outcomes", 422, "there is no field 'xxxx"),
        ("deep lists", "predict", 400, "not JSON"),
        ("braces in a text", "predict", 422, "job 0: user is longer"),
        ("nulls", "rank", 413, "more than 100000 candidates"),
    ],
)
def test_a_hostile_body_is_refused_for_what_it_is(
    answers: list[list[Any]], name: str, endpoint: str, status: int, sentence: str
) -> None:
    answer = next(line for line in answers if line[:2] == [name, endpoint])
    assert (answer[3], sentence in answer[4]) == (status, True), answer


def test_a_job_of_rank_is_read_once_however_many_candidates_it_has() -> None:
    body = {"jobs": [{"source": "g", "user": LONG, "candidates": [{}, {"site": "a"}, {}]}]}
    request = read_rank(JSON_TYPE, json.dumps(body).encode(), {})
    user = request.candidates["user"]
    assert (user.values, user.codes.tolist()) == ([LONG], [0, 0, 0])


# -- work that nobody waits for


def request_of(*messages: dict[str, Any]) -> Request:
    """A request whose client sends these messages, and then nothing."""
    left = list(messages)

    async def receive() -> Any:
        return left.pop(0) if left else await asyncio.Event().wait()

    return Request({"type": "http", "headers": []}, receive)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_a_body_counts_until_its_work_has_ended_though_its_caller_has_been_answered(
    threads: ThreadPoolExecutor,
) -> None:
    admission, released = Admission(9, 1000), threading.Event()

    async def scenario() -> None:
        with pytest.raises(TimeoutError), admission.admit() as reservation:
            reservation.grow(600)
            stuck = Work[bool](lambda _: released.wait(240))
            await run(stuck, threads, request_of(), reservation, patience=1.0)
        assert (admission.requests, admission.bytes) == (1, 600)
        with pytest.raises(HTTPError) as caught, admission.admit() as reservation:
            reservation.grow(600)
        assert caught.value.status == 429
        released.set()
        while admission.bytes:
            await asyncio.sleep(0.01)
        assert admission.requests == 0

    asyncio.run(asyncio.wait_for(scenario(), 240))


@pytest.mark.parametrize("leaves", [False, True], ids=["out of patience", "the caller leaves"])
def test_work_that_waits_in_vain_never_begins_and_keeps_nothing(
    threads: ThreadPoolExecutor, leaves: bool
) -> None:
    admission, released, begun = Admission(9, 1000), threading.Event(), list[str]()

    async def scenario() -> None:
        threads.submit(released.wait, 240)
        messages = ({"type": "http.disconnect"},) if leaves else ()
        expected = ClientDisconnect if leaves else TimeoutError
        work = Work[None](lambda _: begun.append("begun"))
        with pytest.raises(expected), admission.admit() as reservation:
            reservation.grow(600)
            await run(
                work, threads, request_of(*messages), reservation, patience=30 if leaves else 0.05
            )
        # Its place is free at once, and the queue of the threads holds nothing of its body.
        assert (admission.requests, admission.bytes) == (0, 0)
        with pytest.raises(CancelledWork):
            work()
        released.set()

    asyncio.run(asyncio.wait_for(scenario(), 240))
    threads.shutdown()
    assert not begun


def test_a_refused_body_is_forgotten_at_once_not_when_garbage_is_collected(
    threads: ThreadPoolExecutor,
) -> None:
    class Content:
        """What was made of a body."""

    contents = list[weakref.ref[Content]]()

    def refuse(content: Content) -> None:
        contents.append(weakref.ref(content))
        try:
            raise ValueError(content)
        except ValueError as error:
            raise HTTPError(422, "no") from error

    async def scenario() -> None:
        for _ in range(3):
            content = Content()
            work = Work[None](lambda _, content=content: refuse(content))  # type: ignore[misc]
            del content
            with pytest.raises(HTTPError) as caught, Admission(1, 1).admit() as reservation:
                await run(work, threads, request_of(), reservation)
            assert caught.value.status == 422
            del caught, work

    gc.collect()
    gc.disable()
    try:
        asyncio.run(asyncio.wait_for(scenario(), 240))
        assert [content() for content in contents] == [None] * 3
        for body in (b"{}", b"[]"):
            for _ in range(3):
                with pytest.raises(HTTPError) as caught:
                    read_task(body)
        frames = list(traceback.walk_tb(caught.value.__traceback__))
        assert len(frames) < 6, "an error is raised anew each time, not one again and again"
    finally:
        gc.enable()


def test_work_that_has_begun_ends_at_its_next_step_when_nobody_waits(
    threads: ThreadPoolExecutor,
) -> None:
    begun, released, steps = threading.Event(), threading.Event(), list[int]()

    def work(this: Work[None]) -> None:
        for step in range(3):
            this.check()
            steps.append(step)
            begun.set()
            released.wait(240)

    async def scenario() -> None:
        with pytest.raises(TimeoutError), Admission(1, 1).admit() as reservation:
            await run(Work(work), threads, request_of(), reservation, patience=1.0)
        await asyncio.to_thread(begun.wait, 240)
        released.set()

    asyncio.run(asyncio.wait_for(scenario(), 240))
    threads.shutdown()
    assert steps in ([], [0])
