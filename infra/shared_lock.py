"""A lock that several readers hold at once, and one writer alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class SharedLock:
    """Lets readers in together and a writer alone; a waiting writer goes before new readers.

    A thread that reads must not read again inside, since a writer may wait in between.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._readers = 0
        self._waiting_readers = 0
        self._entries = 0
        """How often a reader has come in."""
        self._waiting_writers = 0
        self._writing = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Wait until no writer writes or waits; hold the lock together with other readers."""
        with self._changed:
            self._waiting_readers += 1
            try:
                self._changed.wait_for(lambda: not self._writing and not self._waiting_writers)
                self._readers += 1
            finally:
                self._waiting_readers -= 1
                self._entries += 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    def let_readers_in(self) -> None:
        """Return once those who wait to read now have come in, at once where nobody does.

        A writer who writes again at once calls it in between: it would overtake them.
        """
        with self._changed:
            enough = self._entries + self._waiting_readers
            self._changed.wait_for(lambda: self._entries >= enough)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Wait until nobody reads or writes; hold the lock alone."""
        with self._changed:
            self._waiting_writers += 1
            try:
                self._changed.wait_for(lambda: not self._writing and not self._readers)
                self._writing = True
            finally:
                self._waiting_writers -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
