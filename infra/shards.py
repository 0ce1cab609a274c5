"""Shards: which predictors hold the histories of which users.

A user has one of SLOTS hash slots, by the CRC-32 of the name, which HAProxy computes too.
Rendezvous hashing (Thaler and Ravishankar, 1998) gives each slot to a shard: where a shard joins,
only the slots that it gets move, and where one leaves, only its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from infra.aliases import Flags, Integers
from infra.errors import InputError
from infra.setting_values import split_shard

SLOTS = 1024


class ShardError(InputError):
    """A shard is named wrongly; the message is one sentence."""


@dataclass(frozen=True)
class Shard:
    """The shard ``number`` (from 1) of ``count``."""

    number: int
    count: int

    @staticmethod
    def parse(text: str) -> Shard:
        """Read ``2/4``, the second of four; raises ShardError.

        >>> Shard.parse("2/4")
        Shard(number=2, count=4)
        """
        try:
            return Shard(*split_shard(text))
        except ValueError as error:
            raise ShardError(str(error)) from None

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def slots(self) -> Flags:
        """Which slots it has (bool[SLOTS])."""
        return np.asarray(shard_of_slots(self.count) == self.number)


def slot_of(user: str) -> int:
    """The slot of a user; jobs that report none have that of the empty name."""
    return zlib.crc32(user.encode()) % SLOTS


def slots_of(users: Sequence[str], codes: Integers) -> Integers:
    """The slot of each job (int64[n]).

    Args:
        users: The distinct users.
        codes: The position of each job's user among them, -1 for none.
    """
    return np.array([*map(slot_of, users), slot_of("")], dtype=np.int64)[codes]


@lru_cache
def shard_of_slots(count: int) -> Integers:
    """The number of the shard, of ``count``, that has each slot (int64[SLOTS])."""
    draws = np.array([[_draw(slot, shard) for shard in range(count)] for slot in range(SLOTS)])
    numbers = 1 + draws.argmax(axis=1)
    numbers.flags.writeable = False
    return numbers


def _draw(slot: int, shard: int) -> int:
    return int.from_bytes(blake2b(f"{slot}/{shard}".encode(), digest_size=7).digest(), "little")
