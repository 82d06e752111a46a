"""The cluster on this machine: its workers come back."""

import gc
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from distributed import Client, LocalCluster

from bigreg import load_config
from bigreg.cluster import Cluster, card_memory, client, local_client, prepare, visible_gpus, worker_count
from bigreg.cluster.gpus import VISIBLE
from bigreg.cluster.one_gpu import dask_setup
from bigreg.cluster.without_main import IMPORTED
from bigreg.config import load_cluster
from bigreg.errors import ResourceError
from bigreg.pipeline.schedule.answers import execute
from bigreg.pipeline.store.store import Status


@pytest.mark.timeout(180)
def test_a_worker_whose_nanny_is_gone_is_replaced():
    with local_client(Cluster(workers=1)) as client:
        assert client.submit(sum, [1, 2]).result(timeout=60) == 3
        before = set(client.scheduler_info()["workers"])
        nanny = next(iter(client.cluster.workers.values()))
        client.cluster.sync(nanny.close)  # what is left when a worker dies while it starts
        assert client.submit(sum, [3, 4]).result(timeout=120) == 7
        assert not before & set(client.scheduler_info()["workers"])


@pytest.mark.timeout(180)
def test_an_adaptive_cluster_begins_with_the_least_and_grows_with_the_work():
    with client(Cluster(workers=2, adaptive=1)) as used:
        used.wait_for_workers(1)
        assert len(used.scheduler_info()["workers"]) == 1
        waiting = used.map(lambda _: time.sleep(1), range(40), pure=False)
        used.wait_for_workers(2, timeout=90)
        assert len(used.scheduler_info()["workers"]) == 2
        del waiting


def test_only_this_machine_can_reach_a_local_cluster():
    with client(Cluster(workers=1)) as used:
        info = used.scheduler_info()
        assert info["address"].startswith("tcp://127.0.0.1:")
        assert used.dashboard_link.startswith("http://127.0.0.1:")
        assert all(address.startswith("tcp://127.0.0.1:") for address in info["workers"])


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="there is a GPU")
def test_without_a_gpu_the_kind_cuda_says_so():
    with pytest.raises(ResourceError, match="no GPU"), client(Cluster(kind="cuda")):
        pass


def test_a_worker_sees_one_of_the_gpus_of_its_job(monkeypatch):
    class Nanny:
        name, env = "bigreg-7-2", {}

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-abc")
    dask_setup(Nanny)
    assert Nanny.env == {"CUDA_VISIBLE_DEVICES": "GPU-abc"}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    dask_setup(Nanny)
    assert Nanny.env == {"CUDA_VISIBLE_DEVICES": "2"}


def test_by_default_there_is_a_worker_for_every_core_that_may_be_used():
    assert worker_count(Cluster()) == len(os.sched_getaffinity(0))


@pytest.fixture
def three_gpus(monkeypatch):
    """PyTorch of this process sees three GPUs; there is none, so workers may only be asked what they were given."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    card = SimpleNamespace(total_memory=24 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return card


def seen(dask_worker):
    """What a worker was given. Its own imports: it travels without this module."""
    import os
    import signal

    return {
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "copies": os.environ.get("BIGREG_COPIES"),
        "resource": dask_worker.state.total_resources.get("GPU"),
        "ignores Ctrl-C": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "threads": dask_worker.state.nthreads,
    }


def machine(monkeypatch, cores, memory):
    for module in ("local", "workers"):
        monkeypatch.setattr(f"bigreg.cluster.{module}.cores_here", lambda: cores)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=memory * 2**30))


def test_gpus_are_shared_evenly_by_workers_with_their_part_of_the_cores(three_gpus, monkeypatch):
    machine(monkeypatch, cores=13, memory=1000)
    with client(load_cluster("cuda")) as used:
        used.wait_for_workers(6, timeout=120)
        found = list(used.run(seen).values())
        assert sorted(f.pop("gpu") for f in found) == ["0", "0", "1", "1", "2", "2"]
        assert found == [{"copies": "2", "resource": 1, "ignores Ctrl-C": True, "threads": 2}] * 6


@pytest.mark.parametrize(
    ("cores", "memory", "card", "each"),
    [
        (2, 1000, 80, 1), (12, 1000, 80, 2), (200, 1000, 80, 8), (200, 1000, 24, 3), (200, 1000, 6, 1),
        (200, 100, 80, 4), (200, 8, 80, 1),
    ],
)  # fmt: skip
def test_how_many_workers_share_a_gpu(three_gpus, monkeypatch, cores, memory, card, each):
    """By cores, by the machine's memory and by the GPU's."""
    machine(monkeypatch, cores, memory)
    three_gpus.total_memory = card * 2**30
    cluster = Cluster(kind="cuda")
    assert worker_count(cluster) == 3 * each
    assert card_memory(cluster) == card * 2**30 // each
    assert card_memory(Cluster(kind="cuda", workers=4)) == card * 2**30 // 2
    assert card_memory(Cluster(kind="cuda", workers=2)) == card * 2**30
    assert card_memory(Cluster(workers=2)) is None


def test_a_worker_that_is_replaced_takes_the_gpu_of_the_one_that_is_gone(three_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c")
    assert visible_gpus() == ["GPU-a", "GPU-b", "GPU-c"]
    with client(Cluster(kind="cuda", workers=2)) as used:
        used.wait_for_workers(2, timeout=120)
        gone = next(n for n, spec in used.cluster.worker_spec.items() if spec["options"]["env"][VISIBLE] == "GPU-b")
        used.cluster.sync(used.cluster.workers[gone].close)
        end = time.monotonic() + 120
        while sorted(f["gpu"] for f in used.run(seen, on_error="ignore").values()) != ["GPU-a", "GPU-b"]:
            assert time.monotonic() < end, "the GPU of the lost worker was not used again"
            time.sleep(0.5)


def test_local_workers_are_given_a_gpu_only_where_that_is_said(three_gpus):
    with client(Cluster(workers=1)) as used:
        (found,) = used.run(seen).values()
        assert (found["gpu"], found["resource"], found["copies"]) == (None, None, None)
    assert worker_count(Cluster(device="cuda")) == 3
    with client(Cluster(device="cuda", workers=4)) as used:  # two share a GPU
        used.wait_for_workers(4, timeout=120)
        assert sorted(f["gpu"] for f in used.run(seen).values()) == ["0", "0", "1", "2"]


def test_where_there_are_gpus_they_are_the_default(three_gpus, caplog):
    assert load_config("rounds").cluster.kind == load_cluster(None).kind == "cuda"
    assert load_config("rounds", overrides=["cluster.kind=local"]).cluster.kind == "local"
    assert load_config("rounds", cluster="local").cluster.kind == "local"
    with client(Cluster(kind="cuda", workers=1)):
        assert "1 GPU of this machine, one worker each" in caplog.text


def test_without_gpus_the_cores_are_the_default():
    assert load_config("rounds").cluster.kind == load_cluster({"workers": 2}).kind == "local"


def test_a_worker_that_has_most_of_its_memory_goes_on():
    """Dask's would pause at 80 % and wait for data to be taken from them, of which ours have none."""

    def fill(share: float) -> float:
        import psutil
        from distributed import get_worker

        worker, process = get_worker(), psutil.Process()
        limit = worker.memory_manager.memory_limit
        worker.held = bytearray(b"1") * int(share * limit - process.memory_info().rss)
        return process.memory_info().rss / limit

    with local_client(Cluster(workers=1, memory_limit="900MB")) as client:
        assert client.submit(fill, 0.87).result(timeout=60) > 0.82
        time.sleep(2)  # its memory is looked at meanwhile
        assert client.submit(sum, [1, 2]).result(timeout=30) == 3


