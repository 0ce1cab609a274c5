"""Admission: bounds on requests, bytes and time."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.http.admission import Admission, read_bounded_body
from services.http.errors import HTTPError


async def parts(*sizes: int, pause: float = 0.0) -> AsyncIterator[bytes]:
    for size in sizes:
        await asyncio.sleep(pause)
        yield b"x" * size


def read(
    admission: Admission,
    *sizes: int,
    declared: str | None = None,
    most: int = 100,
    patience: float = 5.0,
    pause: float = 0.0,
) -> bytes:
    with admission.admit() as reservation:
        return asyncio.run(
            read_bounded_body(parts(*sizes, pause=pause), declared, most, reservation, patience)
        )


def status(caught: pytest.ExceptionInfo[HTTPError]) -> tuple[int, int | None]:
    return caught.value.status, caught.value.retry_after


def test_a_body_within_bounds_is_read_and_its_place_given_back() -> None:
    admission = Admission(1, 100)
    assert read(admission, 40, 60, declared="100") == b"x" * 100
    assert (admission.requests, admission.bytes) == (0, 0)


@pytest.mark.parametrize(
    ("sizes", "declared", "expected"),
    [
        ((1,), "101", 413),
        ((60, 60), None, 413),
        ((1,), "-1", 400),
        ((1,), "1e9", 400),
        ((1,), "١", 400),
    ],
)
def test_a_body_too_large_or_of_no_size_is_refused(
    sizes: tuple[int, ...], declared: str | None, expected: int
) -> None:
    admission = Admission(1, 1000)
    with pytest.raises(HTTPError) as caught:
        read(admission, *sizes, declared=declared)
    assert status(caught)[0] == expected
    assert (admission.requests, admission.bytes) == (0, 0)


def test_a_body_that_trickles_in_is_given_up() -> None:
    with pytest.raises(HTTPError) as caught:
        read(Admission(1, 1000), 1, 1, 1, patience=0.05, pause=0.04)
    assert status(caught)[0] == 408


def test_one_request_too_many_is_told_to_come_again() -> None:
    admission = Admission(2, 1000)
    with (
        admission.admit(),
        admission.admit(),
        pytest.raises(HTTPError) as caught,
        admission.admit(),
    ):
        pass
    assert status(caught) == (429, 1)
    with admission.admit():
        assert admission.requests == 1


def test_bytes_of_all_requests_are_bounded_together() -> None:
    admission = Admission(9, 100)
    with admission.admit() as first, admission.admit() as second:
        first.grow(60)
        with pytest.raises(HTTPError) as caught:
            second.grow(60)
        assert status(caught) == (429, 1)
        second.grow(40)
    assert admission.bytes == 0
