"""One part as a container's only process: ``python -m infra.component NAME`` becomes it, ``python -m infra.component NAME ready`` asks whether it is.

What the part is, is said once, in ``infra.components``; a container brings only the settings.
"""

from __future__ import annotations

import os
import sys

from infra.components import Component, local_components
from infra.errors import GridcastError, InputError
from infra.settings import Settings, environment_with, prepare_environment
from infra.supervision import is_responding


def component_named(name: str, settings: Settings) -> Component:
    """The part of that name; raises InputError where the settings have none."""
    found = {part.name: part for part in local_components(settings)}
    if name not in found:
        raise InputError(f"there is no part {name} with these settings: {', '.join(found)}")
    return found[name]


def main(name: str, asked: str = "") -> None:
    """Become the part, or end with 0 if it is ready and 1 if not."""
    part = component_named(name, prepare_environment())
    if asked == "ready":
        sys.exit(not is_responding(part))
    os.execve(part.command[0], part.command, environment_with(part.environment))  # noqa: S606


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except GridcastError as error:
        sys.exit(str(error))
