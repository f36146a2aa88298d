"""One cluster for all tests, and the table of faults, printed at the end."""

from collections.abc import Iterator

import pytest
from broken_runs import note, pytest_terminal_summary  # noqa: F401 (pytest finds them here)
from cluster import Cluster, slurm_cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with slurm_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
