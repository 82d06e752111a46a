"""The cluster on this machine: its workers come back."""

import pytest

from bigreg.cluster import local_client
from bigreg.config import Cluster


@pytest.mark.timeout(180)
def test_a_worker_whose_nanny_is_gone_is_replaced():
    with local_client(Cluster(workers=1)) as client:
        assert client.submit(sum, [1, 2]).result(timeout=60) == 3
        before = set(client.scheduler_info()["workers"])
        nanny = next(iter(client.cluster.workers.values()))
        client.cluster.sync(nanny.close)  # what is left when a worker dies while it starts
        assert client.submit(sum, [3, 4]).result(timeout=120) == 7
        assert not before & set(client.scheduler_info()["workers"])
