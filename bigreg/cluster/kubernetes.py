"""Workers that are pods, through the Dask operator for Kubernetes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dask.utils import parse_bytes
from distributed import Client

from ..errors import ResourceError
from .settings import Cluster
from .workers import ENVIRONMENT, GPU, decoding, extra


@contextmanager
def kubernetes_client(settings: Cluster) -> Iterator[Client]:
    """A client of a new cluster of pods, which are deleted at the end. Scheduler and dashboard are not exposed.

    Pods read images and write the run by their own rights (a service account, say): nothing of this machine's
    environment is passed on.
    """
    operator = extra("dask_kubernetes.operator", "kubernetes", settings)
    spec = cluster_spec(settings)
    try:
        cluster = operator.KubeCluster(custom_cluster_spec=spec, namespace=settings.namespace, quiet=True)
    except Exception as error:  # a client library of many layers: no kubeconfig, no rights, no operator, no answer
        raise ResourceError(
            f"cluster.kind 'kubernetes': no Dask cluster could be made ({type(error).__name__}: {error}); check "
            "kubectl, that the Dask operator is installed there, and cluster.namespace"
        ) from error
    with cluster, Client(cluster) as client:
        if settings.adaptive is not None:
            cluster.adapt(minimum=settings.adaptive, maximum=settings.workers)
        yield client


def cluster_spec(settings: Cluster) -> dict[str, Any]:
    """The operator's DaskCluster resource: one pod a worker, and GPUs for workers only."""
    operator = extra("dask_kubernetes.operator", "kubernetes", settings)
    assert settings.memory_limit is not None, "settings of this kind have one"
    memory = parse_bytes(settings.memory_limit)
    command = ["dask", "worker", "--nthreads", str(settings.in_hand), "--memory-limit", str(memory)]
    if settings.has_gpus:
        command += ["--resources", f"{GPU}=1"]
    spec = operator.make_cluster_spec(
        name=f"bigreg-{uuid.uuid4().hex[:10]}",
        image=settings.image,
        n_workers=settings.adaptive or settings.workers,
        env=ENVIRONMENT | (decoding(settings.cores_per_job) if settings.has_gpus else {}),
        worker_command=command,
    )
    asked = {"cpu": str(settings.cores_per_job), "memory": str(memory)}
    limits = {"memory": str(memory)}
    if settings.gpus is not None:
        limits["nvidia.com/gpu"] = str(settings.gpus)
    (worker,) = spec["spec"]["worker"]["spec"]["containers"]
    worker["resources"] = {"requests": asked, "limits": limits}
    return spec
