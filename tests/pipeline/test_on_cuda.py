"""Whole registrations and warps on a simulated GPU: what the CPU finds, and how often a patch waits for the device."""

from __future__ import annotations

import numpy as np
import pytest
from distributed import Client, LocalCluster

import bigreg
from bigreg import load_config, register
from bigreg.phantom import make_pair
from bigreg.testing import simulated_cuda

SETTINGS = [
    "affine.kind=none", "blocks.core=32", "blocks.halo=8", "output.chunk=16", "output.shard=32", "output.report=false",
    "ladder.finest=1", "ladder.coarsest=1", "ladder.iterations=[4]", "intensity.knee=0.1",
]  # fmt: skip
PATCH_WAITS = 45
"""Of the host, for the device: 20 of a patch and 4 of each of its looks, with slack for a look more."""
TASKS = {  # kernels and waits of a block at most
    "estimate.estimate": (2600, PATCH_WAITS),
    "compose.compose": (600, 20),
    "fields.fill": (420, 30),
    "fields.check": (140, 10),
    "confidence.measure": (120, 12),
    "warp.measure_block": (180, 20),
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
    assert there.store.attributes["devices"] == ["simulated CUDA device"]
    assert here.store.attributes["devices"] == ["CPU"]


def test_every_block_launches_and_waits_as_often_as_is_known(runs):
    device = runs[2]
    assert device.tasks.keys() >= TASKS.keys()
    for name, (launches, waits) in TASKS.items():
        for counts in device.tasks[name]:
            assert 0 < counts.launches <= launches and counts.waits <= waits, name
    assert not device.counts.unordered


def test_what_a_patch_waits_for(runs):
    """Four waits a look: the loss and its weight, the direction and the length of a step."""
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


def test_a_run_without_memory_for_its_patches_is_the_same_up_to_a_tenth_of_a_voxel(runs, images):
    here = runs[0]
    pair = [str(images / f"{which}.ome.zarr") for which in ("fixed", "moving")]
    most = max(c.peak_bytes for counts in runs[2].tasks.values() for c in counts)
    with simulated_cuda(int(0.8 * most)) as device:
        run = on_a_worker(
            True, lambda client: register(*pair, out=str(images / "small.zarr"), config=here.config, client=client)
        )
    assert run.store.attributes["smaller"] and "memory ran out" in run.status().notes[0]
    assert device.counts.peak_bytes <= 0.8 * most
    a, b = (r.store.array("transforms/fixed_to_moving/0")[...] for r in (here, run))
    voxel = np.reshape((4.0, 2.6, 2.6), (3, 1, 1, 1)) * 2  # of the level
    assert float((np.abs(a - b) / voxel).max()) < 0.1
