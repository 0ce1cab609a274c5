"""A real Slurm for the tests of its adapter and collector, where Debian's packages of it are."""

from collections.abc import Iterator

import pytest

from tests.adapters.slurm_cluster import Slurm, missing, slurm_cluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A running Slurm, started once a session."""
    if why := missing():
        pytest.skip(why)
    with slurm_cluster() as cluster:
        yield cluster
