"""A run on a real Slurm: the one that answers here, else one of this host alone that is started for the test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bigreg
from bigreg import load_config, register
from bigreg.cluster import client, jobs, jobs_upkeep
from bigreg.config import load_cluster
from bigreg.errors import ResourceError

pytest.importorskip("dask_jobqueue")
pytestmark = pytest.mark.slurm

CONF = """
ClusterName=bigreg
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def answers() -> bool:
    try:
        nodes = subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return nodes.returncode == 0 and any(state in nodes.stdout for state in ("idle", "mix"))


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A Slurm that takes jobs."""
    if answers():
        yield
        return
    missing = [program for program in ("sinfo", "slurmctld", "slurmd", "munged") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no Slurm answers to sinfo, and none can be started: {', '.join(missing)} not installed")
    if os.geteuid() != 0:
        pytest.skip("no Slurm answers to sinfo, and only root can start one")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, folder=folder, ports=free_ports(2)))
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    programs = [
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf), "-N", host],
    ]
    patch = pytest.MonkeyPatch()
    patch.setenv("SLURM_CONF", str(conf))
    running = []
    try:
        for command in programs:
            with open(folder / f"{command[0]}.out", "w") as output:
                running.append(subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True))
            time.sleep(0.5)
        end = time.monotonic() + 60
        while not answers():
            if time.monotonic() > end:
                said = [path.read_text()[-500:] for path in sorted(folder.glob("*.out"))]
                pytest.fail("Slurm was started and does not answer: " + "\n".join(said))
            time.sleep(0.5)
        yield
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(30)
        patch.undo()


@pytest.fixture
def on_slurm(slurm, tmp_path, monkeypatch):
    """Settings for small workers on it, from the preset; their logs and TLS credentials lie in the test's folder."""
    # Jobs inherit the environment of who submits them: here a source tree that may not be the installed one.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(bigreg.__file__).parents[1]), *sys.path]))
    values = {
        "workers": 2,
        "memory_limit": "1500MB",
        "walltime": "00:20:00",
        "interface": "lo",
        "log_directory": str(tmp_path / "logs"),
        "shared_directory": str(tmp_path),
    }
    return lambda **more: load_cluster("slurm", overrides={**values, **more})


def listed(*options: str) -> set[str]:
    command = ["squeue", "-h", "-n", "bigreg", "-o", "%i", *options]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


class Canceller:
    """Cancels a worker's job at the first block of some stages."""

    def __init__(self, *stages: str) -> None:
        self.stages, self.cancelled = list(stages), []

    def plan(self, stages):
        pass

    def stage(self, name, title, blocks, done):
        pass

    def block(self, name, status, index):
        running = sorted(listed("-t", "RUNNING"))
        if name in self.stages and running:
            self.stages.remove(name)
            subprocess.run(["scancel", running[0]], check=True)
            self.cancelled.append(running[0])

    def finish(self, name):
        pass


def test_cancelling_worker_jobs_in_mid_run_gives_the_same_bits(
    on_slurm, registered, small_config, same_bits, tmp_path, monkeypatch
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-in-the-environment")
    before = listed("-t", "all")
    # Both jobs are cancelled, so the run can only end with one that was submitted in the place of the first.
    canceller = Canceller("levels/1", "levels/0")
    config = load_config(small_config().model_copy(update={"cluster": on_slurm()}))
    out = tmp_path / "run.zarr"
    run = register(registered.fixed, registered.moving, out=str(out), config=config, progress=canceller)
    assert len(canceller.cancelled) == 2
    assert len(listed("-t", "all") - before) >= 3
    assert run.status().state == "finished" and same_bits(run, registered.run)
    end = time.monotonic() + 30
    while listed() and time.monotonic() < end:
        time.sleep(0.5)
    assert not listed(), "jobs are left behind"
    assert not list((tmp_path / ".bigreg").iterdir()), "TLS credentials are left behind"
    for path in [p for p in (*out.rglob("*"), *(tmp_path / "logs").iterdir()) if p.is_file()]:
        assert b"planted-in-the-environment" not in path.read_bytes()


def test_what_slurm_says_of_a_refused_job_is_passed_on(on_slurm):
    with pytest.raises(ResourceError, match="invalid partition"), client(on_slurm(queue="nowhere")):
        pass


def test_jobs_that_all_end_at_once_are_an_error_and_not_a_wait_for_ever(on_slurm, monkeypatch):
    monkeypatch.setattr(jobs, "LOST_SECONDS", 1)
    monkeypatch.setattr(jobs_upkeep, "QUEUE_SECONDS", 1)
    with pytest.raises(ResourceError, match="exited before connecting"), client(on_slurm(prologue=["exit 3"])):
        pass
