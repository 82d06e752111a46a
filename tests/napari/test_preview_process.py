"""Previews made by a process of their own: the same as here, to be stopped, and gone with the one who asks."""

from __future__ import annotations

import io
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

import bigreg
from bigreg.errors import InputError

pytest.importorskip("napari", reason="needs bigreg[napari]")
from napari_bigreg.launch import preview_process
from napari_bigreg.launch.model import opened
from napari_bigreg.launch.preview import Previewer
from napari_bigreg.launch.preview_process import PreviewProcess
from napari_bigreg.shared.registration import Choice, FieldError, Launch

QUICK = ("affine.kind=none", "ladder.finest=2", "ladder.iterations=[12]", "blocks.core=32", "blocks.halo=8",
         "output.chunk=16", "output.shard=32")  # fmt: skip


class Cancelled(Exception):
    pass


def quiet(done, total, text):
    pass


def cancel(done, total, text):
    raise Cancelled


@pytest.fixture(scope="module")
def launch(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("preview")
    paths = [str(folder / f"{name}.ome.zarr") for name in ("fixed", "moving")]
    for path, image in zip(paths, (pair.fixed, pair.moving), strict=True):
        bigreg.convert(image, path, spacing=pair.spacing)
    return Launch(Choice(paths[0]), Choice(paths[1]), "", "demo", QUICK)


@pytest.fixture(scope="module")
def process():
    made = PreviewProcess()
    yield made
    made.close()


def gone(pid: int, seconds: float = 20) -> bool:
    """Whether a process of nobody's, or of this one's, has ended in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_it_gives_what_a_preview_in_this_process_gives(launch, process):
    told = []
    centre = np.array((60.0, 56.0, 60.0))
    found = process.run(launch, centre, 0, lambda *step: told.append(step))
    here = Previewer()
    try:
        expected = here.run(*opened(launch), centre, 0, quiet)
    finally:
        here.close()
    for name in ("fixed", "before", "after"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (found.figures, found.limits, found.levels) == (expected.figures, expected.limits, expected.levels)
    np.testing.assert_array_equal(found.grid.affine, expected.grid.affine)
    assert any("block" in text for _, _, text in told)


def test_it_is_stopped_and_then_makes_another(launch, process):
    process.run(launch, None, 1, quiet)
    child = process.child
    with pytest.raises(Cancelled):
        process.run(launch, None, 0, cancel)
    with pytest.raises(Cancelled):
        process.warm(cancel)
    assert process.run(launch, None, 1, quiet).after.size and process.child is child


def test_one_waits_for_another_and_can_be_told_not_to(launch, process):
    reached, go_on = threading.Event(), threading.Event()

    def slow(done, total, text):
        reached.set()
        go_on.wait(60)
        raise Cancelled

    def first():
        with pytest.raises(Cancelled):
            process.run(launch, None, 1, slow)

    def waiting(done, total, text):
        assert "waiting" in text
        raise Cancelled

    thread = threading.Thread(target=first)
    thread.start()
    assert reached.wait(60)
    with pytest.raises(Cancelled):
        process.run(launch, None, 1, waiting)
    go_on.set()
    thread.join(60)
    assert not thread.is_alive()


def test_errors_come_as_they_are(launch, process):
    with pytest.raises(FieldError, match=r"nowhere\.tif") as caught:
        process.run(Launch(launch.fixed, Choice("nowhere.tif")), None, 0, quiet)
    assert caught.value.place == "moving"
    with pytest.raises(InputError, match="outside the fixed image"):
        process.run(launch, np.array((60.0, 900.0, 60.0)), 0, quiet)


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_child_that_breaks_is_told_and_another_takes_its_place(launch, process):
    process.run(launch, None, 1, quiet)
    child = process.child

    def kill(done, total, text):
        child.kill()

    with pytest.raises(RuntimeError, match="ended with status -9"):
        process.run(launch, None, 0, kill)
    assert process.run(launch, None, 1, quiet).after.size and process.child.pid != child.pid


def test_closing_ends_what_goes_on_and_removes_its_files(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = PreviewProcess()
    seen = []

    def close(done, total, text):
        if text.startswith("block") and not seen:
            seen.extend(tmp_path.glob("bigreg-preview-*"))
            process.close()

    with pytest.raises(RuntimeError, match="closed"):
        process.run(launch, None, 0, close)
    assert seen and not list(tmp_path.glob("bigreg-preview-*")) and process.child.poll() == 0
    with pytest.raises(RuntimeError, match="closed"):
        process.run(launch, None, 0, quiet)


def test_what_another_thread_goes_on_writing_is_removed_too(tmp_path):
    code = """
import sys, threading
from pathlib import Path
from napari_bigreg.launch.preview_process import leave
folder = Path(sys.argv[1])
def write(number):
    count = 0
    while True:
        place = folder / str(number) / str(count % 50)
        place.mkdir(parents=True, exist_ok=True)
        (place / "file").write_bytes(bytes(1000))
        count += 1
        if count > 200:
            begun.set()
begun = threading.Event()
for number in range(4):
    threading.Thread(target=write, args=(number,), daemon=True).start()
begun.wait()
leave(str(folder))
"""
    for attempt in range(3):
        folder = tmp_path / f"written {attempt}"
        folder.mkdir()
        done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and not folder.exists(), done.stderr


def test_a_fault_in_the_child_is_told_with_where_it_is():
    sent = []
    child = preview_process._Child(SimpleNamespace(write=lambda data: sent.append(pickle.loads(data)), flush=int))

    class Unsendable(Exception):  # of a function, so that it cannot be pickled
        pass

    def broken(report):
        raise Unsendable("the cause")

    child.previewer.warm = broken
    child.answer(preview_process.WARM)
    child.previewer.close()
    ((kind, error),) = sent
    assert kind == preview_process.FAILED and "Unsendable: the cause" in str(error) and "in broken" in str(error)


def test_an_answer_that_cannot_be_read_ends_the_waiting(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda fault: None)
    answers = queue.SimpleQueue()
    wrong = pickle.dumps(np.float64).replace(b"float64", b"floatXX")  # a name that is not there
    reader = threading.Thread(target=preview_process._collect, args=(io.BytesIO(wrong), answers))
    reader.start()
    assert answers.get(timeout=20) == (preview_process.GONE, None)
    reader.join()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_it_ends_with_a_napari_that_is_killed(tmp_path):
    code = """
from napari_bigreg.launch.preview_process import PreviewProcess
process = PreviewProcess()
def report(done, total, text):
    if process.child is not None and text.startswith("block"):
        print(process.child.pid, flush=True)
process.warm(report)
"""
    asking = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        child = int(asking.stdout.readline())
    finally:
        asking.send_signal(signal.SIGKILL)
        asking.wait()
    assert gone(child)
    end = time.monotonic() + 20  # Linux calls a process whose thread hands it over a zombie for a moment
    while list(tmp_path.glob("bigreg-preview-*")):
        assert time.monotonic() < end, "its files have stayed"
        time.sleep(0.05)
