"""Kill anything at any time, run the same command again: the same bits."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bigreg import open_run, register
from bigreg.cluster import local_client
from bigreg.config import Cluster
from bigreg.errors import CorruptDataError, IncompleteError
from bigreg.pipeline.context import masks

SCRIPT = """
import os, pickle, signal, sys
from distributed import Client, LocalCluster
from bigreg import register

class Killer:
    '''Kills this process, hard, after the first block of a stage that has not been killed in before.'''
    def __init__(self, seen): self.seen = seen
    def plan(self, stages): pass
    def stage(self, name, title, blocks, done): pass
    def block(self, name, status, index):
        with open(self.seen, 'a+') as file:
            file.seek(0)
            if name in file.read().split():
                return
            file.write(name + '\\n')
        os.kill(os.getpid(), signal.SIGKILL)
    def finish(self, name): pass

def run():
    with open(sys.argv[1], 'rb') as file:
        fixed, moving, config = pickle.load(file)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        with Client(cluster) as client:
            register(fixed, moving, out=sys.argv[2], config=config, client=client, progress=Killer(sys.argv[3]))

if __name__ == '__main__':
    # Every attempt is a process of its own, forked before anything but importing was done: that alone takes seconds.
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            run()
            sys.stdout.flush()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != -signal.SIGKILL or kills == 60:
            break
        kills += 1
    print('kills', kills)
    sys.exit(status)
"""


@pytest.mark.slow
def test_killing_the_process_in_every_stage_gives_the_same_bits(registered, same_bits, tmp_path):
    arguments = tmp_path / "arguments.pickle"
    arguments.write_bytes(pickle.dumps((registered.fixed, registered.moving, registered.config)))
    script, seen, out = tmp_path / "run.py", tmp_path / "seen", str(tmp_path / "run.zarr")
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(arguments), out, str(seen)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kills = int(done.stdout.split()[-1])
    stages = seen.read_text().split()
    assert kills == len(stages) == len(set(stages))
    for needed in ("stages/affine", "levels/0", "levels/0/stitch", "levels/0/compose/0", "stages/fixed_to_moving",
                   "stages/check", "stages/warped", "stages/report"):  # fmt: skip
        assert needed in stages
    assert open_run(out).status().state == "finished"
    assert same_bits(open_run(out), registered.run)


class WorkerKiller:
    """Kills one worker, hard, at the beginning of every stage of a run."""

    def __init__(self, client) -> None:
        self.client, self.kills = client, 0

    def plan(self, stages):
        pass

    def stage(self, name, title, blocks, done):
        if name.count("/") == 1:
            self.client.wait_for_workers(1)
            pids = self.client.run(os.getpid, on_error="ignore")  # one may just have been killed
            for pid in list(pids.values())[:1]:
                os.kill(pid, signal.SIGKILL)
                self.kills += 1

    def block(self, name, status, index):
        pass

    def finish(self, name):
        pass


@pytest.mark.slow
def test_killing_a_worker_in_every_stage_gives_the_same_bits(registered, small_config, same_bits, tmp_path):
    with local_client(Cluster(workers=2)) as client:
        killer = WorkerKiller(client)
        run = register(
            registered.fixed,
            registered.moving,
            out=str(tmp_path / "run.zarr"),
            config=small_config(),
            client=client,
            progress=killer,
        )
    assert killer.kills >= 8
    assert same_bits(run, registered.run)


def test_a_corrupt_chunk_is_named_and_nothing_done_is_lost(
    registered, small_config, thread_client, tmp_path, monkeypatch
):
    import numpy as np

    from bigreg.volumes import convert

    path = tmp_path / "fixed.ome.zarr"
    image, spacing = registered.fixed
    convert(image, path, spacing=spacing, chunks=(32, 32, 32), shards=None)
    chunk = path / "0" / "c" / "0" / "1" / "1"
    good = chunk.read_bytes()
    broken = bytes(np.frombuffer(good, np.uint8)[::-1])
    chunk.write_bytes(broken)
    out = str(tmp_path / "run.zarr")
    arguments = dict(out=out, config=small_config(), client=thread_client)
    with pytest.raises(CorruptDataError, match=r"chunk \(0, 1, 1\)"):
        register(str(path), registered.moving, **arguments)
    assert not Path(out).exists()  # the look for padding came upon it, before a run was begun
    chunk.write_bytes(good)
    look = masks.padding_of
    monkeypatch.setattr(masks, "padding_of", lambda *a, **k: (look(*a, **k), chunk.write_bytes(broken))[0])
    with pytest.raises((CorruptDataError, IncompleteError), match=r"chunk \(0, 1, 1\)"):
        register(str(path), registered.moving, **arguments)
    assert open_run(out).status().state == "incomplete"
    assert any("cannot be decoded" in e for e in open_run(out).status().errors)
    chunk.write_bytes(good)
    assert register(str(path), registered.moving, **arguments).status().state == "finished"


def test_a_block_that_always_fails_stops_nothing_else_and_may_be_treated_as_blank(
    registered, small_config, thread_client, same_bits, tmp_path, monkeypatch
):
    from bigreg.pipeline.store.store import Status
    from bigreg.pipeline.tasks import estimate

    read = estimate.read_pair

    def broken(context, level, block):
        if level.index == 0 and block.index == (0, 1, 1):
            raise RuntimeError("broken on purpose")
        return read(context, level, block)

    monkeypatch.setattr(estimate, "read_pair", broken)
    outs = [str(tmp_path / name) for name in ("resumed.zarr", "accepted.zarr")]
    arguments = dict(config=small_config(), client=thread_client)
    for out in outs:
        with pytest.raises(IncompleteError, match=r"1 blocks? failed \(\(0, 1, 1\)\).*broken on purpose"):
            register(registered.fixed, registered.moving, out=out, **arguments)
        status = open_run(out).store.array("levels/0/status")[...]
        assert status[0, 1, 1] == Status.FAILED
        assert ((status == Status.DONE) | (status == Status.BLANK)).sum() == status.size - 1, "the rest goes on"
        assert any("broken on purpose" in e for e in open_run(out).status().errors)
    accepted = open_run(outs[1]).resume(client=thread_client, accept_failed=True)
    assert accepted.status().state == "finished"
    assert any("treated as blank" in e for e in accepted.status().errors)
    assert min(float(m["min_jacobian"].min()) for n, m in accepted.metrics().items() if "min_jacobian" in m) > 0
    assert not same_bits(accepted, registered.run)
    monkeypatch.setattr(estimate, "read_pair", read)
    assert same_bits(open_run(outs[0]).resume(client=thread_client), registered.run)
