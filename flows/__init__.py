"""The flows that Prefect runs: each a thin list of calls downwards. The only package that imports Prefect."""

from infra.settings import prepare_environment

# Before any of these modules imports Prefect: it turns its telemetry off and its files into the data folder.
prepare_environment()
