"""Whole registrations and warps on a simulated GPU: what the CPU finds, and how often a patch waits for the device."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from distributed import Client, LocalCluster

import bigreg
from bigreg import load_config, register
from bigreg.errors import OutputError
from bigreg.phantom import make_pair
from bigreg.pipeline.schedule import answers
from bigreg.testing import simulated_cuda

SETTINGS = [
    "masks.noncorrespondence=false",  # what is counted are the looks of one estimate
    "affine.kind=none", "blocks.core=32", "blocks.halo=8", "output.chunk=16", "output.shard=32", "output.report=false",
    "ladder.finest=1", "ladder.coarsest=1", "ladder.iterations=[4]", "intensity.knee=0.1",
]  # fmt: skip
PATCH_WAITS = 45
"""Of the host, for the device: 20 of a patch and 4 of each of its looks, with slack for a look more."""
TASKS = {  # kernels and waits of a block at most
    "estimate.estimate": (5200, PATCH_WAITS),
    "compose.compose": (600, 20),
    "fields.fill": (420, 30),
    "fields.check": (140, 10),
    "confidence.measure": (2400, 12),
    "warp.measure_block": (230, 20),
}


def on_a_worker(gpu: bool, work):
    """What `work` makes of a client whose worker is in this process."""
    resources = {"GPU": 1} if gpu else None
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", resources=resources
    ) as cluster, Client(cluster, set_as_default=False) as client:  # fmt: skip
        return work(client)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    pair, folder = (
        make_pair((20, 32, 36), (4.0, 2.6, 2.6), seed=3, max_displacement_um=5.0),
        tmp_path_factory.mktemp("i"),
    )
    middle = np.asarray(pair.truth).reshape(3, -1).mean(1) - (np.subtract(pair.fixed.shape, 1) * pair.spacing) / 2
    matrix = np.eye(4)
    matrix[:3, 3] = middle
    np.savetxt(folder / "start.csv", matrix, delimiter=",")
    for which in ("fixed", "moving"):
        bigreg.convert(getattr(pair, which), str(folder / f"{which}.ome.zarr"), spacing=pair.spacing)
    return folder


@pytest.fixture(scope="module")
def runs(images):
    """The same run on the CPU and on the simulated GPU, and that GPU."""
    config = load_config(preset="demo", overrides=[*SETTINGS, f"affine.start={images / 'start.csv'}"])
    pair = [str(images / f"{which}.ome.zarr") for which in ("fixed", "moving")]

    def run(name, gpu):
        out = str(images / name)
        return on_a_worker(gpu, lambda client: register(*pair, out=out, config=config, client=client))

    here = run("cpu.zarr", False)
    with simulated_cuda() as device:
        return here, run("gpu.zarr", True), device


def test_a_registration_there_is_that_of_the_cpu(runs):
    here, there, _ = runs
    for name in ("transforms/fixed_to_moving/0", "transforms/moving_to_fixed/0"):
        a, b = (run.store.array(name)[...] for run in (here, there))
        assert float(np.abs(a).max()) > 1.0
        np.testing.assert_allclose(b, a, atol=5e-3)  # um, voxels of 4 x 2.6 x 2.6
    a, b = (run.store.array("warped/0")[...].astype(int) for run in (here, there))
    assert np.abs(a - b).max() <= 3 and a.max() > 1000
    assert there.store.attributes["devices"] == ["simulated CUDA device (without Triton)"]
    assert here.store.attributes["devices"] == ["CPU"]


def test_every_block_launches_and_waits_as_often_as_is_known(runs):
    device = runs[2]
    assert device.tasks.keys() >= TASKS.keys()
    for name, (launches, waits) in TASKS.items():
        for counts in device.tasks[name]:
            assert 0 < counts.launches <= launches and counts.waits <= waits, name
    assert not device.counts.unordered


def test_what_a_patch_waits_for(runs):
    """Four waits per look: the loss and its weight; the energy, and the direction and length of the step at once."""
    for counts in runs[2].tasks["estimate.estimate"]:
        looks = [n for place, n in counts.syncs.items() if place.startswith("lncc.py")]
        assert len(looks) == 2 and len(set(looks)) == 1 and 1 < looks[0] <= 6
        assert counts.waits - 4 * looks[0] <= 25


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_a_warp_there_is_that_of_the_cpu(runs, images, interpolation, tmp_path):
    here, _, _ = runs

    def warp(gpu):
        out = str(tmp_path / f"{gpu}.ome.zarr")
        return on_a_worker(
            gpu,
            lambda client: here.warp(
                str(images / "moving.ome.zarr"), out=out, interpolation=interpolation, client=client
            ),
        )

    a = warp(False)
    with simulated_cuda() as device:
        b = warp(True)
    assert device.tasks["resample.resample"] and device.counts.launches > 20
    shape = a.shape
    difference = a.read((0, 0, 0), shape).astype(int) - b.read((0, 0, 0), shape)
    assert np.abs(difference).max() <= 3


def test_a_run_in_smaller_pieces_is_the_same_to_a_thousandth(runs, images, monkeypatch):
    """All stages that work in pieces; a patch is cut only where memory does run out."""
    monkeypatch.setattr(answers, "ATTEMPTS", ((False, 1),))
    here, out = runs[0], str(images / "small.zarr")
    pair = [str(images / f"{which}.ome.zarr") for which in ("fixed", "moving")]
    run = on_a_worker(False, lambda client: register(*pair, out=out, config=here.config, client=client))
    for name in ("transforms/fixed_to_moving/0", "transforms/moving_to_fixed/0"):
        a, b = (r.store.array(name)[...] for r in (here, run))
        np.testing.assert_allclose(b, a, atol=1e-3)
    assert run.store.attributes["smaller"].keys() >= {"levels/0/compose/0", "stages/fixed_to_moving"}
    assert any("computed in smaller pieces" in note for note in run.status().notes)


def test_a_run_goes_on_on_another_device_only_where_that_is_said(runs, images):
    out = str(images / "moved.zarr")
    shutil.copytree(runs[0].url, out)
    run = bigreg.open_run(out)
    run.store.update(state="incomplete")
    with simulated_cuda():
        with pytest.raises(OutputError, match="computed on CPU, .* pass allow_device_change=True"):
            on_a_worker(True, lambda client: run.resume(client=client))
        on_a_worker(True, lambda client: run.resume(client=client, allow_device_change=True))
    assert run.store.attributes["devices"] == ["CPU", "simulated CUDA device (without Triton)"]
    assert any("computed on CPU and simulated CUDA device (without Triton)" in note for note in run.status().notes)
