"""What is asked of Kubernetes. There is none here: its resource is looked at, and what is said where none answers."""

from __future__ import annotations

import sys

import pytest

from bigreg.cluster import Cluster, client
from bigreg.cluster.kubernetes import cluster_spec
from bigreg.errors import ConfigError, ResourceError


def settings(**more):
    return Cluster(**{"kind": "kubernetes", "workers": 7, "memory_limit": "2GB", "image": "registry/bigreg:1", **more})


def test_a_worker_is_a_pod_and_only_workers_have_gpus(monkeypatch):
    pytest.importorskip("dask_kubernetes")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    spec = cluster_spec(settings(gpus=1))
    (worker,) = spec["spec"]["worker"]["spec"]["containers"]
    (scheduler,) = spec["spec"]["scheduler"]["spec"]["containers"]
    assert spec["spec"]["worker"]["replicas"] == 7
    assert worker["image"] == scheduler["image"] == "registry/bigreg:1"
    command = ["dask", "worker", "--nthreads", "2", "--memory-limit", "2000000000", "--resources", "GPU=1"]
    assert worker["args"][:8] == command
    assert worker["resources"]["requests"]["cpu"] == "8"
    assert {"name": "BIGREG_COPIES", "value": "8"} in worker["env"]
    assert worker["resources"]["limits"] == {"memory": "2000000000", "nvidia.com/gpu": "1"}
    assert not scheduler["resources"]
    assert spec["spec"]["scheduler"]["service"]["type"] == "ClusterIP"
    assert {"name": "OMP_NUM_THREADS", "value": "1"} in worker["env"]
    assert "hunter2" not in str(spec)


def test_adaptive_pods_begin_with_the_least():
    pytest.importorskip("dask_kubernetes")
    assert cluster_spec(settings(adaptive=2))["spec"]["worker"]["replicas"] == 2


def test_where_no_kubernetes_answers_the_error_says_what_to_check(monkeypatch, tmp_path):
    pytest.importorskip("dask_kubernetes")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ResourceError, match="check kubectl"), client(settings()):
        pass


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_kubernetes", None)
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", None)
    with pytest.raises(ConfigError, match=r"pip install 'bigreg\[kubernetes\]'"), client(settings()):
        pass
