"""What is printed on a terminal: names of users and files send it no commands."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters by which a name could move the cursor, hide text or write in another direction."""


def visible(text: str) -> str:
    r"""A text whose control characters, but line feed and tab, are shown escaped.

    >>> print(visible("a\x1b[2Jb"))
    a\x1b[2Jb
    """
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class Terminal(Console):
    """A console to which no text sends commands."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, with control characters of texts shown escaped."""
        super().print(*(visible(o) if isinstance(o, str) else o for o in objects), **options)
