"""The entry of containers: ``python -m infra.component NAME`` runs a component.

``python -m infra.component NAME ready`` checks whether it is ready. Components are declared in
``infra.components``; a container brings only the settings.
"""

from __future__ import annotations

import os
import sys

from infra.components import Component, environment, local_components, router
from infra.errors import GridcastError, InputError
from infra.settings import Settings, environment_with, prepare_environment
from infra.supervision import is_responding


def component_named(name: str, settings: Settings) -> Component:
    """The component of that name.

    Raises:
        InputError: if the settings have none of that name.
    """
    declared = local_components(settings, in_containers=True)
    if settings.shard_addresses:
        declared.append(router(settings, environment(settings, settings.tracking_url)))
    components = {component.name: component for component in declared}
    if name not in components:
        raise InputError(
            f"there is no component {name} with these settings: {', '.join(components)}"
        )
    return components[name]


def main(name: str, action: str = "") -> None:
    """Replace this process by the component; or exit with 0 if it is ``ready`` and 1 if not."""
    settings = prepare_environment()
    component = component_named(name, settings)
    if action == "ready":
        sys.exit(not is_responding(component))
    if name in ("mlflow", "prefect") and not settings.admin_token:
        raise InputError(f"{name} would ask for no login: GRIDCAST_TOKENS needs one with admin")
    command = component.command
    os.execve(command[0], command, environment_with(component.environment))  # noqa: S606


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except GridcastError as error:
        sys.exit(str(error))
