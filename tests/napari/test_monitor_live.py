"""A run goes on in another process while the monitor watches: a worker is killed, a block fails and is tried again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import bigreg
from bigreg.volumes import convert

pytest.importorskip("napari", reason="needs bigreg[napari]")
pytest.importorskip("pytestqt", reason="needs bigreg[test]")
from napari_bigreg.monitor.panel import MonitorPanel
from napari_bigreg.shared.panel import layer_of

HERE = Path(__file__).parent
SCRIPT = """
import json, sys
from distributed import Client, LocalCluster
from bigreg import load_config, register
from bigreg.errors import BigregError

fixed, moving, out, config, preload = sys.argv[1:]
if __name__ == "__main__":
    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, preload=[preload], dashboard_address="127.0.0.1:0", silence_logs=50
    )
    with cluster, Client(cluster) as client:
        print(json.dumps(list(client.run(__import__("os").getpid).values())), flush=True)
        try:
            register(fixed, moving, out=out, config=json.loads(config), client=client)
        except BigregError as error:
            print(type(error).__name__, flush=True)
"""


@pytest.fixture
def going(pair, small_config, tmp_path):
    """A slow run in a process of its own, a block of which fails while the file `break` is there."""
    paths = {}
    for which in ("fixed", "moving"):
        paths[which] = str(tmp_path / f"{which}.ome.zarr")
        convert(getattr(pair, which), paths[which], spacing=pair.spacing)
    (tmp_path / "break").touch()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = tmp_path / "run.zarr"
    config = small_config.model_dump_json(exclude={"cluster"})
    environment = {**os.environ, "BIGREG_TEST_SLOW": "0.7", "BIGREG_TEST_BREAK": str(tmp_path / "break")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    arguments = [sys.executable, str(script), paths["fixed"], paths["moving"], str(run), config]
    process = subprocess.Popen(
        [*arguments, str(HERE / "slow_worker.py")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    yield run, process
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_blocks_turn_done_a_worker_dies_a_block_fails_and_is_tried_again(make_napari_viewer, until, going, tmp_path):
    run, process = going
    workers = json.loads(process.stdout.readline())
    viewer = make_napari_viewer()
    until(lambda: bigreg.is_run(str(run)) and bool(bigreg.open_run(str(run)).blocks()), 500)
    panel = MonitorPanel(viewer)
    viewer.window.add_dock_widget(panel)
    panel.choice.set(str(run))
    until(lambda: panel.snapshot is not None and panel.snapshot.holder is not None)
    assert panel.stop.isEnabled() and not panel.resume.isEnabled()
    panel.stage.setCurrentIndex(panel.stage.findData("levels/0"))
    counts = []

    def done() -> int:
        layer = layer_of(viewer, str(run), "blocks")
        count = 0 if layer is None else int((np.asarray(layer.data) == 2).sum())  # done
        counts.append(count)
        return count

    until(lambda: done() >= 2, 500)
    os.kill(workers[0], signal.SIGKILL)
    total = panel.snapshot.statuses.size
    until(lambda: done() >= total - 1, 500)
    assert len(set(counts)) > 3  # blocks turned done one after the other, before our eyes

    until(lambda: process.poll() is not None and panel.snapshot.holder is None, 500)
    until(lambda: panel.snapshot.status.state == "incomplete")
    assert panel.snapshot.failed == [(0, 1, 1)]
    panel.next_failed.click()
    until(lambda: panel.title.property("status") == 4)
    assert "broken on purpose" in panel.error.toPlainText() and "slow_worker.py" in panel.error.toPlainText()

    (tmp_path / "break").unlink()
    until(panel.resume.isEnabled)
    panel.resume.click()
    until(lambda: panel.snapshot.statuses is not None and panel.snapshot.statuses[0, 1, 1] == 2, 500)
    until(lambda: "done" in panel.title.text(), 60)
    if panel.snapshot.holder is not None:
        panel.stop.click()
    until(lambda: panel.process.poll() is not None and not panel._asking, 500)
    panel.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_of_another_process_stops_when_it_is_asked_to_and_goes_on(going):
    run, process = going
    process.stdout.readline()
    end = time.monotonic() + 200
    while not bigreg.is_run(str(run)) or bigreg.open_run(str(run)).status().done < 2:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.2)
    done = subprocess.run(
        [sys.executable, "-m", "bigreg.cli", "stop", str(run)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0 and f"process {process.pid}" in done.stdout
    assert process.wait(60) == 0 and "StoppedError" in process.stdout.read()
    status = bigreg.open_run(str(run)).status()
    assert status.state == "incomplete" and 2 <= status.done < status.blocks
    assert not any(stage.running for stage in status.stages)
