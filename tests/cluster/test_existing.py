"""A scheduler that runs already, with and without TLS."""

from __future__ import annotations

import json
import threading

import dask
import pytest
from distributed import LocalCluster
from distributed.security import Security

from bigreg.cluster import Cluster, client, require_memory, worker_count, worker_memory
from bigreg.errors import ConfigError, ResourceError


@pytest.fixture
def pem(tmp_path):
    """Credentials as files."""
    pytest.importorskip("cryptography")
    made = Security.temporary()
    texts = {"tls_ca": made.tls_ca_file, "tls_cert": made.tls_client_cert, "tls_key": made.tls_client_key}
    for name, text in texts.items():
        (tmp_path / f"{name}.pem").write_text(text)
    return made, {name: str(tmp_path / f"{name}.pem") for name in texts}


def running(**more):
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "memory_limit": "1GB"}
    return LocalCluster(dashboard_address="127.0.0.1:0", **{**options, **more})


def test_a_scheduler_is_found_by_its_address_and_left_running():
    with running() as cluster:
        settings = Cluster(kind="address", scheduler_address=cluster.scheduler_address)
        for _ in range(2):
            with client(settings) as used:
                assert used.submit(sum, [1, 2]).result(timeout=30) == 3
        assert worker_count(settings) == 2


@pytest.mark.parametrize("pause", [0.8, False])
def test_workers_that_may_wait_for_ever_are_named(pause, caplog):
    with dask.config.set({"distributed.worker.memory.pause": pause}), running() as cluster:
        assert worker_count(Cluster(kind="address", scheduler_address=cluster.scheduler_address)) == 2
    told = [r.getMessage() for r in caplog.records if r.name == "bigreg.cluster"]
    assert bool(told) == bool(pause)
    assert all("2 workers" in text and "80 %" in text and "MEMORY__PAUSE=False" in text for text in told)


def test_a_scheduler_is_found_by_its_file(tmp_path):
    file = tmp_path / "scheduler.json"
    with running() as cluster:
        file.write_text(json.dumps(cluster.scheduler.identity()))
        with client(Cluster(kind="address", scheduler_file=str(file))) as used:
            assert used.submit(sum, [1, 2]).result(timeout=30) == 3
    gone = Cluster(kind="address", scheduler_file=str(tmp_path / "gone.json"))
    with pytest.raises(ConfigError, match=r"gone.json' does not exist"), client(gone):
        pass


def test_tls_needs_the_right_credentials(pem, tmp_path, monkeypatch):
    monkeypatch.setattr("bigreg.cluster.existing.CONNECT_SECONDS", 3)
    made, files = pem
    with running(security=made, protocol="tls://", processes=False) as cluster:
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        settings = Cluster(kind="address", scheduler_address=address, **files)
        with client(settings) as used:
            assert used.submit(sum, [1, 2]).result(timeout=30) == 3
        for name, text in zip(("tls_ca", "tls_cert", "tls_key"), _others(), strict=True):
            (tmp_path / f"{name}.pem").write_text(text)
        with pytest.raises(ResourceError, match="no scheduler answers"), client(settings):
            pass


def _others():
    other = Security.temporary()
    return other.tls_ca_file, other.tls_client_cert, other.tls_client_key


def test_a_credential_that_is_no_file_is_named(pem):
    _, files = pem
    settings = Cluster(kind="address", scheduler_address="tls://127.0.0.1:1", **{**files, "tls_key": "missing.pem"})
    with pytest.raises(ConfigError, match=r"cluster.tls_key = 'missing.pem' is not a file"), client(settings):
        pass


def test_nobody_at_the_address_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr("bigreg.cluster.existing.CONNECT_SECONDS", 1)
    settings = Cluster(kind="address", scheduler_address="tcp://127.0.0.1:9")
    with pytest.raises(ResourceError, match="no scheduler answers"), client(settings):
        pass


def test_the_smallest_worker_there_decides_what_a_block_may_need(monkeypatch):
    with running() as cluster:
        settings = Cluster(kind="address", scheduler_address=cluster.scheduler_address)
        assert worker_memory(settings) == 1_000_000_000
        with pytest.raises(ResourceError, match="start its workers with more memory"):
            require_memory(2_000_000_000, settings)
    with running(n_workers=0) as cluster:
        settings = Cluster(kind="address", scheduler_address=cluster.scheduler_address)
        threading.Timer(1.0, cluster.scale, (1,)).start()
        assert worker_memory(settings) == 1_000_000_000, "a worker that is starting was not waited for"
    monkeypatch.setattr("bigreg.cluster.existing.CONNECT_SECONDS", 1)
    with running(n_workers=0) as cluster:
        settings = Cluster(kind="address", scheduler_address=cluster.scheduler_address)
        with pytest.raises(ResourceError, match="no workers"):
            worker_memory(settings)
