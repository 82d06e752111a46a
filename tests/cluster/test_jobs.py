"""Jobs of a batch system: what is submitted, and what happens when a job ends.

The batch systems are shell scripts here that run each job as processes of this machine; test_slurm.py has a real one.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest

import bigreg
from bigreg.cluster import JOBS, Cluster, client, jobs, jobs_upkeep
from bigreg.cluster.jobs import credentials, job_cluster
from bigreg.errors import ConfigError, ResourceError

pytest.importorskip("dask_jobqueue")

SUBMIT = """#!/bin/bash
[ -e "$JOBS/refuse" ] && { echo "no such account" >&2; exit 1; }
cat "${1:-/dev/stdin}" >"$JOBS/$$.sh"  # as it is: its file is gone when the job begins
setsid bash "$JOBS/$$.sh" >"$JOBS/output" 2>&1 </dev/null &
touch "$JOBS/$!.job"; echo "job <$!> submitted"
"""
LIST = """#!/bin/bash
cd "$JOBS"
for job in *.job; do
    state=$(ps -o stat= -p "${job%.job}"); case "$state" in ""|Z*) ;; *) echo "${job%.job}" ;; esac
done; true
"""
CANCEL = """#!/bin/bash
kill -TERM -- "-$1"
"""
COMMANDS = {
    "slurm": ("sbatch", "squeue", "scancel"),
    "lsf": ("bsub", "bjobs", "bkill"),
    "pbs": ("qsub", "qstat", "qdel"),
    "sge": ("qsub", "qstat", "qdel"),
}


class BatchSystem:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def listed(self) -> set[str]:
        return set(subprocess.run([self.folder / "list"], capture_output=True, text=True, check=True).stdout.split())

    def submitted(self) -> int:
        return len(list(self.folder.glob("*.job")))

    def end(self, timeout: float = 60) -> bool:
        """Whether all jobs end by themselves in that time."""
        until = time.monotonic() + timeout
        while self.listed() and time.monotonic() < until:
            time.sleep(0.2)
        return not self.listed()


@pytest.fixture
def batch(tmp_path, monkeypatch):
    """Makes a batch system of a kind that keeps its jobs in a folder."""
    folder = tmp_path / "batch"
    folder.mkdir()

    def make(kind: str) -> BatchSystem:
        submit, lists, cancel = COMMANDS[kind]
        for name, text in {submit: SUBMIT, lists: LIST, "list": LIST, cancel: CANCEL}.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        return BatchSystem(folder)

    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JOBS", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(bigreg.__file__).parents[1]), *sys.path]))
    monkeypatch.setattr(jobs, "LOST_SECONDS", 1)
    monkeypatch.setattr(jobs_upkeep, "QUEUE_SECONDS", 1)
    yield make
    for job in folder.glob("*.job"):
        with suppress(ProcessLookupError):
            os.killpg(int(job.stem), signal.SIGKILL)


def settings(kind="slurm", **more):
    return Cluster(**{"kind": kind, "workers": 2, "memory_limit": "1GB", "walltime": "04:00:00", **more})


def script(*arguments, **more):
    with job_cluster(settings(*arguments, **more)) as cluster:
        return cluster.job_script()


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("slurm", ["-p long", "-A lab", "--cpus-per-task=4", "--mem=4G", "-t 04:00:00", "--qos=high"]),
        ("lsf", ["-q long", '-P "lab"', "-n 4", '-R "span[hosts=1]"', "-W 04:00", "--qos=high"]),
        ("pbs", ["-q long", "-A lab", "-l select=1:ncpus=4:mem=3815MB", "-l walltime=04:00:00", "--qos=high"]),
        ("sge", ["-q long", "-P lab", "-l h_rt=04:00:00", "-pe smp 4", "--qos=high"]),
    ],
)
def test_a_job_asks_for_what_its_workers_need_in_the_words_of_its_batch_system(kind, lines, tmp_path):
    extra = ["-pe smp 4", "--qos=high"] if kind == "sge" else ["--qos=high"]
    logs = tmp_path / "logs"
    text = script(
        kind, cores=4, queue="long", account="lab", job_extra=extra, prologue=["module load x"], interface="lo",
        local_directory="/scratch", log_directory=str(logs),
    )  # fmt: skip
    directive = {"slurm": "#SBATCH", "lsf": "#BSUB", "pbs": "#PBS", "sge": "#$"}[kind]
    for line in lines:
        assert f"{directive} {line}\n" in text
    assert f"{logs}/" in text and "\nmodule load x\n" in text
    worker = text.splitlines()[-1]
    # 953.67 MiB are 10^9 bytes; margin 600 s: the workers end between 03:30 and 03:50.
    for option in ("--nthreads 1", "--nworkers 4", "--memory-limit 0.93GiB", "--lifetime 13200s",
                   "--lifetime-stagger 600s", "--interface lo", "--local-directory /scratch",
                   "--dashboard-address 127.0.0.1:0"):  # fmt: skip
        assert option in worker
    assert "export OMP_NUM_THREADS=1\n" in text


@pytest.mark.parametrize("walltime", [300, 1800, 86400])
def test_every_worker_ends_before_its_job_is_killed(walltime):
    worker = script(walltime=walltime)
    lifetime, stagger = (int(re.search(rf"{name} (\d+)s", worker)[1]) for name in ("--lifetime", "--lifetime-stagger"))
    assert 0.6 * walltime <= lifetime - stagger
    assert lifetime + stagger <= walltime - 30


@pytest.mark.parametrize(
    ("kind", "request_"),
    [("slurm", "#SBATCH --gres=gpu:2"), ("lsf", '#BSUB -gpu "num=2"'), ("pbs", ":ngpus=2"), ("sge", "#$ -l gpu=2")],
)
def test_a_job_with_gpus_has_one_worker_each(kind, request_):
    more = {"job_extra": ["-l gpu=2", "-pe smp 8"]} if kind == "sge" else {}
    text = script(kind, gpus=2, cores=8, **more)
    assert request_ in text and "--nworkers 2" in text and "--nthreads 2" in text and "--resources GPU=1" in text
    assert "--nthreads 1" in script(kind, gpus=2, cores=8, threads=1, **more)
    assert "--preload-nanny bigreg.cluster.one_gpu" in text
    assert "export BIGREG_COPIES=4\n" in text
    assert "preload" not in script(kind, gpus=1, **({"job_extra": ["-l gpu=1", "-pe smp 8"]} if kind == "sge" else {}))
    assert "BIGREG_COPIES" not in script(kind, cores=2, **({"job_extra": ["-pe smp 2"]} if kind == "sge" else {}))


@pytest.mark.parametrize(
    ("kind", "request_"),
    [("slurm", "--cpus-per-task=16"), ("lsf", "-n 16"), ("pbs", "ncpus=16"), ("sge", "-pe smp 16")],
)
def test_a_job_with_gpus_asks_for_cores_that_decode_for_them(kind, request_):
    text = script(kind, gpus=2, **({"job_extra": ["-l gpu=2", "-pe smp 16"]} if kind == "sge" else {}))
    assert request_ in text and "export BIGREG_COPIES=8\n" in text


def test_where_nothing_is_said_dask_jobqueues_own_file_holds():
    import dask

    values = {"queue": "site", "account": "ours", "walltime": "01:00:00"}
    with dask.config.set({f"jobqueue.slurm.{key}": value for key, value in values.items()}):
        text = script(walltime=None)
    assert "-p site\n" in text and "-A ours\n" in text and "-t 01:00:00\n" in text and "--lifetime 2880s" in text


@pytest.mark.parametrize("kind", JOBS)
def test_no_job_script_holds_a_key_or_the_environment(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    ours = settings(kind, shared_directory=str(tmp_path))
    with credentials(ours) as secure:
        with job_cluster(ours, secure) as cluster:
            text = cluster.job_script()
            assert cluster.scheduler_address.startswith("tls://")
        key = Path(re.search(r"--tls-key (\S+)", text)[1])
        assert key.stat().st_mode & 0o077 == 0 and key.parent.stat().st_mode & 0o077 == 0
        assert key.read_text().splitlines()[1] not in text
    assert not key.parent.exists()
    assert "hunter2" not in text and "PRIVATE KEY" not in text


def test_the_dashboard_is_for_this_machine_and_the_scheduler_for_the_nodes():
    with job_cluster(settings()) as cluster:
        sockets = cluster.scheduler.http_server._sockets.values()
        assert {socket.getsockname()[0] for socket in sockets} == {"127.0.0.1"}
        assert not cluster.scheduler_address.startswith("tcp://127.")
    with job_cluster(settings(dashboard="0.0.0.0:0")) as cluster:
        sockets = cluster.scheduler.http_server._sockets.values()
        assert {socket.getsockname()[0] for socket in sockets} == {"0.0.0.0"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "cores"), [("slurm", 1), ("lsf", 2), ("pbs", 1)])
def test_a_job_that_dies_is_submitted_again_and_at_the_end_none_is_left(kind, cores, batch, tmp_path):
    system = batch(kind)
    with client(settings(kind, cores=cores, interface="lo", shared_directory=str(tmp_path))) as used:
        used.wait_for_workers(2, timeout=120)
        workers = used.scheduler_info()["workers"]
        assert all(address.startswith("tls://") and w["nthreads"] == 1 for address, w in workers.items())
        assert set(used.run(os.getenv, "MALLOC_TRIM_THRESHOLD_").values()) == {str(2**30)}
        before = system.submitted()
        assert before == 2 // cores
        os.killpg(int(sorted(system.listed())[0]), signal.SIGKILL)  # a node that dies says no good-bye
        until = time.monotonic() + 90
        while system.submitted() == before or len(used.scheduler_info()["workers"]) < 2:
            assert time.monotonic() < until
            time.sleep(0.2)
        assert used.submit(sum, [1, 2]).result(timeout=60) == 3
        assert len(system.listed()) == 2 // cores
    assert system.end()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("adaptive", [None, 1])
def test_a_worker_that_ends_by_itself_is_replaced(adaptive, batch, tmp_path):
    system = batch("slurm")
    ours = settings(workers=1 + (adaptive or 0), adaptive=adaptive, interface="lo", shared_directory=str(tmp_path))
    with client(ours) as used:
        (address,) = used.scheduler_info()["workers"]
        used.retire_workers([address], close_workers=True)  # as at the end of its lifetime
        until = time.monotonic() + 90
        while set(used.scheduler_info()["workers"]) <= {address}:
            assert time.monotonic() < until
            time.sleep(0.2)
        assert system.submitted() == 2


@pytest.mark.timeout(300)
def test_jobs_end_when_the_client_is_killed(batch, tmp_path):
    system = batch("slurm")
    ours = settings(workers=1, interface="lo", shared_directory=str(tmp_path)).model_dump()
    code = f"""
