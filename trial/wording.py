"""Numbers in words, for a page that anybody can read."""

from __future__ import annotations

HOUR, DAY, MIB, GIB = 3600.0, 86400.0, 2.0**20, 2.0**30


def percent(share: float) -> str:
    """A share in per cent.

    >>> percent(0.894), percent(0.0042)
    ('89 %', '0.42 %')
    """
    value = 100 * share
    return f"{value:.0f} %" if abs(value) >= 10 or value == 0 else f"{value:.2g} %"


def number(value: float | None, unit: str) -> str:
    """A figure in its unit: shares in per cent.

    >>> number(0.894, "share of jobs"), number(0.9137, "ratio")
    ('89.4 %', '0.914')
    """
    if value is None:
        return "–"
    return f"{value:.1%}".replace("%", " %") if unit.startswith("share") else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(45.0), duration(900.0), duration(7200.0), duration(259200.0)
    ('45 s', '15 min', '2 h', '3 days')
    """
    for length, unit, limit in ((1.0, "s", 100.0), (60.0, "min", 2 * HOUR), (HOUR, "h", 2 * DAY)):
        if seconds < limit:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / DAY:.3g} days"


def size(count: float) -> str:
    """Bytes in words.

    >>> size(2.0**29), size(1020 * 2.0**20), size(2.0**32)
    ('512 MiB', '0.996 GiB', '4 GiB')
    """
    return f"{count / GIB:.3g} GiB" if count >= 1000 * MIB else f"{count / MIB:.3g} MiB"


def shorten(name: str) -> str:
    """A long name without its middle; of a workflow's process the last part."""
    return name if len(name) <= 28 else f"{name[:8]}…{name[-18:]}"
