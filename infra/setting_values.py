"""Values of settings as text: addresses of this machine, lists and logins."""

from __future__ import annotations

import ipaddress

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to bind to.

    >>> is_loopback("127.0.0.2"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return host in LOOPBACK or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split_list(text: str) -> list[str]:
    """The items of a comma-separated setting.

    >>> split_list(" one, two ,,")
    ['one', 'two']
    """
    return [item.strip() for item in text.split(",") if item.strip()]


def split_login(login: str) -> tuple[str, str]:
    """The user and the password of ``user:password``.

    >>> split_login("gridcast:one:two")
    ('gridcast', 'one:two')
    """
    user, _, password = login.partition(":")
    return user, password
