"""MLflow's webhooks: the addresses of GRIDCAST_ALERTS that take JSON hear of moved aliases.

MLflow's server sends them itself, so that a promotion in its page is told at once.
"""

from __future__ import annotations

from infra.settings import Settings
from models.releases.mlflow_client import mlflow_client

NAME = "gridcast-alerts"
EVENTS = ["model_version_alias.created"]


def update_webhooks(settings: Settings) -> list[str]:
    """Let MLflow send moves of aliases to ``settings.webhook_urls``, and to no earlier ones.

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
        ours = {hook.url: hook for hook in client.list_webhooks() if hook.name == NAME}
        for url in ours.keys() - set(settings.webhook_urls):
            client.delete_webhook(ours[url].webhook_id)
        for url in settings.webhook_urls:
            if url not in ours:
                client.create_webhook(
                    NAME, url, EVENTS, "The champion or challenger is another version."
                )
    return list(settings.webhook_urls)