SCRIPT = """
print("the script", flush=True)
import math, os, signal
from bigreg.cluster import Cluster, client

with client(Cluster(workers=1, memory_limit="1GB")) as workers:
    os.kill(workers.submit(os.getpid).result(), signal.SIGKILL)
    print(workers.submit(math.sqrt, 1764.0, pure=False).result(timeout=120))
print(__file__, __spec__)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="spawned elsewhere")
def test_workers_are_forked_from_a_process_that_has_one_thread_and_their_environment():
    def what():
        import psutil

        parent = psutil.Process().parent()
        names = ("OMP_NUM_THREADS", "MALLOC_ARENA_MAX")
        there = parent.environ()
        missing = [name for name in imported if name not in sys.modules]
        return [there.get(n) for n in names], [os.environ[n] for n in names], parent.num_threads(), missing, parent.pid

    imported = IMPORTED  # a name that is not there would be passed over without a word
    with client(Cluster(kind="local", workers=2)) as one:
        one.wait_for_workers(2)
        found = list(one.run(what).values())
    assert [each[:4] for each in found] == [(["1", "2"], ["1", "2"], 1, [])] * 2
    assert found[0][4] == found[1][4] != os.getpid()


def test_only_a_process_of_its_own_keeps_what_it_imported_from_being_looked_through_again(one_thread):
    def frozen(opened, index):
        return Status.DONE, {"frozen": gc.get_freeze_count()}

    def ask(used):
        asked = used.submit(execute, lambda url, stamp: None, "", "", frozen, (), (0, 0, 0), pure=False)
        return asked.result(timeout=120).metrics["frozen"]

    with local_client(Cluster(workers=1)) as used:
        assert ask(used) > 100_000
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as here, Client(here) as used:
        assert ask(used) == gc.get_freeze_count() == 0  # the objects of whoever calls


def test_a_process_to_fork_from_is_begun_only_where_it_is_used(monkeypatch):
    begun = []
    monkeypatch.setattr("bigreg.cluster.without_main.forkserver.ensure_running", lambda: begun.append(1))
    prepare(Cluster(kind="slurm", workers=1, memory_limit="1GB"))
    prepare(Cluster(device="cuda"))
    assert not begun
    prepare(Cluster(workers=1))
    assert begun


def test_workers_have_the_environment_of_now(monkeypatch):
    """Credentials, say, that were set after a cluster before."""
    names = ("BIGREG_TEST_NOW", "OMP_NUM_THREADS")
    for value in ("one", "two"):
        monkeypatch.setenv("BIGREG_TEST_NOW", value)
        with client(Cluster(kind="local", workers=1)) as one:
            assert one.submit(lambda: [os.environ.get(n) for n in names]).result() == [value, "1"]


def test_a_script_without_a_guard_is_not_run_by_its_workers(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=240)
    assert done.stdout.splitlines() == ["the script", "42.0", f"{tmp_path}/script.py None"], done.stderr
    assert "Traceback" not in done.stderr
