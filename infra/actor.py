"""Who changes something, and from where: noted for the audit log while it is changed."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

GRIDCAST = "Gridcast itself"
"""The origin of changes that nobody asks for at that time, as of a schedule."""


@dataclass(frozen=True)
class Actor:
    """Who changes something, and from where.

    Attributes:
        name: Of a token, the subject of a JSON Web Token, whom a proxy has logged in, or
            the account of this machine.
        origin: The page, the predictor or a command.
        address: The address of the client; None: this machine, without a network.
    """

    name: str
    origin: str
    address: str | None = None


_actor: ContextVar[Actor | None] = ContextVar("actor", default=None)


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Note who makes the changes within the block, in the threads that it starts work in too."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


def current_actor(by: str = "") -> Actor:
    """Who changes something now; where nobody is noted, ``by`` or this process's account."""
    return _actor.get() or Actor(by or local_account(), GRIDCAST)


def local_account() -> str:
    """The account that this process runs as, which no variable of the environment changes."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
