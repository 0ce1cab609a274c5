"""The shards of a router: where each answers, and how a changed list of them is taken over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from infra.aliases import Integers
from infra.setting_values import is_loopback, split_shard_addresses
from infra.settings import Settings, SettingsError
from infra.shards import shard_of_slots

SETTING = "GRIDCAST_SHARD_ADDRESSES"


@dataclass(frozen=True)
class Ring:
    """All shards of one count: the addresses of the predictors of each."""

    addresses: tuple[tuple[str, ...], ...]

    @staticmethod
    def parse(text: str, plain_text: bool = False, source: str = SETTING) -> Ring:
        """Read ``1/2=http://localhost:3001,2/2=https://b``.

        Args:
            text: An entry for each shard.
            plain_text: Whether http:// may lead to other machines, as where a proxy ends TLS
                before all servers.
            source: The setting or file that the text is of, for messages.

        Raises:
            SettingsError: The text is wrong, or tokens would cross the network in plain text.
        """
        try:
            ring = Ring(split_shard_addresses(text))
        except ValueError as error:
            raise SettingsError(f"{source}: {error}") from None
        for address in () if plain_text else ring.every_address:
            url = urlsplit(address)
            if url.scheme == "http" and not is_loopback(url.hostname or ""):
                raise SettingsError(
                    f"{source}: tokens would cross the network to {address} in plain text: let a "
                    "proxy end TLS before that predictor and write https://, or set "
                    "GRIDCAST_TLS_IN_FRONT=true where the network between router and predictors "
                    "is their own"
                )
        return ring

    @property
    def count(self) -> int:
        """The number of shards."""
        return len(self.addresses)

    def name(self, shard: int) -> str:
        """A shard as GRIDCAST_SHARD has it: ``2/4``."""
        return f"{shard}/{self.count}"

    def of_slots(self, slots: Integers) -> Integers:
        """The shard of each slot (int64[n])."""
        return np.asarray(shard_of_slots(self.count)[slots])

    def of_shard(self, shard: int) -> Sequence[str]:
        """The addresses of the predictors of a shard."""
        return self.addresses[shard - 1]

    @property
    def every_address(self) -> Sequence[str]:
        """The addresses of all predictors, first those that their shards name first."""
        depth = max(map(len, self.addresses))
        return [
            addresses[rank]
            for rank in range(depth)
            for addresses in self.addresses
            if rank < len(addresses)
        ]


def read_ring(settings: Settings) -> Ring:
    """The shards of the settings; raises SettingsError."""
    return parse_ring(settings, read_addresses(settings))


def parse_ring(settings: Settings, text: str) -> Ring:
    """The shards of a text that was read by ``read_addresses``; raises SettingsError."""
    configured = settings.shard_addresses
    source = SETTING if "=" in configured else f"{SETTING}: the file {configured}"
    return Ring.parse(text, settings.tls_in_front, source)


def read_addresses(settings: Settings) -> str:
    """The text of the addresses: that of the setting, or of the file that it names.

    Raises:
        SettingsError: The setting is empty, or the file cannot be read.
    """
    text = settings.shard_addresses
    if not text:
        raise SettingsError(
            f"{SETTING} must say where the shards answer, as "
            "1/2=http://127.0.0.1:3001,2/2=http://127.0.0.1:3002, or name a file of such lines"
        )
    if "=" in text:
        return text
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SettingsError(f"{SETTING}: the file {text} cannot be read: {reason}") from None
