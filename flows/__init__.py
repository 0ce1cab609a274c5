"""The flows that Prefect runs, each a short list of calls; the only package that imports it."""

from infra.settings import prepare_environment

# Before any of these modules imports Prefect: no telemetry, and its files in the data folder.
prepare_environment()
