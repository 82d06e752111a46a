"""A run and the cluster it runs on: nothing of it is in the run, so another may go on."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributed import LocalCluster

from bigreg import load_config, open_run, register
from bigreg.config import load_cluster
from bigreg.errors import ConfigError, ResourceError

PLANTED = "hunter2"
SLURM = {"kind": "slurm", "workers": 2, "memory_limit": "4GB", "prologue": [f"login {PLANTED}"]}


class Stop:
    """Ends a run at the first block of a stage, as Ctrl-C does."""

    def __init__(self, stage: str) -> None:
        self.at = stage

    def plan(self, stages):
        pass

    def stage(self, name, title, blocks, done):
        pass

    def block(self, name, status, index):
        if name == self.at:
            raise KeyboardInterrupt

    def finish(self, name):
        pass


def test_a_run_goes_on_on_another_cluster_and_holds_no_credential_of_any(
    registered, small_config, thread_client, same_bits, tmp_path
):
    config = load_config({**small_config().model_dump(), "cluster": SLURM})
    images = registered.fixed, registered.moving
    out = str(tmp_path / "run.zarr")
    with pytest.raises(KeyboardInterrupt):
        register(*images, out=out, config=config, client=thread_client, progress=Stop("levels/0"))
    run = open_run(out)
    assert run.store.attributes["cluster"] == {"kind": "slurm"}
    with pytest.raises(ConfigError, match="give cluster=slurm"):
        run.resume()
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as there:
        run.resume(cluster={"kind": "address", "scheduler_address": there.scheduler_address})
        # The same run by the same call with another cluster: it is known to be the same.
        there = {**config.model_dump(), "cluster": {"kind": "local", "workers": 1}}
        assert register(*images, out=out, config=there).status().state == "finished"
    assert same_bits(run, registered.run)
    assert run.store.attributes["cluster"] == {"kind": "address"}
    for path in Path(out).rglob("*"):
        assert not path.is_file() or not any(
            word in path.read_bytes() for word in (PLANTED.encode(), b"scheduler_address", b"prologue")
        )


def test_a_block_that_no_worker_can_hold_is_refused_before_a_job_is_submitted(registered, small_config, tmp_path):
    config = load_config(small_config(), cluster="slurm", overrides=["cluster.memory_limit=300MB"])
    out = tmp_path / "run.zarr"
    with pytest.raises(ResourceError, match="memory_limit"):
        register(registered.fixed, registered.moving, out=str(out), config=config)
    assert not out.exists()


def test_flags_replace_what_a_local_run_began_with(registered, small_config, thread_client, tmp_path):
    config = load_config(small_config(), overrides=["cluster.workers=3"])
    out = str(tmp_path / "run.zarr")
    with pytest.raises(KeyboardInterrupt):
        register(
            registered.fixed, registered.moving, out=out, config=config, client=thread_client, progress=Stop("levels/1")
        )
    run = open_run(out)
    assert run._cluster(None, None, None) == load_cluster({"workers": 3})
    assert run._cluster(None, 1, "2GB") == load_cluster({"workers": 1, "memory_limit": "2GB"})
