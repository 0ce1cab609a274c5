"""MLflow's webhooks: the addresses of GRIDCAST_ALERTS that take JSON get versions and aliases.

MLflow's server posts them itself, so that a promotion in its page is sent at once.
"""

from __future__ import annotations

from infra.settings import Settings
from models.releases.mlflow_client import mlflow_client

NAME = "gridcast-alerts"
EVENTS = ["model_version.created", "model_version_alias.created"]
"""A version is registered; an alias moves: a promotion, a challenger, a rollback."""


def update_webhooks(settings: Settings) -> list[str]:
    """Let MLflow post new versions and moves of aliases to ``settings.webhook_urls`` only.

    Webhooks that others made stay. Without a server of MLflow nobody would send them: nothing is
    done.

    Returns:
        The addresses.

    Raises:
        RegistryError: MLflow cannot be reached, or refuses an address.
    """
    if not settings.tracking_url.startswith("http"):
        return []
    with mlflow_client(settings) as (client, settings):
        right = set[str]()
        for hook in client.list_webhooks():
            if hook.name != NAME:
                continue
            # One of an earlier release does not send all of EVENTS; a request that MLflow answered
            # too late was sent again.
            if hook.url in {*settings.webhook_urls} - right and len(hook.events) == len(EVENTS):
                right.add(hook.url)
            else:
                client.delete_webhook(hook.webhook_id)
        for url in settings.webhook_urls:
            if url not in right:
                client.create_webhook(
                    NAME, url, EVENTS, "A version is registered, or an alias moves."
                )
    return list(settings.webhook_urls)
