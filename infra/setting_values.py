"""Values of settings as text: addresses of this machine, lists and logins."""

from __future__ import annotations

import difflib
import hmac
import ipaddress
from collections.abc import Iterable
from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator

LOOPBACK = ("localhost", "127.0.0.1", "::1")
REQUEST_PREFIX = "GRIDCAST_REQUEST_"
MAX_SHARDS = 64
EXAMPLES = {
    "GRIDCAST_CANARY": " (a share, as 0.05)",
    "GRIDCAST_REQUEST_LEAST_MEMORY": " (a number of MiB, as 256)",
    "GRIDCAST_REQUEST_LEAST_WALLTIME": " (a number of seconds, as 600)",
    "GRIDCAST_REQUEST_ABOVE": " (true or false)",
}
"""Unit and example of settings, for messages of wrong values."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to bind to.

    >>> is_loopback("127.0.0.2"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return host in LOOPBACK or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def metrics_token(secret: str) -> str:
    """The token that reads metrics and nothing else, made of the token ``secret``; empty of none.

    >>> len(metrics_token("0123456789abcdef")), metrics_token("")
    (64, '')
    """
    return hmac.digest(secret.encode(), b"gridcast metrics", "sha256").hex() if secret else ""


def split_list(text: str) -> list[str]:
    """The items of a comma-separated setting.

    >>> split_list(" one, two ,,")
    ['one', 'two']
    """
    return [item.strip() for item in text.split(",") if item.strip()]


def webhook_urls(alerts: str) -> tuple[str, ...]:
    """The addresses that take JSON among those of Apprise, as URLs.

    Those with a password are left out: MLflow's page would show it.

    >>> webhook_urls("json://127.0.0.1:8080/a,jsons://me:secret@b/c,slack://d")
    ('http://127.0.0.1:8080/a',)
    """
    schemes = {"json": "http", "jsons": "https"}
    return tuple(
        urlunsplit((schemes[url.scheme], url.netloc, url.path, url.query, ""))
        for url in map(urlsplit, split_list(alerts))
        if url.scheme in schemes and "@" not in url.netloc
    )


def split_login(login: str) -> tuple[str, str]:
    """The user and the password of ``user:password``.

    >>> split_login("gridcast:one:two")
    ('gridcast', 'one:two')
    """
    user, _, password = login.partition(":")
    return user, password


def misspelt_request(names: Iterable[str], fields: Iterable[str]) -> str:
    """Name a variable that begins as the settings of requests do and is none; empty without one.

    >>> misspelt_request(["GRIDCAST_REQUEST_USER"], ["request_users", "host"])
    'there is no setting GRIDCAST_REQUEST_USER (near: GRIDCAST_REQUEST_USERS)'
    """
    names = [name for name in names if name.upper().startswith(REQUEST_PREFIX)]
    fields = [field for field in fields if f"GRIDCAST_{field.upper()}".startswith(REQUEST_PREFIX)]
    for name, near in near_settings(names, fields, 0.0).items():
        return f"there is no setting {name} (near: {near})"
    return ""


def near_settings(
    names: Iterable[str], fields: Iterable[str], least: float = 0.8
) -> dict[str, str]:
    """Name the setting that each variable of no effect is nearly spelt as, where there is one.

    Args:
        names: The names of variables.
        fields: The names of settings.
        least: The least similarity, 0 to 1.

    >>> near_settings(["GRIDCAST_DSK", "GRIDCAST_HOST", "GRIDCAST_SERVICE_PORT"], ["dask", "host"])
    {'GRIDCAST_DSK': 'GRIDCAST_DASK'}
    """
    settings = {field.upper(): f"GRIDCAST_{field.upper()}" for field in fields}
    near = {}
    for name in map(str.upper, names):
        word = name.removeprefix("GRIDCAST_")
        if word != name and word not in settings:
            for match in difflib.get_close_matches(word, settings, 1, least):
                near[name] = settings[match]
    return near


def without_password(url: str) -> str:
    """A database's or server's URL without user, password and options.

    >>> without_password("postgresql://someone:secret@db:5432/mlflow")
    'postgresql://db:5432/mlflow'
    """
    scheme, mark, rest = url.partition("://")
    if not mark or rest.startswith("/"):
        return url
    # A password may hold any character: a URL's parser may refuse it, or take it for a path.
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def split_shard(text: str) -> tuple[int, int]:
    """Split ``2/4``, the second shard of four, into its numbers.

    Raises:
        ValueError: It is written otherwise, or there is no such shard.

    >>> split_shard("2/4")
    (2, 4)
    """
    number, _, count = text.partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= MAX_SHARDS:
        return int(number), int(count)
    raise ValueError(
        f"a shard is written as 2/4, the second of four (of at most {MAX_SHARDS}), "
        f"not {text[:40]!r}"
    )


def split_shard_addresses(text: str) -> tuple[tuple[str, ...], ...]:
    """Split ``1/2=http://a:1|http://b:1,2/2=http://c:1`` into the addresses of each shard.

    Entries are separated by commas or line feeds; several addresses of a shard by bars.

    Raises:
        ValueError: An entry is wrong, or the entries are not the shards of one count, each once.

    >>> split_shard_addresses("2/2=http://c:1, 1/2=http://a:1|http://b:1/")
    (('http://a:1', 'http://b:1'), ('http://c:1',))
    """
    shards, counts = dict[int, tuple[str, ...]](), set[int]()
    for entry in split_list(text.replace("\n", ",")):
        name, equals, addresses = entry.partition("=")
        if not equals:
            raise ValueError(
                f"a shard's addresses are written as 1/2=http://host:port, not {entry[:80]!r}"
            )
        number, count = split_shard(name.strip())
        if number in shards:
            raise ValueError(f"shard {name.strip()} is there twice; | separates its addresses")
        shards[number] = tuple(_http_address(address) for address in addresses.split("|"))
        counts.add(count)
    if len(counts) > 1:
        numbers = " and ".join(map(str, sorted(counts)))
        raise ValueError(f"the entries are of rings of {numbers} shards; all must be of one")
    count = max(counts, default=1)
    if missing := [number for number in range(1, count + 1) if number not in shards]:
        raise ValueError(f"the address of shard {missing[0]}/{count} is missing")
    every = [address for addresses in shards.values() for address in addresses]
    if repeated := [address for address in every if every.count(address) > 1]:
        raise ValueError(f"the address {repeated[0]} is there twice")
    return tuple(shards[number] for number in range(1, count + 1))


def _http_address(text: str) -> str:
    """An address ``http://host:port`` without a slash at its end; raises ValueError."""
    address = text.strip().rstrip("/")
    try:
        url = urlsplit(address)
        is_address = url.scheme in ("http", "https") and url.hostname and url.port != 0
        is_address = is_address and address == f"{url.scheme}://{url.netloc}" and "@" not in address
    except ValueError:  # the port is no number
        is_address = False
    if not is_address:
        raise ValueError(
            f"the address of a shard is written as http://host:port, not {text.strip()[:80]!r}"
        )
    return address


def _check_shard_addresses(text: str) -> str:
    if "=" in text:
        split_shard_addresses(text)
    return text


def _check_shard(text: str) -> str:
    return "{}/{}".format(*split_shard(text)) if text else ""


ShardText = Annotated[str, AfterValidator(_check_shard)]
"""The text of a setting that names a shard, or is empty."""
ShardAddressesText = Annotated[str, AfterValidator(_check_shard_addresses)]
"""The addresses of all shards, or the path of a file of them; or empty."""