from bigreg.cluster import Cluster, client
import os, signal
with client(Cluster(**{ours!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert system.submitted() == 1 and system.end()


def test_a_refusal_is_passed_on_in_the_words_of_the_batch_system(batch, tmp_path):
    system = batch("slurm")
    (system.folder / "refuse").touch()
    ours = settings(shared_directory=str(tmp_path))
    with pytest.raises(ResourceError, match="sbatch refused a job: no such account"), client(ours):
        pass


def test_jobs_that_all_end_at_once_are_an_error_and_not_a_wait_for_ever(batch, tmp_path):
    system = batch("pbs")
    ours = settings("pbs", prologue=["exit 3"], shared_directory=str(tmp_path))
    with pytest.raises(ResourceError, match="exited before connecting"), client(ours):
        pass
    assert system.submitted() == 4  # two rounds


def test_a_machine_where_nothing_can_be_submitted_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match="bsub is not on the PATH"), client(settings("lsf")):
        pass


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(ConfigError, match=r"needs dask-jobqueue.*pip install 'bigreg\[jobqueue\]'"), client(settings()):
        pass


def test_ctrl_c_stays_what_it_was_when_the_batch_systems_are_imported():
    code = (
        "import signal, sys; from bigreg.cluster import Cluster; from bigreg.cluster.workers import extra; "
        "extra('dask_jobqueue', 'jobqueue', Cluster()); "
        "print('dask_jobqueue.runner' in sys.modules, signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_who_waits_for_jobs_is_stopped():
    class Queued:
        scheduler_info: ClassVar[dict] = {"workers": {}}
        workers: ClassVar[dict] = {}

    class Asked(Exception):
        pass

    def stopped():
        raise Asked

    begin = time.monotonic()
    with pytest.raises(Asked):
        jobs_upkeep.JobKeeper(Queued(), "slurm").wait_for_a_worker(stopped)
    assert time.monotonic() - begin < 5
