"""Two processes never work on one run; one that died holds nothing up."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from bigreg import storage
from bigreg.errors import OutputError
from bigreg.pipeline.store import lock
from bigreg.pipeline.store.lock import working_on
from bigreg.storage import Claim

HOLD = """
import sys, time
from bigreg.pipeline.store.lock import working_on
with working_on(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["file", "memory"])
def place(request, tmp_path):
    return str(tmp_path / "run.zarr") if request.param == "file" else f"memory://lock-{tmp_path.name}/run.zarr"


def test_the_second_is_refused_and_told_who_the_first_is(place):
    me = f"process {os.getpid()} on {socket.gethostname()}"
    with working_on(place), pytest.raises(OutputError, match=me), working_on(place):
        raise AssertionError("both hold the run")
    with working_on(place):
        pass


def test_a_process_that_was_killed_holds_nothing_up(tmp_path):
    place = str(tmp_path / "run.zarr")
    process = subprocess.Popen([sys.executable, "-c", HOLD, place], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(OutputError, match=f"process {process.pid}"), working_on(place):
        pass
    process.kill()
    process.wait()
    with working_on(place):
        pass


def test_a_process_of_another_host_is_believed_while_it_gives_signs_of_life(place):
    claim = Claim(place, "lock.json")
    claim.read()
    other = {"host": "elsewhere", "process": 1, "started": 0.0}
    assert claim.write({**other, "seen": time.time()})
    with pytest.raises(OutputError, match="on elsewhere"), working_on(place):
        pass
    assert claim.write({**other, "seen": time.time() - lock.STALE_SECONDS - 1})
    with working_on(place):
        assert Claim(place, "lock.json").read()["process"] == os.getpid()


def test_of_two_that_try_at_once_one_has_it(place):
    first, second = Claim(place, "lock.json"), Claim(place, "lock.json")
    assert first.read() is None and second.read() is None
    assert first.write({"process": 1}) and not second.write({"process": 2})
    assert second.read() == {"process": 1}


def test_signs_of_life_are_given(place, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    with working_on(place):
        first = Claim(place, "lock.json").read()["seen"]
        time.sleep(0.5)
        assert Claim(place, "lock.json").read()["seen"] > first


def test_a_run_that_is_worked_on_is_not_resumed_by_another(registered, small_config, tmp_path):
    from bigreg import register

    out = str(tmp_path / "run.zarr")
    with working_on(out), pytest.raises(OutputError, match="is not a bigreg run|in use"):
        register(registered.fixed, registered.moving, out=out, config=small_config())
    assert not storage.exists(storage.join(out, "zarr.json"))
