"""Admission: bounds on the requests in hand and on the memory of their bodies.

Past them a caller is told to come again, instead of waiting in a queue without end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, Generic, TypeVar

from starlette.requests import ClientDisconnect, Request

from services.http.errors import HTTPError, bare

Result = TypeVar("Result")


class Admission:
    """Counts requests and bytes; used from one event loop, so it needs no lock.

    Args:
        max_requests: Requests in hand.
        max_bytes: Bytes of all their bodies.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0

    @contextmanager
    def admit(self) -> Iterator[Reservation]:
        """Reserve a place for one request, until its work has ended; raises HTTPError (429)."""
        if self.requests >= self.max_requests:
            raise HTTPError(429, "too many requests are waiting; try again in a second", 1)
        self.requests += 1
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            work = reservation.work
            if work is None or work.done():
                self._release(reservation)
            else:
                work.add_done_callback(lambda _: self._release(reservation))

    def _release(self, reservation: Reservation) -> None:
        self.requests -= 1
        self.bytes -= reservation.bytes


class Reservation:
    """The place and the bytes of one admitted request, and the work that still needs them."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.bytes = 0
        self.work: asyncio.Future[Any] | None = None

    def grow(self, size: int) -> None:
        """Reserve ``size`` bytes more; raises HTTPError (429) where all requests hold too many."""
        if self.admission.bytes + size > self.admission.max_bytes:
            raise HTTPError(
                429,
                "the requests in hand fill the memory set aside for them; try again in a second",
                retry_after=1,
            )
        self.admission.bytes += size
        self.bytes += size


async def read_bounded_body(
    chunks: AsyncIterator[bytes],
    declared: str | None,
    max_bytes: int,
    reservation: Reservation,
    patience: float,
) -> bytes:
    """Read a body, and no more of it than allowed.

    Args:
        chunks: The body as it arrives.
        declared: The Content-Length header.
        max_bytes: The longest body.
        reservation: Grows with the body.
        patience: Seconds in which the body must arrive.

    Raises:
        HTTPError: 400, 408, 413 or 429.
    """
    if declared is not None:
        if not declared.isascii() or not declared.isdigit():
            raise HTTPError(400, "Content-Length is not a number")
        if len(declared) > len(str(max_bytes)) or int(declared) > max_bytes:
            raise _too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(patience):
            async for chunk in chunks:
                reservation.grow(len(chunk))
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        raise HTTPError(408, f"the body did not arrive within {patience:g} s") from None
    return bytes(body)


def _too_large(max_bytes: int) -> HTTPError:
    return HTTPError(
        413, f"the body is larger than {max_bytes // 2**20} MiB; send the jobs in several requests"
    )


class CancelledWork(Exception):  # noqa: N818
    """Nobody waits for the result of some work any more."""


class Work(Generic[Result]):
    """The work of one request in a thread; cancelled, it does not begin, or ends at its next step.

    Args:
        call: The work, which calls ``check`` between its steps.
    """

    def __init__(self, call: Callable[[Work[Result]], Result]) -> None:
        self._call: Callable[[Work[Result]], Result] | None = call
        self._turn = threading.Lock()
        self._cancelled = False

    def __call__(self) -> Result:
        """Do the work; raises CancelledWork."""
        with self._turn:
            call, self._call = self._call, None
        if call is None:
            raise CancelledWork
        try:
            return call(self)
        except HTTPError as error:
            call = None
            raise bare(error)  # noqa: B904

    def cancel(self) -> bool:
        """Cancel the work; True where it had not begun: then nothing of its request is kept."""
        with self._turn:
            waiting, self._call, self._cancelled = self._call is not None, None, True
        return waiting

    def check(self) -> None:
        """Raise CancelledWork where the work was cancelled."""
        if self._cancelled:
            raise CancelledWork


async def run(
    work: Work[Result],
    threads: Executor,
    request: Request,
    reservation: Reservation,
    patience: float | None = None,
) -> Result:
    """Do work in a thread while its caller waits; the reservation is kept until it has ended.

    Args:
        work: The work.
        threads: Where it is done.
        request: Whose client is watched.
        reservation: Of that request.
        patience: Seconds after which to give up.

    Raises:
        ClientDisconnect: The client has gone.
        TimeoutError: The patience has ended.
    """
    loop = asyncio.get_running_loop()
    result = loop.run_in_executor(threads, copy_context().run, work)
    # Where nobody waits any more, nobody reads its error either.
    result.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    reservation.work = result
    try:
        return await while_connected(result, request, patience)
    finally:
        if not result.done() and work.cancel():
            reservation.work = None


async def while_connected(
    result: asyncio.Future[Result], request: Request, patience: float | None = None
) -> Result:
    """Wait for a result as long as its caller does; it is not cancelled.

    Args:
        result: The result.
        request: Whose client is watched; its body was read.
        patience: Seconds after which to give up.

    Raises:
        ClientDisconnect: The client has gone.
        TimeoutError: The patience has ended.
    """
    gone = asyncio.get_running_loop().create_task(_disconnection(request))
    try:
        await asyncio.wait((result, gone), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        raise ClientDisconnect if gone.done() else TimeoutError
    finally:
        gone.cancel()


async def _disconnection(request: Request) -> None:
    """Return when the client of a request, whose body was read, has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
